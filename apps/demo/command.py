"""`hawker demo`: watch a small swarm share a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console

from hawker.apps.cli.options import json_option, run_async
from hawker.apps.cli.text import size
from hawker.apps.demo.figures import Figures
from hawker.apps.demo.origin import DEFAULT_RATE
from hawker.apps.demo.run import Plan, run
from hawker.apps.demo.sample import default_file
from hawker.apps.demo.view import View
from hawker.core.errors import NotFound, OutputFailed

MOST_PEERS = 100


@click.command()
@click.argument("source", required=False, metavar="[FILE|URL]")
@click.option(
    "--peers",
    type=click.IntRange(1, MOST_PEERS),
    default=8,
    show_default=True,
    help="How many peers download it; a process each.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_RATE / 1e6,
    show_default=True,
    metavar="MB/s",
    help="The origin's uplink, shared by all its clients. Not for a URL.",
)
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    default="hawker-demo.svg",
    show_default=True,
    help="Where to draw who got which piece from whom.",
)
@json_option
@click.option("--keep", is_flag=True, help="Keep data and logs, and say where they are.")
@click.pass_context
def demo(
    ctx: click.Context,
    source: str | None,
    peers: int,
    rate: float,
    svg: Path,
    as_json: bool,
    keep: bool,
) -> None:
    """Start a cluster on this machine, send one file to all its peers at once, and measure.

    The origin is a process of its own with a narrow uplink, and counts what it sends. The file is
    downloaded once without Hawker first, so that there is something to compare with. Every stored
    copy is read back and hashed; the exit code is 0 only if all are right.

    Without FILE, one of Python's own files is shared. With a URL that is the origin, whose rate is
    unknown and which cannot be asked for a count.
    """
    _check_output(svg)
    view = View(None) if as_json else View.on(Console())
    with _directory(keep) as directory:
        chosen = _source(source, directory, view)
        plan = Plan(chosen, peers, rate * 1e6, directory, svg.absolute(), keep)
        figures = run_async(_interruptible(plan, view))
    if as_json:
        click.echo(msgspec.json.encode(figures))
    view.result(figures)
    if not figures.right:
        ctx.exit(1)


async def _interruptible(plan: Plan, view: View) -> Figures:
    """The demo; a terminal that is closed ends it like SIGTERM does: its processes are not ours
    to leave behind."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, os.kill, os.getpid(), signal.SIGTERM)
    return await run(plan, view)


def _source(source: str | None, directory: Path, view: View) -> Path | str:
    """What to share: the URL as it is, or an absolute path of a readable file."""
    if source is not None and source.lower().startswith(("http://", "https://")):
        view.say(f"origin: {source}, rate unknown; it is not ours, so it gives no count")
        return source
    if source is None:
        file, what = default_file(directory)
        view.say(f"file: {file} ({size(file.stat().st_size)}, {what})")
        return file
    file = Path(source).absolute()
    if not file.is_file():
        raise NotFound(f"{source} is neither a file nor an http(s) URL")
    view.say(f"file: {file} ({size(file.stat().st_size)})")
    return file


def _check_output(svg: Path) -> None:
    """Say now, and not after all the work, that the chart cannot be written."""
    place = svg if svg.exists() else svg.absolute().parent
    if not os.access(place, os.W_OK):
        raise OutputFailed(f"{svg} cannot be written", hint="choose another place with --svg")


@contextlib.contextmanager
def _directory(keep: bool) -> Iterator[Path]:
    """A new directory, which is gone afterwards unless it is to be kept."""
    path = Path(tempfile.mkdtemp(prefix="hawker-demo-"))
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
