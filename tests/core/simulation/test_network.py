"""The fluid network against closed forms, in slots: the time a link needs for one piece."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import pytest

from hawker.core.simulation.network import Flow, Link, Network
from hawker.core.simulation.timeline import Timeline

PIECE = 1000.0
RATE = 1000.0
"""A slot is one second."""


class Relays:
    """Hosts that send each piece on to others as soon as they have it, one at a time each."""

    def __init__(self, count: int) -> None:
        self.timeline = Timeline()
        self.network = Network(self.timeline)
        self.up = [Link(RATE) for _ in range(count)]
        self.down = [Link(RATE) for _ in range(count)]
        self.last = 0.0

    def run(self) -> float:
        self.timeline.run(1e9, lambda: False)
        return self.last


@pytest.mark.parametrize(("pieces", "hosts"), [(1, 8), (5, 4), (20, 6), (64, 50)])
def test_a_chain_takes_pieces_and_hosts_less_one(pieces: int, hosts: int) -> None:
    relays = Relays(hosts + 1)
    queues: list[list[int]] = [[] for _ in range(hosts + 1)]
    sending = [False] * (hosts + 1)

    def push(host: int) -> None:
        if host < hosts and queues[host] and not sending[host]:
            sending[host] = True
            piece = queues[host].pop(0)
            links = (relays.up[host], relays.down[host + 1])
            relays.network.start(PIECE, links, lambda flow: arrive(host, piece))

    def arrive(host: int, piece: int) -> None:
        sending[host] = False
        relays.last = relays.timeline.now
        queues[host + 1].append(piece)
        push(host)
        push(host + 1)

    queues[0] = list(range(pieces))
    push(0)
    assert relays.run() == pytest.approx(pieces + hosts - 1)


@pytest.mark.parametrize("peers", range(1, 64, 3))
def test_one_piece_doubles_its_holders_in_each_slot(peers: int) -> None:
    relays = Relays(peers + 1)
    waiting = list(range(1, peers + 1))

    def send(host: int) -> None:
        if waiting:
            other = waiting.pop(0)
            links = (relays.up[host], relays.down[other])
            relays.network.start(PIECE, links, lambda flow: arrive(host, other))

    def arrive(host: int, other: int) -> None:
        relays.last = relays.timeline.now
        send(host)
        send(other)

    send(0)
    assert relays.run() == pytest.approx(peers.bit_length())


def finish_times(sizes: Sequence[tuple[float, tuple[Link, ...]]]) -> list[float]:
    timeline = Timeline()
    network = Network(timeline)
    times = [0.0] * len(sizes)

    def note(number: int, flow: Flow) -> None:
        times[number] = timeline.now

    for number, (size, links) in enumerate(sizes):
        network.start(size, links, functools.partial(note, number))
    timeline.run(1e9, lambda: False)
    return times


def test_a_star_shares_its_centre() -> None:
    centre = Link(RATE)
    times = finish_times([(8 * PIECE, (centre, Link(RATE))) for _ in range(4)])
    assert times == pytest.approx([32.0] * 4)


def test_what_a_slow_child_cannot_take_goes_to_the_other() -> None:
    seed = Link(RATE)
    times = finish_times(
        [(8 * PIECE, (seed, Link(RATE / 4))), (8 * PIECE, (seed, Link(10 * RATE)))]
    )
    assert times == pytest.approx([32.0, 8 / 0.75])


def test_rates_are_max_min_fair() -> None:
    # Bertsekas & Gallager: a long flow over two links, the second one crowded.
    first, second = Link(3.0), Link(2.0)
    timeline = Timeline()
    network = Network(timeline)
    done: list[Flow] = []
    long = network.start(1e6, (first, second), done.append)
    short = network.start(1e6, (first, Link(100.0)), done.append)
    crowd = [network.start(1e6, (second, Link(100.0)), done.append) for _ in range(3)]
    assert long.rate == pytest.approx(0.5)
    assert short.rate == pytest.approx(2.5)
    assert [flow.rate for flow in crowd] == pytest.approx([0.5] * 3)
    network.stop(crowd[0])
    assert long.rate == pytest.approx(2 / 3)
    assert short.rate == pytest.approx(7 / 3)


def test_no_link_carries_more_than_it_can() -> None:
    rng = random.Random(3)
    timeline = Timeline()
    network = Network(timeline)
    up = [Link(rng.choice([1.0, 2.0, 5.0])) for _ in range(60)]
    down = [Link(rng.choice([1.0, 2.0, 5.0])) for _ in range(60)]
    worst = 0.0

    def again(flow: Flow) -> None:
        nonlocal worst
        for link in (*up, *down):
            worst = max(worst, sum(f.rate for f in link.flows) / link.rate)
        if timeline.now < 300.0:
            links = (rng.choice(up), rng.choice(down))
            network.start(rng.uniform(1.0, 20.0), links, again)

    for _ in range(150):
        again(network.start(5.0, (rng.choice(up), rng.choice(down)), again))
    timeline.run(1e9, lambda: False)
    assert worst <= 1.05
    assert all(link.carried <= link.rate * timeline.now * 1.01 for link in (*up, *down))


def test_a_shared_link_is_shared_by_all_who_cross_it() -> None:
    gate = Link(4 * RATE, shared=True)
    sizes = [(8 * PIECE, (Link(RATE), Link(RATE), gate)) for _ in range(16)]
    assert finish_times(sizes) == pytest.approx([32.0] * 16, rel=0.01)
