"""What failed: whether it is tried again, when, and how it is told."""

from __future__ import annotations

from hawker.core.errors import (
    Busy,
    GenerationGone,
    HawkerError,
    OriginChanged,
    OriginFailed,
    StorageFailed,
    Unavailable,
)

ATTEMPTS = 4
PAUSE = 2.0
"""Before the second attempt; before each later one twice as long."""
MAX_PROBLEM = 4096
PASSING = (Unavailable, OriginFailed, OriginChanged, Busy, GenerationGone)
"""What may be otherwise in a moment; but not a disk that cannot be used."""


def pause(failure: HawkerError, attempts: int) -> float | None:
    """Seconds before what has failed so often is tried again; None where it is not."""
    passing = isinstance(failure, PASSING) and not isinstance(failure, StorageFailed)
    return PAUSE * 2 ** (attempts - 1) if passing and attempts < ATTEMPTS else None


def told(failure: HawkerError) -> str:
    """As a database takes it: others may have said it."""
    return str(failure).replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_PROBLEM]
