"""Upload slots: how many requests for pieces a host answers at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hawker.core.errors import Busy

# When whoever found no free slot may come again.
RETRY_AFTER = 0.02


def is_idle(used: int, limit: int) -> bool:
    """A quarter of the slots is taken at most."""
    return 4 * used <= limit


class UploadSlots:
    """How many requests for pieces are answered at once, and what was sent."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.sent_bytes = 0
        self.refused = 0

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def idle(self) -> bool:
        """Few uploads are under way: there is room for what is not urgent."""
        return is_idle(self.used, self.limit)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a slot; raises Busy where none is free."""
        if self.used >= self.limit:
            self.refused += 1
            raise Busy("every upload slot is taken", retry_after=RETRY_AFTER)
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1
