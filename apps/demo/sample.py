"""A file the machine certainly has: one of the running Python's own, tens of MiB large."""

from __future__ import annotations

import os
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

MIB = 1024 * 1024
SMALLEST = 16 * MIB
LARGEST = 256 * MIB
TAR_NAME = "python-standard-library.tar"


def default_file(directory: Path) -> tuple[Path, str]:
    """The file to share where the user names none, and what it is in words.

    The largest of Python's own files from 16 to 256 MiB; where there is none, a tar of its standard
    library, written into `directory`.
    """
    found = largest(python_files())
    if found is not None:
        return found, "one of Python's own files"
    return pack(Path(sysconfig.get_path("stdlib")), directory / TAR_NAME), (
        "a tar of Python's standard library, made for this"
    )


def largest(files: Iterable[str], smallest: int = SMALLEST, most: int = LARGEST) -> Path | None:
    """The largest readable file of fitting size, None where none fits."""
    best: tuple[int, str] = (0, "")
    for file in files:
        try:
            size = os.stat(file).st_size
        except OSError:
            continue
        if smallest <= size <= most and size > best[0] and os.access(file, os.R_OK):
            best = (size, file)
    return Path(best[1]).resolve() if best[1] else None


def python_files() -> Iterator[str]:
    """The interpreter, its library, and every file of the standard library and site-packages."""
    yield sys.executable
    directory, name = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    if directory and name:
        yield os.path.join(directory, name)
    library = sysconfig.get_path("stdlib")
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    for place in {library, *installed}:
        for folder, below, names in os.walk(place):
            # Small by nature, or not this environment's.
            below[:] = [
                name
                for name in below
                if name not in ("__pycache__", "site-packages")
                or os.path.join(folder, name) in installed
            ]
            yield from (os.path.join(folder, name) for name in names)


def pack(library: Path, target: Path) -> Path:
    """`target`: a tar of the library without what was installed into it or compiled from it."""

    def chosen(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(member.name).parts
        return None if {"site-packages", "__pycache__"} & set(parts) else member

    with tarfile.open(target, "w") as archive:
        archive.add(library, arcname=library.name, filter=chosen)
    return target
