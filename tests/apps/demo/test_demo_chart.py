"""The demo's chart: well-formed, complete, and small."""

from __future__ import annotations

import random
import re
from xml.etree import ElementTree

import pytest

from hawker.apps.demo.chart import Lane, blocks, render
from hawker.core.messages import Arrival

SVG = "{http://www.w3.org/2000/svg}"


def pieces_of(arrivals: list[Arrival]) -> list[tuple[int, str]]:
    return sorted((p, a.source) for a in arrivals for p in range(a.first, a.last + 1))


def scattered(count: int, sources: list[str], seed: int) -> list[Arrival]:
    chance = random.Random(seed)
    order = list(range(count))
    chance.shuffle(order)
    return [Arrival(p, p, chance.choice(sources), chance.random() * 3) for p in order]


def swarm(peers: int, pieces: int) -> list[Lane]:
    hosts = [f"host{n}" for n in range(peers)]
    reading = [Arrival(p, p, "", 3 * p / pieces) for p in range(pieces)]
    lanes = [Lane("seedhost", "seed", reading, seed=True)]
    for n, host in enumerate(hosts):
        others = ["seedhost", *(other for other in hosts if other != host)]
        lanes.append(
            Lane(host, f"peer {n + 1}", scattered(pieces, others, n), "3.00 s · 9 % from peers", 3)
        )
    return lanes


@pytest.mark.parametrize("seed", range(5))
def test_blocks_hold_every_piece_once_with_its_source(seed: int) -> None:
    arrivals = scattered(400, ["", "a", "b"], seed)
    found = sorted(
        (piece, block.source)
        for block in blocks(arrivals, 0.02)
        for piece in range(block.first, block.last + 1)
    )
    assert found == pieces_of(arrivals)


def test_sequential_read_becomes_few_blocks_none_longer_than_the_window() -> None:
    arrivals = [Arrival(p, p, "", p * 0.001) for p in range(1000)]
    found = blocks(arrivals, 0.0101)
    assert 80 <= len(found) <= 100
    assert all(block.end - block.begin <= 0.0101 for block in found)


def test_runs_of_two_sources_are_not_merged() -> None:
    arrivals = [Arrival(0, 3, "a", 0.0), Arrival(4, 7, "b", 0.0), Arrival(8, 9, "b", 0.0)]
    assert [(b.source, b.first, b.last) for b in blocks(arrivals, 1)] == [("a", 0, 3), ("b", 4, 9)]


def test_piece_that_came_twice_is_kept_twice() -> None:
    arrivals = [Arrival(0, 3, "a", 0.0), Arrival(2, 3, "a", 0.1), Arrival(4, 5, "a", 0.2)]
    assert sum(b.last - b.first + 1 for b in blocks(arrivals, 1)) == 8


@pytest.mark.parametrize(("peers", "pieces"), [(1, 1), (3, 20), (8, 113), (30, 64)])
def test_chart_is_well_formed_and_draws_every_block(peers: int, pieces: int) -> None:
    lanes = swarm(peers, pieces)
    text = render("a <title> & more", "below", lanes, pieces, (2.5, "one plain download"))
    root = ElementTree.fromstring(text)
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert "a <title> & more" in words
    assert {"origin", *(lane.name for lane in lanes)} <= set(words)
    drawn = sum(
        path.attrib["d"].count("M")
        for path in root.iter(f"{SVG}path")
        if path.attrib.get("class") == "came"
    )
    seconds = max(a.at for lane in lanes for a in lane.arrivals)
    fewest = sum(len(blocks(lane.arrivals, max(seconds, 5) / 80)) for lane in lanes)
    most = sum(len(lane.arrivals) for lane in lanes)
    assert fewest <= drawn <= most


def test_everything_lies_inside_the_picture() -> None:
    root = ElementTree.fromstring(render("t", "s", swarm(12, 300), 300, (9.9, "mark")))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter(f"{SVG}text"):
        assert 0 <= float(element.attrib["x"]) <= width
        assert 0 <= float(element.attrib["y"]) <= height
    for path in root.iter(f"{SVG}path"):
        for x, y in re.findall(r"M([-\d.]+) ([-\d.]+)", path.attrib["d"]):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height


def test_colours_of_all_hosts_differ() -> None:
    for peers in (10, 40):
        root = ElementTree.fromstring(render("t", "s", swarm(peers, 8), 8, None))
        colours = [
            rect.attrib["fill"]
            for rect in root.iter(f"{SVG}rect")
            if rect.attrib.get("width") == "12"
        ]
        assert len(colours) == len(set(colours)) == peers + 2


def test_swarm_of_nothing_can_be_drawn() -> None:
    lanes = [Lane("s", "seed", [], seed=True), Lane("p", "peer 1", [], "failed")]
    ElementTree.fromstring(render("nothing", "", lanes, 0, None))


def test_file_stays_small() -> None:
    assert len(render("t", "s", swarm(8, 512), 512, None)) < 500_000
