"""Long vectors of secret numbers, multiplied elementwise: a few rounds with large messages.

    python schur.py -M3 [LENGTH [ROUNDS]]
"""

import sys

from mpyc.runtime import mpc


async def main():
    """Multiply a vector by itself ROUNDS times and open the sum."""
    length = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    secfld = mpc.SecFld(2**61 - 1)
    async with mpc:
        vector = mpc.input([secfld(i + mpc.pid) for i in range(length)], senders=0)
        for _ in range(rounds):
            vector = mpc.schur_prod(vector, vector)
        print('sum', int(await mpc.output(mpc.sum(vector))))


if __name__ == '__main__':
    mpc.run(main())
