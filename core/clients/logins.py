"""What `hawker login` got, in the user's own configuration directory, for whoever runs commands as
that user; nobody else may read it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from hawker.core.errors import ConfigError, Unauthenticated, Unavailable

LOCK_SECONDS = 60.0


class Login(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody who signed in at `manager`, its base URL.

    `access` is the session's cookie after a password, else a provider's access token, good until
    `expires` (seconds since 1970; 0: not known). `client` is whom `issuer` knows us as.
    """

    manager: str
    how: Literal["password", "device", "client-credentials"]
    access: str
    expires: float = 0.0
    refresh: str = ""
    issuer: str = ""
    client: str = ""
    scopes: list[str] = []
    resource: str = ""

    def __repr__(self) -> str:
        return f"Login({self.manager!r}, {self.how!r})"

    def is_good(self, seconds: float) -> bool:
        """Whether it lasts that long, as far as is known."""
        return not self.expires or self.expires > time.time() + seconds


class _File(msgspec.Struct):
    """`current` is the manager that was signed in to last."""

    current: str = ""
    logins: dict[str, Login] = {}


class Logins:
    """The file `logins.json` of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "logins.json"

    def find(self, manager: str = "") -> Login:
        """Who is signed in at a manager, without one at the last; raises Unauthenticated."""
        file = self._read()
        wanted = manager or file.current
        login = file.logins.get(wanted)
        if login is None:
            where = f" at {wanted}" if wanted else ""
            raise Unauthenticated(f"nobody is signed in{where}", hint="use `hawker login`")
        return login

    def current(self) -> str:
        """The manager that was signed in to last; empty where there is none."""
        return self._read().current

    def keep(self, login: Login) -> None:
        file = self._read()
        file.logins[login.manager] = login
        file.current = login.manager
        self._write(file)

    def forget(self, manager: str) -> None:
        file = self._read()
        file.logins.pop(manager, None)
        if file.current == manager:
            file.current = next(iter(file.logins), "")
        self._write(file)

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Alone with the file: a refresh token may be good once, so that of two commands at a time
        one refreshes. Raises Unavailable where that takes longer than a minute."""
        self._make_directory()
        descriptor = os.open(self._directory / "logins.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as exc:
                    if time.monotonic() > deadline:
                        raise Unavailable(f"another command keeps {self.path} locked") from exc
                    await asyncio.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------ own

    def _read(self) -> _File:
        try:
            mode = self.path.stat().st_mode
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return _File()
        except OSError as exc:
            raise ConfigError(f"{self.path} cannot be read: {exc.strerror}") from exc
        if mode & 0o077:
            raise ConfigError(f"others may read {self.path}", hint=f"chmod 600 {self.path}")
        try:
            return msgspec.json.decode(raw, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"{self.path} is not understood: {exc}", hint="remove it, and sign in again"
            ) from exc

    def _write(self, file: _File) -> None:
        """All of it or nothing."""
        self._make_directory()
        new = self.path.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(msgspec.json.encode(file))
                opened.flush()
                os.fsync(descriptor)
            os.replace(new, self.path)
        except OSError as exc:
            raise ConfigError(f"{self.path} cannot be written: {exc.strerror}") from exc

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise ConfigError(f"{self._directory} cannot be made: {exc.strerror}") from exc


def configuration_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's own (XDG base directory specification)."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    return Path(base) / "hawker"
