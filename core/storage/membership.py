"""What a host keeps of its membership in a cluster that a manager looks after.

    membership/membership.json   who it is there, and what it was told last
    membership/cluster.key       the key that the cluster's hosts trust each other by
    membership/host.pem          its certificate chain and private key; not where it joined `plain`
    membership/ca.pem            the authority of the cluster's certificates
    membership/manager.pem       the authority of the manager's certificate, where one was named
    membership/lock              held by the process that keeps the membership alive

The folder is filled elsewhere and put in its place as a whole; each file is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hawker.core.egress import is_loopback
from hawker.core.errors import StorageFailed
from hawker.core.membership import Kept, Kind
from hawker.core.settings import Loaded
from hawker.core.storage.directory import DirectoryLock
from hawker.core.storage.faults import storage_failure

RECORD = "membership.json"
CLUSTER_KEY = "cluster.key"
HOST = "host.pem"
AUTHORITY = "ca.pem"
MANAGER = "manager.pem"
# What a host keeps takes less; a full disk must be found before a token is used.
RESERVED = 64 * 1024
_DRAFT = ".membership."


class Membership(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who a host is in its cluster, and what it was told last.

    `manager` is the base URL of the manager's process, `member` the host's id there, `token` what
    it shows. `url` is where the host itself was reached last. `removed`: the manager said that it
    is a member no more.
    """

    manager: str
    member: str
    host: str
    cluster: str
    cluster_name: str
    kind: Kind
    token: str
    plain: bool = False
    hostname: str = ""
    idc: str = ""
    location: str = ""
    addresses: list[str] = []
    url: str = ""
    told: Kept | None = None
    removed: bool = False


_decoder = msgspec.json.Decoder(Membership)


def load_membership(folder: Path) -> Membership | None:
    """What is kept in this folder, None where the host has not joined; blocking.

    Raises:
        StorageFailed: it is there and cannot be used, or others may read it.
    """
    path = folder / RECORD
    hint = f"remove {folder}, and have this host join again"
    try:
        if path.stat().st_mode & 0o077:
            raise StorageFailed(f"others may read {path}", hint=f"chmod 600 {path}")
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise storage_failure(exc, f"the membership {path}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StorageFailed(f"{path} is no membership: {exc}", hint=hint) from exc


def save_file(path: Path, data: bytes) -> None:
    """Replace a file that its owner alone may read, in full or not at all; blocking.

    Raises:
        QuotaExceeded, StorageFailed: it cannot be written; what was there is there still.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _write(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as exc:
        raise storage_failure(exc, str(path)) from exc


def save_membership(folder: Path, membership: Membership) -> None:
    """Replace what is kept; see `save_file`."""
    save_file(folder / RECORD, msgspec.json.format(msgspec.json.encode(membership)))


def remove_membership(folder: Path) -> None:
    """The host is a member no more: nothing of it is kept; blocking.

    Raises:
        StorageFailed: a process keeps it alive now, or it cannot be removed.
    """
    lock = DirectoryLock(folder)
    gone = folder.with_name(f"{_DRAFT}{secrets.token_hex(8)}")
    try:
        os.rename(folder, gone)
        shutil.rmtree(gone)
    except OSError as exc:
        raise storage_failure(exc, f"the membership {folder}") from exc
    finally:
        lock.release()


class Draft:
    """A membership that is being made; nothing is there before `complete`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder.with_name(f"{_DRAFT}{secrets.token_hex(8)}")
        self._path.mkdir(mode=0o700)
        reserve = self._path / "reserve"
        reserve.touch(mode=0o600)
        with reserve.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVED)

    def put(self, name: str, data: bytes) -> Path:
        """A file of it; where that is until it is complete."""
        path = self._path / name
        _write(path, data)
        return path

    def complete(self, membership: Membership, files: Mapping[str, bytes]) -> None:
        """Put the membership in its place with these files, all or nothing.

        Raises:
            QuotaExceeded, StorageFailed: it cannot be written.
        """
        try:
            (self._path / "reserve").unlink()
            for name, data in files.items():
                self.put(name, data)
            save_membership(self._path, membership)
            os.rename(self._path, self._folder)
            _sync(self._folder.parent)
        except OSError as exc:
            raise storage_failure(exc, f"the membership {self._folder}") from exc

    def discard(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


@contextlib.contextmanager
def drafting(folder: Path) -> Iterator[Draft]:
    """Make a membership, for which there is room on the disk; blocking.

    Raises:
        QuotaExceeded, StorageFailed: it cannot be written.
    """
    try:
        for left in folder.parent.glob(f"{_DRAFT}*"):
            shutil.rmtree(left, ignore_errors=True)
        draft = Draft(folder)
        try:
            yield draft
        finally:
            draft.discard()
    except OSError as exc:
        raise storage_failure(exc, f"the membership {folder}") from exc


def underlay(loaded: Loaded) -> Loaded:
    """The settings of a host that joined: where nothing else was set, what it joined with.

    Raises:
        StorageFailed: as `load_membership`.
    """
    folder = loaded.settings.membership_folder
    membership = load_membership(folder)
    if membership is None:
        return loaded
    values: dict[str, Any] = {
        "cluster.key_file": str(folder / CLUSTER_KEY),
        "peer.seed": membership.kind == "seed",
        "peer.hostname": membership.hostname,
    }
    for name in ("idc", "location"):
        if getattr(membership, name):
            values[f"peer.{name}"] = getattr(membership, name)
    beyond = [address for address in membership.addresses if not is_loopback(address)]
    if beyond:
        # Others are to reach it there; then it cannot be open.
        values["listen.host"] = beyond[0]
        values["auth.mode"] = "required"
    own = {"tls.certificate", "tls.key", "tls.ca"} & loaded.origins.keys()
    if not membership.plain and not own:
        values["tls.certificate"] = str(folder / HOST)
        values["tls.ca"] = str(folder / AUTHORITY)
    return loaded.underlaid(values, str(folder / RECORD))


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
