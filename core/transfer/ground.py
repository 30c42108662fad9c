"""What every task of a host stands on: its store, keys, plugins and clients."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hawker.core.contracts import Codec, Plugins, Source, SourceRequest, Transport
from hawker.core.digests import HostKey
from hawker.core.errors import Unavailable
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport, DownloadRequest, ParentRef
from hawker.core.pieces import Layout, PieceSet
from hawker.core.priorities import Levels
from hawker.core.settings import TlsSettings
from hawker.core.storage import Entry, Store
from hawker.core.tls import ClientTls
from hawker.core.tokens import ClusterKey
from hawker.core.transfer.access import AccessChecks, is_own
from hawker.core.transfer.naming import Named, name
from hawker.core.transfer.quotas import Quotas


@dataclass
class Counters:
    """What this host moved, in bytes and events since it started.

    `downloads`, `parents_left` and `reads` (leases on origins) are by outcome or by the code of the
    problem that ended them.
    """

    origin_bytes: int = 0
    seed_bytes: int = 0
    peer_bytes: int = 0
    duplicate_bytes: int = 0
    corrupt_pieces: int = 0
    refused_requests: int = 0
    failed_requests: int = 0
    unscheduled_reads: int = 0
    client_bytes: int = 0
    downloads: Counter[str] = field(default_factory=Counter)
    parents_left: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)


@dataclass
class Ground:
    """Shared by all tasks of a host. `tokens` is None where there is no cluster to talk to; `roots`
    are the directories whose files other hosts may have read; `levels` the priorities of downloads
    that name none, where no scheduler knows them."""

    store: Store
    plugins: Plugins
    key: HostKey
    tokens: ClusterKey | None
    transports: Sequence[str] = ("http1",)
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    roots: Sequence[str] = ()
    levels: Levels = field(default_factory=Levels)
    tls: ClientTls = field(default_factory=lambda: ClientTls(TlsSettings()))
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.monotonic
    counters: Counters = field(default_factory=Counters)
    access: AccessChecks = field(init=False)
    quotas: Quotas = field(init=False)

    def __post_init__(self) -> None:
        self.access = AccessChecks(self.clock)
        self.quotas = Quotas(self.store, self.clock)

    @property
    def host(self) -> str:
        return self.key.host

    def source(self, url: str) -> Source:
        """The source plugin for the scheme of a URL; raises UnknownPlugin."""
        source: Source = self.plugins.get("hawker.sources", url.partition(":")[0])
        return source

    def transport(self, parent: ParentRef) -> Transport:
        """The first of our transports that a parent speaks; one that says nothing speaks HTTP/1.1.

        Raises:
            Unavailable: it speaks none of them.
            UnknownPlugin: its plugin cannot be used.
        """
        spoken = parent.transports or ["http1"]
        for ours in self.transports:
            if ours in spoken:
                transport: Transport = self.plugins.get("hawker.transports", ours)
                return transport
        raise Unavailable(
            f"{parent.url} speaks {', '.join(spoken)}, and we {', '.join(self.transports)}",
            hint="add one of them to peer.transports",
        )

    def named(self, request: DownloadRequest, *, local: bool) -> Named:
        """What a request names here; see `naming.name`."""
        return name(request, host=self.host, roots=self.roots, local=local)

    def own(self, spec: TaskSpec) -> bool:
        """Whether no other host may hear of this task."""
        return is_own(spec, self.roots)

    def headers(self, spec: TaskSpec) -> dict[str, str]:
        """Header fields that let this host take a task's pieces from another."""
        if self.tokens is None:
            return {}
        token = self.tokens.mint(self.host, ["pieces"], task=spec.task_id, tenant=spec.tenant)
        return {"authorization": f"Bearer {token}"}


class ReadingTask(Protocol):
    """What a reader needs of its task."""

    @property
    def origin(self) -> SourceRequest:
        """What to ask the origin for, and what to show it."""
        ...

    @property
    def used(self) -> bool:
        """Somebody on this host waits for it; else it is read for others alone."""
        ...

    @property
    def partial(self) -> Entry | None:
        """What this host stores of the task already."""
        ...

    async def adopt(self, generation: str, layout: Layout, modified: int | None) -> Entry:
        """Make this the generation of the task on this host."""
        ...

    def claim(self, pieces: PieceSet) -> PieceSet:
        """Reserve pieces for the reader; returns those it got (not valid, not on their way)."""
        ...

    @property
    def coming(self) -> PieceSet:
        """Pieces that other peers are sending, or that wait here for their digests."""
        ...

    async def unclaimed(self) -> None:
        """Wait a moment for pieces that are coming: they arrive, or can be claimed."""
        ...

    async def take_over(self, pieces: PieceSet) -> None:
        """Wait for these pieces no longer: they can be claimed."""
        ...

    def arrived(self, pieces: PieceSet) -> None:
        """These pieces from the origin are valid now."""
        ...

    async def discard(self) -> None:
        """Drop everything stored of the generation: it is wrong."""
        ...

    def wanted(self, pieces: PieceSet) -> PieceSet:
        """Those of these that are to be stored: of content larger than the store only what its user
        did not deliver yet."""
        ...

    async def may_write(self, piece: int) -> bool:
        """Wait (briefly) until there is room for the piece; False to ask again."""
        ...

    async def served(self) -> None:
        """Return once nothing more of content larger than the store is to be read: what its user
        wants is here, or it left."""
        ...

    def report(self, report: AnyReport, *, urgent: bool = False) -> None: ...

    def flush(self) -> None:
        """Before a lease is over: report what became valid and was not reported yet, and that
        nothing is wanted where that is so."""
        ...
