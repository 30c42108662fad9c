"""The link to a scheduler against a real scheduler role, over real sockets, that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hawker.apps.compose import compose
from hawker.apps.scheduler.app import SchedulerRole
from hawker.apps.serve import Listen, serving
from hawker.core.clients.scheduler import SchedulerLink
from hawker.core.contracts import RoleContext
from hawker.core.digests import HostKey
from hawker.core.ids import TaskSpec
from hawker.core.limits import Limits
from hawker.core.messages import AnyDecision, HostAnnouncement, Read, Register
from hawker.core.registry import PluginHost
from hawker.core.settings import load
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file

# hypercorn restarts the idle timer of a connection that is being cut, and drops the coroutine.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine 'TCPServer._idle_timeout':RuntimeWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a test drops is collected while the filter holds."""
    yield
    gc.collect()


@contextlib.asynccontextmanager
async def _scheduler(data: Path, port: int = 0) -> AsyncIterator[tuple[SchedulerRole, int]]:
    """A scheduler with the cluster key of `data`, and its port."""
    settings = load({"storage.data": str(data)}, environ={}).settings
    plugins = PluginHost(settings)

    async def advertise() -> str:
        return "http://unused"

    role = SchedulerRole(RoleContext(settings, plugins, advertise, open=True))
    app = compose({"/scheduler": role})
    async with (
        app.router.lifespan_context(app),
        serving(app, Listen("127.0.0.1", port, data / "s.sock")) as bound,
    ):
        yield role, bound.port
    await plugins.close()


@dataclass
class Host:
    """A seed host's side of the link: what it was told."""

    key: HostKey
    decisions: list[AnyDecision] = field(default_factory=list)
    tenants: list[Mapping[str, Limits]] = field(default_factory=list)
    epochs: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def link(self, port: int, cluster: bytes) -> SchedulerLink:
        async def announce(boot: str) -> HostAnnouncement:
            return HostAnnouncement(
                url="http://127.0.0.1:9/peer", key=self.key.public, boot=boot, seed=True
            )

        async def locate() -> str:
            return f"http://127.0.0.1:{port}"

        return SchedulerLink(
            "",
            locate,
            self.key.host,
            ClusterKey(cluster, own=self.key),
            announce,
            lambda link, decision: self.decisions.append(decision),
            self._epoch,
            lambda link, task: None,
            self.tenants.append,
        )

    def _epoch(self, link: SchedulerLink) -> None:
        self.epochs += 1


@contextlib.asynccontextmanager
async def _running(link: SchedulerLink) -> AsyncIterator[None]:
    running = asyncio.ensure_future(link.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _register(name: str) -> Register:
    spec = TaskSpec(url=f"http://origin.test/{name}")
    return Register(task=spec.task_id, spec=spec)


@pytest.fixture
def cluster(tmp_path: Path) -> bytes:
    create_key_file(tmp_path / "cluster.key")
    return read_key_file(tmp_path / "cluster.key")


def test_host_is_announced_and_gets_decisions_for_its_reports(
    tmp_path: Path, cluster: bytes
) -> None:
    async def main() -> None:
        host = Host(HostKey.generate())
        async with _scheduler(tmp_path) as (role, port):
            link = host.link(port, cluster)
            async with _running(link):
                assert await link.wait_connected(20)
                assert link.connected and host.epochs == 1 and link.failures == 0
                assert [view["host"] for view in role.core.hosts()] == [host.key.host]
                report = _register("a")
                link.report(report, urgent=True)
                await _until(lambda: any(isinstance(d, Read) for d in host.decisions))
                read = next(d for d in host.decisions if isinstance(d, Read))
                assert (read.task, read.spec) == (report.task, report.spec)
            # It says goodbye when it ends.
            assert list(role.core.hosts()) == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_reports_wait_for_a_scheduler_that_is_away(tmp_path: Path, cluster: bytes) -> None:
    async def main() -> None:
        host = Host(HostKey.generate())
        async with _scheduler(tmp_path) as (_, port):
            link = host.link(port, cluster)
            running = contextlib.AsyncExitStack()
            await running.enter_async_context(_running(link))
            assert await link.wait_connected(20)
        async with running:
            await _until(lambda: not link.connected)
            assert not await link.wait_connected(0.05)
            reports = [_register(f"away-{number}") for number in range(300)]
            for report in reports:
                link.report(report, urgent=True)
            await _until(lambda: link.failures > 0)
            async with _scheduler(tmp_path, port) as (role, _):
                await _until(lambda: len(list(role.core.tasks(0.0))) == len(reports))
                known = {view.task for view in role.core.tasks(0.0)}
                assert known == {report.task for report in reports}
                assert link.connected or await link.wait_connected(20)

    asyncio.run(main())


def test_quotas_of_tenants_are_told_once_until_there_are_others(
    tmp_path: Path, cluster: bytes
) -> None:
    """There may be many tenants, and a host announces itself every few seconds."""

    async def main() -> None:
        host = Host(HostKey.generate())
        async with _scheduler(tmp_path) as (role, port):
            role.core.limit_tenants({"a": Limits(bandwidth=1)}, 0.0)
            link = host.link(port, cluster)
            async with _running(link):
                await _until(lambda: host.tenants == [{"a": Limits(bandwidth=1)}])
                assert await link.wait_connected(20)
                link.altered()
                await asyncio.sleep(0.5)
                assert len(host.tenants) == 1
                role.core.limit_tenants({"b": Limits(bandwidth=2)}, 0.0)
                link.altered()
                await _until(lambda: host.tenants[1:] == [{"b": Limits(bandwidth=2)}])
                role.core.limit_tenants({}, 0.0)
                link.altered()
                await _until(lambda: host.tenants[2:] == [{}])

    asyncio.run(main())


def test_scheduler_that_was_started_anew_is_noticed_by_an_idle_host(
    tmp_path: Path, cluster: bytes
) -> None:
    async def main() -> None:
        host = Host(HostKey.generate())
        async with _scheduler(tmp_path) as (first, port):
            link = host.link(port, cluster)
            running = contextlib.AsyncExitStack()
            await running.enter_async_context(_running(link))
            assert await link.wait_connected(20)
        async with running, _scheduler(tmp_path, port) as (second, _):
            assert first.epoch != second.epoch
            # Long before the next announcement is due.
            await _until(lambda: host.epochs == 2)
            await _until(lambda: link.connected)
            assert [view["host"] for view in second.core.hosts()] == [host.key.host]

    asyncio.run(main())


def test_host_with_another_cluster_s_key_is_refused_and_keeps_its_reports(
    tmp_path: Path, cluster: bytes
) -> None:
    async def main() -> None:
        host = Host(HostKey.generate())
        async with _scheduler(tmp_path) as (role, port):
            link = host.link(port, bytes(32))
            async with _running(link):
                link.report(_register("a"), urgent=True)
                await _until(lambda: link.failures >= 2)
                assert not link.connected and host.epochs == 0
            assert list(role.core.hosts()) == []

    asyncio.run(main())


def test_reports_made_while_a_batch_is_refused_are_sent(cluster: bytes) -> None:
    """Only what was in a refused batch is dropped."""
    bodies: list[bytes] = []
    host = Host(HostKey.generate())

    async def main() -> None:
        link: SchedulerLink

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                    length = head.partition("content-length: ")[2].partition("\r\n")[0]
                    body = await reader.readexactly(int(length or "0"))
                    status, reply = "200 OK", b""
                    if head.startswith("put"):
                        reply = b'{"epoch":"e","announce_after":15,"report_after_ms":10}'
                    elif head.startswith("post"):
                        bodies.append(body)
                        if len(bodies) == 1:
                            link.report(_register("later"))
                            status = "400 Bad Request"
                            reply = (
                                b'{"type":"urn:hawker:problem:bad-request",'
                                b'"title":"t","status":400}'
                            )
                        else:
                            # A decision nobody can read costs no report either.
                            reply = (
                                b'{"epoch":"e","accepted":2,"report_after_ms":10,'
                                b'"decisions":[{"kind":"read","task":5}]}'
                            )
                    length_field = f"content-length: {len(reply)}"
                    writer.write(f"HTTP/1.1 {status}\r\n{length_field}\r\n\r\n".encode() + reply)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            link = host.link(server.sockets[0].getsockname()[1], cluster)
            async with _running(link):
                link.report(_register("first"), urgent=True)
                await _until(lambda: len(bodies) >= 2)
        assert b"/first" in bodies[0] and b"/later" not in bodies[0]
        assert b"/later" in bodies[1] and b"/first" not in bodies[1]

    asyncio.run(main())
