"""What a user sees of a download: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from hawker.apps.cli.fetch import Saved
from hawker.apps.cli.text import printable, size
from hawker.core.messages import Progress


@contextmanager
def display(name: str, *, wanted: bool) -> Iterator[Callable[[Progress], None]]:
    """A function that shows each step of a download."""
    if not wanted or not sys.stderr.isatty():
        yield lambda step: None
        return
    # rich takes a good part of a short command's time, and is of use on a terminal only.
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[origins]}", markup=False),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(printable(name), total=None, origins="")

        def show(step: Progress) -> None:
            bar.update(
                shown,
                total=step.total,
                completed=step.valid_bytes,
                origins=_origins(step.from_origin, step.from_seeds, step.from_peers),
            )

        yield show


def tell_saved(saved: Saved) -> None:
    """The last line, on a terminal only."""
    if sys.stderr.isatty():
        came = _origins(saved.from_origin, saved.from_seeds, saved.from_peers)
        what = f"{size(saved.bytes)} in {saved.seconds:.1f} s: {came}"
        click.echo(f"saved {printable(saved.path)} ({what})", err=True)


def _origins(origin: int, seeds: int, peers: int) -> str:
    return f"origin {size(origin)}, seeds {size(seeds)}, peers {size(peers)}"
