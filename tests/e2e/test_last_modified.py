"""What the origin says of its content's age is what every peer says, also after a restart."""

from __future__ import annotations

import os
from email.utils import formatdate, parsedate_to_datetime

import httpx

from tests.e2e.conftest import Cluster, Daemon, Origin

MODIFIED = "Tue, 24 Nov 2020 08:49:37 GMT"
HOUR = 3600


def get(daemon: Daemon, url: str, **fields: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    with daemon.client() as client:
        return client.get("/peer/v1/content", params={"url": url}, headers=named, timeout=30)


def test_every_peer_tells_when_the_origin_changed_its_content(
    cluster: Cluster, origin: Origin
) -> None:
    data = os.urandom(2 * 2**20 + 5)
    url = origin.put("/package.deb", data)
    origin.fields = {"last-modified": MODIFIED}
    scheduler, _, peers = cluster.swarm(2)
    for peer in peers:
        answer = get(peer, url)
        assert answer.content == data
        assert answer.headers["last-modified"] == MODIFIED
    peers[1].kill()
    peers[1] = cluster.peer("peer-1", scheduler)
    peers[1].wait_ready()
    # As apt goes on: from where it is, where the content still has the date it had.
    rest = get(peers[1], url, range="bytes=1000000-", if_range=MODIFIED)
    assert (rest.status_code, rest.content) == (206, data[1_000_000:])
    other = formatdate(parsedate_to_datetime(MODIFIED).timestamp() + 1, usegmt=True)
    assert get(peers[1], url, range="bytes=1000000-", if_range=other).status_code == 200
    # As Maven goes on: where it was not changed since.
    earlier = formatdate(parsedate_to_datetime(MODIFIED).timestamp() - HOUR, usegmt=True)
    assert get(peers[1], url, range="bytes=5-", if_unmodified_since=earlier).status_code == 412
    assert get(peers[1], url, if_modified_since=MODIFIED).status_code == 304
    assert origin.sent_bytes == len(data)


def test_a_date_that_may_not_tell_two_contents_apart_is_not_told(
    cluster: Cluster, origin: Origin
) -> None:
    url = origin.put("/fresh", os.urandom(1000))
    origin.fields = {"last-modified": formatdate(usegmt=True)}
    peer = cluster.start("up", "up")
    peer.wait_ready()
    assert "last-modified" not in get(peer, url).headers
