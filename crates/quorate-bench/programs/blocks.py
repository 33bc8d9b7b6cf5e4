"""Blocks of bytes from everybody to everybody: nothing but traffic, the worst case for a network.

    python blocks.py -M3 [MEBIBYTES [ROUNDS]]
"""

import sys

from mpyc.runtime import mpc


async def main():
    """Exchange ROUNDS blocks of MEBIBYTES with each other party."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    block = bytes(size << 20)
    async with mpc:
        total = 0
        for _ in range(rounds):
            total += sum(map(len, await mpc.transfer(block)))
        print('bytes', total)


if __name__ == '__main__':
    mpc.run(main())
