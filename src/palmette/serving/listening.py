"""The socket that callers connect to."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

from palmette.errors import RunError

# linux/filter.h: a socket filter of one instruction, "accept 0 bytes of the packet".
_SO_ATTACH_FILTER = 26
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        RunError: the address is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise RunError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def turn_away(listener: socket.socket) -> None:
    """Let nobody else connect, while those who have connected can still be accepted.

    Closing a listening socket resets connections that the kernel has made and the process has not accepted yet; their
    callers may have sent a request already. So new ones are ignored first: the caller's kernel tries again, and is
    refused when the socket is closed. Elsewhere than on Linux that gap of a moment stays; as it does where a sandbox
    lets nobody but root attach a filter: the end must not fail by it.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(_DROP)
        with contextlib.suppress(PermissionError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def address(listener: socket.socket) -> str:
    """Its URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
