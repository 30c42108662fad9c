"""The clients of a fault run: the command, and plain HTTP; what they got, and if it is right."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.faults.origin import Thing
from tests.faults.plan import SECRET, Ask
from tests.faults.world import Daemon

# Beyond its own deadline: starting a process, on a busy machine.
MARGIN = 12.0
# A stream that has begun and stalls is cut after so long (`apps/peer/content.py`).
STALL = 60.0
WRONG_DIGEST = 5


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Outcome:
    """What became of a request; `problem` is empty where it succeeded.

    `begun`: bytes came before it failed.
    """

    ask: Ask
    problem: str = ""
    seconds: float = 0.0
    begun: bool = False


def request(
    ask: Ask, daemon: Daemon, url: str, thing: Thing, target: Path, private: bool
) -> Outcome:
    """Ask, and check what came (I1, I2, I4); failing openly is no violation here."""
    since = time.monotonic()
    if ask.how == "get":
        outcome = _get(ask, daemon, url, thing, target, private)
    else:
        outcome = _plain(ask, daemon, url, thing)
    outcome.seconds = time.monotonic() - since
    return outcome


def _get(ask: Ask, daemon: Daemon, url: str, thing: Thing, target: Path, private: bool) -> Outcome:
    command = [sys.executable, "-m", "hawker", "get", url, "-O", str(target), "-e", daemon.socket]
    command += ["--timeout", f"{ask.patience:g}"]
    if ask.digest:
        claimed = thing.versions[0] if ask.digest == "right" else b"what it never is"
        command += ["--digest", f"sha256:{hashlib.sha256(claimed).hexdigest()}"]
    if private:
        command += ["-H", f"Authorization: Bearer {SECRET}"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=ask.patience + MARGIN, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise Violation(f"I4: `hawker get` at {daemon.name} did not end") from exc
    told = done.stderr.decode(errors="replace")
    if "Traceback" in told:
        raise Violation(f"`hawker get` at {daemon.name} printed a traceback: {told}")
    if private and SECRET in told:
        raise Violation(f"I8: `hawker get` at {daemon.name} printed a credential: {told}")
    if done.returncode:
        if target.exists():
            raise Violation(f"I2: `hawker get` at {daemon.name} failed and left an output: {told}")
        if done.returncode == WRONG_DIGEST and _may_mismatch(ask, thing):
            return Outcome(ask)
        return Outcome(ask, f"exit {done.returncode}: {told.strip()}")
    found = target.read_bytes()
    target.unlink()
    if ask.digest == "wrong" or (ask.digest == "right" and found != thing.versions[0]):
        raise Violation(f"I2: `hawker get` at {daemon.name} gave what has not the digest it stated")
    if found not in thing.versions:
        raise Violation(f"I1: `hawker get` at {daemon.name} gave {_wrong(found, thing)}")
    return Outcome(ask)


def _may_mismatch(ask: Ask, thing: Thing) -> bool:
    """The content may not have the stated digest: nothing has it, or the origin changed."""
    return ask.digest == "wrong" or (ask.digest == "right" and len(thing.versions) > 1)


def _plain(ask: Ask, daemon: Daemon, url: str, thing: Thing) -> Outcome:
    size = len(thing.versions[0])
    span = (int(ask.span[0] * size), int(ask.span[1] * size)) if ask.how == "range" else None
    headers = {"prefer": f"wait={max(1, round(ask.patience))}"}
    if span is not None:
        headers["range"] = f"bytes={span[0]}-{span[1]}"
    got = bytearray()
    status = 0
    try:
        with (
            httpx.Client(trust_env=False, timeout=STALL + MARGIN) as client,
            client.stream(
                "GET", f"{daemon.url}/peer/v1/content", params={"url": url}, headers=headers
            ) as answer,
        ):
            status = answer.status_code
            for chunk in answer.iter_raw():
                got += chunk
    except httpx.ReadTimeout as exc:
        raise Violation(f"I4: a plain request at {daemon.name} stood still") from exc
    except httpx.HTTPError as exc:
        if status in (200, 206):
            _check_part(daemon, bytes(got), thing, span if status == 206 else None, whole=False)
        return Outcome(ask, f"cut after {len(got)} bytes: {exc!r}", begun=bool(got))
    if status == 416 and span is not None and not size:
        return Outcome(ask)
    if status not in (200, 206):
        return Outcome(ask, f"{status}: {bytes(got)[:300]!r}")
    _check_part(daemon, bytes(got), thing, span if status == 206 else None, whole=True)
    return Outcome(ask)


def _check_part(
    daemon: Daemon, got: bytes, thing: Thing, span: tuple[int, int] | None, *, whole: bool
) -> None:
    """What came is that part of one version, or its beginning where it was visibly cut."""
    start, stop = (0, len(thing.versions[0])) if span is None else (span[0], span[1] + 1)
    for version in thing.versions:
        part = version[start:stop]
        if part == got or (not whole and part.startswith(got)):
            return
    what = "I1: a plain answer" if whole else "I2: a plain answer that was cut"
    raise Violation(f"{what} of {daemon.name} gave {_wrong(got, thing, start)}")


def _wrong(got: bytes, thing: Thing, start: int = 0) -> str:
    """In which way bytes differ from those of the version they are nearest to."""
    told = []
    for number, version in enumerate(thing.versions):
        part = version[start : start + len(got)]
        pieces = range(0, max(len(part), len(got)), 1 << 18)
        bad = [at >> 18 for at in pieces if part[at : at + (1 << 18)] != got[at : at + (1 << 18)]]
        told.append(f"version {number} ({len(version)} bytes) but for pieces {bad[:8]}")
    return f"{len(got)} bytes from {start}: " + ", or ".join(told)
