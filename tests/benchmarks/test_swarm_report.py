"""What is said of a round: ratios, shares, tables and the drawing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.swarm.description import parse
from benchmarks.swarm.drawing import draw
from benchmarks.swarm.play import Round
from benchmarks.swarm.report import (
    duplicate_share,
    idle_uplinks,
    messages_per_piece,
    print_faults,
    print_hosts,
    print_matrix,
    print_medians,
    print_rounds,
    print_told,
    ratios,
    received_share,
)
from benchmarks.swarm.systems.base import Figures

SIZE = 2**20
BED = parse("""
size = "1MiB"
origin = { up = 8, down = 8 }
seed = { up = 8, down = 8 }
[[hosts]]
count = 3
up = 8
down = 8
""")
HOSTS = list(BED.receivers())
NAMES = list(BED.links())


def a_round(scenario: str = "calm", slower: float = 0.0) -> Round:
    """Three hosts: two that got half from the seed and half from each other, one from the seed."""
    one, two, three = HOSTS
    received: dict[str, dict[str, int]] = {name: {} for name in NAMES}
    received[one] = {"seed": SIZE // 2, two: SIZE // 2}
    received[two] = {"seed": SIZE // 2, one: SIZE // 2}
    received[three] = {"seed": SIZE}
    received["seed"] = {"origin": SIZE}
    sent = {"origin": SIZE, "seed": 2 * SIZE, one: SIZE // 2, two: SIZE // 2}
    figures = Figures(origin_bytes=SIZE, origin_requests=1)
    figures.duplicates = {one: SIZE // 100, two: 0, three: 0}
    figures.told = {"parents_left": 2.0}
    figures.messages = {"reports": 20, "decisions": 4, "requests": 9}
    return Round(
        "hawker",
        scenario,
        SIZE,
        HOSTS,
        seconds=dict(zip(HOSTS, (2.0 + slower, 3.0 + slower, 5.0 + slower), strict=True)),
        figures=figures,
        received=received,
        sent={name: (sent.get(name, 0), 0) for name in NAMES},
        dropped=dict.fromkeys(NAMES, 0),
        cpu=dict.fromkeys(NAMES, 0.1),
        idle=0.5,
        idle_by_look=[0.5],
        times=[0.0, 5.0],
        up={name: [0, sent.get(name, 0)] for name in NAMES},
        down={name: [0, sum(received[name].values())] for name in NAMES},
    )


def test_the_ratios_are_those_of_the_last_and_of_the_median_survivor() -> None:
    found = a_round()
    assert ratios(found, 2.0) == (2.5, 1.5)
    found.lost = [HOSTS[2]]
    assert ratios(found, 2.0) == (1.5, 1.25)
    del found.seconds[HOSTS[0]]
    assert ratios(found, 2.0) is None


def test_shares_are_over_what_was_wanted_or_could_have_been_sent() -> None:
    found = a_round()
    assert duplicate_share(found) == pytest.approx(1 / 300, rel=0.01)
    assert received_share(found) == 1.0
    # Four uplinks of 1 MB/s for five seconds, three MiB sent over them.
    assert idle_uplinks(found, BED.links()) == pytest.approx(1 - 3 * SIZE / 20e6)
    # Four pieces of 256 KiB for each of three hosts.
    assert messages_per_piece(found) == 2.0
    found.figures = Figures()
    assert duplicate_share(found) is None and messages_per_piece(found) is None


def test_the_tables_say_who_was_slow_and_what_a_fault_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    calm, struck, broken = a_round(), a_round("seed killed", 1.5), a_round()
    struck.strikes = [(1.0, "kill", "seed")]
    broken.seconds.clear()
    broken.problems = ["host-00: wrong bytes"]
    bounds = {SIZE: 2.0}
    print_rounds([calm, struck, broken], bounds, BED.links())
    told = capsys.readouterr().out
    assert "2.500" in told and "kill seed at 1.0" in told
    assert "FAILED" in told and "wrong bytes" in told
    print_told([calm])
    assert "hawker, calm: parents left 2" in capsys.readouterr().out
    print_medians([calm, broken], bounds)
    assert "1 FAILED" in capsys.readouterr().out
    print_faults([calm, struck])
    assert "1.50 (1.50-1.50)" in capsys.readouterr().out
    print_hosts(calm, BED, 2.0)
    print_matrix(calm)
    told = capsys.readouterr().out
    assert "host-02" in told and "0.5" in told


def test_the_drawing_has_a_line_a_host_and_a_cell_a_pair() -> None:
    found = a_round()
    found.strikes = [(1.0, "kill", "<seed>")]
    drawn = ElementTree.fromstring(draw(found, BED.links(), 2.0))
    lines = [e for e in drawn.iter() if "hsl" in e.get("stroke", "")]
    assert len(lines) == len(HOSTS)
    texts = [e.text for e in drawn.iter() if e.tag.endswith("text")]
    assert "kill <seed>" in texts and texts.count("host-01") == 2
