"""Tables of rounds: each host, each round, and medians beside the targets."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from benchmarks.figures import print_table, spread
from benchmarks.swarm.description import ORIGIN, SEED, ZONE, Description, Link
from benchmarks.swarm.play import CALM, Round
from hawker.core.pieces import piece_length_for

MIB = 2**20


def ratios(found: Round, bound: float) -> tuple[float, float] | None:
    """The last survivor's time and the median one's, over the bound; None where one failed."""
    times = found.ordered
    return (times[-1] / bound, statistics.median(times) / bound) if times else None


def duplicate_share(found: Round) -> float | None:
    """Duplicate bytes over those that were wanted, as the system counts; None where it does not."""
    wanted = len(found.receivers) * found.size
    return sum(found.figures.duplicates.values()) / wanted if found.figures.duplicates else None


def received_share(found: Round) -> float:
    """Bytes of packets that receivers got, over those that they wanted: all overhead is in it."""
    total = sum(sum(found.received[name].values()) for name in found.receivers)
    return total / (len(found.receivers) * found.size)


def messages_per_piece(found: Round) -> float | None:
    """Reports and decisions over pieces that hosts received; None where nobody schedules."""
    pieces = -(-found.size // piece_length_for(found.size)) * len(found.receivers)
    told = found.figures.messages
    return (told["reports"] + told["decisions"]) / pieces if told else None


def idle_uplinks(found: Round, links: dict[str, Link]) -> float:
    """Share of all receivers' and the seed's uplinks that was not used up to the last end."""
    names = [*found.receivers, SEED]
    could = sum(links[name].up for name in names) * 1e6 / 8 * found.times[-1]
    return 1 - sum(found.sent[name][0] for name in names) / could


def others(found: Round) -> float:
    """Share of the machine's time that neither idled nor was spent by the bed's processes: the
    kernel's for packets, this program's, and that of whoever else uses the machine."""
    could = found.times[-1] * (os.cpu_count() or 1)
    return max(0.0, 1 - found.idle - sum(found.cpu.values()) / could)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_rounds(rounds: Sequence[Round], bounds: dict[int, float], links: dict[str, Link]) -> None:
    """A line a round."""
    head = (
        *("system", "last s", "/bound", "p50 s", "/bound", "origin x", "requests"),
        *(
            "dup %",
            "received x",
            "seed sent x",
            "idle up %",
            "msg/piece",
            "CPU s",
            "others %",
            "idle %",
            "drops",
            "",
        ),
    )
    rows = [head]
    for found in rounds:
        bound, times = bounds[found.size], found.ordered
        ratio = ratios(found, bound)
        origin = found.figures.origin_bytes
        duplicates = duplicate_share(found)
        name = found.system if found.scenario == CALM.name else f"{found.system}: {found.scenario}"
        note = "; ".join(found.problems)
        if found.strikes:
            note = "; ".join(f"{do} {on} at {at:.1f}" for at, do, on in found.strikes) + " " + note
        rows.append(
            (
                name,
                f"{times[-1]:.2f}" if times else "FAILED",
                f"{ratio[0]:.3f}" if ratio else "-",
                f"{statistics.median(times):.2f}" if times else "-",
                f"{ratio[1]:.3f}" if ratio else "-",
                _or_dash(None if origin is None else origin / found.size, ".3f"),
                _or_dash(found.figures.origin_requests, "d"),
                _or_dash(None if duplicates is None else duplicates * 100, ".2f"),
                f"{received_share(found):.3f}",
                f"{found.sent[SEED][0] / found.size:.2f}",
                f"{idle_uplinks(found, links) * 100:.0f}",
                _or_dash(messages_per_piece(found), ".2f"),
                f"{sum(found.cpu.values()):.1f}",
                f"{others(found) * 100:.0f}",
                f"{found.idle * 100:.0f}",
                f"{sum(found.dropped.values())}",
                note,
            )
        )
    print_table(rows)


def print_told(rounds: Sequence[Round]) -> None:
    """What systems say besides, a line a round."""
    for found in rounds:
        if found.figures.told:
            words = (f"{key.replace('_', ' ')} {n:g}" for key, n in found.figures.told.items())
            print(f"{found.system}, {found.scenario}: {', '.join(words)}")


def print_hosts(found: Round, description: Description, bound: float) -> None:
    """A line a host of one round; rates as described, sizes MiB."""
    links, zones = description.links(), description.receivers()
    print(f"\n{found.system}, {found.scenario}: every host")
    head = ("host", "zone", "up", "down", "s", "/bound", "from origin", "seed", "peers")
    rows = [(*head, "sent", "uplink %", "dup MiB", "CPU s", "")]
    for name in (ORIGIN, SEED, *found.receivers):
        senders = found.received.get(name, {})
        peers = sum(size for sender, size in senders.items() if sender in zones)
        seconds = found.seconds.get(name)
        could = links[name].up * 1e6 / 8 * found.times[-1]
        duplicates = found.figures.duplicates.get(name)
        rows.append(
            (
                name,
                zones[name].zone if name in zones else "",
                f"{links[name].up:g}",
                f"{links[name].down:g}",
                _or_dash(seconds, ".2f"),
                _or_dash(None if seconds is None else seconds / bound, ".3f"),
                f"{senders.get(ORIGIN, 0) / MIB:.1f}",
                f"{senders.get(SEED, 0) / MIB:.1f}",
                f"{peers / MIB:.1f}",
                f"{found.sent[name][0] / MIB:.1f}",
                f"{found.sent[name][0] / could * 100:.0f}",
                _or_dash(None if duplicates is None else duplicates / MIB, ".2f"),
                f"{found.cpu[name]:.1f}",
                "lost to a fault" if name in found.lost else "",
            )
        )
    print_table(rows)
    for zone in description.zones:
        up, down = found.sent[ZONE + zone]
        print(
            f"zone {zone}: {down / found.size:.3f}x the content into it, {up / found.size:.3f}x out"
        )


def print_matrix(found: Round) -> None:
    """Who served whom, MiB: a line a receiver, a column a sender."""
    senders = [name for name in (ORIGIN, SEED, *found.receivers) if name in found.received]
    short = [name.removeprefix("host-") for name in senders]
    print(f"\n{found.system}, {found.scenario}: MiB from each (columns) to each (lines)")
    rows: list[tuple[str, ...]] = [("", *short, "")]
    for receiver in (SEED, *found.receivers):
        got = (found.received[receiver].get(sender, 0) / MIB for sender in senders)
        rows.append((receiver, *(f"{size:.1f}" if size >= 0.05 else "." for size in got), ""))
    print_table(rows)


def print_medians(rounds: Sequence[Round], bounds: dict[int, float]) -> None:
    """Median, least and most over the calm rounds of each system."""
    rows = [("system", "rounds", "last / bound", "p50 / bound", "")]
    for system in dict.fromkeys(found.system for found in rounds):
        calm = [r for r in rounds if r.system == system and r.scenario == CALM.name]
        whole = [ratio for r in calm if (ratio := ratios(r, bounds[r.size]))]
        failed = len(calm) - len(whole)
        told = f"{failed} FAILED" if failed else ""
        if whole:
            last, middle = ([pair[n] for pair in whole] for n in (0, 1))
            rows.append((system, str(len(calm)), spread(last, 3), spread(middle, 3), told))
        else:
            rows.append((system, str(len(calm)), "-", "-", told))
    print_table(rows)


def print_faults(rounds: Sequence[Round]) -> None:
    """What each scenario added to the last survivor's time, against calm rounds' median."""
    rows = [("fault", "rounds", "calm s", "with s", "added s", "extra origin bytes", "")]
    for system in dict.fromkeys(found.system for found in rounds):
        ours = [r for r in rounds if r.system == system]
        calm = [r.ordered[-1] for r in ours if r.scenario == CALM.name and r.ordered]
        for scenario in dict.fromkeys(r.scenario for r in ours if r.scenario != CALM.name):
            struck = [r for r in ours if r.scenario == scenario]
            times = [r.ordered[-1] for r in struck if r.ordered]
            extra = [r.figures.origin_bytes - r.size for r in struck if r.figures.origin_bytes]
            failed = len(struck) - len(times)
            added = [time - statistics.median(calm) for time in times] if calm else []
            rows.append(
                (
                    f"{system}: {scenario}",
                    str(len(struck)),
                    spread(calm, 2) if calm else "-",
                    spread(times, 2) if times else "-",
                    spread(added, 2) if added else "-",
                    f"{max(extra)}" if extra else "-",
                    f"{failed} FAILED" if failed else "",
                )
            )
    print_table(rows)
