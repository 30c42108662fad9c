"""Who got which piece from whom and when, drawn as SVG text; pure.

One lane per host: time runs to the right, piece numbers run down within the lane, the colour is the
host that sent the pieces. A strong block is an arrival; what has arrived stays, pale, to the right
of it. A straight diagonal is a sequential read, a scattered lane an exchange.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from hawker.core.messages import Arrival

ORIGIN = ""
"""The source of what came from the origin itself."""

WIDTH = 1120
LEFT, RIGHT, TOP = 92, 196, 96
PLOT_WIDTH = WIDTH - LEFT - RIGHT
LANE_GAP = 6
LANES_HEIGHT = 560
MIN_LANE, MAX_LANE = 16, 56
MIN_BLOCK_WIDTH, MIN_BLOCK_HEIGHT = 4.0, 2.0
KEPT_OPACITY = 0.38
LEGEND_ROW, LEGEND_COLUMN = 20, 92

INK, FAINT, GRID, GROUND, LANE = "#1f2933", "#616e7c", "#d9dfe5", "#ffffff", "#f4f6f8"
ORIGIN_COLOUR, SEED_COLOUR = "#323f4b", "#f0a202"
PEER_COLOURS = (
    "#2f6fb7",
    "#d1495b",
    "#3a9d5d",
    "#8e5bb5",
    "#17a2b0",
    "#e8743b",
    "#b5a12c",
    "#d678b4",
    "#7a6a53",
    "#6b8fd6",
)


@dataclass(frozen=True, slots=True)
class Lane:
    """A host and what arrived there; `at` of its arrivals in seconds on the chart's time axis.

    `note` stands to the right of the lane, `end` is when its download was done.
    """

    host: str
    name: str
    arrivals: Sequence[Arrival]
    note: str = ""
    end: float | None = None
    seed: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring pieces that came from one source in one go, between two times."""

    source: str
    first: int
    last: int
    begin: float
    end: float


def blocks(arrivals: Iterable[Arrival], window: float) -> list[Block]:
    """The arrivals in order of time, where runs that continue each other become one block.

    A run continues a block that ends just before it, came from the same source, and grew at most
    `window` seconds ago; a block never spans more than that, so that slopes stay visible.
    """
    done: list[Block] = []
    growing: dict[tuple[str, int], Block] = {}
    for arrival in sorted(arrivals, key=lambda a: (a.at, a.first)):
        block = growing.pop((arrival.source, arrival.first - 1), None)
        if block is None or arrival.at - block.begin > window:
            if block is not None:
                done.append(block)
            block = Block(arrival.source, arrival.first, arrival.last, arrival.at, arrival.at)
        else:
            block = Block(block.source, block.first, arrival.last, block.begin, arrival.at)
        displaced = growing.pop((block.source, block.last), None)
        if displaced is not None:
            done.append(displaced)
        growing[block.source, block.last] = block
    return sorted([*done, *growing.values()], key=lambda b: (b.begin, b.first))


def render(
    title: str, subtitle: str, lanes: Sequence[Lane], pieces: int, mark: tuple[float, str] | None
) -> str:
    """The chart as SVG text.

    Args:
        title: one line, large; `subtitle` one line below it.
        lanes: from top to bottom; their names and colours make the legend.
        pieces: how many pieces the content has.
        mark: a moment worth a vertical line, and its label.
    """
    return "\n".join(_Chart(lanes, pieces, mark).lines(title, subtitle)) + "\n"


class _Chart:
    """The geometry of one chart."""

    def __init__(self, lanes: Sequence[Lane], pieces: int, mark: tuple[float, str] | None) -> None:
        self.lanes, self.pieces, self.mark = lanes, max(1, pieces), mark
        moments = [a.at for lane in lanes for a in lane.arrivals]
        moments += [lane.end for lane in lanes if lane.end is not None]
        moments += [mark[0]] if mark else []
        self.step = _tick_step(max(moments, default=0.0))
        self.seconds = self.step * max(1, math.ceil(max(moments, default=0.0) / self.step))
        share = LANES_HEIGHT / max(1, len(lanes)) - LANE_GAP
        self.lane_height = min(MAX_LANE, max(MIN_LANE, share))
        self.bottom = TOP + len(lanes) * (self.lane_height + LANE_GAP)
        self.colours, self.names = _palette(lanes)

    def lines(self, title: str, subtitle: str) -> Iterable[str]:
        legend = self._legend()
        height = _n(legend[0] + 16)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" '
            f'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="{INK}">'
        )
        yield f"<title>{escape(title)}</title>"
        yield f'<rect width="{WIDTH}" height="{height}" fill="{GROUND}"/>'
        yield _text(LEFT, 34, title, 'font-size="20" font-weight="bold"')
        yield _text(LEFT, 58, subtitle, f'font-size="14" fill="{FAINT}"')
        yield from self._grid()
        for number, lane in enumerate(self.lanes):
            yield from self._lane(lane, TOP + number * (self.lane_height + LANE_GAP))
        yield from self._marked()
        yield from legend[1]
        yield "</svg>"

    def _x(self, seconds: float) -> float:
        return LEFT + PLOT_WIDTH * min(1.0, max(0.0, seconds / self.seconds))

    def _grid(self) -> Iterable[str]:
        ticks = round(self.seconds / self.step)
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        for tick in range(ticks + 1):
            x = _n(self._x(tick * self.step))
            yield f'<path d="M{x} {TOP - 6}V{_n(self.bottom)}" stroke="{GRID}"/>'
            unit = " s" if tick == ticks else ""
            label = f"{tick * self.step:.{digits}f}{unit}"
            yield _text(x, self.bottom + 16, label, f'text-anchor="middle" fill="{FAINT}"')

    def _lane(self, lane: Lane, top: float) -> Iterable[str]:
        middle = top + self.lane_height / 2 + 4.5
        yield (
            f'<rect x="{LEFT}" y="{_n(top)}" width="{PLOT_WIDTH}" '
            f'height="{_n(self.lane_height)}" fill="{LANE}" fill-opacity="0.8"/>'
        )
        weight = 'text-anchor="end" font-weight="bold"'
        yield _text(LEFT - 12, middle, lane.name, f'{weight} fill="{self.colours[lane.host]}"')
        by_source: dict[str, list[Block]] = {}
        for block in blocks(lane.arrivals, self.seconds / 160):
            by_source.setdefault(block.source, []).append(block)
        for source, sent in by_source.items():
            colour = self.colours.get(source, FAINT)
            kept = "".join(self._kept(block, top) for block in sent)
            yield f'<path fill="{colour}" fill-opacity="{KEPT_OPACITY}" d="{kept}"/>'
        for source, sent in by_source.items():
            colour = self.colours.get(source, FAINT)
            came = "".join(self._came(block, top) for block in sent)
            yield f'<path class="came" fill="{colour}" d="{came}"/>'
        if lane.end is not None:
            x = _n(self._x(lane.end))
            yield (
                f'<path d="M{x} {_n(top)}v{_n(self.lane_height)}" stroke="{INK}" '
                'stroke-width="1.5"/>'
            )
        if lane.note:
            yield _text(WIDTH - RIGHT + 12, middle, lane.note, f'font-size="12" fill="{FAINT}"')

    def _came(self, block: Block, top: float) -> str:
        """A block as a closed path: as wide as its pieces took to come, but always visible."""
        middle = (self._x(block.begin) + self._x(block.end)) / 2
        width = max(self._x(block.end) - self._x(block.begin), MIN_BLOCK_WIDTH)
        left = min(max(middle - width / 2, LEFT), LEFT + PLOT_WIDTH - width)
        y, height = self._rows(block, top)
        if height < MIN_BLOCK_HEIGHT:
            y = min(y, top + self.lane_height - MIN_BLOCK_HEIGHT)
            height = MIN_BLOCK_HEIGHT
        return f"M{_n(left)} {_n(y)}h{_n(width)}v{_n(height)}h-{_n(width)}z"

    def _kept(self, block: Block, top: float) -> str:
        y, height = self._rows(block, top)
        right = LEFT + PLOT_WIDTH
        return f"M{_n(self._x(block.end))} {y:.2f}H{right}v{height:.2f}H{_n(self._x(block.end))}z"

    def _rows(self, block: Block, top: float) -> tuple[float, float]:
        """Where the block's pieces begin in the lane, and how high they are."""
        height = self.lane_height / self.pieces
        return top + height * block.first, height * (block.last - block.first + 1)

    def _marked(self) -> Iterable[str]:
        if self.mark is None:
            return
        x = self._x(self.mark[0])
        yield (
            f'<path d="M{_n(x)} {TOP - 10}V{_n(self.bottom)}" stroke="{INK}" '
            'stroke-dasharray="3 4"/>'
        )
        beyond = x > LEFT + PLOT_WIDTH * 0.75
        anchor = "end" if beyond else "start"
        style = f'text-anchor="{anchor}" font-size="12" fill="{FAINT}"'
        yield _text(x + (-5 if beyond else 5), TOP - 12, self.mark[1], style)

    def _legend(self) -> tuple[float, list[str]]:
        """Where the legend ends, and its parts."""
        top = self.bottom + 46
        columns = (WIDTH - LEFT) // LEGEND_COLUMN
        parts = [_text(LEFT - 12, top + 10, "came from", f'text-anchor="end" fill="{FAINT}"')]
        for number, (host, name) in enumerate(self.names.items()):
            x = LEFT + (number % columns) * LEGEND_COLUMN
            y = top + (number // columns) * LEGEND_ROW
            parts.append(
                f'<rect x="{x}" y="{_n(y)}" width="12" height="12" fill="{self.colours[host]}"/>'
            )
            parts.append(_text(x + 18, y + 10.5, name, ""))
        rows = -(-len(self.names) // columns)
        end = top + rows * LEGEND_ROW
        how = (
            "time runs to the right, pieces from top to bottom of a lane; "
            "strong: pieces arrive, pale: they are there; black line: all of them"
        )
        parts.append(_text(LEFT, end + 14, how, f'font-size="12" fill="{FAINT}"'))
        return end + 14, parts


def _palette(lanes: Sequence[Lane]) -> tuple[dict[str, str], dict[str, str]]:
    """Colour and name by host, the origin first."""
    colours, names = {ORIGIN: ORIGIN_COLOUR}, {ORIGIN: "origin"}
    peers = [lane.host for lane in lanes if not lane.seed]
    for lane in lanes:
        names[lane.host] = lane.name
        colours[lane.host] = (
            SEED_COLOUR if lane.seed else _peer_colour(peers.index(lane.host), len(peers))
        )
    return colours, names


def _peer_colour(number: int, count: int) -> str:
    if count <= len(PEER_COLOURS):
        return PEER_COLOURS[number]
    # Neighbouring numbers get distant hues, and three lightnesses tell equal hues apart.
    hue = number * 137.508 % 360
    shade = colorsys.hls_to_rgb(hue / 360, (0.42, 0.54, 0.34)[number % 3], 0.55)
    return "#" + "".join(f"{round(part * 255):02x}" for part in shade)


def _tick_step(seconds: float) -> float:
    """1, 2 or 5 times a power of ten that cuts the time in four to ten parts."""
    if seconds <= 0:
        return 0.1
    rough = seconds / 5
    power = float(10.0 ** math.floor(math.log10(rough)))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= rough * 0.999)


def _n(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float | str, y: float, text: str, style: str) -> str:
    place = x if isinstance(x, str) else _n(x)
    return f'<text x="{place}" y="{_n(y)}" {style}>{escape(text)}</text>'
