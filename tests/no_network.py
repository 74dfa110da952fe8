"""Refuses connections to other machines in this process, and says who asked for one."""

import sys
from typing import Any

LOCAL = {"localhost", "127.0.0.1", "::1", "", None}
allowed = False  # for tests marked network
_installed = False


class NetworkError(Exception):
    """A connection was about to be opened."""


def refuse_network() -> None:
    """Watch this process from now on; what is watched cannot be unwatched."""
    global _installed
    if not _installed:
        sys.addaudithook(_look)
        _installed = True


def _look(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # a path or a number is local
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in LOCAL and not allowed:
        raise NetworkError(f"{event} to {host!r}: tests and imports open no connection")
