"""What the demo tells its user at the end."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from hawker.apps.demo.figures import Figures, OriginFigures, PeerFigures
from hawker.apps.demo.view import View

ROW = PeerFigures("peer 1", "h1", 2.0, 12.5e6, 10_000_000, 15_000_000, 0, "ab", True)
FIGURES = Figures(
    source="/file",
    size=25_000_000,
    sha256="ab",
    peers=2,
    uplink=25e6,
    plain_seconds=1.0,
    plain_rate=25e6,
    plain_all_seconds=2.0,
    swarm_seconds=1.25,
    times_faster=1.6,
    origin=OriginFigures(25_000_000, 1, 0, 1.0),
    seed_read=25_000_000,
    rows=[ROW, msgspec.structs.replace(ROW, name="peer 2")],
    svg="/chart.svg",
)


def told(figures: Figures) -> str:
    out = io.StringIO()
    View.on(Console(file=out)).result(figures)
    return out.getvalue()


def test_result_names_every_peer_the_origins_count_and_the_comparison() -> None:
    text = told(FIGURES)
    assert "peer 1" in text and "peer 2" in text and "12.5 MB/s" in text
    assert "origin sent 25.0 MB = 1.00 \N{MULTIPLICATION SIGN} the file, in 1 request(s)" in text
    assert "0 not kept" in text
    assert "1.6 \N{MULTIPLICATION SIGN} faster" in text
    assert "/chart.svg" in text
    assert "\x1b" not in text


def test_wrong_bytes_and_failures_are_not_overlooked() -> None:
    wrong = msgspec.structs.replace(ROW, right=False, sha256="cd")
    failed = msgspec.structs.replace(ROW, right=False, seconds=None, rate=None, problem="no [room]")
    figures = msgspec.structs.replace(FIGURES, rows=[wrong, failed])
    assert not figures.right
    text = told(figures)
    assert "WRONG" in text and "no [room]" in text and "0 of 2 stored files" in text


def test_foreign_origin_has_no_count() -> None:
    text = told(msgspec.structs.replace(FIGURES, origin=None, uplink=None))
    assert "cannot be asked for its count" in text
    assert "origin sent" not in text


def test_empty_file_has_no_ratio() -> None:
    empty = msgspec.structs.replace(
        FIGURES, size=0, origin=OriginFigures(0, 1, 0, None), seed_read=0
    )
    assert "origin sent 0 in 1 request(s)" in told(empty)
