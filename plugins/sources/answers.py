"""Reading answers that come over a network: header fields, and how slowly a body may come."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from hawker.core.errors import OriginFailed
from hawker.core.validators import seconds_of

# A body that trickles slower than this (bytes per second) over this long (seconds) is a stall,
# however often a byte comes.
SLOWEST = 1024
SLOWEST_OVER = 30.0
LONGEST_RETRY_AFTER = 86400.0
# A body that is taken slower than this is not left to the system's buffers, which have room for a
# megabyte; they get as much as keeps it flowing over an eighth of a second.
SLOW_RATE = 2_000_000
FLOWING_SECONDS = 0.125
LEAST_BUFFER = 16 * 1024


class Pace:
    """Notices a body that trickles. Only the time spent waiting for the origin counts, not that of
    whoever takes the bytes."""

    def __init__(self, shown: str, over: float) -> None:
        self._shown = shown
        self._over = over
        self._waited = 0.0
        self._lately = 0

    def took(self, size: int, seconds: float) -> None:
        """So many bytes came after so long a wait; raises OriginFailed where that is too slow."""
        self._waited += seconds
        self._lately += size
        if self._waited < self._over:
            return
        if self._lately < SLOWEST * self._waited:
            raise OriginFailed(
                f"{self._shown} trickles: {self._lately} bytes in {self._waited:.0f} s"
            )
        self._waited, self._lately = 0.0, 0


def hold_back(connection: Any, rate: int) -> None:
    """Let an origin send not much more on this socket (or None) than is taken at so many bytes per
    second, 0 for no limit."""
    if connection is not None and 0 < rate < SLOW_RATE:
        room = max(LEAST_BUFFER, int(rate * FLOWING_SECONDS))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)


def content_length(headers: Mapping[str, str]) -> int | None:
    """The length that an answer says, None for none or one that is no length."""
    text = headers.get("content-length", "")
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait (RFC 9110 section 10.2.3): as a number, or as a date by
    the answer's own clock, by ours where it shows none."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return min(float(text), LONGEST_RETRY_AFTER)
    later = seconds_of(text)
    if later is None:
        return None
    now = seconds_of(headers.get("date", ""))
    return min(max(0.0, later - (time.time() if now is None else now)), LONGEST_RETRY_AFTER)
