"""Descriptions of beds, and the bound that their figures are measured against."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from benchmarks.swarm.bound import fluid_bound, zone_bound
from benchmarks.swarm.description import Description, Fault, Link, parse, read
from benchmarks.swarm.reference import Kind, bound_of
from benchmarks.swarm.run import DESCRIPTIONS
from benchmarks.swarm.torrent import bencode, write_torrent

SMALL = """
size = "8MiB"
origin = { up = 100, down = 50 }
seed = { up = 20, down = 50 }
[zones.far]
up = 5
down = 4
delay = 10
loss = 0.01
[[hosts]]
count = 2
up = 10
down = 30
[[hosts]]
up = 10
down = 20
zone = "far"
[[scenarios]]
name = "killed"
faults = [{ at = 1, do = "kill", on = "busiest" }, { at = 2, do = "cut", on = "zone:far" }]
"""


def test_a_description_names_every_host_and_its_link() -> None:
    found = parse(SMALL)
    assert (found.bytes, found.http_bytes) == (8 * 2**20, 8 * 2**20)
    assert list(found.links()) == ["origin", "seed", "scheduler", "host-00", "host-01", "host-02"]
    assert found.receivers()["host-02"].zone == "far"
    assert found.zones["far"] == Link(5, 4, delay=10, loss=0.01)
    assert found.scenarios[0].faults[0] == Fault(1, "kill", "busiest")


@pytest.mark.parametrize(
    ("was", "becomes", "complaint"),
    [
        ('size = "8MiB"', 'size = "8 MB"', "not a size"),
        ('size = "8MiB"', 'size = "0"', "no content"),
        ("up = 20", "upp = 20", "upp"),
        ("up = 20", "up = 0", "rates are above 0"),
        ("loss = 0.01", "loss = 1.0", "losses from 0 to 1"),
        ('zone = "far"', 'zone = "near"', "no zone 'near'"),
        ('on = "busiest"', 'on = "host-03"', "no host 'host-03'"),
        ('on = "zone:far"', 'on = "zone:near"', "no zone 'near'"),
        ('do = "kill", on = "busiest"', 'do = "kill", on = "zone:far"', "not for zones"),
        ('do = "kill"', 'do = "slow"', "has a rate"),
        ('do = "kill"', 'do = "restart"', "scheduler alone"),
        ('do = "kill"', 'do = "explode"', "explode"),
        ("count = 2", 'count = "two"', "count"),
    ],
)
def test_what_describes_no_bed_is_refused(was: str, becomes: str, complaint: str) -> None:
    assert was in SMALL
    with pytest.raises(ValueError, match=complaint):
        parse(SMALL.replace(was, becomes, 1))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.toml"):
        read(tmp_path / "nowhere.toml")


def test_the_descriptions_that_come_with_it_are_sound() -> None:
    names = {path.stem: read(path) for path in DESCRIPTIONS.glob("*.toml")}
    assert {"equal16", "slow16", "mixed", "zones", "faults"} <= set(names)
    assert len(names["equal16"].receivers()) == 16


@pytest.mark.parametrize(
    ("seed_up", "ups", "downs", "seconds"),
    [
        # The seed's uplink: everything has to leave it once.
        (10.0, [100.0, 100.0], [100.0, 100.0], 10.0),
        # The slowest downlink.
        (100.0, [100.0, 100.0], [100.0, 5.0], 20.0),
        # All uplinks together: 3 x 100 bytes at 20 + 3 x 5.
        (20.0, [5.0, 5.0, 5.0], [100.0, 100.0, 100.0], 300 / 35),
        # Equal links: the seed's uplink again, as 2N/(N+1) of them would do.
        (10.0, [10.0] * 16, [10.0] * 16, 10.0),
    ],
)
def test_the_fluid_bound_is_that_of_the_tightest_place(
    seed_up: float, ups: list[float], downs: list[float], seconds: float
) -> None:
    assert fluid_bound(100.0, seed_up, ups, downs) == pytest.approx(seconds)


def test_a_zone_bounds_by_its_link_alone() -> None:
    assert zone_bound(100.0, [50.0, 20.0]) == 5.0
    assert zone_bound(100.0, []) == 0.0


def test_a_bed_is_bounded_by_what_curl_got_over_its_links() -> None:
    found = parse(SMALL)
    rates = (20.0, 50.0, 10.0, 30.0)
    goodput = {Kind(rate, 0, 0): rate for rate in rates}
    goodput |= {Kind(rate, 10, 0.01): rate / 2 for rate in (5.0, 4.0)}
    # Nobody but the host in the zone needs its link, which lets half of 4 through.
    assert bound_of(found, 100, goodput | {Kind(20.0, 0, 0): 20.0}) == pytest.approx(50.0)
    near = Description(found.size, found.seed, found.hosts[:1], found.origin, zones=found.zones)
    assert bound_of(near, 100, goodput) == pytest.approx(5.0)


def test_a_torrent_names_its_pieces(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"a" * 16 + b"b" * 4)
    write_torrent(tmp_path / "content", tmp_path / "torrent", "http://t/announce", 16)
    digests = hashlib.sha1(b"a" * 16).digest() + hashlib.sha1(b"b" * 4).digest()
    told = (tmp_path / "torrent").read_bytes()
    assert told.startswith(b"d8:announce17:http://t/announce4:infod6:lengthi20e")
    assert b"6:pieces40:" + digests + b"7:privatei1eee" in told


def test_bencoding_sorts_keys() -> None:
    assert bencode({b"b": 1, b"a": {b"x": b"y"}}) == b"d1:ad1:x1:ye1:bi1ee"
