"""The scheduler's core in this process: a crowd of live peers, then more registrations and reports.

    python -m benchmarks.control.core PEERS TASKS [unrecorded]

Prints a JSON object; `unrecorded`: nothing is recorded for observers. A peer is a host in one task,
and each has a host of its own. Every task has one seed with everything; the others want all of it
and have nothing at first. The scheduler ticks as often as in its role.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.control.hosts import GENERATION, LAYOUT, PIECES, spec_of
from benchmarks.processes import resident_bytes
from hawker.core.ids import host_id
from hawker.core.messages import AnyReport, Have, HostAnnouncement, LeaseProgress, Read, Register
from hawker.core.scheduling import TICK, Outgoing, Scheduler
from hawker.plugins.evaluators.default import DefaultEvaluator

MORE = 5_000
REPORTS = 20_000
RUN = 10
ALL = [(0, PIECES - 1)]


class Crowd:
    """A scheduler and its hosts."""

    def __init__(self, tasks: int, *, record: bool = True) -> None:
        self.scheduler = Scheduler(DefaultEvaluator(), random.Random(1), record=record)
        self.now = 1.0
        self.ticked = time.perf_counter()
        self.specs = [spec_of(number) for number in range(tasks)]
        self.tasks = [spec.task_id for spec in self.specs]
        seed = self.host(-1, seed=True)
        for spec in self.specs:
            out = self.report(seed, Register(task=spec.task_id, spec=spec))
            lease = next(d.lease for _, d in out if isinstance(d, Read))
            self.report(seed, self.progress(spec.task_id, lease, done=False))
            self.report(seed, Have(task=spec.task_id, generation=GENERATION, pieces=ALL))
            self.report(seed, self.progress(spec.task_id, lease, done=True))

    def progress(self, task: str, lease: str, *, done: bool) -> LeaseProgress:
        return LeaseProgress(
            task=task,
            lease=lease,
            generation=GENERATION,
            layout=LAYOUT,
            validator='"v"',
            ranged=True,
            read_bytes=LAYOUT.total or 0,
            read_pieces=PIECES,
            done=done,
        )

    def host(self, number: int, *, seed: bool = False) -> str:
        """A new host with an open decision stream."""
        key = hashlib.sha256(str(number).encode()).digest()
        host = host_id(key)
        # No string is shared: each comes from a message of its own.
        url = f"http://10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:4000/peer"
        announcement = HostAnnouncement(
            url=url, key=key, boot=f"{number:016x}", seed=seed, transports=["http1", "http2"]
        )
        self.scheduler.announce(host, announcement, self.now)
        self.scheduler.connected(host, self.now)
        return host

    def report(self, host: str, report: AnyReport) -> list[Outgoing]:
        """One report, a tenth of a millisecond after the one before."""
        self.now += 1e-4
        if time.perf_counter() - self.ticked >= TICK:
            self.ticked = time.perf_counter()
            self.scheduler.tick(self.now)
            if self.scheduler.recorder is not None:
                self.scheduler.recorder.take()
        return self.scheduler.report(host, report, self.now)

    def registration(self, number: int) -> Register:
        at = number % len(self.tasks)
        return Register(task=self.tasks[at], spec=self.specs[at])


def rates_of(calls: Sequence[Any], act: Callable[[Any], object]) -> tuple[float, float]:
    """Calls per second, and per second of CPU."""
    began, used = time.perf_counter(), time.process_time()
    for call in calls:
        act(call)
    count = len(calls)
    return count / (time.perf_counter() - began), count / (time.process_time() - used)


def decided_for(host: str, out: Iterable[Outgoing]) -> bool:
    return any(outgoing.host == host for outgoing in out)


def run(peers: int, tasks: int, *, record: bool = True) -> dict[str, float]:
    crowd = Crowd(tasks, record=record)
    gc.collect()
    before = resident_bytes(os.getpid())
    hosts = []
    for number in range(peers):
        host = crowd.host(number)
        crowd.report(host, crowd.registration(number))
        hosts.append(host)
    gc.collect()
    grown = resident_bytes(os.getpid()) - before

    more = [(crowd.host(peers + n), crowd.registration(peers + n)) for n in range(MORE)]
    without = 0

    def register(call: tuple[str, Register]) -> None:
        nonlocal without
        without += not decided_for(call[0], crowd.report(*call))

    registrations = rates_of(more, register)
    rng = random.Random(2)
    reports = []
    begun: dict[int, int] = {}
    for _ in range(REPORTS):
        number = rng.randrange(peers)
        first = begun.get(number, 0)
        begun[number] = first + RUN
        task = crowd.tasks[number % tasks]
        have = Have(task=task, generation=GENERATION, pieces=[(first, first + RUN - 1)])
        reports.append((hosts[number], have))
    told = rates_of(reports, lambda call: crowd.report(*call))
    return {
        "registrations_per_second": registrations[0],
        "registrations_per_cpu_second": registrations[1],
        "registrations_without_decision": without,
        "reports_per_second": told[0],
        "reports_per_cpu_second": told[1],
        "bytes_per_peer": grown / peers,
    }


def main() -> None:
    record = "unrecorded" not in sys.argv[3:]
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), record=record)))


if __name__ == "__main__":
    main()
