"""A curve of parts over time, as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 64, 12
# Eighths of a line, from nothing to all of it.
BLOCKS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def chart(
    title: str, points: Sequence[tuple[float, float]], end: float, *, height: int = HEIGHT
) -> str:
    """Columns of blocks: `points` are (seconds, part from 0 to 1), in order; time runs to `end`."""
    columns = [_at(points, (column + 1) * end / WIDTH) for column in range(WIDTH)]
    lines = [title]
    for row in range(height, 0, -1):
        label = {height: "100 %", (height + 1) // 2: " 50 %"}.get(row, "")
        cells = "".join(_block(part * height - (row - 1)) for part in columns)
        lines.append(f"{label:>6} |{cells}".rstrip())
    lines.append(f"{'':>6} +{'-' * WIDTH}")
    lines.append(f"{'':>7} 0{f'{end:.3g} s':>{WIDTH - 1}}")
    return "\n".join(lines)


def _at(points: Sequence[tuple[float, float]], when: float) -> float:
    """The part at a time: that of the last point before it."""
    part = 0.0
    for seconds, value in points:
        if seconds > when * (1 + 1e-9):
            break
        part = value
    return part


def _block(filled: float) -> str:
    eighths = max(0, min(8, round(filled * 8)))
    # What is there at all is to be seen.
    return BLOCKS[1] if eighths == 0 and filled > 0 else BLOCKS[eighths]
