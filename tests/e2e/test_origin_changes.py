"""The origin's content changes in mid-swarm: bytes of two generations never meet."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, fetch, wait_for
from tests.faults.origin import FaultyOrigin
from tests.faults.proxy import Link, Links
from tests.faults.world import free_port

SIZE = 12 * 2**20 + 5
PART = 5 * 2**20
# What leaves a holder, while the content changes.
SLOW = 0.8e6


@dataclass
class Body:
    """What a plain client got; `whole` is what it was told."""

    got: bytearray
    whole: bool = False
    etag: str = ""
    status: int = 0


def stream(daemon: Daemon, url: str, body: Body, **headers: str) -> Body:
    """Read a daemon's answer into `body` as it comes."""
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream(
            "GET", f"{daemon.url}/peer/v1/content", params={"url": url}, headers=headers
        ) as answer,
    ):
        body.status, body.etag = answer.status_code, answer.headers["etag"]
        try:
            for part in answer.iter_raw():
                body.got += part
        except httpx.RemoteProtocolError:
            return body
    body.whole = True
    return body


@pytest.fixture
def changing() -> Iterator[FaultyOrigin]:
    """One content, sent within 3 s, under a strong validator."""
    made = FaultyOrigin(
        [os.urandom(SIZE)], validators=True, ranges=True, rate=SIZE // 3, reader_of=lambda port: ""
    )
    yield made
    made.close()


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links()
    yield made
    made.close()


def slow_peer(links: Links, cluster: Cluster, scheduler: Daemon, name: str) -> tuple[Daemon, Link]:
    """A host whose link can be slowed down; `seed` is one."""
    port = free_port()
    link = links.add(port)
    flags = ["--port", str(port), "--advertise", link.url, *(["--seed"] if name == "seed" else [])]
    return cluster.peer(name, scheduler, *flags), link


@pytest.mark.parametrize("held", [True, False], ids=["held by another", "held by the reader"])
def test_who_can_finish_does_others_begin_again_and_no_stream_is_spliced(
    held: bool, links: Links, cluster: Cluster, changing: FaultyOrigin, tmp_path: Path
) -> None:
    """`held`: another peer has what one wants of the old content; else only the reader, which
    drops it for the new content."""
    thing, url = changing.things[0], changing.url(0)
    cluster.make_key()
    scheduler = cluster.scheduler()
    seed, seed_link = slow_peer(links, cluster, scheduler, "seed")
    holder, holder_link = slow_peer(links, cluster, scheduler, "holder")
    names = ("partial", "whole", "streaming")
    partial, whole, streaming = [cluster.peer(name, scheduler) for name in names]
    for daemon in (seed, holder, partial, whole, streaming):
        daemon.wait_ready()
    asked = {"range": f"bytes=0-{PART - 1}"}
    if held:
        assert stream(holder, url, Body(bytearray()), **asked).whole
    for link in (seed_link, holder_link):
        link.bucket.rate = SLOW
    part, all_of_it = Body(bytearray()), Body(bytearray())
    with ThreadPoolExecutor() as pool:
        some = pool.submit(stream, partial, url, part, **asked)
        wait_for(lambda: part.got, "the part is on its way")
        get = pool.submit(fetch, whole, url, tmp_path / "out", "--timeout", "40")
        streamed = pool.submit(stream, streaming, url, all_of_it)
        # All that the first wants is in the swarm, by far not all of it at the first.
        wait_for(lambda: all_of_it.got and thing.sent[0] > PART + 2**20, "all are in mid-transfer")
        assert len(part.got) < PART and not get.done()
        changing.change(0, os.urandom(SIZE))
        # A reading that has begun goes on with what it began with; whoever asks again finds out.
        changing.cut()
        changing.rate = 0
        wait_for(lambda: thing.sent[1] > 0, "the new content is read")
        for link in (seed_link, holder_link):
            link.bucket.rate = 0.0
        began = time.monotonic()
        assert some.result().whole == held
        assert get.result() == (0, "")
        assert not streamed.result().whole
        assert time.monotonic() - began < 20, "nobody waits for what nobody has"
    old, new = thing.versions
    assert part.status == 206
    assert bytes(part.got) == old[:PART] if held else old[:PART].startswith(bytes(part.got))
    assert (tmp_path / "out").read_bytes() == new
    assert 0 < len(all_of_it.got) < SIZE and old.startswith(bytes(all_of_it.got))
    # The new generation is what everybody gets from now on, also who has a part of the old one.
    for daemon in (whole, streaming, partial):
        body = stream(daemon, url, Body(bytearray()))
        assert body.whole and bytes(body.got) == new
        assert body.etag != part.etag
    assert time.monotonic() - began < 25
    assert thing.sent[1] == SIZE, "the new content was read once"
