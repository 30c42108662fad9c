"""The host's key: made once, kept in the data directory for its owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from hawker.core.digests import HostKey
from hawker.core.errors import BadRequest, StorageFailed
from hawker.core.storage.directory import prepare_directory
from hawker.core.storage.faults import storage_failure

KEY_FILE = "host.key"


def load_host_key(directory: Path) -> HostKey:
    """The key in `directory`, made where there is none; blocking.

    Raises:
        StorageFailed: the directory cannot be used, others may read the key, or it is no key.
    """
    prepare_directory(directory)
    path = directory / KEY_FILE
    try:
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise StorageFailed(f"others may read the host key {path}", hint=f"chmod 600 {path}")
        return HostKey.from_bytes(bytes.fromhex(path.read_text().strip()))
    except OSError as exc:
        raise storage_failure(exc, f"the host key {path}") from exc
    except (ValueError, BadRequest) as exc:
        raise StorageFailed(
            f"{path} is not a host key", hint="remove it: this host then gets a new identity"
        ) from exc


def _create(path: Path) -> None:
    """Write a new key in full or not at all; of two processes the first wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(HostKey.generate().to_bytes().hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
