"""`file`: credentials in a TOML file that only its owner may read, by tenant and origin.

The form is that of `static`: a table `[origins."https://host"]` for each of the default tenant's,
and `[tenants.NAME.origins."https://host"]` for another's. The file is looked at for every request,
and read again when it was replaced or written to.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tomllib

from hawker.core.contracts import Credential, Credentials
from hawker.core.errors import ConfigError, OriginRefused
from hawker.core.settings import Settings
from hawker.pluggy_specs import hookimpl
from hawker.plugins.credentials.origins import TABLE, Table, known_options, read_table

MAX_SIZE = 1024 * 1024
# Device, inode, mode, owner, size, and times of content and of attributes.
Mark = tuple[int, int, int, int, int, int, int]


class FileCredentials:
    """The credentials of a file, as the file is now."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark: Mark | None = None
        self._table = Table()

    async def find(self, url: str, tenant: str) -> Credential | None:
        if not self._path:
            raise OriginRefused(
                "no credentials file is named", hint="set plugins.options.file.path"
            )
        # In a thread: the file may lie on a filesystem that answers slowly.
        table = await asyncio.to_thread(self._read)
        return table.find(url, tenant)

    async def close(self) -> None:
        return

    def _read(self) -> Table:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                mark = _mark(status)
                if mark == self._mark:
                    return self._table
                _check(status, self._path)
                data = file.read(MAX_SIZE + 1)
        except OSError as exc:
            raise OriginRefused(
                f"the credentials file {self._path} cannot be read: {exc.strerror}"
            ) from exc
        table = _parse(data, self._path)
        self._table, self._mark = table, mark
        return table


def _mark(status: os.stat_result) -> Mark:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _check(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OriginRefused(f"the credentials file {path} is no regular file")
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise OriginRefused(
            f"others than this user may use the credentials file {path}",
            hint=f"own it, and run chmod 600 {path}",
        )


def _parse(data: bytes, path: str) -> Table:
    """Raises OriginRefused; where tomllib quotes the file, its words are left out."""
    if len(data) > MAX_SIZE:
        raise OriginRefused(f"the credentials file {path} has more than {MAX_SIZE} bytes")
    try:
        document = tomllib.loads(data.decode())
        return read_table(known_options(document, path, TABLE), f"{path}, ")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise OriginRefused(
            f"the credentials file {path} is not TOML", hint='write [origins."https://host"]'
        ) from None
    except ConfigError as exc:
        raise OriginRefused(f"the credentials file is wrong: {exc.detail}", hint=exc.hint) from None


@hookimpl
def hawker_credentials(name: str, settings: Settings) -> Credentials:
    options = known_options(settings.plugins.options.get(name, {}), name, ("path",))
    # Without a path it is installed and not set up, which matters only where it is asked.
    path = options.get("path", "")
    if not isinstance(path, str):
        raise ConfigError(f"plugins.options.{name}.path names no file")
    return FileCredentials(path)
