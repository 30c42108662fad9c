"""The host's key file: made once, kept, and refused where it cannot be trusted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hawker.core.errors import StorageFailed
from hawker.core.storage.identity import KEY_FILE, load_host_key


def test_a_host_keeps_its_key(directory: Path) -> None:
    first = load_host_key(directory)
    assert load_host_key(directory).host == first.host
    assert (directory / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in directory.iterdir()] == [KEY_FILE]


def test_starting_at_the_same_time_makes_one_key(directory: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        hosts = {key.host for key in threads.map(load_host_key, [directory] * 16)}
    assert len(hosts) == 1
    assert [path.name for path in directory.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize("content", [b"", b"abcd\n", b"not hex", b"\xff\xfe"])
def test_what_is_no_key_is_refused(directory: Path, content: bytes) -> None:
    load_host_key(directory)
    (directory / KEY_FILE).write_bytes(content)
    with pytest.raises(StorageFailed, match="is not a host key"):
        load_host_key(directory)


def test_a_key_that_others_may_read_is_refused(directory: Path) -> None:
    load_host_key(directory)
    (directory / KEY_FILE).chmod(0o644)
    with pytest.raises(StorageFailed, match="chmod 600"):
        load_host_key(directory)
