"""What a host stores is told to a scheduler that does not know it, whatever goes on here."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from hawker.core.digests import HostKey
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport, LeaseProgress, Left, Read, Register
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.storage import Store
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.importing import Import


class Link:
    """A scheduler that only listens."""

    base_url = "http://scheduler.test"
    away_seconds = 0.0

    def __init__(self) -> None:
        self.reports: list[AnyReport] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait_connected(self, timeout: float) -> bool:
        return True

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        self.reports.append(report)

    async def told_end_of(self, lease: str) -> None:
        """All of it was read."""
        async with asyncio.timeout(5):
            while True:
                for report in self.reports:
                    if isinstance(report, LeaseProgress) and report.lease == lease and report.done:
                        return
                await asyncio.sleep(0)

    async def told_of(self, task: str) -> Register:
        """The offer of what is stored of a task."""
        async with asyncio.timeout(5):
            while True:
                assert Left(task=task) not in self.reports
                for report in self.reports:
                    if isinstance(report, Register) and report.task == task and report.have:
                        return report
                await asyncio.sleep(0.01)


def _with_stored(
    tmp_path: Path, url: str, check: Callable[[Conductor, Link, TaskSpec], Awaitable[None]]
) -> None:
    async def main() -> None:
        settings = Settings()
        plugins = PluginHost(settings)
        store = await asyncio.to_thread(Store.open, tmp_path / "data")
        await store.start()
        try:
            ground = Ground(store=store, plugins=plugins, key=HostKey.generate(), tokens=None)
            spec = TaskSpec(url)
            importing = await Import.begin(ground, spec, 1000)
            await importing.write(os.urandom(1000))
            await importing.finish()
            link = Link()
            conductor = Conductor(ground)
            async with conductor.running([link]):
                await check(conductor, link, spec)
        finally:
            await store.close()
            await plugins.close()

    asyncio.run(main())


def test_the_end_of_a_lease_begins_nothing(tmp_path: Path) -> None:
    async def check(conductor: Conductor, link: Link, spec: TaskSpec) -> None:
        # A scheduler that was started anew does not know a lease whose end it is told.
        conductor.decide(link, Read(task=spec.task_id, lease="0" * 16, spec=spec, ranges=[]))
        assert conductor.runs == {}
        conductor.introduce(link)
        assert (await link.told_of(spec.task_id)).want == []

    _with_stored(tmp_path, "http://origin.test/x", check)


def test_a_task_that_nobody_here_wants_is_offered_though_it_is_at_work(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def check(conductor: Conductor, link: Link, spec: TaskSpec) -> None:
            # Its reader waits for an origin that does not answer.
            conductor.decide(link, Read(task=spec.task_id, lease="0" * 16, spec=spec))
            assert spec.task_id in conductor.runs
            conductor.introduce(link)
            await link.told_of(spec.task_id)
            link.reports.clear()
            conductor.answer(link, spec.task_id)
            await link.told_of(spec.task_id)

        _with_stored(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/x", check)


class Origin(BaseHTTPRequestHandler):
    """Counts what it is asked."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.send_header("etag", '"1"')
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"12345")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_an_extension_that_crosses_the_end_of_its_lease_begins_nothing(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Origin) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        spec = TaskSpec(f"http://127.0.0.1:{server.server_port}/x")

        async def check(conductor: Conductor, link: Link, _: TaskSpec) -> None:
            for number, lease in enumerate(("a" * 16, "b" * 16), 1):
                read = Read(task=spec.task_id, lease=lease, spec=spec, revision=2 * number)
                conductor.decide(link, read)
                await link.told_end_of(lease)
                # Still at work, and a moment later.
                conductor.decide(link, msgspec.structs.replace(read, revision=2 * number + 1))
                await asyncio.sleep(0.2)
                conductor.decide(link, msgspec.structs.replace(read, revision=2 * number + 2))
                await asyncio.sleep(0.2)
                assert conductor.runs == {}
                assert Origin.asked == number

        try:
            _with_stored(tmp_path, "http://origin.test/x", check)
        finally:
            server.shutdown()
