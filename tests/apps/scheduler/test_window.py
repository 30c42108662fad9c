"""Observers of a scheduler's tasks: what they see live, again later, and what is not theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.apps.scheduler import window
from hawker.core.clients.events import sse
from hawker.core.digests import HostKey
from hawker.core.ids import TaskSpec
from hawker.core.messages import Have, HostAnnouncement, LeaseProgress, Left, Read, Register
from hawker.core.pieces import MIB, Layout
from hawker.core.scheduling import machine, recorder
from hawker.core.tokens import ClusterKey, read_key_file
from hawker.core.window import Frame, SeenTask, decode_frame, decode_overview, fold
from tests.apps.scheduler.test_directions import Scheduler, started

SEED, ONE, TWO = (HostKey.from_bytes(name * 32) for name in (b"s", b"1", b"2"))
LAYOUT = Layout(8 * MIB, MIB)
GENERATION = "g" * 16
SPEC = TaskSpec("http://origin.test/x")
OTHERS = TaskSpec("http://origin.test/x", tenant="other")


class Swarm:
    """Hosts of a scheduler that is served, played by calling its core."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.core = scheduler.role.core
        self.scheduler = scheduler
        self.key = ClusterKey(read_key_file(scheduler.settings.cluster_key_file))
        for host in (SEED, ONE, TWO):
            said = HostAnnouncement("http://127.0.0.1:1/peer", host.public, "b", seed=host is SEED)
            self.core.announce(host.host, said, self.now)
            self.core.connected(host.host, self.now)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def ask(self, host: HostKey, spec: TaskSpec = SPEC) -> None:
        """The host wants all of it, which the seed has read."""
        out = self.core.report(host.host, Register(task=spec.task_id, spec=spec), self.now)
        for lease in [d for _, d in out if isinstance(d, Read)]:
            self.report(SEED, self.progress(lease, done=False))
            self.have(SEED, *range(8), spec=spec)
            self.report(SEED, self.progress(lease, done=True))

    def progress(self, lease: Read, *, done: bool) -> LeaseProgress:
        return LeaseProgress(
            task=lease.task, lease=lease.lease, generation=GENERATION, layout=LAYOUT,
            validator='"v"', ranged=True, read_bytes=8 * MIB, done=done,
        )  # fmt: skip

    def have(self, host: HostKey, *pieces: int, spec: TaskSpec = SPEC) -> None:
        runs = [(piece, piece) for piece in pieces]
        senders = {} if host is SEED else {SEED.host: len(pieces) * MIB}
        self.report(
            host,
            Have(task=spec.task_id, generation=GENERATION, pieces=runs, senders=senders),
        )

    def report(self, host: HostKey, report: Any) -> None:
        self.core.report(host.host, report, self.now)

    def headers(self, verb: str = "tasks", tenant: str = "default") -> dict[str, str]:
        token = self.key.mint("", [verb], tenant=tenant)
        return {"authorization": f"Bearer {token}"}

    async def get(self, path: str, **who: str) -> httpx.Response:
        return await self.scheduler.client.get(path, headers=self.headers(**who))

    async def events(
        self, query: str = "", *, task: str = SPEC.task_id, **who: str
    ) -> AsyncGenerator[Frame, None]:
        async with self.scheduler.client.stream(
            "GET", f"/v1/tasks/{task}/events{query}", headers=self.headers(**who)
        ) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for event in sse(answer):
                yield decode_frame(event.data)


async def swarm_of(scheduler: Scheduler) -> Swarm:
    """Hosts of one that was told that it is the cluster's only one."""
    await scheduler.told()
    return Swarm(scheduler)


async def until(frames: AsyncGenerator[Frame, None], seen: SeenTask, done: Any) -> None:
    async with asyncio.timeout(20):
        while not done():
            seen.take(await anext(frames))


def test_who_observes_sees_what_happens_and_who_comes_later_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as scheduler:
            swarm = await swarm_of(scheduler)
            swarm.ask(ONE)
            swarm.have(ONE, 0)
            seen, later, frames = SeenTask(), SeenTask(), swarm.events()
            first = await anext(frames)
            assert first.kind == "snapshot" and first.task is not None and first.totals is not None
            seen.take(first)
            assert seen.maps()[SEED.host] == LAYOUT.everything() and len(seen.maps()[ONE.host]) == 1
            assert [rate for *_, rate in first.rates] and first.totals.origin_bytes == 8 * MIB
            swarm.ask(TWO)
            swarm.have(TWO, 3, 4)
            await until(frames, seen, lambda: len(seen.peers) == 3)
            assert len(seen.maps()[TWO.host]) == 2
            others = swarm.events("?replay=1")
            await until(others, later, lambda: later.maps() == seen.maps())
            swarm.have(ONE, *range(1, 8))
            swarm.have(TWO, 0, 1, 2, 5, 6, 7)
            await until(frames, seen, lambda: seen.ended)
            await until(others, later, lambda: later.ended)
            assert set(map(len, seen.maps().values())) == {8} and seen.maps() == later.maps()
            assert later.received == {(0, 1): 8 * MIB, (2, 1): 8 * MIB, (1, -1): 8 * MIB}
            for stream in (frames, others):
                assert [frame async for frame in stream] == [], "an end is the end"
            for host in (SEED, ONE, TWO):
                swarm.report(host, Left(task=SPEC.task_id))
            assert (await swarm.get("/v1/tasks")).json() == []
            listed = (await swarm.get("/v1/tasks?forgotten=true")).json()
            assert [(line["task"], line["state"]) for line in listed] == [
                (SPEC.task_id, "forgotten")
            ]
            moments: dict[float, Any] = {}
            again = SeenTask()
            async for frame in swarm.events():
                again.take(frame)
                moments[again.at] = again.maps()
            assert again.ended and not again.peers, "all have left"
            assert later.maps() in moments.values()
            assert again.received == later.received

    asyncio.run(main())


def test_tasks_of_other_tenants_are_for_those_who_observe_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as scheduler:
            swarm = await swarm_of(scheduler)
            swarm.ask(ONE)
            swarm.ask(TWO, OTHERS)
            path = f"/v1/tasks/{OTHERS.task_id}"
            for where in (path, f"{path}/events"):
                assert (await swarm.get(where)).status_code == 404
                assert (await swarm.get(where, verb="*")).status_code == 404
                assert (await swarm.get(where, verb="decisions")).status_code == 403
            assert fold([await anext(swarm.events(task=OTHERS.task_id, tenant="other"))]).maps()
            assert fold([await anext(swarm.events(task=OTHERS.task_id, verb="observe"))]).maps()

            async def names(query: str = "", **who: str) -> set[str]:
                return {
                    line["task"] for line in (await swarm.get(f"/v1/tasks{query}", **who)).json()
                }

            assert await names() == {SPEC.task_id}
            assert await names(tenant="other") == {OTHERS.task_id}
            assert await names("?tenant=other") == {SPEC.task_id}, "not for whoever says so"
            assert await names(verb="observe") == {SPEC.task_id, OTHERS.task_id}
            assert await names("?tenant=other", verb="observe") == {OTHERS.task_id}
            verbs = ["observe", "tasks", "*"]
            client = swarm.key.mint_for_client("ci", verbs, tenant="other", lifetime=60)
            shown = {"authorization": f"Bearer {client}"}
            seen = (await scheduler.client.get("/v1/tasks", headers=shown)).json()
            assert {line["task"] for line in seen} == {OTHERS.task_id}, "a client is no role"
            swarm.have(ONE, 0)
            await asyncio.sleep(0.6)
            own = decode_overview((await swarm.get("/v1/overview")).content)
            every = decode_overview((await swarm.get("/v1/overview", verb="observe")).content)
            assert (own.origin_bytes, own.delivered_bytes, own.peers) == (8 * MIB, MIB, 2)
            assert (every.origin_bytes, every.delivered_bytes, every.peers) == (16 * MIB, MIB, 4)
            assert own.rate == every.rate == MIB // 2

    asyncio.run(main())


def test_an_observer_that_takes_nothing_costs_no_more_and_is_told_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MAX_BEHIND", 2000)

    async def main() -> None:
        async with started(tmp_path) as scheduler:
            swarm = await swarm_of(scheduler)
            swarm.ask(ONE)
            seen = SeenTask()
            # The role's own generator, of which nobody takes anything for a while.
            frames = scheduler.role.window._follow(SPEC.task_id, replay=False)
            seen.take(decode_frame((await anext(frames))[1]))
            (observer,) = scheduler.role.window._observers[SPEC.task_id]
            for number in range(40):
                swarm.report(TWO, Left(task=SPEC.task_id))
                swarm.ask(TWO)
                swarm.have(ONE, number % 7)
                swarm.core.recorder.tick(swarm.now)  # type: ignore[union-attr]
                scheduler.role.window.tell()
                assert sum(map(len, observer._frames)) <= 2000
            assert observer.behind
            async with asyncio.timeout(10), contextlib.aclosing(frames):
                next_one = decode_frame((await anext(frames))[1])
                assert next_one.kind == "snapshot"
                seen.take(next_one)
            assert len(seen.maps()[ONE.host]) == 7 and len(seen.peers) == 3
            assert not scheduler.role.window._observers

    asyncio.run(main())


def test_an_end_is_not_told_of_a_task_that_somebody_wants_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as scheduler:
            swarm = await swarm_of(scheduler)
            swarm.ask(ONE)
            swarm.have(ONE, *range(8))
            swarm.core.recorder.tick(swarm.now)  # type: ignore[union-attr]
            seen = SeenTask()
            frames = scheduler.role.window._follow(SPEC.task_id, replay=True)
            seen.take(decode_frame((await anext(frames))[1]))
            # While it takes its time another one comes.
            swarm.ask(TWO)
            async with asyncio.timeout(20), contextlib.aclosing(frames):
                while len(seen.peers) < 3:
                    seen.take(decode_frame((await anext(frames))[1]))
                assert not seen.ended
                swarm.have(TWO, *range(8))
                while not seen.ended:
                    seen.take(decode_frame((await anext(frames))[1]))
            assert set(map(len, seen.maps().values())) == {8}

    asyncio.run(main())


def test_of_a_large_task_all_is_told_in_parts_and_none_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "MAX_PEERS", 50)
    names = [HostKey.from_bytes(b"%032d" % number) for number in range(60)]

    async def main() -> None:
        async with started(tmp_path) as scheduler:
            swarm = await swarm_of(scheduler)
            for number, host in enumerate(names):
                said = HostAnnouncement(f"http://127.0.0.1:{number + 1}/peer", host.public, "b")
                swarm.core.announce(host.host, said, swarm.now)
                swarm.core.connected(host.host, swarm.now)
                swarm.ask(host)
                swarm.have(host, 1, 3, 5)
            monkeypatch.setattr(machine, "TICK_RUNS", 40)
            monkeypatch.setattr(recorder, "TICK_RUNS", 40)
            steps: list[int] = []
            made = window.Window._made

            async def counted(self: window.Window, parts: Any) -> AsyncGenerator[bytes, None]:
                async with contextlib.aclosing(made(self, parts)) as found:
                    async for part in found:
                        steps.append(len(part))
                        yield part

            monkeypatch.setattr(window.Window, "_made", counted)
            told = (await swarm.get(f"/v1/tasks/{SPEC.task_id}")).json()
            assert told["peers"] == 61 and len(told["members"]) == 50
            have = {member["host"]: member["have"] for member in told["members"]}
            assert [have[host.host] for host in names[:40]] == [[[1, 1], [3, 3], [5, 5]]] * 40
            assert len(steps) > 15 and max(steps) < 2 * sum(steps) / len(steps)
            found = (await swarm.get(f"/v1/tasks/{SPEC.task_id}?members=false")).json()
            assert found["members"] == [] and found["peers"] == 61
            steps.clear()
            seen = SeenTask()
            await until(swarm.events(), seen, lambda: len(seen.peers) == 61)
            assert len(steps) > 15, "whoever observes it is told in parts, too"

    asyncio.run(main())


def test_there_is_a_bound_on_observers_and_a_stop_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MAX_OBSERVERS", 2)

    async def main() -> None:
        async with started(tmp_path) as scheduler:
            swarm = await swarm_of(scheduler)
            path = f"/v1/tasks/{SPEC.task_id}/events"
            assert (await swarm.get(path)).status_code == 404
            swarm.ask(ONE)
            assert (await swarm.get(f"{path}?replay=maybe")).status_code == 400
            streams = [swarm.events(), swarm.events()]
            for stream in streams:
                assert (await anext(stream)).kind == "snapshot"
            assert (await swarm.get(path)).status_code == 503
            await streams[0].aclose()
            for _ in range(500):
                if scheduler.role.window.observers == 1:
                    break
                await asyncio.sleep(0.02)
            assert scheduler.role.window.observers == 1
            scheduler.role.drain()
            async with asyncio.timeout(10):
                rest = [frame.kind async for frame in streams[1]]
            assert "end" not in rest, "the task is not at rest"
            assert (await swarm.get(path)).status_code == 503

    asyncio.run(main())
