"""Files that hold keys: new ones only, and from their first moment for whom they are meant."""

from __future__ import annotations

import os
from pathlib import Path

from hawker.core.errors import ConfigError


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
