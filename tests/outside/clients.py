"""Downloaders that everybody has, against a real daemon whose origin is slow.

    python -m tests.outside.clients

Each gets content while it is arriving and again when it is stored. What it wrote must be right to
the byte, its exit code the one it has on success, the statuses those it needs, and the origin gives
nothing twice. Needs curl, wget, aria2c, axel and apt-helper; pip is the one of this Python. Exits
with 1 where one of them fails, with 2 where one of them is missing.
"""

from __future__ import annotations

import argparse
import ensurepip
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec

from hawker.core.pieces import MIB
from hawker.core.ranges import parse_content_range
from tests.e2e.conftest import Cluster
from tests.outside.beginning import demand, directory

APT_HELPER = "/usr/lib/apt/apt-helper"
NEEDED = {"curl": "curl", "wget": "wget", "aria2c": "aria2", "axel": "axel", APT_HELPER: "apt"}
ANSWERS = re.compile(r"hawker_http_requests_total\{([^}]*)\} (\S+)")
PATIENCE = 120.0
# When the content was changed at its origin, in seconds since 1970.
MODIFIED = 1_600_000_000
# What an origin may give of its content: single bytes for its length, and the ends of streams that
# were closed because what they bring is not wanted.
ONCE = 1.02
LAZY_WHEEL = """
import sys
from pip._internal.network.lazy_wheel import dist_from_wheel_url
from pip._internal.network.session import PipSession
print(dist_from_wheel_url("pip", sys.argv[1], PipSession()).version)
"""


@dataclass
class Case:
    """What one client does in a directory of its own; raises AssertionError where it is wrong.

    `statuses` are those its answers must have, each at least once, and no others.
    """

    name: str
    run: Callable[[Place], None]
    statuses: set[int] = field(default_factory=lambda: {200})
    # Of no use before all is stored.
    stored_only: bool = False
    wheel: bool = False


@dataclass
class Place:
    """Where a client works: what it should get, from where, and into which file."""

    url: str
    data: bytes
    target: Path

    def command(self, *words: str, code: int = 0) -> str:
        """Run a client's command; what it printed, which must end with this exit code."""
        done = subprocess.run(
            words,
            cwd=self.target.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, f"exit {done.returncode}, not {code}: {done.stdout[-500:]}"
        return done.stdout

    def half(self) -> None:
        """Some of it is here already, of the origin's time."""
        self.target.write_bytes(self.data[: len(self.data) // 2])
        os.utime(self.target, (MODIFIED, MODIFIED))

    def all_here(self) -> None:
        self.target.write_bytes(self.data)

    def check(self) -> None:
        assert self.target.read_bytes() == self.data, "what it wrote is not the content"


# ------------------------------------------------------------------ what the clients do


def curl(*flags: str) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        place.command("curl", "-sS", *flags, "-o", str(place.target), place.url)
        place.check()

    return run


def curl_resumed(*flags: str) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        place.half()
        curl("-C", "-", *flags)(place)

    return run


def curl_broken_off(place: Place) -> None:
    command = ("curl", "-sS", "--limit-rate", "1M", "-o", str(place.target), place.url)
    place.command(*command, "--max-time", "1", code=28)
    assert 0 < place.target.stat().st_size < len(place.data)
    curl("-C", "-")(place)


def curl_complete(place: Place) -> None:
    place.all_here()
    curl("-C", "-")(place)


def curl_parts(*flags: str) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        asked = f"0-99,{MIB}-{MIB + 999},{2 * MIB}-{3 * MIB},-500"
        head = place.target.with_suffix(".head")
        command = ("curl", "-sS", *flags, "-r", asked, "-D", str(head), place.url)
        place.command(*command, "-o", str(place.target))
        [kind] = re.findall(r"(?im)^content-type: (.*)\r?$", head.read_text())
        body = b"content-type: " + kind.strip().encode() + b"\r\n\r\n" + place.target.read_bytes()
        found = []
        for part in BytesParser(policy=HTTP).parsebytes(body).iter_parts():
            place_of = parse_content_range(part["content-range"])
            assert place_of is not None and place_of[1] == len(place.data)
            span = place_of[0]
            assert part.get_payload(decode=True) == place.data[span.start : span.stop]
            found.append(span.start)
        assert found == [0, MIB, 2 * MIB, len(place.data) - 500], found

    return run


def curl_etag(place: Place) -> None:
    tag = place.target.with_suffix(".etag")
    curl("--etag-save", str(tag))(place)
    place.target.unlink()
    command = ("curl", "-sS", "--etag-compare", str(tag), "-o", str(place.target), place.url)
    place.command(*command)
    assert not place.target.exists() or not place.target.stat().st_size


def wget(place: Place) -> None:
    place.command("wget", "-q", "-O", str(place.target), place.url)
    place.check()


def wget_resumed(place: Place) -> None:
    place.half()
    place.command("wget", "-q", "-c", "-O", str(place.target), place.url)
    place.check()


def wget_complete(place: Place) -> None:
    place.all_here()
    said = place.command("wget", "-c", "-O", str(place.target), place.url)
    assert "already fully retrieved" in said
    place.check()


def aria2(place: Place) -> None:
    command = ("aria2c", "-q", "-x16", "-s16", "-k1M", "--no-conf", "--allow-overwrite=true")
    place.command(*command, "-d", str(place.target.parent), "-o", place.target.name, place.url)
    place.check()


def axel(place: Place) -> None:
    place.command("axel", "-q", "-n4", "-o", str(place.target), place.url)
    place.check()


def apt(place: Place) -> None:
    place.command(APT_HELPER, *APT_OPTIONS, "download-file", place.url, str(place.target))
    place.check()


def apt_resumed(place: Place) -> None:
    place.half()
    apt(place)


# The user it would change to may not enter this user's temporary directories.
APT_OPTIONS = ("-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Proxy=false")


def pip_lazy_wheel(place: Place) -> None:
    said = place.command(sys.executable, "-c", LAZY_WHEEL, place.url)
    assert said.strip() == ensurepip.version(), said


H2 = "--http2-prior-knowledge"
CASES = [
    Case("curl", curl()),
    Case("curl h2", curl(H2)),
    Case("curl -C -, half is here", curl_resumed(), {206}),
    Case("curl -C - h2, half is here", curl_resumed(H2), {206}),
    Case("curl -C -, after a break", curl_broken_off, {200, 206}),
    Case("curl -C -, all is here", curl_complete, {416}, stored_only=True),
    Case("curl -r a-b,c-d,…", curl_parts(), {206}),
    Case("curl -r a-b,c-d,… h2", curl_parts(H2), {206}),
    Case("curl --etag-compare", curl_etag, {200, 304}),
    Case("wget", wget),
    Case("wget -c, half is here", wget_resumed, {206}),
    Case("wget -c, all is here", wget_complete, {416}, stored_only=True),
    Case("aria2c -x16 -s16 -k1M", aria2, {200, 206}),
    Case("axel -n4", axel, {206}),
    Case("apt", apt),
    # Its If-Range has the date of the file that it has some of.
    Case("apt, half is here", apt_resumed, {206}),
    Case("pip's lazy wheel", pip_lazy_wheel, {200, 206}, wheel=True),
]


# ------------------------------------------------------------------ the daemon and its origin


@contextmanager
def origin(file: Path, rate: float) -> Iterator[str]:
    """A slow origin of one file in a process of its own; its URL, good with any query."""
    command = [sys.executable, "-m", "hawker.apps.demo.origin", str(file), "--rate", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield msgspec.json.decode(process.stdout.readline())["url"]
        finally:
            process.terminate()


def answers(daemon: str) -> Counter[int]:
    """How many answers of each status the daemon's peer has given to requests of clients."""
    found: Counter[int] = Counter()
    for labels, count in ANSWERS.findall(httpx.get(f"{daemon}/metrics", trust_env=False).text):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named["role"] == "peer":
            found[int(named["status"])] += int(float(count))
    return found


def given(url: str) -> int:
    """Bytes of content that an origin has given."""
    count = httpx.get(httpx.URL(url).join("/.count?settled"), trust_env=False).json()
    return int(count["content_bytes"])


def play(case: Case, daemon: str, url: str, data: bytes, folder: Path) -> tuple[str, str]:
    """Run a case: the statuses that its client saw, and what was wrong."""
    folder.mkdir()
    place = Place(f"{daemon}/peer/v1/content?url={quote(url, safe='')}", data, folder / "content")
    before = answers(daemon)
    problem = ""
    try:
        case.run(place)
    except (AssertionError, subprocess.TimeoutExpired) as exc:
        problem = str(exc)
    seen = answers(daemon) - before
    if not problem and set(seen) != case.statuses:
        problem = f"its answers should have been {sorted(case.statuses)}"
    told = " ".join(f"{status}×{seen[status]}" for status in sorted(seen))  # noqa: RUF001
    return told, problem


def run_all(root: Path, size: int, rate: float) -> int:
    """Play every case in both states; prints a line for each, and returns how many failed."""
    file = root / "file"
    file.write_bytes(random.Random(1).randbytes(size))
    os.utime(file, (MODIFIED, MODIFIED))
    [wheel] = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    cluster = Cluster(root)
    failed = 0
    print(f"{'client':<28}{'content':<10}{'seconds':>7}{'origin':>8}  answers")
    try:
        daemon = cluster.start("up", "up")
        daemon.wait_ready()
        with origin(file, rate) as of_file, origin(wheel, rate) as of_wheel:
            for number, case in enumerate(CASES):
                source, path = (of_wheel, wheel) if case.wheel else (of_file, file)
                url, data = f"{source}?{number}", path.read_bytes()
                first = given(source)
                for state in ("stored",) if case.stored_only else ("arriving", "stored"):
                    if state == "stored":
                        whole = f"{daemon.url}/peer/v1/content"
                        httpx.get(whole, params={"url": url}, timeout=PATIENCE, trust_env=False)
                    began = time.monotonic()
                    told, problem = play(case, daemon.url, url, data, root / f"{number}-{state}")
                    seconds = time.monotonic() - began
                    read = (given(source) - first) / len(data)
                    if not problem and read > ONCE:
                        problem = "its origin was read more than once"
                    line = f"{case.name:<28}{state:<10}{seconds:>7.1f}{read:>8.3f}  {told}"
                    print(f"{line}  WRONG: {problem}" if problem else line, flush=True)
                    failed += bool(problem)
    finally:
        cluster.close()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.outside.clients", description=__doc__)
    parser.add_argument("--size", type=int, default=24, help="MiB of content")
    parser.add_argument("--rate", type=float, default=8e6, help="bytes per second of the origin")
    arguments = parser.parse_args()
    demand(NEEDED)
    with directory("clients") as root:
        sys.exit(1 if run_all(root, arguments.size * MIB, arguments.rate) else 0)


if __name__ == "__main__":
    main()
