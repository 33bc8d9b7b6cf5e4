#!/usr/bin/env python3
"""A program that knows nothing of quorate but its contract: three parties exchange numbers by TCP.

Usage: exchange.py --id I --peers HOSTS_FILE --listen HOST:PORT --of N NUMBER
Higher parties dial lower ones, which is the other way round than MPyC does.
"""
import os
import socket
import sys
import time

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
number = int(sys.argv[-1])
me, n = int(options['--id']), int(options['--of'])
with open(options['--peers']) as file:
    hosts = file.read().split()
assert (me, n) == (int(os.environ['QUORATE_INDEX']), int(os.environ['QUORATE_N']))
assert hosts == os.environ['QUORATE_PEERS'].split() and len(hosts) == n
assert hosts[me] == options['--listen'] == os.environ['QUORATE_LISTEN']
assert os.path.dirname(options['--peers']) == os.environ['QUORATE_SESSION_DIR']
assert os.environ['QUORATE_THRESHOLD'] == '1'


def address(host):
    name, port = host.rsplit(':', 1)
    return name, int(port)


server = socket.create_server(address(hosts[me]))
links = {}
for peer in range(me):
    links[peer] = socket.create_connection(address(hosts[peer]))
    links[peer].sendall(bytes([me]))
for _ in range(me + 1, n):
    link, _ = server.accept()
    links[link.recv(1)[0]] = link
for link in links.values():
    link.sendall(number.to_bytes(8, 'big'))
total = number
for link in links.values():
    got = b''
    while len(got) < 8:
        part = link.recv(8 - len(got))
        assert part, 'a link ended'
        got += part
    total += int.from_bytes(got, 'big')
print('total', total, flush=True)
