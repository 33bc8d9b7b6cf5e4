"""Sends a text that can be searched for in a capture from every party to every other."""

from mpyc.runtime import mpc

MARKER = b'PLAINTEXT-OF-A-SHARE-' * 8


async def main():
    await mpc.start()
    received = await mpc.transfer(MARKER)
    print('all received', all(text == MARKER for text in received))
    await mpc.shutdown()


mpc.run(main())
