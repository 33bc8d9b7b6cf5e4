"""Computes rounds until a file appears, and says how long the longest took.

Usage: hold.py --until FILE --every SECONDS
"""
import asyncio
import os
import sys
import time
from mpyc.runtime import mpc


async def main():
    until = sys.argv[sys.argv.index("--until") + 1]
    every = float(sys.argv[sys.argv.index("--every") + 1])
    secint = mpc.SecInt(32)
    await mpc.start()
    longest, rounds, before = 0.0, 0, time.monotonic()
    while True:
        over = int(os.path.exists(until))
        inputs = mpc.input([secint(over), secint(mpc.pid + 1)])
        votes = mpc.sum([pair[0] for pair in inputs])
        numbers = mpc.sum([pair[1] for pair in inputs])
        votes, numbers = await mpc.output([votes, numbers])
        now = time.monotonic()
        longest, rounds, before = max(longest, now - before), rounds + 1, now
        m = len(mpc.parties)
        assert numbers == m * (m + 1) // 2
        if votes > 0:
            break
        await asyncio.sleep(every)
    await mpc.shutdown()
    print(f"sum {numbers}, longest round {longest:.2f} s, rounds {rounds}")

mpc.run(main())
