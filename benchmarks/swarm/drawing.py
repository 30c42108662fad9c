"""A round as a picture: progress and uplink of every host, and who served whom."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.swarm.description import ORIGIN, SEED, Link
from benchmarks.swarm.play import Round

WIDTH, LEFT, TOP = 640.0, 70.0, 50.0
PLOT, STRIP, CELL, GAP = 260.0, 12.0, 22.0, 40.0
MIB = 2**20


def draw(found: Round, links: dict[str, Link], bound: float) -> str:
    """SVG: bytes received over time, uplinks in use, and a matrix of bytes."""
    picture = _Picture()
    end = max([bound, *found.times]) * 1.02
    last = f"{found.ordered[-1]:.2f} s" if found.ordered else "failed"
    picture.text(
        LEFT, 24, f"{found.system}, {found.scenario}: last {last}, bound {bound:.2f} s", 15
    )
    picture.text(LEFT, TOP - 8, "received, share of the content, over seconds; dashed: the bound")
    _progress(picture, found, bound, end)
    at = TOP + PLOT + GAP + 20
    picture.text(LEFT, at - 8, "uplinks in use: black is all of the described rate")
    at = _uplinks(picture, found, links, end, at) + GAP
    picture.text(LEFT, at - 8, "who served whom, MiB: columns are senders")
    bottom = _matrix(picture, found, at)
    return picture.whole(bottom + 20)


class _Picture:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self._width = WIDTH + LEFT + 20

    def text(self, x: float, y: float, text: str, size: int = 11, anchor: str = "start") -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, dash: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{dashes}/>')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self._width = max(self._width, x + width + 20)
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{colour}"/>'
        )

    def whole(self, height: float) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self._width:.0f}" '
            f'height="{height:.0f}" font-family="sans-serif">'
            f'<rect width="100%" height="100%" fill="white"/>{"".join(self._parts)}</svg>\n'
        )


def _grey(share: float) -> str:
    """White for nothing, black for all."""
    level = round(255 * (1 - min(1.0, max(0.0, share))))
    return f"#{level:02x}{level:02x}{level:02x}"


def _progress(picture: _Picture, found: Round, bound: float, end: float) -> None:
    floor = TOP + PLOT

    def place(seconds: float, share: float) -> tuple[float, float]:
        return LEFT + seconds / end * WIDTH, floor - min(1.05, share) * PLOT / 1.05

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        picture.line([place(0, share), place(end, share)], "#dddddd")
        picture.text(LEFT - 6, place(0, share)[1] + 4, f"{share:g}", anchor="end")
    step = max(1, round(end / 10))
    for second in range(0, int(end) + 1, step):
        picture.text(place(second, 0)[0], floor + 14, f"{second}", anchor="middle")
    picture.line([place(bound, 0), place(bound, 1.05)], "#000000", "4 3")
    for at, do, on in found.strikes:
        picture.line([place(at, 0), place(at, 1.05)], "#cc0000", "2 2")
        picture.text(place(at, 0)[0] + 3, TOP + 10, f"{do} {on}")
    for number, name in enumerate(found.receivers):
        shares = (size / found.size for size in found.down[name])
        points = [place(*pair) for pair in zip(found.times, shares, strict=True)]
        picture.line(points, f"hsl({number * 360 // max(1, len(found.receivers))},70%,45%)")


def _uplinks(
    picture: _Picture, found: Round, links: dict[str, Link], end: float, top: float
) -> float:
    """The y coordinate below the strips."""
    for row, name in enumerate((ORIGIN, SEED, *found.receivers)):
        y = top + row * STRIP
        picture.text(LEFT - 6, y + STRIP - 3, name, 10, "end")
        sizes, times = found.up[name], found.times
        for n in range(1, len(times)):
            seconds = max(1e-6, times[n] - times[n - 1])
            used = (sizes[n] - sizes[n - 1]) / seconds / (links[name].up * 1e6 / 8)
            x, width = LEFT + times[n - 1] / end * WIDTH, seconds / end * WIDTH
            picture.box(x, y, width, STRIP - 1, _grey(used))
    return top + (2 + len(found.receivers)) * STRIP


def _matrix(picture: _Picture, found: Round, top: float) -> float:
    senders = (ORIGIN, SEED, *found.receivers)
    receivers = (SEED, *found.receivers)
    sizes = {(r, s): found.received[r].get(s, 0) for r in receivers for s in senders}
    # The seed's reading of the origin would make all others pale.
    most = max([size for (r, _), size in sizes.items() if r != SEED], default=0) or 1
    for column, sender in enumerate(senders):
        short = sender.removeprefix("host-")
        picture.text(LEFT + (column + 0.5) * CELL, top + 10, short[:4], 9, "middle")
    for row, receiver in enumerate(receivers):
        y = top + 16 + row * CELL
        picture.text(LEFT - 6, y + CELL / 2 + 4, receiver, 10, "end")
        for column, sender in enumerate(senders):
            size, x = sizes[receiver, sender], LEFT + column * CELL
            picture.box(x, y, CELL - 1, CELL - 1, _grey(min(1.0, size / most) * 0.5))
            if size >= MIB / 2:
                picture.text(x + CELL / 2, y + CELL / 2 + 3, f"{size / MIB:.0f}", 8, "middle")
    return top + 16 + len(receivers) * CELL
