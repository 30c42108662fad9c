"""The data directory, its disk, and what the operating system lets a process do. Blocking."""

from __future__ import annotations

import os
import resource
import stat
import tempfile
import time
from pathlib import Path

from hawker.apps.cli.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding, failure
from hawker.apps.cli.text import size
from hawker.core.errors import HawkerError
from hawker.core.pieces import MIB
from hawker.core.settings import Settings
from hawker.core.storage.directory import prepare_directory
from hawker.core.storage.faults import storage_failure
from hawker.core.storage.linux import clone

LITTLE_SPACE = 1 << 30
LITTLE_SHARE = 0.05
FEW_INODES = 10_000
SLOW_SYNC = 1.0
# Of a peer: its clients, its parents' and children's connections and its open content files.
FEW_FILES = 1024
# A scheduler holds about two connections for each host.
MANY_FILES = 4096


def data_directory(settings: Settings) -> Finding:
    """Whose it is, and who else may use it."""
    name, path = "data directory", settings.data
    if not path.exists() and not path.is_symlink():
        return Finding(name, OK, f"{path} is not there yet, and will be made")
    try:
        prepare_directory(path)
    except HawkerError as exc:
        return failure(name, exc)
    if path.is_symlink():
        told = f"{path} is a link to {path.resolve()}"
        return Finding(name, WARNING, told, "name the directory itself in storage.data")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        told = f"others may look into {path} (mode {mode:04o})"
        return Finding(name, WARNING, told, f"chmod 700 {path}")
    return Finding(name, OK, f"{path} is ours alone")


def secrets(settings: Settings) -> Finding:
    """Files and the socket that only their owner may use."""
    name = "keys and socket"
    paths = (settings.cluster_key_file, settings.data / "host.key", settings.unix_socket)
    present = [path for path in paths if path.exists()]
    for path in present:
        status = path.stat()
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            return Finding(name, FAILED, f"others may use {path} ({mode:04o})", f"chmod 600 {path}")
        if status.st_uid != os.geteuid():
            told = f"{path} is user {status.st_uid}'s, not {os.geteuid()}'s"
            return Finding(name, FAILED, told, "run as its owner, or give it to this user")
    told = ", ".join(path.name for path in present)
    return Finding(name, OK, f"{told} for this user only" if told else "none yet")


def disk(settings: Settings) -> Finding:
    """Room, inodes, and that a file can be brought to the disk."""
    name, place = "disk", _nearest(settings.data)
    try:
        room = os.statvfs(place)
        took = _write(place)
    except OSError as exc:
        return failure(name, storage_failure(exc, f"{place}"))
    free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    told = f"{size(free)} of {size(total)} free at {place}, a MiB synced in {took * 1000:.0f} ms"
    if room.f_files and room.f_favail < FEW_INODES:
        return Finding(
            name, WARNING, f"only {room.f_favail} inodes free at {place}", "remove files"
        )
    if free < min(LITTLE_SPACE, total * LITTLE_SHARE):
        return Finding(name, WARNING, told, "make room, or choose another storage.data")
    if took > SLOW_SYNC:
        return Finding(name, WARNING, told, "use a faster disk: each download ends with a sync")
    return Finding(name, OK, told)


def quota(settings: Settings) -> Finding:
    """Whether the disk can hold what may be stored."""
    name, limit = "quota", settings.storage.quota
    if not limit:
        return Finding(name, OK, "nine tenths of the filesystem (storage.quota is 0)")
    place = _nearest(settings.data)
    try:
        room = os.statvfs(place)
        stored = _stored(settings.data / "content")
    except OSError as exc:
        return failure(name, storage_failure(exc, f"{place}"))
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    if limit > total:
        told = f"{size(limit)} on a filesystem of {size(total)}"
        return Finding(name, FAILED, told, "lower storage.quota, or leave it 0")
    if limit > free + stored:
        told = f"{size(limit)}, but {size(free + stored)} are free or ours"
        return Finding(name, WARNING, told, "lower storage.quota, or make room")
    return Finding(name, OK, f"{size(limit)}, {size(stored)} used")


def reflink(settings: Settings) -> Finding:
    """How `hawker get` makes its output from what is stored."""
    name, place = "reflink", _nearest(settings.data)
    try:
        with (
            tempfile.TemporaryFile(dir=place) as source,
            tempfile.TemporaryFile(dir=place) as target,
        ):
            source.write(bytes(4096))
            source.flush()
            try:
                clone(source.fileno(), target.fileno())
            except OSError:
                told = (
                    f"{place} cannot clone files: output there is a copy, or a hard link if asked"
                )
                return Finding(name, OK, told)
    except OSError as exc:
        return Finding(name, SKIPPED, f"nothing can be written at {place}: {exc.strerror}")
    return Finding(name, OK, f"{place} clones files: output there takes no time and no room")


def open_files(settings: Settings) -> Finding:
    """The limit of descriptors."""
    name = "open files"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"at most {soft} (hard limit {hard})"
    if soft < FEW_FILES:
        return Finding(name, FAILED, told, f"ulimit -n {MANY_FILES}, or LimitNOFILE= of systemd")
    if soft < MANY_FILES:
        hint = f"a scheduler of more than {soft // 3} hosts needs more: ulimit -n {MANY_FILES}"
        return Finding(name, WARNING, told, hint)
    return Finding(name, OK, told)


def _nearest(path: Path) -> Path:
    """The path, or the directory above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _write(place: Path) -> float:
    """Seconds to bring 1 MiB to the disk."""
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - began


def _stored(directory: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in directory.rglob("*") if p.is_file())
