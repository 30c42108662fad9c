"""What `hawker top` shows, as lines that fit a terminal. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hawker.apps.cli.text import age, printable, size
from hawker.core.window import ORIGIN, ClusterOverview, SeenPeer, SeenTask, TaskLine

BAR = 12
BUSY = ("waiting", "running")


def overview_lines(name: str, overview: ClusterOverview) -> list[str]:
    """How much there is, what is moved now, and what was."""
    hosts = overview.hosts.get("connected", 0)
    away = sum(overview.hosts.values()) - hosts
    first = f"{printable(name)}: {_many(hosts, 'host')}"
    first += f" ({away} not connected)" if away else ""
    first += f", {_many(sum(overview.tasks.values()), 'task')}, {_many(overview.peers, 'peer')}"
    first += f", {overview.complete} complete, {_many(overview.leases, 'lease')}"
    if overview.away:
        first += f"; away: {', '.join(map(printable, overview.away))}"
    return [
        first,
        f"now: {size(overview.rate)}/s delivered, {size(overview.origin_rate)}/s from origins",
        f"in {age(max(0.0, overview.at - overview.since))}: {size(overview.delivered_bytes)}"
        f" delivered, {size(overview.origin_bytes)} from origins,"
        f" {size(overview.saved_bytes)} saved{_part(overview)}",
    ]


def task_lines(tasks: Sequence[TaskLine], width: int, height: int) -> list[str]:
    """A table of tasks, those first that somebody waits for."""
    shown = sorted(tasks, key=lambda line: (not line.wanting, -line.at))[: max(0, height - 1)]
    head = f"{'TASK':<9}{'STATE':<10}{'DONE':>7} {'SIZE':>9} {'RATE':>10} {'ORIGIN':>9}  URL"
    lines = [cut(head, width)]
    for line in shown:
        state = "wanted" if line.wanting and line.state == "live" else line.state
        total = "?" if line.total is None else size(line.total)
        told = f"{line.task[:8]:<9}{state:<10}{f'{line.complete}/{line.peers}':>7} {total:>9}"
        told += f" {_rate(line.rate):>10} {size(line.origin_bytes):>9}  "
        # Its end tells more than its beginning.
        lines.append(cut(told + _end(printable(line.url), width - len(told)), width))
    return lines


def peer_lines(seen: SeenTask, width: int, height: int, at: float) -> list[str]:
    """A task: what it is, its reader, and its peers with what they have and who sends it."""
    task, totals = seen.task, seen.totals
    pieces = 0 if not task.total else -(-task.total // task.piece_length)
    state = "at rest" if seen.ended else task.state
    total = "?" if task.total is None else size(task.total)
    lines = [
        f"task {task.task[:8]} ({state}): {printable(task.url)}",
        f"{total} in {_many(pieces, 'piece')}; {totals.complete}/{totals.peers} complete,"
        f" {size(0 if seen.ended else totals.rate)}/s; origin {size(totals.origin_bytes)},"
        f" saved {size(totals.saved_bytes)}",
    ]
    for lease in seen.leases:
        reader = seen.peers.get(lease.peer)
        name = "?" if reader is None else _name(reader)
        lines.append(f"{name} reads the origin: {size(lease.read_bytes)}")
    lines.append(f"{'PEER':<21}{'STATE':<9}{'HAS':<{BAR + 7}}{'RATE':>10}  FROM")
    rates = seen.rates(at)
    peers = sorted(seen.peers.values(), key=lambda p: (p.state not in BUSY, len(p.have), p.number))
    room = max(0, height - len(lines))
    shown = peers if len(peers) <= room else peers[: max(0, room - 1)]
    for peer in shown:
        edges = {sender: rate for (child, sender), rate in rates.items() if child == peer.number}
        has = f"{_bar(len(peer.have), pieces)} "
        told = f"{_name(peer):<21.20}{peer.state:<9}{has}{_rate(sum(edges.values())):>10}"
        lines.append(f"{told}  {_senders(seen, edges)}")
    if len(shown) < len(peers):
        lines.append(f"and {len(peers) - len(shown)} more")
    return [cut(line, width) for line in lines[:height]]


def screen(
    name: str,
    overview: ClusterOverview,
    tasks: Sequence[TaskLine],
    seen: SeenTask | None,
    width: int,
    height: int,
) -> list[str]:
    """All of it, in a terminal of this size."""
    lines = [cut(line, width) for line in overview_lines(name, overview)]
    room = height - len(lines)
    if seen is None:
        return [*lines, *task_lines(tasks, width, room)][:height]
    return [*lines, *peer_lines(seen, width, room, seen.at)][:height]


def cut(line: str, width: int) -> str:
    """A line that is no wider than so."""
    return line if len(line) <= width else f"{line[: max(0, width - 1)]}…"


def _end(text: str, room: int) -> str:
    """As much of the end as there is room for."""
    return text if len(text) <= room else f"…{text[len(text) - max(0, room - 1) :]}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _part(overview: ClusterOverview) -> str:
    if not overview.delivered_bytes:
        return ""
    return f" ({100 * overview.saved_bytes // overview.delivered_bytes} %)"


def _rate(rate: int) -> str:
    return f"{size(rate)}/s" if rate else "-"


def _bar(have: int, of: int) -> str:
    """A bar with a percentage behind it, of a constant width."""
    part = min(1.0, have / of) if of else 0.0
    full = int(part * BAR)
    return f"{'█' * full}{'·' * (BAR - full)} {int(100 * part):>3} %"


def _name(peer: SeenPeer) -> str:
    name = printable(peer.hostname) or peer.host[:12] or f"#{peer.number}"
    short = f"{name[:14]} {peer.host[:4]}" if peer.hostname else name
    return f"{short} (seed)" if peer.seed else short


def _senders(seen: SeenTask, edges: dict[int, int]) -> str:
    """Who sends most now."""
    told = []
    for sender, rate in Counter(edges).most_common(3):
        peer = seen.peers.get(sender)
        name = "origin" if sender == ORIGIN else "?" if peer is None else _name(peer)
        if rate:
            told.append(f"{name} {_rate(rate)}")
    return ", ".join(told)
