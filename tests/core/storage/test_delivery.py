"""From a stored file to the user's path: whole or not at all."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hawker.core.errors import OutputFailed
from hawker.core.pieces import MIB
from hawker.core.storage.delivery import deliver

DATA = random.Random(5).randbytes(3 * MIB + 17)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    path = folder / "content"
    path.write_bytes(DATA)
    path.chmod(0o600)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder / "file"


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """Another filesystem, of 1 MiB more than the content takes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={4 * MIB}", "hawker-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a filesystem takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_delivered_file_is_a_copy_with_the_mode_of_the_umask(
    source: Path, target: Path, overwrite: bool
) -> None:
    if overwrite:
        target.write_bytes(b"before")
    assert deliver(source, target, overwrite=overwrite) in ("copy", "reflink")
    assert target.read_bytes() == DATA and source.read_bytes() == DATA
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.stat().st_ino != source.stat().st_ino
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_moved_file_leaves_the_store(source: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        target.write_bytes(b"before")
    inode = source.stat().st_ino
    assert deliver(source, target, overwrite=overwrite, move=True) == "move"
    assert target.read_bytes() == DATA and not source.exists()
    assert target.stat().st_ino == inode and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_hard_link_is_the_stored_file(source: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        target.write_bytes(b"before")
    for _ in range(1 + overwrite):
        # The second time the target is a link to the stored file already.
        assert deliver(source, target, overwrite=overwrite, hard_link=True) == "hard link"
        assert target.stat().st_ino == source.stat().st_ino
        assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("how", [{}, {"move": True}, {"hard_link": True}])
def test_an_existing_target_is_never_replaced_unasked(
    source: Path, target: Path, how: dict[str, Any]
) -> None:
    target.write_bytes(b"before")
    with pytest.raises(OutputFailed, match="exists") as failed:
        deliver(source, target, overwrite=False, **how)
    assert failed.value.exit_code == 8
    assert target.read_bytes() == b"before" and source.read_bytes() == DATA
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("how", [{}, {"move": True}, {"hard_link": True}])
def test_a_dangling_symbolic_link_counts_as_existing(
    source: Path, target: Path, how: dict[str, Any]
) -> None:
    target.symlink_to(target.parent / "elsewhere")
    with pytest.raises(OutputFailed, match="exists"):
        deliver(source, target, overwrite=False, **how)
    assert os.listdir(target.parent) == [target.name] and target.is_symlink()


def test_a_target_that_appears_meanwhile_is_not_replaced(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def appear(fd: int) -> None:
        fsync(fd)
        target.write_bytes(b"just made")

    monkeypatch.setattr(os, "fsync", appear)
    for move in (False, True):
        with pytest.raises(OutputFailed, match="exists"):
            deliver(source, target, overwrite=False, move=move)
        assert target.read_bytes() == b"just made" and source.read_bytes() == DATA
        assert os.listdir(target.parent) == [target.name]
        target.unlink()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("move", [False, True])
def test_another_filesystem_gets_a_copy(
    source: Path, other_disk: Path, overwrite: bool, move: bool
) -> None:
    target = other_disk / "file"
    assert deliver(source, target, overwrite=overwrite, move=move) == "copy"
    assert target.read_bytes() == DATA and source.exists() != move
    assert os.listdir(other_disk) == ["file"]


def test_a_hard_link_to_another_filesystem_is_refused(source: Path, other_disk: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(OutputFailed, match="ask for a copy"):
            deliver(source, other_disk / "file", overwrite=overwrite, hard_link=True)
    assert os.listdir(other_disk) == []


@pytest.mark.parametrize("move", [False, True])
def test_a_full_disk_leaves_nothing_and_the_old_target(
    source: Path, other_disk: Path, move: bool
) -> None:
    target = other_disk / "file"
    target.write_bytes(bytes(2 * MIB))
    with pytest.raises(OutputFailed, match="No space left"):
        deliver(source, target, overwrite=True, move=move)
    assert os.listdir(other_disk) == ["file"]
    assert target.read_bytes() == bytes(2 * MIB) and source.read_bytes() == DATA


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("how", [{}, {"move": True}, {"hard_link": True}])
def test_an_unwritable_directory_is_named(how: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source, target = Path(folder) / "source", Path(folder) / "file"
        source.write_bytes(DATA)
        os.seteuid(65534)
        try:
            with pytest.raises(OutputFailed, match="file cannot be"):
                deliver(source, target, overwrite=True, **how)
        finally:
            os.seteuid(0)
        assert os.listdir(folder) == ["source"]


def test_only_regular_files_are_replaced(source: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (pipe, tmp_path):
        with pytest.raises(OutputFailed, match="not a regular file"):
            deliver(source, target, overwrite=True)
    with pytest.raises(OutputFailed, match=os.strerror(errno.ENOENT)):
        deliver(source, tmp_path / "missing" / "file", overwrite=True)


def test_the_longest_names_can_be_written(source: Path, target: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        longest = target.with_name(name)
        deliver(source, longest, overwrite=False)
        assert longest.read_bytes() == DATA
