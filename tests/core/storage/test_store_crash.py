"""A store whose process is killed at any instant keeps every reported piece and no broken one."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

from hawker.core.pieces import PieceSet
from hawker.core.storage import Store

KILLS = 210
CHECK_SHARE = 0.6
WRITER = Path(__file__).with_name("crash_writer.py")


def load_writer() -> ModuleType:
    found = importlib.util.spec_from_file_location("crash_writer", WRITER)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Killer:
    """Starts writers and kills them; knows what they reported."""

    def __init__(self, directory: Path) -> None:
        self.reported: dict[int, PieceSet] = {}
        self.total_reported = 0
        self.kills = 0
        self._process = subprocess.Popen(
            [sys.executable, str(WRITER), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self, number: int, delay: float) -> None:
        """One writer, killed `delay` seconds after its start."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        kind, pid = self._words()
        assert kind == "started"
        timer = threading.Timer(delay, os.kill, (int(pid), signal.SIGKILL))
        timer.start()
        words = self._words()
        while words[0] != "ended":
            self._note(words)
            words = self._words()
        timer.join()
        assert int(words[1]) == -signal.SIGKILL, "the writer failed by itself"
        self.kills += 1

    def _words(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the parent of the writers died"
        return line.split()

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def _note(self, words: list[str]) -> None:
        content = int(words[1])
        if words[0] == "removing":
            self.reported.pop(content, None)
            return
        known = self.reported.get(content, PieceSet())
        self.reported[content] = known | PieceSet.of([int(words[2])])
        self.total_reported += 1


def test_killed_writers_leave_every_reported_piece_and_no_broken_one(tmp_path: Path) -> None:
    writer = load_writer()
    contents = [writer.bytes_of(content) for content in range(writer.CONTENTS)]
    directory = tmp_path / "data"
    rng = random.Random(9)
    killer = Killer(directory)

    async def check() -> int:
        store = Store.open(directory)
        await store.start()
        checked = 0
        for content, data in enumerate(contents):
            entry = store.newest(writer.spec_of(content).task_id)
            reported = killer.reported.get(content, PieceSet())
            if entry is None:
                assert not reported
                continue
            await entry.prepare()
            assert reported <= entry.valid
            stored = entry.path.read_bytes()
            assert len(stored) == len(data)
            for piece in entry.valid:
                span = slice(piece * writer.PIECE, (piece + 1) * writer.PIECE)
                assert stored[span] == data[span]
                assert entry.digest_of(piece) == hashlib.sha256(data[span]).digest()
                checked += 1
        names = {file.name for file in (directory / "content").glob("*/*")}
        wanted = {path.name for e in store.entries() for path in (e.path, e.files.sidecar)}
        assert names == wanted
        await store.close()
        return checked

    checked = 0
    try:
        for number in range(KILLS):
            killer.round(number, rng.choice([0.01, 0.05, 0.12]) * rng.random())
            if rng.random() < CHECK_SHARE:
                checked += asyncio.run(check())
        checked += asyncio.run(check())
    finally:
        killer.close()
    assert killer.kills == KILLS
    assert killer.total_reported > KILLS
    assert checked > KILLS
