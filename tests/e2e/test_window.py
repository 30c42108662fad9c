"""A swarm of processes, observed: live, replayed, and as its peers themselves say it is."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import httpx

from hawker.core.clients.events import Splitter
from hawker.core.ids import TaskSpec
from hawker.core.messages import decode_availability
from hawker.core.pieces import PieceSet
from hawker.core.tokens import ClusterKey, read_key_file
from hawker.core.window import ORIGIN, Frame, SeenTask, decode_frame, fold
from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for

MIB = 1024 * 1024


def frames_of(cluster: Cluster, scheduler: Daemon, task: str, query: str = "") -> list[Frame]:
    """All frames of a task's stream, to its end."""
    token = ClusterKey(read_key_file(cluster.key)).mint("", ["tasks"])
    url = f"{scheduler.url}/scheduler/v1/tasks/{task}/events{query}"
    frames: list[Frame] = []
    headers = {"authorization": f"Bearer {token}"}
    with httpx.stream("GET", url, headers=headers, timeout=30, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        splitter = Splitter()
        for chunk in answer.iter_raw():
            frames += [decode_frame(event.data) for event in splitter.feed(chunk)]
    return frames


def moments(frames: list[Frame]) -> dict[float, Any]:
    """What each host had, by the time at which it was told."""
    seen, found = SeenTask(), {}
    for frame in frames:
        seen.take(frame)
        if frame.kind != "end":
            found[frame.at] = seen.maps()
    return found


def own_word(cluster: Cluster, peer: Daemon, task: str, generation: str) -> PieceSet:
    """The pieces that a peer tells other peers of."""
    token = ClusterKey(read_key_file(cluster.key)).mint("", ["pieces"])
    url = f"{peer.url}/peer/v1/tasks/{task}/{generation}/availability"
    headers = {"authorization": f"Bearer {token}"}
    pieces, splitter = PieceSet(), Splitter()
    with httpx.stream("GET", url, headers=headers, timeout=10, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        for chunk in answer.iter_raw():
            for event in splitter.feed(chunk):
                told = decode_availability(event.data)
                pieces |= PieceSet.from_runs(told.have)
                if not told.have and not told.runs:
                    # A heartbeat: all was said.
                    return pieces
    raise AssertionError("the stream ended")


def test_the_replay_of_a_finished_task_shows_what_was_seen_live(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    scheduler, seed, peers = cluster.swarm(4)
    # Half of a second for each MiB, so that there is something to be seen.
    origin.delay = 0.03
    data = os.urandom(8 * MIB + 12345)
    url = origin.put("/model.bin", data)
    task = TaskSpec(url).task_id
    live: list[Frame] = []
    results: list[tuple[int, str]] = []

    def get_all(number: int) -> None:
        results.append(fetch(peers[number], url, tmp_path / f"{number}.bin"))

    def get_some() -> None:
        wanted = {"range": f"bytes=0-{3 * MIB - 1}"}
        with peers[0].client() as client:
            answer = client.get("/peer/v1/content", params={"url": url}, headers=wanted)
        results.append((int(answer.content != data[: 3 * MIB]), ""))

    gets = [threading.Thread(target=get_all, args=(number,)) for number in (1, 2, 3)]
    gets.append(threading.Thread(target=get_some))
    for get in gets:
        get.start()
    wait_for(lambda: cluster.view(scheduler.url, "tasks"), "the scheduler hears of the task")
    watching = threading.Thread(
        target=lambda: live.extend(frames_of(cluster, scheduler, task, "?replay=1"))
    )
    watching.start()
    late = threading.Thread(target=lambda: late_frames.extend(frames_of(cluster, scheduler, task)))
    late_frames: list[Frame] = []
    wait_for(lambda: origin.sent_bytes > 3 * MIB, "a part is read")
    late.start()
    for thread in (*gets, watching, late):
        thread.join(60)
    assert [code for code, _ in results] == [0] * 4, results
    assert (tmp_path / "1.bin").read_bytes() == data
    assert live[-1].kind == late_frames[-1].kind == "end"

    again = frames_of(cluster, scheduler, task)
    assert again[-1].kind == "end"
    assert [frame for frame in again if frame.kind != "end"][: len(live) - 1] == live[:-1]
    seen, replayed = moments(live), moments(again)
    assert len(seen) > 8 and {at: replayed[at] for at in seen} == seen
    whole = late_frames[0]
    assert whole.kind == "snapshot" and whole.at > live[0].at, "who came late saw a snapshot first"
    # A snapshot is of a moment of its own, and what follows it is what the others saw.
    told = {at: maps for at, maps in moments(late_frames).items() if at in replayed}
    assert len(told) > 2 and told == {at: replayed[at] for at in told}

    final = fold(again)
    generation = final.task.generation
    by_host = {peer.host: peer for peer in final.peers.values()}
    hosts = {line["url"]: line["host"] for line in cluster.view(scheduler.url, "hosts")}
    for daemon in (seed, *peers):
        peer = by_host[hosts[f"{daemon.url}/peer"]]
        assert peer.have == own_word(cluster, daemon, task, generation)
        assert len(peer.have) == (12 if daemon is peers[0] else 33)

    number = {peer.host: n for n, peer in final.peers.items()}
    got = {
        daemon: {
            sender: size
            for (child, sender), size in final.received.items()
            if child == number[hosts[f"{daemon.url}/peer"]]
        }
        for daemon in (seed, *peers)
    }
    assert got[seed] == {ORIGIN: len(data)}
    for daemon in peers:
        size = 3 * MIB if daemon is peers[0] else len(data)
        assert sum(got[daemon].values()) == size and ORIGIN not in got[daemon]
    assert final.totals.delivered_bytes == 3 * MIB + 3 * len(data)
    assert final.totals.origin_bytes == len(data) <= origin.sent_bytes
    assert final.totals.saved_bytes == 3 * MIB + 2 * len(data)
