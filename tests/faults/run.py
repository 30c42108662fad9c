"""The fault run: real processes, faults drawn from a seed, invariants checked.

    python -m tests.faults.run --seed 7
    python -m tests.faults.run --seeds 1:200 --jobs 2

A failing seed prints its plan, what was violated and where the logs are.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.faults.origin import FaultyOrigin
from tests.faults.plan import SECRET, Ask, Fault, Plan, draw
from tests.faults.world import SMALL_QUOTA, Daemon, World

TIMEOUT = 40.0
MARGIN = 10.0
# A cut can lose what was on its way: at most the buffers of a connection.
IN_FLIGHT = 1 << 20


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Outcome:
    """What became of a request; `content` is None where it failed openly."""

    ask: Ask
    content: bytes | None
    problem: str
    seconds: float


class Run:
    """One seed."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan = plan
        self.root = root
        self.random = random.Random(-plan.seed)
        self.origin = FaultyOrigin(validators=plan.validators, ranges=plan.ranges)
        self.origin.delay = plan.delay
        self.origin.change(os.urandom(plan.size))
        self.url = self.origin.url
        if plan.signed:
            self.url += f"?X-Amz-Signature={SECRET}&X-Amz-Algorithm=A"
        self.world = World(root, plan)
        self.largest = 0

    def play(self) -> None:
        """Start, ask, strike, check; raises Violation."""
        try:
            self.world.start()
            watching = threading.Event()
            with ThreadPoolExecutor(16) as pool:
                watcher = pool.submit(self._watch_disk, watching)
                began = time.monotonic()
                asked = [pool.submit(self._ask, ask, began) for ask in self.plan.asks]
                struck = [pool.submit(self._strike, fault, began) for fault in self.plan.faults]
                outcomes = [future.result() for future in asked]
                for future in struck:
                    future.result()
                watching.set()
                watcher.result()
            for outcome in outcomes:
                self._check(outcome)
            self._check_origin()
            self._check_after_restart()
            leaks = self.world.leaks()
            if leaks:
                raise Violation(f"I8: a credential is seen in {', '.join(leaks)}")
        finally:
            self.world.stop()
            self.origin.close()
        self._check_ends()

    # ------------------------------------------------------------------ requests

    def _ask(self, ask: Ask, began: float) -> Outcome:
        time.sleep(max(0.0, began + ask.at - time.monotonic()))
        since = time.monotonic()
        daemon = self.world.peers[ask.host]
        content, problem = self._plain(daemon) if ask.plain else self._get(daemon, f"a{ask.host}")
        return Outcome(ask, content, problem, time.monotonic() - since)

    def _get(self, daemon: Daemon, name: str) -> tuple[bytes | None, str]:
        target = self.root / f"{name}.out"
        command = [sys.executable, "-m", "hawker", "get", self.url, "-O", str(target)]
        command += ["-e", daemon.socket, "--timeout", f"{TIMEOUT:g}", "--overwrite"]
        if self.plan.private:
            command += ["-H", f"Authorization: Bearer {SECRET}"]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=TIMEOUT + MARGIN, check=False
            )
        except subprocess.TimeoutExpired as exc:
            if daemon.frozen:
                return None, "its daemon is frozen"
            raise Violation(f"I4: a request at {daemon.name} did not end") from exc
        text = done.stderr.decode()
        if "Traceback" in text:
            raise Violation(f"`hawker get` at {daemon.name} printed a traceback: {text}")
        if done.returncode == 0:
            return target.read_bytes(), ""
        if target.exists() and name not in ("again",):
            raise Violation(f"I2: a failed `hawker get` at {daemon.name} left an output")
        return None, f"exit {done.returncode}: {text.strip()}"

    def _plain(self, daemon: Daemon) -> tuple[bytes | None, str]:
        timeout = httpx.Timeout(TIMEOUT + MARGIN)
        try:
            with httpx.Client(trust_env=False, timeout=timeout) as client:
                answer = client.get(
                    f"{daemon.url}/peer/v1/content",
                    params={"url": self.url},
                    headers={"prefer": f"wait={TIMEOUT:g}"},
                )
        except httpx.TimeoutException as exc:
            if daemon.frozen:
                return None, "its daemon is frozen"
            raise Violation(f"I4: a plain request at {daemon.name} did not end") from exc
        except httpx.HTTPError as exc:
            return None, f"cut: {exc!r}"
        if answer.status_code != 200:
            return None, f"{answer.status_code}: {answer.text[:300]}"
        return answer.content, ""

    # ------------------------------------------------------------------ faults

    def _strike(self, fault: Fault, began: float) -> None:
        time.sleep(max(0.0, began + fault.at - time.monotonic()))
        world, peer = self.world, self.world.peers[fault.host]
        seed = world.seeds[fault.host % len(world.seeds)]
        match fault.kind:
            case "kill-peer":
                peer.kill()
            case "kill-seed":
                seed.kill()
            case "peers-gone":
                for number in self.plan.gone(fault):
                    world.peers[number].kill()
            case "restart-peer":
                self._restart(peer, fault.seconds)
            case "restart-seed":
                self._restart(seed, fault.seconds)
            case "restart-scheduler":
                self._restart(world.scheduler, fault.seconds)
            case "stop-scheduler":
                world.scheduler.kill()
            case "freeze-peer" | "freeze-seed":
                daemon = peer if fault.kind == "freeze-peer" else seed
                daemon.freeze()
                time.sleep(fault.seconds)
                daemon.thaw()
            case "flip-byte" | "delete-file":
                self._damage(peer, delete=fault.kind == "delete-file")
            case "origin-changes":
                self.origin.change(os.urandom(self.plan.size))
            case "origin-ill":
                self.origin.ill_until = time.monotonic() + min(fault.seconds, 1.5)
            case "origin-cut":
                self.origin.cut()
            case _:
                raise AssertionError(fault.kind)

    def _restart(self, daemon: Daemon, seconds: float) -> None:
        daemon.kill()
        time.sleep(seconds)
        daemon.revive()

    def _damage(self, peer: Daemon, *, delete: bool) -> None:
        for path in peer.content_files():
            try:
                if delete:
                    path.unlink()
                    continue
                with path.open("r+b") as file:
                    at = self.random.randrange(max(1, path.stat().st_size))
                    file.seek(at)
                    byte = file.read(1) or b"\0"
                    file.seek(at)
                    file.write(bytes([byte[0] ^ 0x40]))
            except OSError:
                # Its owner removed it just now.
                continue

    def _watch_disk(self, end: threading.Event) -> None:
        if self.plan.small is None:
            return
        content = self.world.peers[self.plan.small].data / "content"
        while not end.wait(0.05):
            used = 0
            for path in content.rglob("*"):
                try:
                    used += path.stat().st_blocks * 512
                except OSError:
                    continue
            self.largest = max(self.largest, used)

    # ------------------------------------------------------------------ invariants

    def _check(self, outcome: Outcome) -> None:
        ask, plan = outcome.ask, self.plan
        name = f"the request at peer-{ask.host} ({'plain' if ask.plain else 'get'})"
        if outcome.seconds > TIMEOUT + MARGIN:
            raise Violation(f"I4: {name} took {outcome.seconds:.1f} s")
        if outcome.content is not None:
            if outcome.content not in self.origin.versions:
                raise Violation(f"I1: {name} gave {len(outcome.content)} wrong bytes")
            return
        if plan.struck(ask.host):
            return
        if plan.has("flip-byte", "delete-file") and ask.host in self._damaged():
            return
        changed = plan.has("origin-changes", "origin-ill", "origin-cut")
        reader_lost = plan.has("kill-seed", "restart-seed", "freeze-seed") or plan.has(
            "kill-peer", "restart-peer", "freeze-peer", "peers-gone"
        )
        # A stream that has begun is cut when its generation can never be finished.
        if ask.plain and (changed or (reader_lost and not plan.validators)):
            return
        if plan.has("origin-ill", "origin-cut") and "exit 6" in outcome.problem:
            return
        if plan.has("origin-changes") and "exit 6" in outcome.problem:
            return
        raise Violation(f"{name} failed without need: {outcome.problem}")

    def _damaged(self) -> set[int]:
        return {f.host for f in self.plan.faults if f.kind in ("flip-byte", "delete-file")}

    def _check_origin(self) -> None:
        plan, size = self.plan, self.plan.size
        sent = sum(self.origin.sent)
        versions = len(self.origin.versions)
        allowed = size * (versions + plan.extra_reads) + IN_FLIGHT * (len(plan.faults) > 0)
        if not plan.faults or all(f.kind == "restart-scheduler" for f in plan.faults):
            allowed = size
        if sent > allowed:
            raise Violation(
                f"I3: the origin sent {sent} bytes, {sent / max(1, size):.2f} contents;"
                f" {allowed / max(1, size):.2f} can be justified"
            )

    def _check_after_restart(self) -> None:
        """I5: whoever comes back serves what is right; I6: the small peer kept to its quota."""
        if self.plan.small is not None and self.largest > SMALL_QUOTA + 66 * (1 << 20):
            raise Violation(f"I6: {self.largest} bytes on a disk with a quota of {SMALL_QUOTA}")
        self.origin.delay = 0.0
        self.origin.ill_until = 0.0
        self.world.heal()
        victim = self.random.randrange(self.plan.peers)
        self.world.peers[victim].kill()
        self.world.peers[victim].revive()
        self.world.peers[victim].wait_ready()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda d: self._get(d, f"end-{d.name}"), self.world.peers))
        for daemon, (content, problem) in zip(self.world.peers, answers, strict=True):
            if content is None:
                small = self.plan.small is not None and daemon is self.world.peers[self.plan.small]
                if small and self.plan.size > SMALL_QUOTA:
                    continue
                raise Violation(f"I5: in the end {daemon.name} fails: {problem}")
            if content not in self.origin.versions:
                raise Violation(f"I5: in the end {daemon.name} gives wrong bytes")

    def _check_ends(self) -> None:
        for daemon in self.world.daemons:
            if daemon.stopped_badly:
                raise Violation(daemon.stopped_badly)
        for name, text in self.world.logs().items():
            if "Traceback" in text:
                raise Violation(f"{name} logged a traceback")


def run_seed(seed: int, *, keep: bool = False) -> str:
    """Play one seed; empty where every invariant held, else what was violated and where to look."""
    root = Path(tempfile.mkdtemp(prefix=f"hawker-faults-{seed}-"))
    plan = draw(seed)
    try:
        Run(plan, root).play()
    except Violation as exc:
        return f"{exc}\n  plan: {plan}\n  logs: {root}\n  again: {_again(seed)}"
    except Exception:
        return f"{traceback.format_exc()}\n  plan: {plan}\n  logs: {root}\n  again: {_again(seed)}"
    if not keep:
        shutil.rmtree(root, ignore_errors=True)
    return ""


def _again(seed: int) -> str:
    return f"python -m tests.faults.run --seed {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="play this one")
    parser.add_argument("--seeds", default="1:20", metavar="FIRST:LAST")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the logs of good runs, too")
    options = parser.parse_args()
    if options.seed is not None:
        seeds = [options.seed]
    else:
        first, _, last = options.seeds.partition(":")
        seeds = list(range(int(first), int(last or first) + 1))
    failed: list[int] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        runs: dict[Future[str], int] = {
            pool.submit(run_seed, seed, keep=options.keep): seed for seed in seeds
        }
        for future in as_completed(runs):
            problem = future.result()
            print(f"seed {runs[future]}: {problem or 'ok'}", flush=True)
            if problem:
                failed.append(runs[future])
    print(f"{len(seeds) - len(failed)} of {len(seeds)} seeds passed; failed: {sorted(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
