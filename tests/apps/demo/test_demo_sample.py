"""The file that is shared where the user names none."""

from __future__ import annotations

import tarfile
from pathlib import Path

from hawker.apps.demo import sample
from hawker.apps.demo.sample import LARGEST, MIB, SMALLEST, default_file, largest


def sparse(directory: Path, name: str, size: int) -> str:
    path = directory / name
    with path.open("wb") as file:
        file.truncate(size)
    return str(path)


def test_largest_file_of_fitting_size_is_chosen(tmp_path: Path) -> None:
    files = [
        sparse(tmp_path, "small", SMALLEST - 1),
        sparse(tmp_path, "good", 20 * MIB),
        sparse(tmp_path, "better", 30 * MIB),
        sparse(tmp_path, "huge", LARGEST + 1),
        str(tmp_path / "missing"),
    ]
    assert largest(files) == tmp_path / "better"


def test_links_are_resolved(tmp_path: Path) -> None:
    sparse(tmp_path, "real", SMALLEST)
    (tmp_path / "link").symlink_to("real")
    assert largest([str(tmp_path / "link")]) == tmp_path / "real"


def test_nothing_fits(tmp_path: Path) -> None:
    assert largest([sparse(tmp_path, "small", 5)]) is None


def test_this_machine_has_a_file(tmp_path: Path) -> None:
    file, what = default_file(tmp_path)
    assert file.is_file()
    assert "Python" in what
    assert file.stat().st_size <= LARGEST or file.parent == tmp_path


def test_standard_library_is_packed_without_what_was_added_to_it(tmp_path: Path) -> None:
    library = tmp_path / "python"
    for name in ("os.py", "json/decoder.py", "json/__pycache__/decoder.pyc", "site-packages/x.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(name)
    packed = sample.pack(library, tmp_path / "library.tar")
    with tarfile.open(packed) as archive:
        files = sorted(member.name for member in archive if member.isfile())
    assert files == ["python/json/decoder.py", "python/os.py"]
