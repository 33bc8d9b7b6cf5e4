"""quorate's launcher: runs one MPyC program on links that were handed over as open sockets.

quorate starts Python with a short first stage (see handover.rs) that receives this text, the plan
and one socket per other party over standard input, which is a Unix socket, and then calls
main(). Nothing of this is on disk, in the environment, or in the argument list that `ps` shows.

What the program sees: MPyC as usual. Its runtime dials every party with a higher number and
listens for the lower ones; both calls end in the event loop's create_connection and
create_server. Those two methods are replaced, on asyncio's loop class and on uvloop's, which does
not derive from it. They attach the sockets that are already connected. No port is opened and no
name is looked up.

If ever a loop class is not covered, it fails closed: the addresses that MPyC is given end in the
reserved name `.invalid`, and their ports are above 65535, so that nothing can listen or connect.

This is no sandbox: a program is as free as any program of the user. It makes honest programs use
the mesh and only the mesh.
"""

import asyncio
import fcntl
import os
import resource
import signal
import socket
import sys
import types

OUT_OF_MEMORY = 112  # exit code, known to supervisor.rs
TOO_HUNGRY = 113  # the same
FIRST_PORT = 70000  # no real port: 65535 is the largest


class Refused(PermissionError):
    """The program asked for a connection that is none of the session's links."""


class Links:
    """The connected sockets by party; each can be used once."""

    def __init__(self, me, parties, threshold, descriptors):
        self.me = me
        self.threshold = threshold
        self.hosts = [f'party-{j}.quorate.invalid' for j in range(parties)]
        self.sockets = {j: socket.socket(fileno=fd) for j, fd in descriptors.items()}

    def options(self):
        """MPyC's options for this party. A single party needs none."""
        if len(self.hosts) == 1:
            return []
        options = [word for j, host in enumerate(self.hosts)
                   for word in ('-P', f'{host}:{FIRST_PORT + j}')]
        return options + ['-I', str(self.me), '-T', str(self.threshold)]

    def check_terms(self):
        """No link before MPyC computes on the signed terms, whatever the arguments said."""
        runtime = sys.modules.get('mpyc.runtime')
        mpc = getattr(runtime, 'mpc', None)
        if mpc is None:
            return  # another protocol than MPyC's, over the same links
        found = len(mpc.parties), mpc.pid, mpc.threshold
        if found != (len(self.hosts), self.me, self.threshold):
            raise SystemExit(f'quorate: MPyC was set up for {found[0]} parties, index {found[1]}, '
                             f'threshold {found[2]}, against the signed terms')

    def take(self, j):
        """The socket to party j."""
        self.check_terms()
        link = self.sockets.pop(j, None)
        if link is None:
            # Not an Exception: MPyC would catch it and try again for ever.
            raise SystemExit(f'quorate: the link to party {j} was used already')
        return link

    def party(self, host, port):
        """The party that a placeholder address stands for, or None."""
        if host in self.hosts and port == FIRST_PORT + self.hosts.index(host):
            return self.hosts.index(host)
        return None


class Listening:
    """What MPyC keeps instead of a server: there is nothing to close."""

    sockets = ()

    def close(self):
        """Nothing listens."""

    def is_serving(self):
        """Nothing listens."""
        return False

    async def wait_closed(self):
        """Nothing listens."""


def replace_network(loop_class, links):
    """Make the loops of this class hand out the links, and refuse any other connection."""

    async def create_connection(self, factory, host=None, port=None, *, ssl=None, **_):
        party = links.party(host, port)
        if party is None or party <= links.me:
            raise Refused(f'quorate: this program may connect to the other parties only, '
                          f'not to {host}:{port}')
        if ssl:
            raise SystemExit('quorate: --ssl is not needed, the links are encrypted already')
        return await self.create_unix_connection(factory, sock=links.take(party))

    async def create_server(self, factory, host=None, port=None, *, ssl=None, **_):
        if port != FIRST_PORT + links.me:
            raise Refused(f'quorate: this program may not listen on {host or "*"}:{port}')
        if ssl:
            raise SystemExit('quorate: --ssl is not needed, the links are encrypted already')
        for party in range(links.me):
            await self.create_unix_connection(factory, sock=links.take(party))
        return Listening()

    loop_class.create_connection = create_connection
    loop_class.create_server = create_server


def end_with_broken_link(loop_class):
    """End the program when what a party sent made its link fail.

    asyncio closes such a link and goes on; MPyC would then wait for ever for what cannot come any
    more. A message that never ends is one cause: it fills the memory that the program may use.
    """
    shown = loop_class.call_exception_handler

    def call_exception_handler(self, context):
        shown(self, context)
        why = context.get('exception')
        if 'protocol' not in context or why is None:
            return
        if isinstance(why, MemoryError):
            print('quorate: a party sent more than fits into the memory that this program may use',
                  file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(OUT_OF_MEMORY if isinstance(why, MemoryError) else 1)

    loop_class.call_exception_handler = call_exception_handler


def end_by_name_without_memory():
    """Tell quorate that the program itself wanted more memory than it may have.

    Without it the program would end with 1, as for any other mistake.
    """
    shown = sys.excepthook

    def excepthook(kind, why, trace):
        shown(kind, why, trace)
        if issubclass(kind, MemoryError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(TOO_HUNGRY)

    sys.excepthook = excepthook


def loop_classes():
    """The loop classes that MPyC can choose from on this machine."""
    classes = [asyncio.base_events.BaseEventLoop]
    try:
        import uvloop
    except ImportError:
        pass
    else:
        classes.append(uvloop.Loop)
    return classes


def tie_life(control):
    """Let the kernel kill this process group as soon as quorate is gone, however it ended.

    quorate holds the other end of this socket. When that end closes, the kernel sends the signal
    chosen here to the whole group: no thread, no polling, and it also works when quorate was
    killed or when this program hangs in foreign code.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    fcntl.fcntl(control, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(control, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(control, fcntl.F_SETFL, fcntl.fcntl(control, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        gone = not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        gone = False
    if gone:  # it was gone before the signal was armed
        os.killpg(0, signal.SIGKILL)


def leave_standard_input(control):
    """Move the control socket off descriptor 0, where the program shall find an empty input."""
    kept = socket.socket(fileno=fcntl.fcntl(control.detach(), fcntl.F_DUPFD_CLOEXEC, 3))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return kept


def close_inherited(kept):
    """Close what whoever started quorate left open in it: the program gets its links only."""
    for fd in map(int, os.listdir('/proc/self/fd')):
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing itself


def run(name, source):
    """Run the program as Python itself would run it."""
    module = types.ModuleType('__main__')
    module.__file__ = name
    sys.modules['__main__'] = module
    exec(compile(source, name, 'exec', dont_inherit=True), module.__dict__)


def main(control, plan, descriptors):
    """Follow the plan that quorate sent."""
    control = leave_standard_input(control)
    tie_life(control)
    close_inherited({0, 1, 2, control.fileno(), *descriptors})
    # A core file would hold shares and inputs.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.reconfigure(line_buffering=True)
    links = Links(plan['me'], plan['parties'], plan['threshold'],
                  dict(zip(plan['links'], descriptors)))
    for loop_class in loop_classes():
        replace_network(loop_class, links)
        end_with_broken_link(loop_class)
    end_by_name_without_memory()
    name, source = plan['name'], plan['source']
    if source is None:
        sys.path.insert(0, os.path.dirname(os.path.abspath(name)))
        with open(name, 'rb') as file:
            source = file.read()
    sys.argv = [name] + links.options() + plan['options'] + plan['args']
    # `control` stays open on this frame as long as the program runs.
    run(name, source)
