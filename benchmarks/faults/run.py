"""What faults cost: added time and extra origin bytes, against the same run without the fault.

    python -m benchmarks.faults.run [--size 24MiB] [--rate 8e6] [--pairs 5] [--json]

Targets 6 and 7 of the design. One scheduler, one seed and six peers, real processes. Every peer has
a downlink of its own of `--rate` bytes per second, made by TCP proxies, so that a transfer lasts
some seconds and a lost parent takes no capacity away; the origin sends at that rate, too, and
counts. Times are those of the slowest peer that survives, from the request to `done`: all valid in
its store. The fault strikes at 40 % of the time that the bytes need on such a downlink.

- parent killed, parent frozen (SIGSTOP): the seed and peer-0 have all; three children download; the
  one of the two that has sent more so far is hit. How much that is, is shown.
- seed killed: nobody has anything; the seed is killed while it reads the origin for six peers.
- 30 % gone: the same, and two of the six peers are killed at once.
- scheduler restarted: the same; the scheduler is killed, and started with its data a second later.

Each round uses new content under a new URL, and begins with a newly started scheduler, for one that
remembers who was hit before gives that host no children for a while. Rounds with and without the
fault are interleaved, and each pair begins with the other one. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from hawker.core.tokens import create_key_file
from tests.faults.origin import FaultyOrigin, Thing
from tests.faults.proxy import Bucket, Link, Links
from tests.faults.world import Daemon, free_port, inode_of

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20}
PEERS = 6
STRIKE_AT = 0.4
ROUND_SECONDS = 120.0
SCHEDULER_AWAY = 1.0
TIME_TARGET, BYTES_TARGET = 2.0, 0
VERDICT = {True: "met", False: "NOT MET"}


@dataclass(frozen=True)
class Scenario:
    """One fault. `warm` daemons have all content before; `children` download.

    Of those that may be `hit` all are, but of two parents the busier one.
    """

    name: str
    warm: tuple[str, ...]
    children: tuple[str, ...]
    hit: tuple[str, ...]
    target: str


ALL = tuple(f"peer-{number}" for number in range(PEERS))
SCENARIOS = (
    Scenario("parent killed", ("seed", "peer-0"), ALL[1:4], ("seed", "peer-0"), "6"),
    Scenario("parent frozen", ("seed", "peer-0"), ALL[1:4], ("seed", "peer-0"), "6"),
    Scenario("seed killed", (), ALL, ("seed",), ""),
    Scenario("30 % gone", (), ALL, ALL[:2], ""),
    Scenario("scheduler restarted", (), ALL, ("scheduler",), "7"),
)


@dataclass
class Round:
    """Seconds of the slowest survivor; content bytes that the origin, and those hit, had sent."""

    seconds: float
    origin_bytes: int
    sent_by_hit: int


@dataclass
class Series:
    """Rounds of one scenario, in step: without and with the fault."""

    calm: list[Round] = field(default_factory=list)
    struck: list[Round] = field(default_factory=list)

    def added(self) -> list[float]:
        """Seconds that the fault added, pair by pair."""
        pairs = zip(self.struck, self.calm, strict=True)
        return [struck.seconds - calm.seconds for struck, calm in pairs]


class Cluster:
    """The processes; `size` and `rate` in bytes and bytes per second."""

    def __init__(self, root: Path, size: int, rate: float) -> None:
        self.size, self.rate = size, rate
        self._links = Links()
        self._downlinks: dict[str, Bucket] = {}
        key = root / "cluster.key"
        create_key_file(key)
        common = ["--cluster-key", str(key)]
        self.daemons = {"scheduler": Daemon(root, "scheduler", ["scheduler", *common], {})}
        common += ["--scheduler", self.daemons["scheduler"].url]
        self.links: dict[str, Link] = {}
        for name in ("seed", *ALL):
            port = free_port()
            self.links[name] = self._links.add(port, self._downlink_of)
            self._downlinks[name] = Bucket(rate)
            flags = ["peer", *common, "--advertise", self.links[name].url]
            flags += ["--seed"] if name == "seed" else []
            self.daemons[name] = Daemon(root, name, flags, {}, port)
        self.origin = FaultyOrigin(
            [], validators=True, ranges=True, rate=int(rate), reader_of=lambda port: ""
        )

    def _downlink_of(self, port: int) -> Bucket:
        """The downlink of the daemon that has this local port."""
        inode = inode_of(port)
        names = (name for name, daemon in self.daemons.items() if daemon.has_socket(inode))
        return self._downlinks.get(next(names, ""), Bucket())

    def heal(self) -> None:
        """Everything runs, and is known to a scheduler that holds nothing against anybody."""
        self.daemons["scheduler"].terminate()
        self.daemons["scheduler"].wait_end()
        for daemon in self.daemons.values():
            daemon.thaw()
            if not daemon.running:
                daemon.kill()
                daemon.launch()
                daemon.wait_listening()
        for name in ("seed", *ALL):
            self.daemons[name].wait_ready()

    def close(self) -> None:
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in reversed(self.daemons.values()):
            daemon.wait_end()
        self._links.close()
        self.origin.close()

    @contextlib.contextmanager
    def unlimited(self) -> Iterator[None]:
        """Content is brought into position at full speed."""
        for bucket in self._downlinks.values():
            bucket.rate = 0.0
        self.origin.rate = 0
        yield
        self.origin.rate = int(self.rate)
        for bucket in self._downlinks.values():
            bucket.rate = self.rate

    def download(self, name: str, url: str) -> float:
        """Seconds until all of it is valid in the daemon's store."""
        began = time.monotonic()
        with (
            self.daemons[name].client(ROUND_SECONDS) as client,
            client.stream("POST", "/peer/v1/downloads", json={"url": url}) as answer,
        ):
            last = [json.loads(line) for line in answer.iter_lines() if line][-1]
        if not last.get("done"):
            raise SystemExit(f"faults: {name} failed: {last.get('problem')}")
        return time.monotonic() - began

    def play(self, scenario: Scenario, *, fault: bool) -> Round:
        """One round with new content."""
        self.heal()
        thing = Thing([random.randbytes(self.size)], [0])
        self.origin.things.append(thing)
        url = self.origin.url(len(self.origin.things) - 1)
        with self.unlimited():
            for name in scenario.warm:
                self.download(name, url)
        before = {name: link.passed for name, link in self.links.items()}
        survivors = [name for name in scenario.children if not fault or name not in scenario.hit]
        with ThreadPoolExecutor(len(scenario.children) + 1) as pool:
            began = time.monotonic()
            jobs = {name: pool.submit(self._try, name, url) for name in scenario.children}
            sent = 0
            if fault:
                time.sleep(max(0.0, began + STRIKE_AT * self.size / self.rate - time.monotonic()))
                passed = {n: link.passed - before[n] for n, link in self.links.items()}
                hit = scenario.hit
                if scenario.target == "6":
                    hit = (max(hit, key=lambda name: passed[name]),)
                sent = sum(passed.get(name, 0) for name in hit)
                self._strike(hit, freeze=scenario.name == "parent frozen")
            seconds = [job.result() for name, job in jobs.items() if name in survivors]
        if any(value is None for value in seconds):
            raise SystemExit(f"faults: {scenario.name}: a survivor's download failed")
        thing.versions.clear()
        return Round(max(filter(None, seconds)), thing.sent[0], sent)

    def _try(self, name: str, url: str) -> float | None:
        """None where its own daemon was hit."""
        try:
            return self.download(name, url)
        except (httpx.HTTPError, SystemExit, IndexError):
            return None

    def _strike(self, hit: tuple[str, ...], *, freeze: bool) -> None:
        for name in hit:
            daemon = self.daemons[name]
            daemon.freeze() if freeze else daemon.kill()
        if "scheduler" in hit:
            time.sleep(SCHEDULER_AWAY)
            self.daemons["scheduler"].launch()
            self.daemons["scheduler"].wait_listening()


def measure(
    root: Path, size: int, rate: float, pairs: int, say: Callable[[str], None]
) -> dict[str, Series]:
    cluster = Cluster(root, size, rate)
    found = {scenario.name: Series() for scenario in SCENARIOS}
    try:
        cluster.heal()
        # Warm: every process has done once what is measured.
        cluster.play(SCENARIOS[0], fault=False)
        for pair in range(pairs):
            for scenario in SCENARIOS:
                series = found[scenario.name]
                for fault in (False, True)[:: 1 if pair % 2 == 0 else -1]:
                    (series.struck if fault else series.calm).append(
                        cluster.play(scenario, fault=fault)
                    )
            say(f"pair {pair + 1} of {pairs} done")
    finally:
        cluster.close()
    return found


def spread(values: list[float], digits: int) -> str:
    """Median and, in brackets, the least and the most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def report(found: dict[str, Series], size: int, rate: float) -> dict[str, object]:
    """Print the table; everything in it as one object."""
    print(
        f"{size} random bytes, downlinks and origin of {rate / 1e6:g} MB/s, median (min to max); "
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}\n"
    )
    head = ("fault", "without, s", "with, s", "added, s", "extra origin bytes", "target")
    print("{:<20} {:>21} {:>21} {:>23} {:>20}  {}".format(*head))
    figures: dict[str, object] = {"size": size, "rate": rate}
    for scenario in SCENARIOS:
        series = found[scenario.name]
        extra = [r.origin_bytes - size for r in series.struck]
        added = series.added()
        told = ""
        if scenario.target == "6":
            late = sum(seconds > TIME_TARGET for seconds in added)
            told = f"6: median <= {TIME_TARGET:g} s: "
            told += f"{VERDICT[statistics.median(added) <= TIME_TARGET]}, {late} above"
        elif scenario.target == "7":
            told = f"7: extra bytes {BYTES_TARGET}: {VERDICT[max(extra) <= BYTES_TARGET]}"
        row = (
            scenario.name,
            spread([r.seconds for r in series.calm], 2),
            spread([r.seconds for r in series.struck], 2),
            spread(added, 2),
            f"{statistics.median(extra):.0f} (max {max(extra)})",
            told,
        )
        print("{:<20} {:>21} {:>21} {:>23} {:>20}  {}".format(*row).rstrip())
        figures[scenario.name] = {
            "without_seconds": [r.seconds for r in series.calm],
            "with_seconds": [r.seconds for r in series.struck],
            "added_seconds": added,
            "extra_origin_bytes": extra,
            "extra_origin_bytes_without": [r.origin_bytes - size for r in series.calm],
            "sent_by_hit": [r.sent_by_hit for r in series.struck],
        }
    for scenario in SCENARIOS:
        sent = [r.sent_by_hit for r in found[scenario.name].struck]
        if scenario.target == "6":
            print(f"\n{scenario.name}: it had sent {min(sent)} bytes or more when it was hit")
    return figures


def size_of(text: str) -> int:
    digits = text.rstrip("KMiB")
    unit = text[len(digits) :]
    if not digits.isdigit() or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 24MiB")
    return int(digits) * UNITS[unit]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=size_of, default=24 * 2**20, help="such as 24MiB")
    parser.add_argument("--rate", type=float, default=8e6, help="bytes per second of a link")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="hawker-faults-bench-") as name:
        found = measure(Path(name), options.size, options.rate, options.pairs, print)
    figures = report(found, options.size, options.rate)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
