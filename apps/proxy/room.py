"""How many connections a proxy has open: a client that opens thousands must not take all
descriptors of the process."""

from __future__ import annotations

import resource

from hawker.core.errors import Unavailable

# Of the process's descriptors, for clients and for the connections to origins that they cause.
SHARE = 0.25
LEAST = 16
RETRY_AFTER = 2.0


class Room:
    """Counts pairs of connections, a client's and the one to an origin that it causes, of which
    there may be `limit`.

    Attributes:
        taken: pairs that are open.
        refused: how often there was no room.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.refused = 0

    @classmethod
    def of_process(cls) -> Room:
        """As much as a share of what this process may open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(max(LEAST, int(soft * SHARE / 2)))

    def take(self) -> None:
        """Count one; raises Unavailable where there is no room."""
        if self.taken >= self.limit:
            self.refused += 1
            raise Unavailable(
                f"this proxy has {self.limit} connections open, and takes no more",
                hint="close some, or raise the process's limit of open files (ulimit -n)",
                retry_after=RETRY_AFTER,
            )
        self.taken += 1

    def leave(self) -> None:
        """One less."""
        self.taken -= 1
