"""What a cheating party 1 runs: it dials party 2 and claims to be party 0."""

import asyncio


class Cheat(asyncio.Protocol):
    def connection_made(self, transport):
        keys = bytes(16 * 2)
        transport.write((0).to_bytes(2, 'little') + keys)

    def data_received(self, data):
        print('GOT', data.hex(), flush=True)


async def main():
    loop = asyncio.get_running_loop()
    await loop.create_connection(Cheat, 'party-2.quorate.invalid', 70002)
    print('dialled as party 0', flush=True)
    await asyncio.sleep(60)


asyncio.run(main())
