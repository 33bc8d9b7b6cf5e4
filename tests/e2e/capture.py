"""Runs commands at the same time in this network namespace and records what crosses its loopback.

Usage: capture.py OUT < commands.json      commands: a list of lists of words
Writes OUT: for each frame a big-endian 32-bit length and the bytes. Prints the exit codes as JSON.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading

IFF_UP = 1
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
ETH_P_ALL = 3


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack('16sh14x', b'lo', 0)
        flags, = struct.unpack_from('h', fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack('16sh14x', b'lo', flags | IFF_UP))


def record(tap, out):
    while True:
        try:
            frame = tap.recv(1 << 17)
        except TimeoutError:
            if done.is_set():
                return
            continue
        out.write(struct.pack('>I', len(frame)) + frame)


loopback_up()
done = threading.Event()
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
tap.bind(('lo', 0))
tap.settimeout(0.5)
with open(sys.argv[1], 'wb') as out:
    recorder = threading.Thread(target=record, args=(tap, out))
    recorder.start()
    running = [subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
               for words in json.load(sys.stdin)]
    ended = [(process.communicate(timeout=120)[0], process.returncode) for process in running]
    done.set()
    recorder.join()
print(json.dumps([{'code': code, 'said': said} for said, code in ended]))
