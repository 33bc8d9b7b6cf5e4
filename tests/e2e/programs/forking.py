"""A computation that goes on, and that leaves a child behind which is in no process group of quorate's."""

import asyncio
import subprocess

from mpyc.runtime import mpc


async def main():
    child = subprocess.Popen(['sleep', '600'], start_new_session=True)
    print('child', child.pid, flush=True)
    secint = mpc.SecInt()
    await mpc.start()
    while True:
        await mpc.output(mpc.sum(mpc.input(secint(1))))
        print('first round done', flush=True)
        await asyncio.sleep(0.1)


mpc.run(main())
