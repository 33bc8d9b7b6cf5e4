"""What a cheating party 1 runs: it dials party 2, claims to be party 0, and writes down what it gets."""

import asyncio
import sys

notes = open(sys.argv[-1], 'a', buffering=1, encoding='ascii')


class Cheat(asyncio.Protocol):
    def connection_made(self, transport):
        keys = bytes(16 * 2)
        transport.write((0).to_bytes(2, 'little') + keys)

    def data_received(self, data):
        notes.write(f'GOT {data.hex()}\n')


async def main():
    loop = asyncio.get_running_loop()
    notes.write('dialling as party 0\n')
    await loop.create_connection(Cheat, 'party-2.quorate.invalid', 70002)
    await asyncio.sleep(60)


asyncio.run(main())
