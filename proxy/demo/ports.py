"""Ports of the loopback interface where nothing answers, each in its own way."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator


def dead_port() -> int:
    """Return a port of the loopback interface on which nobody listens: a connection is refused at once.

    It is taken from below the range that the kernel hands out (32768 and up), so that it stays dead.
    """
    for k in range(10_000):
        port = 20_000 + (os.getpid() * 37 + next(_dead) + k) % 10_000
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 20000 and 29999")


def _count() -> Iterator[int]:
    n = 0
    while True:
        yield n
        n += 1


_dead = _count()


@contextlib.contextmanager
def mute_port() -> Iterator[int]:
    """A port that takes connections (the kernel does) and never says or reads anything: also a TLS handshake stalls."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        yield sock.getsockname()[1]


@contextlib.contextmanager
def clogged_port() -> Iterator[int]:
    """A port whose listen queue is full: a connection attempt gets no answer and hangs until its own time-out."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(sock.getsockname())
        yield sock.getsockname()[1]
