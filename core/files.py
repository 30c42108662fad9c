"""Files that hold keys: new ones only, and from their first moment for whom they are meant."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from hawker.core.errors import ConfigError

KEY_BYTES = 32


def create_file(path: Path, data: bytes, *, mode: int, what: str, hint: str) -> None:
    """Write a new file, and its directory for its owner only where there is none.

    `what` names it in errors; `hint` says what to do where it exists already.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists already", hint=hint) from exc
    except OSError as exc:
        raise ConfigError(f"{what} cannot be written: {exc.strerror}") from exc
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def create_key(path: Path, what: str, *, hint: str) -> None:
    """Write a new random key as hex digits, for its owner only; `what` it is, such as `the cluster
    key`.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    key = (secrets.token_hex(KEY_BYTES) + "\n").encode()
    create_file(path, key, mode=0o600, what=f"{what} {path}", hint=hint)


def read_key(path: Path, what: str, *, hint: str) -> bytes:
    """The `KEY_BYTES` of a key that `create_key` wrote.

    Raises:
        ConfigError: the file is missing, readable by others, or no key; `hint` says where one is
            to be had.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_bytes().decode("ascii", "replace").strip()
    except OSError as exc:
        raise ConfigError(f"{what} {path} cannot be read: {exc.strerror}", hint=hint) from exc
    if mode & 0o077:
        raise ConfigError(f"others may read {what} {path}", hint=f"chmod 600 {path}")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} is not {what}: not {2 * KEY_BYTES} hex digits")
    return key
