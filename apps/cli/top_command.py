"""`hawker top`: a cluster, live in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import click
import msgspec

from hawker.apps.cli.options import (
    Session,
    common_options,
    endpoint_option,
    json_option,
    manager_url,
    pass_session,
    run_async,
    scheduler_url,
)
from hawker.apps.cli.text import printable
from hawker.apps.cli.top_view import screen
from hawker.core.errors import HawkerError, NotFound
from hawker.core.window import ClusterOverview, SeenTask, TaskLine, decode_frame

if TYPE_CHECKING:
    from hawker.apps.cli.top_sources import Source

LISTED = 100
EVERY = 1.0
FRESH = 0.5
WIDTH, HEIGHT = 80, 24
MOMENT, PATIENCE = 1.5, 15.0


class Now(msgspec.Struct):
    """What is shown; `failure` is why it is not newer."""

    overview: ClusterOverview
    tasks: list[TaskLine]
    failure: str = ""


@click.command()
@click.argument("task", required=False)
@click.option(
    "--manager", callback=manager_url, metavar="URL", help="Process with a manager; see `login`."
)
@click.option("--cluster", metavar="NAME", help="Of a manager's; not needed where there is one.")
@click.option(
    "--scheduler",
    "schedulers",
    type=scheduler_url,
    multiple=True,
    metavar="URL",
    help="Process with a scheduler, such as http://host:4000; may be repeated.",
)
@click.option("--once", is_flag=True, help="Print it once; so it is, too, off a terminal.")
@endpoint_option
@json_option
@common_options
@pass_session
def top(
    session: Session,
    task: str | None,
    manager: str,
    cluster: str | None,
    schedulers: tuple[str, ...],
    once: bool,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Watch a cluster: what is moved, what origins sent, tasks, and of a TASK its peers.

    TASK is a task's id, or the beginning of one. Looks at a manager's cluster with --manager or
    --cluster (needs `hawker login`), at the schedulers that are named, at those that this host is
    set up with, or at the one in the local daemon. Ctrl-C ends it. With --json it is printed once,
    as JSON.
    """
    from hawker.apps.cli.top_sources import open_source

    live = not (once or as_json) and sys.stdout.isatty()

    async def run() -> None:
        async with open_source(
            session,
            manager=manager or None,
            cluster=cluster,
            schedulers=schedulers,
            endpoint=endpoint,
        ) as source:
            now = await _look(source)
            chosen = None if task is None else _choose(task, now.tasks)
            if live:
                await _watch(source, now, chosen)
            else:
                await _print(source, now, chosen, as_json=as_json)

    run_async(run())


async def _look(source: Source) -> Now:
    overview, tasks = await asyncio.gather(source.overview(), source.tasks(LISTED))
    return Now(overview, tasks)


def _choose(name: str, tasks: list[TaskLine]) -> str:
    """The task whose id begins so; raises NotFound where there is none, or are several."""
    if len(name) == 64:
        return name
    found = [line.task for line in tasks if line.task.startswith(name)]
    if len(found) != 1:
        why = f"{len(found)} tasks begin with it" if found else f"of the last {LISTED} none does"
        raise NotFound(f"{name!r} is no task: {why}", hint="see `hawker top --once`")
    return found[0]


# ---------------------------------------------------------------------------- once


async def _print(source: Source, now: Now, chosen: str | None, *, as_json: bool) -> None:
    seen = None if chosen is None else await _first_of(source, now, chosen)
    if as_json:
        click.echo(msgspec.json.encode(_as_json(now, seen)))
        return
    width, height = _size() if sys.stdout.isatty() else (1 << 16, 1 << 16)
    for line in screen(source.name, now.overview, now.tasks, seen, width, height):
        click.echo(line.rstrip())


async def _first_of(source: Source, now: Now, task: str) -> SeenTask:
    """A task as it is now, with the rates of a moment; all of its record where it is at rest."""
    seen = SeenTask()
    busy = any(line.task == task and line.wanting for line in now.tasks)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MOMENT if busy else PATIENCE):
            async with contextlib.aclosing(source.events(task)) as events:
                async for data in events:
                    if data:
                        seen.take(decode_frame(data))
    return seen


def _as_json(now: Now, seen: SeenTask | None) -> dict[str, object]:
    told: dict[str, object] = {"overview": now.overview, "tasks": now.tasks}
    if seen is not None:
        told["task"] = {
            **msgspec.structs.asdict(seen.task),
            "totals": seen.totals,
            "leases": seen.leases,
            "ended": seen.ended,
            "peers": [
                {
                    "host": peer.host,
                    "hostname": peer.hostname,
                    "seed": peer.seed,
                    "state": peer.state,
                    "have": peer.have.runs(),
                    "parents": [seen.peers[n].host for n in peer.parents if n in seen.peers],
                }
                for peer in seen.peers.values()
            ],
        }
    return told


# ---------------------------------------------------------------------------- live


def not_renewed(exc: HawkerError) -> str:
    """Why what is shown is old; servers say it, and may not steer the terminal."""
    return printable(f"not renewed: {exc}")


async def _watch(source: Source, now: Now, chosen: str | None) -> None:
    """Until it is ended; leaves the terminal as it was."""
    # Of use on a terminal only, and slow to import.
    from rich.live import Live
    from rich.text import Text

    seen = None if chosen is None else SeenTask()
    # Somebody wants the chosen task.
    stirred = asyncio.Event()

    def shown() -> Text:
        width, height = _size()
        lines = screen(source.name, now.overview, now.tasks, seen, width, height)
        if now.failure:
            lines = [*lines[: height - 1], now.failure[:width]]
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    async def renew() -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                new = await _look(source)
            except HawkerError as exc:
                now.failure = not_renewed(exc)
            else:
                now.overview, now.tasks, now.failure = new.overview, new.tasks, ""
                if any(line.task == chosen and line.wanting for line in new.tasks):
                    stirred.set()
                else:
                    stirred.clear()

    async def follow(task: str, view: SeenTask) -> None:
        while True:
            with contextlib.suppress(HawkerError):
                async with contextlib.aclosing(source.events(task)) as events:
                    async for data in events:
                        if data:
                            view.ended = False
                            view.take(decode_frame(data))
            await asyncio.sleep(EVERY)
            if view.ended:
                # Its record would be sent again.
                await stirred.wait()

    with Live(shown(), screen=True, auto_refresh=False) as display:
        async with asyncio.TaskGroup() as group:
            group.create_task(renew())
            if chosen is not None and seen is not None:
                group.create_task(follow(chosen, seen))
            while True:
                display.update(shown(), refresh=True)
                await asyncio.sleep(FRESH)


def _size() -> tuple[int, int]:
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return WIDTH, HEIGHT
