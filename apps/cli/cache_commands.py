"""`hawker ls`, `stat`, `rm` and `import`: content that is stored already."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import click
import msgspec

from hawker.apps.cli.cached import check_name, find_task, open_cache
from hawker.apps.cli.local_daemon import find_daemon, open_daemon
from hawker.apps.cli.options import (
    Session,
    common_options,
    endpoint_option,
    filter_option,
    json_option,
    naming_options,
    pass_session,
    run_async,
)
from hawker.apps.cli.text import age, size, table
from hawker.core.errors import Unavailable
from hawker.core.ids import canonical_url
from hawker.core.messages import TaskStat
from hawker.core.settings import Settings

BLOCK = 1024 * 1024
SHOWN_ID = 12


@click.command()
@json_option
@endpoint_option
@common_options
@pass_session
def ls(session: Session, as_json: bool, endpoint: str | None) -> None:
    """List cached tasks, the last used first."""
    stats = run_async(_tasks(session.settings, endpoint))
    stats.sort(key=lambda stat: stat.used, reverse=True)
    if as_json:
        click.echo(msgspec.json.encode(stats))
    elif stats:
        click.echo(table(_HEAD, [_row(stat) for stat in stats]))


async def _tasks(settings: Settings, endpoint: str | None) -> list[TaskStat]:
    async with open_cache(settings, endpoint) as cache:
        return await cache.tasks()


@click.command()
@click.argument("task", metavar="URL|TASK")
@naming_options
@filter_option
@json_option
@endpoint_option
@common_options
@pass_session
def stat(
    session: Session,
    task: str,
    tag: str,
    application: str,
    filtered: tuple[str, ...],
    as_json: bool,
    endpoint: str | None,
) -> None:
    """Show one cached task."""
    check_name(task, filtered)

    async def find() -> TaskStat:
        async with open_cache(session.settings, endpoint) as cache:
            found = await find_task(
                cache, task, tag=tag, application=application, filtered=filtered
            )
            return await cache.stat(found)

    result = run_async(find())
    click.echo(msgspec.json.encode(result) if as_json else _card(result))


@click.command()
@click.argument("task", metavar="URL|TASK")
@naming_options
@filter_option
@endpoint_option
@common_options
@pass_session
def rm(
    session: Session,
    task: str,
    tag: str,
    application: str,
    filtered: tuple[str, ...],
    endpoint: str | None,
) -> None:
    """Remove a cached task and its bytes."""
    check_name(task, filtered)

    async def remove() -> None:
        async with open_cache(session.settings, endpoint) as cache:
            found = await find_task(
                cache, task, tag=tag, application=application, filtered=filtered
            )
            await cache.remove(found)

    run_async(remove())


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", help="Name of the content. Default: its digest, sha256:HEX.")
@naming_options
@json_option
@endpoint_option
@common_options
@pass_session
def import_(
    session: Session,
    file: Path,
    url: str | None,
    tag: str,
    application: str,
    as_json: bool,
    endpoint: str | None,
) -> None:
    """Put FILE into the daemon's cache, for `get` on every host. Prints the name it got."""
    if url is not None:
        canonical_url(url)
    settings = session.settings
    length = file.stat().st_size

    async def import_file() -> TaskStat:
        found = find_daemon(settings, endpoint)
        if found is None:
            raise Unavailable(
                "importing needs a daemon, which then serves the content, and none answers at "
                f"{settings.unix_socket}",
                hint="start one with `hawker up`",
            )
        name = await asyncio.to_thread(_digest, file) if url is None else url
        async with open_daemon(settings, found) as daemon:
            return await daemon.import_content(
                _blocks(file), length, url=name, tag=tag, application=application
            )

    result = run_async(import_file())
    click.echo(msgspec.json.encode(result) if as_json else result.spec.url)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


async def _blocks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while block := await asyncio.to_thread(opened.read, BLOCK):
            yield block


_HEAD = ("TASK", "SIZE", "PIECES", "COMPLETE", "USED", "URL")


def _row(stat: TaskStat) -> tuple[str, ...]:
    return (
        stat.task[:SHOWN_ID],
        size(stat.valid_bytes if stat.total is None else stat.total),
        str(stat.valid_pieces),
        _complete(stat),
        age(time.time() - stat.used),
        stat.spec.url,
    )


def _complete(stat: TaskStat) -> str:
    if stat.complete:
        return "yes"
    return f"{100 * stat.valid_bytes // stat.total} %" if stat.total else "no"


def _card(stat: TaskStat) -> str:
    now = time.time()
    pieces = "?" if stat.total is None else str(-(-stat.total // stat.piece_length))
    rows = [
        ("task", stat.task),
        ("generation", stat.generation),
        ("url", stat.spec.url),
        ("tenant", stat.spec.tenant),
        ("tag", stat.spec.tag),
        ("application", stat.spec.application),
        ("revision", stat.spec.revision),
        ("size", "unknown" if stat.total is None else f"{size(stat.total)} ({stat.total} bytes)"),
        ("pieces", f"{stat.valid_pieces} of {pieces}, {size(stat.piece_length)} each"),
        ("complete", _complete(stat)),
        ("in use", "yes" if stat.in_use else "no"),
        ("created", f"{age(now - stat.created)} ago"),
        ("used", f"{age(now - stat.used)} ago"),
    ]
    return table(("FIELD", "VALUE"), [row for row in rows if row[1]])
