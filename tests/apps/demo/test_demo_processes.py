"""Processes of the demo's fleet: readiness, failure, and that none is left."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from hawker.apps.demo.processes import Fleet
from hawker.core.errors import Unavailable

READY = 'print(\'{"url": "http://here"}\', flush=True)\n'
STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(600)\n"
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `acting` that the fleet's processes can import; write to it what it does."""
    (tmp_path / "modules").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    return tmp_path / "modules" / "acting.py"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_process_is_ready_when_it_says_so_and_gone_afterwards(tmp_path: Path, module: Path) -> None:
    module.write_text(READY + "import time\ntime.sleep(600)\n")

    async def main() -> int:
        async with Fleet(tmp_path) as fleet:
            running = await fleet.start("one", "acting", timeout=20)
            assert running.ready.url == "http://here"
            assert alive(running.pid)
            return running.pid

    assert not alive(asyncio.run(main()))


def test_users_settings_do_not_reach_the_processes(
    tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_LISTEN__PORT", "1")
    module.write_text("import os\nassert 'HAWKER_LISTEN__PORT' not in os.environ\n" + READY)

    async def main() -> None:
        async with Fleet(tmp_path) as fleet:
            await fleet.start("one", "acting", timeout=20)

    asyncio.run(main())


def test_process_that_fails_is_reported_with_what_it_wrote(tmp_path: Path, module: Path) -> None:
    module.write_text("raise SystemExit('no such luck')\n")

    async def main() -> None:
        async with Fleet(tmp_path) as fleet:
            await fleet.start("one", "acting", timeout=20)

    with pytest.raises(Unavailable, match="no such luck"):
        asyncio.run(main())


def test_process_that_never_says_anything_is_given_up_and_ended(
    tmp_path: Path, module: Path
) -> None:
    module.write_text("import time\ntime.sleep(600)\n")

    async def main() -> None:
        async with Fleet(tmp_path) as fleet:
            await fleet.start("one", "acting", timeout=0.5)

    with pytest.raises(Unavailable, match="not ready within"):
        asyncio.run(main())


def test_cancelled_stop_kills_what_does_not_end(tmp_path: Path, module: Path) -> None:
    module.write_text(STUBBORN)

    async def main() -> int:
        fleet = Fleet(tmp_path)
        running = await fleet.start("one", "acting", timeout=20)
        stopping = asyncio.ensure_future(fleet.stop())
        await asyncio.wait([stopping], timeout=0.2)
        stopping.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert time.monotonic() - began < 3
        return running.pid

    assert not alive(asyncio.run(main()))
