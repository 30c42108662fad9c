"""When what was written to a TCP connection has left this host.

`drain` returns as soon as the kernel has taken it, and the kernel takes megabytes: over a slow link
they leave seconds later. Whoever counts how many answers share the link has to wait for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
from typing import Any

# So little may still be there: it leaves in a moment.
LEFT = 32 * 1024
# A client that took nothing for so long takes nothing from the others' share of the link.
PATIENCE = 1.0
# linux/sockios.h; the least free buffer at which a socket is called writable is TCP_NOTSENT_LOWAT.
_SIOCOUTQNSD = 0x894B
_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
_NO_LIMIT = -1


def queued(sock: Any, request: int) -> int:
    """What an ioctl says of the bytes in the kernel's buffer; raises OSError."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), request, bytes(4)), sys.byteorder)


def unsent(sock: Any) -> int:
    """Bytes that the kernel keeps and has never sent; 0 where it does not say."""
    try:
        return queued(sock, _SIOCOUTQNSD)
    except OSError:
        return 0


async def departed(sock: Any) -> None:
    """Return once no more than `LEFT` bytes wait to be sent, or none was sent for `PATIENCE`."""
    left = unsent(sock)
    if left <= LEFT or _LOWAT is None:
        return
    # The transport has its own descriptor watched: a copy is, for the same connection.
    descriptor = os.dup(sock.fileno())
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    try:
        # Writable is from now on who has less than that unsent.
        sock.setsockopt(socket.IPPROTO_TCP, _LOWAT, 2 * LEFT)
        loop.add_writer(descriptor, writable.set)
        while not writable.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await writable.wait()
            before, left = left, unsent(sock)
            if left >= before:
                return
    except OSError:
        # It is closed.
        return
    finally:
        loop.remove_writer(descriptor)
        os.close(descriptor)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _LOWAT, _NO_LIMIT)
