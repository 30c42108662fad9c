"""The operating system's errors on the data directory, as ours."""

from __future__ import annotations

import errno

from hawker.core.errors import QuotaExceeded, StorageFailed

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL_HINT = "free some space, or lower storage.quota so that content is evicted in time"


def storage_failure(exc: OSError, what: str) -> QuotaExceeded | StorageFailed:
    """QuotaExceeded where the disk is full, StorageFailed for everything else."""
    if exc.errno in _FULL:
        return QuotaExceeded(f"{what}: {exc.strerror}", hint=FULL_HINT)
    return StorageFailed(f"{what}: {exc.strerror or exc}", hint="see `hawker doctor`")
