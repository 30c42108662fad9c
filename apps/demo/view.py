"""What the demo's user sees: lines, live bars on a terminal, and the result as tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hawker.apps.cli.text import printable, size
from hawker.apps.demo.figures import Figures, PeerFigures
from hawker.apps.demo.swarm import Member, Swarm
from hawker.core.messages import Progress

TIMES = "\N{MULTIPLICATION SIGN}"
BAR_CELLS = 32
PLAIN_WIDTH = 110
FRAMES_PER_SECOND = 10
SEED_STYLE, PEERS_STYLE, ORIGIN_STYLE = "yellow", "green", "red"


class View:
    """Writes to a console, or nothing at all where it was given none."""

    def __init__(self, console: Console | None) -> None:
        self._console = console

    @classmethod
    def on(cls, console: Console) -> View:
        """A view for people; off a terminal as wide as its tables."""
        if not console.is_terminal:
            console.width = PLAIN_WIDTH
        return cls(console)

    def say(self, line: str) -> None:
        """One line of what happens now."""
        if self._console:
            self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def watching(self, swarm: Swarm, origin_bytes: Callable[[], int | None]) -> Iterator[None]:
        """Live bars while the context is open, on a terminal only."""
        if not self._console or not self._console.is_terminal:
            yield
            return
        with Live(
            console=self._console,
            refresh_per_second=FRAMES_PER_SECOND,
            get_renderable=lambda: _bars(swarm, origin_bytes()),
            transient=True,
        ):
            yield

    def result(self, figures: Figures) -> None:
        """The tables, and what they come to."""
        if self._console:
            self._console.print(_table(figures))
            for line in _totals(figures):
                self.say(line)


def _bars(swarm: Swarm, origin_bytes: int | None) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for member in (swarm.seed, *swarm.peers):
        grid.add_row(
            Text(member.name, style="bold" if member.seed else ""),
            _bar(member.progress),
            Text(_state(member), justify="right"),
            _sources(member.progress),
        )
    line = f"{swarm.elapsed:6.1f} s"
    if origin_bytes is not None:
        line += f"   the origin has sent {size(origin_bytes)}"
    total = swarm.peers[0].progress.total
    if origin_bytes is not None and total:
        line += f" = {origin_bytes / total:.2f} {TIMES} the file"
    return Group(grid, Text(line))


def _bar(step: Progress) -> Text:
    """Cells in the colour of where the bytes came from."""
    bar = Text()
    used = 0
    if step.total:
        for count, style in (
            (step.from_seeds, SEED_STYLE),
            (step.from_peers, PEERS_STYLE),
            (step.from_origin, ORIGIN_STYLE),
        ):
            cells = min(BAR_CELLS - used, round(BAR_CELLS * count / step.total))
            bar.append("━" * cells, style=style)
            used += cells
    bar.append("━" * (BAR_CELLS - used), style="bright_black")
    return bar


def _state(member: Member) -> str:
    if member.problem:
        return "failed"
    if member.seconds is not None:
        return f"{member.seconds:.1f} s"
    total = member.progress.total
    return f"{100 * member.progress.valid_bytes // total} %" if total else "…"


def _sources(step: Progress) -> Text:
    parts = (
        ("seed", step.from_seeds, SEED_STYLE),
        ("peers", step.from_peers, PEERS_STYLE),
        ("origin", step.from_origin, ORIGIN_STYLE),
    )
    shown = [(f"{name} {size(count)}", style) for name, count, style in parts if count]
    return Text("  ").join(Text(text, style=style) for text, style in shown)


def _table(figures: Figures) -> Table:
    table = Table()
    table.add_column("peer")
    for head in ("time", "rate", "from the seed", "from peers", "from the origin"):
        table.add_column(head, justify="right")
    table.add_column("SHA-256")
    for row in figures.rows:
        table.add_row(*_cells(row), _verdict(row))
    return table


def _cells(row: PeerFigures) -> tuple[str, ...]:
    return (
        row.name,
        "-" if row.seconds is None else f"{row.seconds:.2f} s",
        "-" if row.rate is None else f"{row.rate / 1e6:.1f} MB/s",
        size(row.from_seed),
        size(row.from_peers),
        size(row.from_origin),
    )


def _verdict(row: PeerFigures) -> Text:
    if row.right:
        return Text("right", style="green")
    return Text(printable(row.problem) or "WRONG", style="bold red")


def _totals(figures: Figures) -> Iterator[str]:
    count = sum(row.right for row in figures.rows)
    yield f"{count} of {figures.peers} stored files have SHA-256 {figures.sha256}"
    if figures.origin is None:
        own = figures.seed_read + sum(row.from_origin for row in figures.rows)
        told = f"; by its readers' own account {size(own)} were read" if own else ""
        yield f"origin: not ours, so it cannot be asked for its count{told}"
    else:
        origin = figures.origin
        times = "" if origin.times is None else f" = {origin.times:.2f} {TIMES} the file,"
        yield (
            f"origin sent {size(origin.content_bytes)}{times} in {origin.requests} request(s), "
            f"{origin.unfinished} not kept (its own count, without the plain download)"
        )
    yield (
        f"swarm {figures.swarm_seconds:.2f} s; {figures.peers} plain downloads over the same "
        f"uplink {figures.plain_all_seconds:.2f} s (computed from the one measured): "
        f"{figures.times_faster:.1f} {TIMES} faster"
    )
    yield f"who got which piece from whom: {figures.svg}"
    if figures.kept:
        yield f"kept: {figures.kept}"
