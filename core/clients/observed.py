"""What several schedulers of a cluster tell, as one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from hawker.core.clients.window import WindowClient
from hawker.core.errors import HawkerError, NotFound, Unavailable
from hawker.core.window import ClusterOverview, Overview, TaskLine

T = TypeVar("T")
ASK_SECONDS = 5.0


class Answers(NamedTuple, Generic[T]):
    """What schedulers said, by who was asked, and why others did not."""

    good: list[tuple[str, WindowClient, T]]
    bad: list[tuple[str, HawkerError]]


class Observed:
    """Schedulers of a cluster, by their URLs; one may be there several times, with what each of
    several tenants sees of it."""

    def __init__(self, windows: Sequence[tuple[str, WindowClient]]) -> None:
        self._windows = windows

    async def tasks(self, limit: int) -> list[TaskLine]:
        """Of each scheduler so many in which something happened last, the latest first.

        Raises:
            Unavailable: none of them answers.
        """
        answers = await self._ask(lambda window: window.tasks(forgotten="true", limit=limit))
        found: dict[str, TaskLine] = {}
        for line in (line for _, _, lines in answers.good for line in lines):
            # One that moved is still known where it was.
            known = found.get(line.task)
            if known is None or (line.peers, line.at) > (known.peers, known.at):
                found[line.task] = line
        return sorted(found.values(), key=lambda line: line.at, reverse=True)

    async def who_knows(self, task: str) -> WindowClient:
        """The scheduler that knows most of a task.

        Raises:
            NotFound: nobody knows it.
            Unavailable: none of the schedulers answers.
        """
        answers = await self._ask(lambda window: window.task(task, members=False), missing=True)
        if not answers.good:
            raise NotFound(f"no scheduler of the cluster knows of task {task}")
        return max(answers.good, key=lambda answer: (answer[2].peers, answer[2].at))[1]

    async def overview(self) -> ClusterOverview:
        """The sum of all that answer."""
        answers = await self._ask(lambda window: window.overview(), none=True)
        away = sorted({url for url, _ in answers.bad})
        urls = {url for url, _, _ in answers.good}
        return total([told for _, _, told in answers.good], schedulers=len(urls), away=away)

    async def each(self) -> dict[str, ClusterOverview]:
        """What each one says that answers, by its URL."""
        answers = await self._ask(lambda window: window.overview(), none=True)
        return {url: told for url, _, told in answers.good}

    async def _ask(
        self,
        ask: Callable[[WindowClient], Awaitable[T]],
        *,
        missing: bool = False,
        none: bool = False,
    ) -> Answers[T]:
        """All of them at once; `missing`: that one does not know it is an answer, too; `none`: it
        is right if none of them answers.

        Raises:
            Unavailable: none of them answers.
        """

        async def one(url: str, window: WindowClient) -> None:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    answers.good.append((url, window, await ask(window)))
            except TimeoutError:
                late = Unavailable(f"{url} did not answer in {ASK_SECONDS:g} s")
                answers.bad.append((url, late))
            except HawkerError as exc:
                answers.bad.append((url, exc))

        answers: Answers[T] = Answers([], [])
        async with asyncio.TaskGroup() as group:
            for url, window in self._windows:
                group.create_task(one(url, window))
        failed = [exc for _, exc in answers.bad if not (missing and isinstance(exc, NotFound))]
        if not answers.good and failed and not none:
            raise Unavailable(f"no scheduler of the cluster answers: {failed[0]}", retry_after=5)
        return answers


def total(
    parts: Sequence[Overview], *, schedulers: int, away: Sequence[str] = ()
) -> ClusterOverview:
    """The sum of what schedulers say. Each host is at all of them."""
    hosts: dict[str, int] = {}
    tasks: dict[str, int] = {}
    for part in parts:
        for state, count in part.hosts.items():
            hosts[state] = max(count, hosts.get(state, 0))
        for state, count in part.tasks.items():
            tasks[state] = count + tasks.get(state, 0)

    def sum_of(field: str) -> int:
        return sum(getattr(part, field) for part in parts)

    return ClusterOverview(
        since=max((part.since for part in parts), default=0.0),
        at=time.time(),
        hosts=hosts,
        tasks=tasks,
        peers=sum_of("peers"),
        complete=sum_of("complete"),
        leases=sum_of("leases"),
        origin_bytes=sum_of("origin_bytes"),
        delivered_bytes=sum_of("delivered_bytes"),
        saved_bytes=sum_of("saved_bytes"),
        origin_rate=sum_of("origin_rate"),
        rate=sum_of("rate"),
        schedulers=schedulers,
        away=list(away),
    )
