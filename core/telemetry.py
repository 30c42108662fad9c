"""Which request and which task this code is at work for: what lines of a log belong together."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

REQUEST: ContextVar[str] = ContextVar("hawker_request", default="")
TASK: ContextVar[str] = ContextVar("hawker_task", default="")

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def new_request_id() -> str:
    """16 hex digits at random."""
    return secrets.token_hex(8)


def is_request_id(text: str) -> bool:
    """Whether a log should take this for an id: short, and of plain characters."""
    return _SANE.fullmatch(text) is not None
