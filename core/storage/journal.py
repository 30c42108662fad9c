"""Changes of the index from all entries, in batches: one transaction at a time, in one thread.

What is asked while a transaction is under way goes into the next one, so that a batch waits no
longer than the one before it takes, and grows with the load.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from hawker.core.errors import HawkerError, StorageFailed
from hawker.core.storage.faults import storage_failure
from hawker.core.storage.index import Index

T = TypeVar("T")
log = logging.getLogger(__name__)


class _Item(Generic[T]):
    """A change that was asked for; `applied` is called on the loop once it is committed."""

    def __init__(
        self,
        change: Callable[[Index], T],
        applied: Callable[[T], None] | None,
        waiter: asyncio.Future[T],
    ) -> None:
        self._change = change
        self._applied = applied
        self._waiter = waiter
        self._value: list[T] = []
        self._failure: HawkerError | None = None

    def make(self, index: Index) -> None:
        """In the index thread. A file that cannot be written fails this change alone."""
        try:
            self._value = [self._change(index)]
        except OSError as exc:
            self._failure = storage_failure(exc, "the store cannot be written")
        except HawkerError as exc:
            self._failure = exc

    def settle(self, failure: BaseException | None) -> None:
        """On the loop; `failure` is that of the whole batch."""
        failure = failure or self._failure
        if failure is None and self._applied is not None:
            self._applied(self._value[0])
        if self._waiter.done():
            return
        if failure is None:
            self._waiter.set_result(self._value[0])
        else:
            self._waiter.set_exception(failure)


class Journal:
    """See the module. `submit` and `post` are called on the event loop."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hawker-index")
        self._waiting: list[_Item[object]] = []
        self._busy = False
        self._closed = False

    def submit(
        self, change: Callable[[Index], T], applied: Callable[[T], None] | None = None
    ) -> asyncio.Future[T]:
        """Have a change made; the result comes when it is committed.

        `applied` is called then even if nobody waits any more. The future raises QuotaExceeded or
        StorageFailed where the change could not be made.
        """
        if self._closed:
            raise StorageFailed("the store is closed")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Item(change, applied, waiter))  # type: ignore[arg-type] # T per item
        if not self._busy:
            self._busy = True
            # Not at once, so that all that is asked in this turn of the loop comes along.
            loop.call_soon(self._begin)
        return waiter

    def post(self, change: Callable[[Index], None]) -> None:
        """Have a change made that nobody waits for; a failure is logged."""
        self.submit(change).add_done_callback(_log_failure)

    async def close(self) -> None:
        """Make what was asked so far; nothing can be asked any more."""
        last = self.submit(lambda index: None)
        self._closed = True
        await last
        self._thread.shutdown()

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        # No future of the loop, whose callbacks take it three more turns: nobody waits for one.
        self._thread.submit(self._make, batch, asyncio.get_running_loop())

    def _make(self, batch: Sequence[_Item[object]], loop: asyncio.AbstractEventLoop) -> None:
        failure: BaseException | None = None
        try:
            with self._index.transaction():
                for item in batch:
                    item.make(self._index)
        except BaseException as exc:
            failure = exc
        loop.call_soon_threadsafe(self._end, batch, failure)

    def _end(self, batch: Sequence[_Item[object]], failure: BaseException | None) -> None:
        for item in batch:
            item.settle(failure)
        if self._waiting:
            self._begin()
        else:
            self._busy = False


def _log_failure(change: asyncio.Future[None]) -> None:
    if not change.cancelled() and change.exception() is not None:
        log.warning("a change of the index was lost: %s", change.exception())
