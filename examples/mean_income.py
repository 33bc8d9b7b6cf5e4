"""The mean income over the data of all parties; no party shows its data or its own sum.

Each party reads a private file and adds up its own rows. Sum and number of rows are shared
secretly, the parties add the shares up, divide, and open two numbers: how many people there are
in all, and their mean income, rounded to a whole unit. If there are fewer than MIN_PEOPLE people
the program stops after the count, because a mean of very few tells too much.

The file is either a table with a head line that names the columns `year` and `income` (more
columns are ignored), or plain text with one income per line. Incomes are whole numbers from 0 to
MAX_INCOME. A plain file has no years and is refused when --year is given.

    python mean_income.py -M3 --year 2026 --data data/income-{party}.csv
    quorate invite mean_income.py ... -- --year 2026      and each party:  -- --data MY_FILE

--data is private, each party gives its own; {party} in it stands for the party's number, which
makes the local run above possible. --year is public: all parties have to give the same.
"""

import argparse
import csv
import sys

from mpyc.runtime import mpc

MAX_INCOME = 10**9
MAX_ROWS = 10**6
MIN_PEOPLE = 3


class BadData(Exception):
    """What is wrong with the private file, said without quoting its contents."""


def options():
    """What is left of the command line after MPyC took its own options."""
    parser = argparse.ArgumentParser(description='Mean income over the files of all parties.')
    parser.add_argument('--data', required=True, metavar='FILE', help='your data; private')
    parser.add_argument('--year', type=int, help='use only the rows of this year; public')
    return parser.parse_args()


def whole_number(text, what, line, largest):
    """The number in one cell of the file."""
    try:
        value = int(text)
    except (TypeError, ValueError):
        raise BadData(f'line {line}: the {what} is not a whole number') from None
    if not 0 <= value <= largest:
        raise BadData(f'line {line}: the {what} is not between 0 and {largest}')
    return value


def read_incomes(path, year):
    """All incomes of one file, of the given year if there is one."""
    with open(path, encoding='utf-8-sig', newline='') as file:
        head = file.readline()
        names = [name.strip().lower() for name in head.split(',')]
        table = 'income' in names
        if year is not None and not (table and 'year' in names):
            raise BadData('there is no column `year`, but --year was given')
        if not table:
            file.seek(0)
        incomes = []
        reader = csv.DictReader(file, names if table else ['income'])
        for line, row in enumerate(reader, start=2 if table else 1):
            if year is not None and whole_number(row['year'], 'year', line, 9999) != year:
                continue
            incomes.append(whole_number(row['income'], 'income', line, MAX_INCOME))
            if len(incomes) > MAX_ROWS:
                raise BadData(f'there are more than {MAX_ROWS} rows')
    return incomes


def my_incomes(found):
    """This party's data, or the end of the program with a reason, before any connection."""
    path = found.data.replace('{party}', str(mpc.pid))
    try:
        incomes = read_incomes(path, found.year)
        if not incomes:
            raise BadData('there is no row' + (f' for {found.year}' if found.year else ''))
    except (OSError, UnicodeDecodeError, csv.Error, BadData) as reason:
        print(f'mean_income: cannot use {path}: {reason}', file=sys.stderr)
        sys.exit(2)
    return incomes


async def main():
    """Open the number of people, then their mean income."""
    found = options()
    incomes = my_incomes(found)
    secint = mpc.SecInt(64)  # 64 parties with MAX_ROWS rows of MAX_INCOME stay below 2**56
    async with mpc:
        shared = mpc.input([secint(len(incomes)), secint(sum(incomes))])
        total = mpc.sum([income for _, income in shared])
        people = int(await mpc.output(mpc.sum([rows for rows, _ in shared])))
        print(f'people {people}')
        if people < MIN_PEOPLE:
            print(f'mean not opened: fewer than {MIN_PEOPLE} people')
            return
        mean = await mpc.output((total + people // 2) // people)
        print(f'mean income{f" {found.year}" if found.year else ""}: {int(mean)}')


if __name__ == '__main__':
    sys.exit(mpc.run(main()))
