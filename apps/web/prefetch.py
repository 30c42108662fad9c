"""All of some content, for whoever asked for a part of it and will want the rest."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

from hawker.apps.web.content import Asker, SwarmContent
from hawker.apps.web.dragonfly import Wishes
from hawker.core.errors import HawkerError

log = logging.getLogger(__name__)

# At once; what is asked for beyond is left to the requests for its parts.
MOST = 16


class Prefetching:
    """Has the peer fetch content while nobody waits for it; all of it ends with this."""

    def __init__(self, content: SwarmContent) -> None:
        self._content = content
        self._running: dict[tuple[str, str, str, Wishes], asyncio.Task[None]] = {}
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Prefetching:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._running.values():
            task.cancel()
        await self._group.__aexit__(kind, failure, trace)

    def begin(self, url: str, asker: Asker, wishes: Wishes, revision: str = "") -> None:
        """Fetch it, unless that is going on."""
        key = (url, revision, asker.tenant, wishes)
        if key not in self._running and len(self._running) < MOST:
            work = self._fetch(key, asker)
            self._running[key] = self._group.create_task(work)

    async def _fetch(self, key: tuple[str, str, str, Wishes], asker: Asker) -> None:
        url, revision, _, wishes = key
        try:
            await self._content.fetch(url, asker, wishes, revision)
        except HawkerError as exc:
            log.info("not all of it was fetched ahead: %s", exc)
        finally:
            del self._running[key]
