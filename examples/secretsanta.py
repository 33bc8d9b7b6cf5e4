"""Secret Santa: who gives a present to whom, and nobody gives one to themselves.

The parties shuffle the names together. Each party draws a random permutation of its own and
shares it secretly, as a 0/1 matrix. The parties apply the matrices one after the other to the
list 0, 1, ..., n-1 without opening anything: like a hat with names that goes around the table and
that everyone stirs once. As long as one party stirs at random and keeps quiet, nobody knows the
order.

Then they open a single bit: is there somebody who drew their own name? If so, they draw again.
What is left is a derangement: a permutation without a fixed point, uniformly random among all of
them, because no other draw was ever thrown away.

In a real draw person i would learn entry i only. This program is a demonstration and opens the
whole list for n = 2, 3, ..., N persons, so that everyone can check it.

    python secretsanta.py -M3 4          three local parties, up to four persons
    quorate demo secretsanta -- 4        the same between three separate parties
"""

import argparse
import random
import sys

from mpyc.runtime import mpc

MAX_PERSONS = 64


def options():
    """What is left of the command line after MPyC took its own options."""
    parser = argparse.ArgumentParser(description='Draw Secret Santa lots for 2, 3, ..., N persons.')
    parser.add_argument('persons', nargs='?', type=int, default=4, metavar='N',
                        help=f'largest number of persons, 2 to {MAX_PERSONS} (default 4)')
    found = parser.parse_args()
    if not 2 <= found.persons <= MAX_PERSONS:
        parser.error(f'N is {found.persons}; it has to be 2 to {MAX_PERSONS}')
    return found


def my_shuffle(n):
    """This party's own stir, as a permutation matrix: row i has its 1 in column p[i]."""
    columns = list(range(n))
    random.SystemRandom().shuffle(columns)
    return [[int(column == j) for j in range(n)] for column in columns]


async def draw(n, secint):
    """A secret random derangement of 0, 1, ..., n-1."""
    while True:
        flat = [secint(bit) for row in my_shuffle(n) for bit in row]
        lots = [secint(i) for i in range(n)]
        for stir in mpc.input(flat):  # one matrix from each party, in the order of the parties
            matrix = [stir[i * n:(i + 1) * n] for i in range(n)]
            lots, = mpc.matrix_prod([lots], matrix)
        # The product is zero exactly when lots[i] = i for some i; only that one bit is opened.
        if not await mpc.is_zero_public(mpc.prod([lot - i for i, lot in enumerate(lots)])):
            return lots


async def main():
    """Draw for 2, 3, ..., N persons and show each result."""
    persons = options().persons
    secint = mpc.SecInt()
    async with mpc:
        for n in range(2, persons + 1):
            lots = await mpc.output(await draw(n, secint))
            print(n, [int(lot) for lot in lots])


if __name__ == '__main__':
    sys.exit(mpc.run(main()))
