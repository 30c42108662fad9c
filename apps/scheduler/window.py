"""What observers see of a scheduler: its tasks, each as a stream of events, and an overview.

One frame is encoded for all who observe a task. An observer that takes too little of them is not
waited for, and costs no more than `MAX_BEHIND` bytes: it gets a new snapshot once it takes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hawker.apps.web.access import Access, check_allowed
from hawker.apps.web.events import PING, event_stream
from hawker.apps.web.events import Frame as Event
from hawker.apps.web.requests import json_response, task_of
from hawker.core.errors import BadRequest, Busy, NotFound, Unavailable
from hawker.core.messages import encode
from hawker.core.scheduling import Recorder, Scheduler, frames_of
from hawker.core.window import OBSERVE, Frame, TaskDetail

MAX_OBSERVERS = 256
MAX_BEHIND = 1024 * 1024
PING_EVERY = 10.0
IDLE = 2.0
"""For how long nothing is made for observers after something was, as a multiple of what it took."""
BOOLEANS = {"0": False, "false": False, "1": True, "true": True}


class Observer:
    """Frames that wait for one observer of a task."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self.behind = False
        self.at_rest = False
        self.closed = False

    def put(self, frame: bytes) -> None:
        if self.behind:
            return
        self._size += len(frame)
        self._frames.append(frame)
        if self._size > MAX_BEHIND:
            self._frames.clear()
            self.behind = True
        self._filled.set()

    def begin(self) -> None:
        """What waits is known to it; it is told what comes."""
        self.take()
        self.behind = False

    @property
    def pending(self) -> bool:
        """Something waits that it has not taken."""
        return self.behind or bool(self._frames) or self.closed

    def wake(self) -> None:
        self._filled.set()

    def take(self) -> list[bytes]:
        """What waits."""
        frames = list(self._frames)
        self._frames.clear()
        self._size = 0
        self._filled.clear()
        return frames

    async def wait(self, seconds: float) -> None:
        """Until there is something to do, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._filled.wait()


class Window:
    """Reads what `core` records; `tell` is called after each of its ticks."""

    def __init__(self, core: Scheduler, access: Access, now: Callable[[], float]) -> None:
        assert core.recorder is not None
        self._core = core
        self._recorder: Recorder = core.recorder
        self._access = access
        self._now = now
        self._observers: dict[str, set[Observer]] = {}
        self._count = 0
        self._closed = False
        self._making = asyncio.Lock()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/overview", self._overview, methods=["GET"]),
            Route("/v1/tasks", self._list, methods=["GET"]),
            Route("/v1/tasks/{task}", self._inspect, methods=["GET"]),
            Route("/v1/tasks/{task}/events", self._events, methods=["GET"]),
        ]

    def tell(self) -> None:
        """Hand out what was written; tasks at rest are at the end of their streams."""
        for name, frame in self._recorder.take():
            for observer in self._observers.get(name, ()):
                observer.put(frame)
        for name, observers in self._observers.items():
            if self._recorder.at_rest(name):
                for observer in observers:
                    observer.at_rest = True
                    observer.wake()

    def open(self) -> None:
        self._closed = False
        self._making = asyncio.Lock()

    def close(self) -> None:
        """End every stream, and let none begin: the process is about to stop."""
        self._closed = True
        for observers in self._observers.values():
            for observer in observers:
                observer.closed = True
                observer.wake()

    @property
    def observers(self) -> int:
        return self._count

    # ------------------------------------------------------------------ requests

    async def _overview(self, request: Request) -> Response:
        tenant = await self._tenant(request)
        return json_response(self._core.overview(self._now(), tenant))

    async def _list(self, request: Request) -> Response:
        tenant = await self._tenant(request)
        limit = _limit(request)
        lines = self._core.tasks(self._now(), limit, tenant)
        if _flag(request, "forgotten"):
            known = {line.task for line in lines}
            old = self._recorder.all_forgotten()
            lines += [line for line in old if line.task not in known]
        lines = [line for line in lines if tenant in (None, line.tenant)]
        if limit is not None:
            lines = heapq.nlargest(limit, lines, key=lambda line: line.at)
        return json_response(lines)

    async def _inspect(self, request: Request) -> Response:
        task = task_of(request)
        tenant = await self._tenant(request, task)
        found = self._core.outline(task, self._now()) or self._recorder.forgotten(task)
        if found is None or tenant not in (None, found.tenant):
            raise NotFound(f"nothing is known of task {task}")
        if isinstance(found, TaskDetail) and _flag(request, "members", otherwise=True):
            parts = [part async for part in self._made(map(encode, self._core.members(task)))]
            members = b",".join(part[1:-1] for part in parts if part != b"[]")
            told = {**msgspec.structs.asdict(found), "members": msgspec.Raw(b"[%b]" % members)}
            return json_response(told)
        return json_response(found)

    async def _events(self, request: Request) -> Response:
        name = task_of(request)
        tenant = await self._tenant(request, name)
        replay = _flag(request, "replay")
        task, old = self._core.task(name), self._recorder.forgotten(name)
        of = task.spec.tenant if task is not None else None if old is None else old.tenant
        if of is None or tenant not in (None, of):
            raise NotFound(f"nothing is known of task {name}")
        if self._closed:
            raise Unavailable("this scheduler is stopping", hint="come back")
        if self._count >= MAX_OBSERVERS:
            raise Busy(f"{MAX_OBSERVERS} observe this scheduler's tasks already", retry_after=5)
        return event_stream(self._follow(name, replay=replay))

    async def _tenant(self, request: Request, task: str = "") -> str | None:
        """Whose tasks the caller may see: those of one tenant, or None for all of them."""
        caller = await self._access.caller(request.scope)
        # A client is of one tenant, whatever its verbs are.
        if caller is not None and caller.role and OBSERVE in caller.verbs:
            check_allowed(caller, OBSERVE, task)
            return request.query_params.get("tenant")
        return (await self._access.require(request.scope, "tasks", task)).tenant

    # ------------------------------------------------------------------ streams

    async def _follow(self, name: str, *, replay: bool) -> AsyncGenerator[Event, None]:
        """A task's frames: how it is and what happens then, or its record from the beginning; to
        the moment at which it is at rest."""
        with self._observing(name) as observer:
            # A frame that was written before it is not for whoever gets what comes after.
            record = self._recorder.history(name, self._now())
            self.tell()
            resting = self._recorder.at_rest(name)
            if replay or resting:
                observer.take()
                for part in record or ():
                    for frame in frames_of(part):
                        yield None, frame
            else:
                observer.behind = True
            while not observer.closed:
                if observer.behind:
                    async with contextlib.aclosing(self._snapshot(name, observer)) as frames:
                        async for frame in frames:
                            yield None, frame
                for frame in observer.take():
                    yield None, frame
                if observer.pending:
                    continue
                if resting or observer.at_rest:
                    if self._recorder.at_rest(name):
                        yield None, encode(Frame("end", self._recorder.at(self._now())))
                        return
                    # Somebody has come meanwhile.
                    resting = observer.at_rest = False
                await observer.wait(PING_EVERY)
                if not observer.pending and not observer.at_rest:
                    yield PING

    async def _snapshot(self, name: str, observer: Observer) -> AsyncGenerator[bytes, None]:
        """All of a task; what happens from its first frame on waits for the observer meanwhile."""

        def frames() -> Iterator[bytes]:
            task = self._core.task(name)
            made = iter(()) if task is None else self._recorder.snapshot(task, self._now())
            first = next(made, None)
            # What was written for it is not for whoever gets what comes after.
            self.tell()
            observer.begin()
            if first is not None:
                yield first
                yield from made

        async with contextlib.aclosing(self._made(frames())) as made:
            async for frame in made:
                yield frame
                if observer.behind or observer.closed:
                    return

    async def _made(self, parts: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
        """What takes time, a part at a time: one for all who ask, and most of the time is left to
        others."""
        while True:
            async with self._making:
                began = time.monotonic()
                part = next(parts, None)
                await asyncio.sleep(IDLE * (time.monotonic() - began))
            if part is None:
                return
            yield part

    @contextlib.contextmanager
    def _observing(self, name: str) -> Iterator[Observer]:
        observer = Observer()
        self._observers.setdefault(name, set()).add(observer)
        self._count += 1
        try:
            yield observer
        finally:
            self._count -= 1
            self._observers[name].discard(observer)
            if not self._observers[name]:
                del self._observers[name]


def _flag(request: Request, name: str, *, otherwise: bool = False) -> bool:
    """A parameter that is true or false; raises BadRequest for what is neither."""
    value = request.query_params.get(name, "").lower()
    if not value:
        return otherwise
    if value not in BOOLEANS:
        raise BadRequest(f"{name}={value!r} is neither true nor false")
    return BOOLEANS[value]


def _limit(request: Request) -> int | None:
    """How many are wanted, all where nothing is said; raises BadRequest for what is no number."""
    text = request.query_params.get("limit")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text)):
        raise BadRequest(f"limit={text[:40]!r} is no number of tasks")
    return int(text)
