"""A computation that goes on until it is stopped, or for as many rounds as it is told."""

import asyncio
import sys

from mpyc.runtime import mpc


async def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    secint = mpc.SecInt()
    await mpc.start()
    total = 0
    for n in range(rounds):
        total = await mpc.output(mpc.sum(mpc.input(secint(n))))
        if n == 0:
            print('first round done', flush=True)
        await asyncio.sleep(0.02)
    print('total', total)
    await mpc.shutdown()


mpc.run(main())
