"""What one manager bears: members that keep alive by long polls, and hear of changes.

    python -m benchmarks.manager.run [--peers 10000] [--schedulers 100] [--seconds 60] [--wait 20]
        [--changes 3] [--json]

`hawker serve manager` with SQLite; its members have joined beforehand, straight in the database,
with real tokens. Two client processes hold one connection for each member, with one long poll after
the other, and ask for four members a second time, five times a second, for answers that are due at
once. All share the machine's cores.

First the members come, at a rate of 500 a second. Then nothing happens for a while: measured are
the answers' seconds over the wait, those of immediate answers, the manager's CPU time and its
memory. Then the cluster's configuration is changed some times: measured is how long that takes to
reach every member, from the request that changes it.

Raises its limit of open descriptors as far as it may, and processes inherit that. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.control.clients import Client, clients
from benchmarks.control.run import raise_descriptors
from benchmarks.figures import VERDICT, machine, print_table
from benchmarks.manager.load import keep_alive
from benchmarks.processes import START_SECONDS, cpu_of_all, cpu_seconds, output_of, resident_bytes
from hawker.apps.demo.processes import Fleet

P99_TARGET, CORES_TARGET, MEMORY_TARGET = 1.0, 1.0, 500 * 2**20
PROCESSES = 2
RATE = 500.0
SAMPLE = 5.0
REACH_SECONDS = 120.0


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def told(made: Sequence[Client]) -> dict[str, Any]:
    """What all processes have measured since they were asked last."""
    for client in made:
        client.tell("tell")
    answers = [await client.answer() for client in made]
    failures: dict[str, int] = {}
    for answer in answers:
        for name, count in answer.pop("failures").items():
            failures[name] = failures.get(name, 0) + count
    merged: dict[str, Any] = {
        name: [one for answer in answers for one in answer[name]] for name in answers[0]
    }
    if failures:
        count, one = sum(failures.values()), next(iter(failures))
        raise SystemExit(f"{count} members were refused or cut off: {one}")
    return merged


def change(url: str, cluster: str, token: str, number: int) -> float:
    """Give schedulers and peers another configuration; the moment at which that was asked for."""
    body = {"schedulers": {"readers": number}, "peers": {"upload_slots": number}}
    headers = {"authorization": f"Bearer {token}", "if-match": "*"}
    with httpx.Client(trust_env=False, timeout=30) as client:
        began = time.monotonic()
        answer = client.patch(
            f"{url}/manager/api/v1/clusters/{cluster}", json=body, headers=headers
        )
    if answer.status_code != 200:
        raise SystemExit(answer.text)
    return began


async def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    data, count = directory / "data", options.peers + options.schedulers
    prepared = json.loads(
        await output_of(
            *(sys.executable, "-m", "benchmarks.manager.prepare"),
            *(str(data), str(options.peers), str(options.schedulers)),
        )
    )
    cluster, token = prepared["cluster"], prepared["token"]
    members = [(n, *member) for n, member in enumerate(prepared["members"])]
    async with Fleet(directory) as fleet:
        manager = await fleet.start(
            "manager", "hawker", *("serve", "manager", "--port", "0", "--data", str(data)),
            "--json", timeout=START_SECONDS,
        )  # fmt: skip
        url, pid = manager.ready.url, manager.pid
        empty = resident_bytes(pid)
        began, cpu = time.monotonic(), cpu_seconds(pid)
        made = [
            Client(keep_alive, url, cluster, members[n::PROCESSES], options.wait, RATE / PROCESSES)
            for n in range(PROCESSES)
        ]
        async with clients(*made):
            coming = {"seconds": time.monotonic() - began, "cpu": cpu_seconds(pid) - cpu}
            first = await told(made)
            print("members are there", file=sys.stderr)
            # Their first waits end.
            await asyncio.sleep(options.wait + 5)
            await told(made)
            pids = [client.pid for client in made]
            began, cpu, theirs = time.monotonic(), cpu_seconds(pid), cpu_of_all(pids)
            memory = []
            while (left := began + options.seconds - time.monotonic()) > 0:
                await asyncio.sleep(min(SAMPLE, left))
                memory.append(resident_bytes(pid))
            seconds = time.monotonic() - began
            cpu, theirs = cpu_seconds(pid) - cpu, cpu_of_all(pids) - theirs
            steady = await told(made)
            print("steady: done", file=sys.stderr)
            changes = []
            for number in range(1, options.changes + 1):
                changes.append(
                    await one_change(made, url, pid, cluster, token, number, count, options.wait)
                )
            most = resident_bytes(pid)
    over = [seconds for _, seconds in steady["over"]]
    immediate = [seconds for _, seconds in steady["immediate"]]
    return {
        "members": count,
        "coming_seconds": coming["seconds"],
        "coming_cores": coming["cpu"] / coming["seconds"],
        "first_p50": quantile(first["first"], 0.5),
        "first_p99": quantile(first["first"], 0.99),
        "seconds": seconds,
        "answers": len(over),
        "ended_early": sum(one < -0.05 for one in over) / len(over),
        "over_p50": quantile([max(0.0, one) for one in over], 0.5),
        "over_p99": quantile([max(0.0, one) for one in over], 0.99),
        "immediate": len(immediate),
        "immediate_p50": quantile(immediate, 0.5),
        "immediate_p99": quantile(immediate, 0.99),
        "manager_cores": cpu / seconds,
        "clients_cores": theirs / seconds,
        "empty_bytes": empty,
        "resident_bytes": max(memory),
        "resident_bytes_after_changes": most,
        "changes": changes,
    }


async def one_change(
    made: Sequence[Client], url: str, pid: int, cluster: str, token: str, number: int, count: int,
    wait: float,
) -> dict[str, float]:  # fmt: skip
    """How long a change takes to reach all, and how others are answered meanwhile."""
    cpu = cpu_seconds(pid)
    began = await asyncio.to_thread(change, url, cluster, token, number)
    arrivals: list[float] = []
    immediate: list[tuple[float, float]] = []
    over: list[tuple[float, float]] = []
    until = time.monotonic() + REACH_SECONDS
    while len(arrivals) < count:
        if time.monotonic() > until:
            raise SystemExit(f"a change reached {len(arrivals)} of {count} members")
        await asyncio.sleep(1.0)
        more = await told(made)
        arrivals += [at - began for value, at in more["news"] if value == number]
        immediate += more["immediate"]
        over += more["over"]
    reached = max(arrivals)
    meanwhile = [took for at, took in immediate if at - took < began + reached and at > began]
    # They come back together; until their waits have ended.
    await asyncio.sleep(wait + 5)
    more = await told(made)
    after = [max(0.0, seconds) for _, seconds in [*over, *more["over"]]]
    return {
        "p50": quantile(arrivals, 0.5),
        "p99": quantile(arrivals, 0.99),
        "last": reached,
        "immediate_meanwhile_p99": quantile(meanwhile, 0.99) if meanwhile else 0.0,
        "over_after_p99": quantile(after, 0.99),
        "cpu": cpu_seconds(pid) - cpu,
    }


def report(found: dict[str, Any], options: argparse.Namespace) -> None:
    print(f"{options.peers} peers, {options.schedulers} schedulers; {machine()}\n")
    rows = [("manager, SQLite", "measured", "target")]

    def row(name: str, value: str, met: bool | None = None, target: str = "") -> None:
        rows.append((name, value, "" if met is None else f"{target}: {VERDICT[met]}"))

    def ms(name: str) -> str:
        return f"{found[f'{name}_p50'] * 1e3:.1f}, {found[f'{name}_p99'] * 1e3:.1f}"

    row(f"{found['members']} members come at {RATE:g}/s: first answers p50, p99, ms", ms("first"))
    row("   manager's CPU meanwhile, cores", f"{found['coming_cores']:.2f}")
    met = found["over_p99"] < P99_TARGET
    what = f"{found['seconds']:.0f} s of waits of {options.wait:g} s: over the wait p50, p99, ms"
    row(what, ms("over"), met, "< 1000")
    row("   answers a second", f"{found['answers'] / found['seconds']:.0f}")
    row("   of which before their wait's end", f"{found['ended_early']:.1%}")
    met = found["immediate_p99"] < P99_TARGET
    row("   immediate answers p50, p99, ms", ms("immediate"), met, "< 1000")
    met = found["manager_cores"] <= CORES_TARGET
    row("   manager's CPU, cores", f"{found['manager_cores']:.2f}", met, "<= 1")
    row("   clients' CPU, cores", f"{found['clients_cores']:.2f}")
    met = found["resident_bytes"] <= MEMORY_TARGET
    resident, empty = found["resident_bytes"] / 2**20, found["empty_bytes"] / 2**20
    row("   manager's memory, MiB", f"{resident:.0f}", met, "<= 500")
    row("   before anybody came, MiB", f"{empty:.0f}")
    each = (found["resident_bytes"] - found["empty_bytes"]) / found["members"] / 1024
    row("   for each member, KiB", f"{each:.1f}")
    for number, one in enumerate(found["changes"], 1):
        told = ", ".join(f"{one[name]:.2f}" for name in ("p50", "p99", "last"))
        row(f"change {number} of configuration reaches p50, p99, all, s", told)
        row("   immediate answers meanwhile p99, ms", f"{one['immediate_meanwhile_p99'] * 1e3:.0f}")
        row(
            "   over the wait p99 until all waits have ended, ms",
            f"{one['over_after_p99'] * 1e3:.0f}",
        )
        row("   manager's CPU until then, s", f"{one['cpu']:.1f}")
    row("memory after the changes, MiB", f"{found['resident_bytes_after_changes'] / 2**20:.0f}")
    print_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, default=10_000)
    parser.add_argument("--schedulers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--wait", type=float, default=20.0)
    parser.add_argument("--changes", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_descriptors(options.peers + options.schedulers + 100)
    with tempfile.TemporaryDirectory(prefix="hawker-manager-") as name:
        found = asyncio.run(measure(Path(name), options))
    report(found, options)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
