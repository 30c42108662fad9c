"""The cache behind `ls`, `stat`, `rm` and `export`: the daemon's, or the data directory itself
where no daemon runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from hawker.apps.cli.local_daemon import find_daemon, open_daemon
from hawker.core.digests import ALGORITHMS
from hawker.core.errors import BadRequest, NotFound
from hawker.core.ids import SIGNED, TASK_ID, TaskSpec, canonical_url, loses_credentials
from hawker.core.messages import TaskStat
from hawker.core.settings import Settings

# As short as `ls` may print it, as long as nobody types a word that looks like one.
_TASK = re.compile(r"^[0-9a-f]{8,64}$")


def is_task(name: str) -> bool:
    """Whether a name is a task id or the beginning of one; otherwise it is a URL."""
    return _TASK.match(name) is not None


def check_name(name: str, filtered: tuple[str, ...]) -> None:
    """Raises BadRequest where a name is neither a task nor a URL, before anything is opened."""
    if not is_task(name):
        canonical_url(name, filtered)


def implied_digest(url: str) -> str:
    """The digest that a URL is, where content is named by it; else empty."""
    return url if url.partition(":")[0] in ALGORITHMS else ""


class Cache(Protocol):
    """Tasks that are stored."""

    async def tasks(self) -> list[TaskStat]: ...

    async def stat(self, task: str) -> TaskStat:
        """The newest generation; raises NotFound."""
        ...

    async def remove(self, task: str) -> None:
        """Raises NotFound."""
        ...


@asynccontextmanager
async def open_cache(settings: Settings, endpoint: str | None) -> AsyncIterator[Cache]:
    """The daemon's cache, or that of the data directory."""
    found = find_daemon(settings, endpoint)
    if found is not None:
        async with open_daemon(settings, found) as daemon:
            yield daemon
        return
    # Opens a database; of no use where a daemon answers.
    from hawker.apps.cli.offline import open_directory

    async with open_directory(settings) as directory:
        yield directory


async def find_task(
    cache: Cache, name: str, *, tag: str = "", application: str = "", filtered: tuple[str, ...] = ()
) -> str:
    """The id of the task that `name` means: a URL, a task id, or the beginning of one.

    Raises:
        BadRequest: neither of them, or the beginning of several ids.
        NotFound: no stored task's id begins so.
    """
    if TASK_ID.match(name):
        return name
    if not is_task(name):
        spec = TaskSpec(canonical_url(name, filtered), tag=tag, application=application)
        if spec.url.startswith("file:"):
            return await _file_task(cache, spec)
        if loses_credentials(name, filtered):
            spec = msgspec.structs.replace(spec, variant=SIGNED)
        return spec.task_id
    found = {stat.task for stat in await cache.tasks() if stat.task.startswith(name)}
    if not found:
        raise NotFound(f"no task begins with {name}", hint="see `hawker ls`")
    if len(found) > 1:
        raise BadRequest(f"{len(found)} tasks begin with {name}", hint="write more of it")
    return found.pop()


async def _file_task(cache: Cache, wanted: TaskSpec) -> str:
    """The task of a file, whose variant its host chooses; the plain one where none is stored."""
    for stat in await cache.tasks():
        if msgspec.structs.replace(stat.spec, variant="") == wanted:
            return stat.task
    return wanted.task_id
