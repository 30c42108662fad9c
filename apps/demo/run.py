"""The demo from beginning to end: start a cluster, measure, draw, stop everything."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from hawker.apps.cli.text import size
from hawker.apps.demo import chart
from hawker.apps.demo.figures import Figures, OriginFigures, PeerFigures
from hawker.apps.demo.origin import COUNT_PATH
from hawker.apps.demo.processes import Fleet, Running
from hawker.apps.demo.swarm import Member, Plain, Swarm, introduce, plain_download
from hawker.apps.demo.view import TIMES, View
from hawker.core.errors import DigestMismatch, OutputFailed, StorageFailed, Unavailable
from hawker.core.pieces import Layout
from hawker.core.tokens import create_key_file

# A role takes about a second of one processor to start; they start at the same time.
START_SECONDS, START_SECONDS_PER_PEER = 30.0, 5.0
COUNT_TIMEOUT = 10.0
COUNT_EVERY = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: share `source`, a file or an http(s) URL, with so many peers.

    `uplink` is the rate in bytes per second that an own origin is held to. Everything lives below
    `directory`, which stays if `keep`; the chart goes to `svg`.
    """

    source: Path | str
    peers: int
    uplink: float
    directory: Path
    svg: Path
    keep: bool

    @property
    def start_seconds(self) -> float:
        """How long the cluster may take to start."""
        return START_SECONDS + START_SECONDS_PER_PEER * self.peers


class _Count(msgspec.Struct):
    content_bytes: int
    requests: int
    unfinished: int


class _Origin:
    """The origin as its clients know it; only our own can be asked for a count."""

    def __init__(self, url: str, *, counts: bool) -> None:
        self.url = url
        # Plain HTTP on this machine: certificates, slow to load, are not needed.
        self._client = httpx.AsyncClient(timeout=COUNT_TIMEOUT, trust_env=False, verify=False)
        self._base = httpx.URL(url).copy_with(path=COUNT_PATH, query=None) if counts else None
        self._before: _Count | None = None
        self.sent: int | None = None

    async def close(self) -> None:
        await self._client.aclose()

    async def mark(self) -> None:
        """What was counted so far belongs to somebody else."""
        self._before = await self._read(settled=True)

    async def figures(self, total: int) -> OriginFigures | None:
        """What was counted since the mark, once the origin has settled."""
        now, before = await self._read(settled=True), self._before
        if now is None or before is None:
            return None
        sent = now.content_bytes - before.content_bytes
        return OriginFigures(
            content_bytes=sent,
            requests=now.requests - before.requests,
            unfinished=now.unfinished - before.unfinished,
            times=sent / total if total else None,
        )

    async def watch(self) -> None:
        """Keep `sent` up to date, until cancelled."""
        while self._before:
            now = await self._read(settled=False)
            self.sent = now.content_bytes - self._before.content_bytes if now else None
            await asyncio.sleep(COUNT_EVERY)

    async def _read(self, *, settled: bool) -> _Count | None:
        if self._base is None:
            return None
        url = self._base.copy_with(query=b"settled" if settled else None)
        try:
            answer = (await self._client.get(url)).raise_for_status()
            return msgspec.json.decode(answer.content, type=_Count)
        except (httpx.HTTPError, msgspec.DecodeError) as exc:
            raise Unavailable(f"the demo's origin does not give its count: {exc}") from exc


async def run(plan: Plan, view: View) -> Figures:
    """Do what the plan says, and tell what came of it.

    Raises:
        OriginFailed, NotFound: the source cannot be read.
        Unavailable: a process did not start.
        StorageFailed: there is not room enough for one copy a peer.
    """
    expected = await asyncio.to_thread(_digest_of, plan.source)
    async with Fleet(plan.directory) as fleet, contextlib.AsyncExitStack() as stack:
        view.say(f"starting a scheduler, a seed peer and {plan.peers} peers, a process each")
        async with asyncio.timeout(plan.start_seconds * 3):
            origin, scheduler = await _start_origin_and_scheduler(fleet, plan)
            seed, *peers = await _start_peers(fleet, plan, scheduler)
        stack.push_async_callback(origin.close)
        view.say(f"one plain download of {origin.url}")
        plain = await plain_download(origin.url, lambda total: _check_room(plan, total))
        _check_room(plan, plain.size)
        if expected not in ("", plain.sha256):
            raise DigestMismatch("the file changed since the demo began", hint="run it again")
        view.say(f"  {size(plain.size)} in {plain.seconds:.2f} s; now {plan.peers} at once")
        await origin.mark()
        swarm = Swarm(origin.url, seed, peers)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(origin.watch())
            with view.watching(swarm, lambda: origin.sent):
                await swarm.run()
            watch.cancel()
        figures = _figures(plan, plain, swarm, await origin.figures(plain.size))
        _draw(plan, figures, swarm)
        return figures


def _digest_of(source: Path | str) -> str:
    """Hex SHA-256 of a source file; empty for a URL."""
    if isinstance(source, str):
        return ""
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_room(plan: Plan, total: int) -> None:
    needed, free = total * (plan.peers + 1), shutil.disk_usage(plan.directory).free
    if needed > free:
        raise StorageFailed(
            f"{plan.peers} peers and a seed need {size(needed)}, {plan.directory} has {size(free)}",
            hint="take fewer peers or a smaller file, or set TMPDIR to a larger filesystem",
        )


async def _start_origin_and_scheduler(fleet: Fleet, plan: Plan) -> tuple[_Origin, Running]:
    create_key_file(plan.directory / "cluster.key")
    scheduler = fleet.start(
        "scheduler", "hawker", *_serve(plan, "scheduler"), timeout=plan.start_seconds
    )
    if isinstance(plan.source, str):
        return _Origin(plan.source, counts=False), await scheduler
    async with asyncio.TaskGroup() as group:
        started = group.create_task(scheduler)
        origin = await fleet.start(
            "origin",
            "hawker.apps.demo.origin",
            *("--rate", str(plan.uplink), "--", str(plan.source)),
            timeout=plan.start_seconds,
        )
    return _Origin(origin.ready.url, counts=True), started.result()


async def _start_peers(fleet: Fleet, plan: Plan, scheduler: Running) -> list[Member]:
    """The seed, then the peers; they start at the same time."""

    async def start(name: str, *flags: str) -> Member:
        arguments = (*_serve(plan, "peer", name), "--scheduler", scheduler.ready.url, *flags)
        ready = (await fleet.start(name, "hawker", *arguments, timeout=plan.start_seconds)).ready
        return await introduce(
            name, ready.url, ready.socket, seed=bool(flags), timeout=plan.start_seconds
        )

    async with asyncio.TaskGroup() as group:
        started = [group.create_task(start("seed", "--seed"))]
        started += [
            group.create_task(start(f"peer {number}")) for number in range(1, plan.peers + 1)
        ]
    return [task.result() for task in started]


def _serve(plan: Plan, role: str, name: str = "") -> list[str]:
    data = plan.directory / (name or role).replace(" ", "-")
    key = plan.directory / "cluster.key"
    return [
        *("serve", role, "--host", "127.0.0.1", "--port", "0", "--data", str(data)),
        *("--cluster-key", str(key), "--json"),
    ]


def _figures(plan: Plan, plain: Plain, swarm: Swarm, origin: OriginFigures | None) -> Figures:
    plain_all = plan.peers * plain.seconds
    return Figures(
        source=str(plan.source),
        size=plain.size,
        sha256=plain.sha256,
        peers=plan.peers,
        uplink=None if isinstance(plan.source, str) else plan.uplink,
        plain_seconds=plain.seconds,
        plain_rate=plain.size / plain.seconds,
        plain_all_seconds=plain_all,
        swarm_seconds=swarm.seconds,
        times_faster=plain_all / swarm.seconds,
        origin=origin,
        seed_read=swarm.seed.progress.from_origin,
        rows=[_row(peer, plain) for peer in swarm.peers],
        svg=str(plan.svg),
        kept=str(plan.directory) if plan.keep else "",
    )


def _row(peer: Member, plain: Plain) -> PeerFigures:
    step, seconds = peer.progress, peer.seconds
    return PeerFigures(
        name=peer.name,
        host=peer.host,
        seconds=seconds,
        rate=plain.size / seconds if seconds else None,
        from_seed=step.from_seeds,
        from_peers=step.from_peers,
        from_origin=step.from_origin,
        sha256=peer.sha256,
        right=peer.sha256 == plain.sha256,
        problem=peer.problem,
    )


def _draw(plan: Plan, figures: Figures, swarm: Swarm) -> None:
    step = next((p.progress for p in swarm.peers if p.progress.piece_length), None)
    pieces = Layout(figures.size, step.piece_length).count if step else None
    title = f"{size(figures.size)} to {plan.peers} peers in {figures.swarm_seconds:.2f} s"
    if figures.origin and figures.origin.times is not None:
        title += f"; the origin sent {figures.origin.times:.2f} {TIMES} the file"
    uplink = f"{figures.uplink / 1e6:g} MB/s uplink" if figures.uplink else "uplink"
    text = chart.render(
        title,
        f"{plan.peers} plain downloads over the same {uplink}: {figures.plain_all_seconds:.1f} s "
        f"(computed from one, measured: {figures.plain_seconds:.2f} s)",
        [_lane(member) for member in (swarm.seed, *swarm.peers)],
        pieces or 1,
        (figures.plain_seconds, "one plain download"),
    )
    try:
        plan.svg.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise OutputFailed(f"{plan.svg} cannot be written: {exc.strerror}") from exc


def _lane(member: Member) -> chart.Lane:
    step = member.progress
    arrived = [
        msgspec.structs.replace(a, at=max(0.0, a.at + member.began)) for a in member.arrivals
    ]
    if member.seed:
        note = f"{size(step.from_origin)} from the origin"
    elif member.seconds is None:
        note = "failed"
    else:
        share = 100 * step.from_peers / step.valid_bytes if step.valid_bytes else 0
        note = f"{member.seconds:.2f} s · {share:.0f} % from peers"
    end = None if member.seed else member.ended
    return chart.Lane(member.host, member.name, arrived, note, end, member.seed)
