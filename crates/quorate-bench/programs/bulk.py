"""One stream of bytes between two parties, on the very socket that MPyC got for their link.

    python bulk.py -M2 [SECONDS [WARM]]

Party 1 sends for WARM + SECONDS seconds; party 0 says how fast the bytes of the last SECONDS came.
"""

import os
import socket
import sys
import time

from mpyc.runtime import mpc

CHUNK = 256 << 10
PATIENCE = 20


def link(transport):
    """The socket to the other party, for calls that wait."""
    stream = socket.socket(fileno=os.dup(transport.get_extra_info('socket').fileno()))
    stream.settimeout(PATIENCE)
    return stream


def send(stream, seconds):
    """Send chunks, of which the first byte says whether there are more, and await the answer."""
    chunk, last = b'\1' * CHUNK, b'\0' * CHUNK
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stream.sendall(chunk)
    stream.sendall(last)
    assert stream.recv(1) == b'!'


def receive(stream, warm):
    """Count the bytes that come after the first `warm` seconds; their number and the seconds."""
    chunk = memoryview(bytearray(CHUNK))
    begun = counted = None
    count = 0
    more = True
    while more:
        filled = 0
        while filled < CHUNK:
            got = stream.recv_into(chunk[filled:])
            if not got:
                raise EOFError('the other party is gone')
            now = time.monotonic()
            begun = begun or now
            if counted:
                count += got
            elif now - begun >= warm:
                counted = now
            filled += got
        more = chunk[0]
    stream.sendall(b'!')
    return count, time.monotonic() - (counted or begun)


async def main():
    """Wait until both are there, then move bytes without MPyC."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    warm = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    async with mpc:
        transport = mpc.parties[1 - mpc.pid].protocol.transport
        if mpc.pid == 1:
            # Else MPyC might read what is meant for the calls that wait, and the other way round.
            transport.pause_reading()
        await mpc.transfer(b'here', senders=[1], receivers=[0])
        stream = link(transport)
        if mpc.pid == 1:
            assert stream.recv(1) == b'?'
            send(stream, warm + seconds)
        else:
            stream.sendall(b'?')
            count, taken = receive(stream, warm)
            print(f'megabits per second {count * 8e-6 / taken:.3f}', flush=True)
        # Left as it was found, for MPyC to say goodbye on it.
        stream.setblocking(False)
        stream.close()
        if mpc.pid == 1:
            transport.resume_reading()


if __name__ == '__main__':
    mpc.run(main())
