"""Every message between roles, as JSON by msgspec; unknown fields are ignored.

Bytes travel as base64. Tagged kinds that a receiver does not know are skipped and counted by
`decode_known`, so that a newer sender does no harm. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from hawker.core.digests import DigestRun, Reader
from hawker.core.errors import BadRequest, Problem
from hawker.core.ids import TaskSpec
from hawker.core.limits import MOST, Limits
from hawker.core.pieces import Layout, Run
from hawker.core.ranges import ByteRange

T = TypeVar("T")
# Since 1970, up to the last that a date of HTTP can say.
Seconds = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800)]


class Load(msgspec.Struct, frozen=True, omit_defaults=True):
    """How busy a host is, as it announces it."""

    uploads: int = 0
    sent_bytes_per_second: float = 0.0
    free_bytes: int = 0


class HostAnnouncement(msgspec.Struct, frozen=True, omit_defaults=True):
    """PUT /scheduler/v1/hosts/{host}: a host, as others reach it.

    `url` is the base URL of its peer role. `boot` changes with each start of the process: reports
    are ordered within a boot. `transports` and `codings` are what it can serve. `draining`: it is
    to be taken out of service: who can get pieces elsewhere is not sent to it any more.
    """

    url: str
    key: bytes
    boot: str
    seed: bool = False
    hostname: str = ""
    idc: str = ""
    location: str = ""
    upload_slots: int = 4
    transports: list[str] = []
    codings: list[str] = []
    version: str = ""
    load: Load = Load()
    draining: bool = False


class Announced(msgspec.Struct, frozen=True, omit_defaults=True):
    """The scheduler's answer to an announcement.

    A new `epoch` means that the scheduler knows nothing of the host: register again. `tenants` are
    those that have quotas, None where that is still what `quotas` stands for, which the host named.
    """

    epoch: str
    announce_after: float
    report_after_ms: int
    tenants: dict[str, Limits] | None = None
    quotas: str = ""


# ---------------------------------------------------------------------------- decisions


class ParentRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host to take pieces from. `spine` edges are acyclic, the others are neighbours."""

    host: str
    url: str
    spine: bool = False
    seed: bool = False
    transports: list[str] = []


class Decision(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What the scheduler decided for one host and task; `revision` grows within the task."""

    task: str
    revision: int = 0


class Parents(Decision, frozen=True, kw_only=True, tag="parents", omit_defaults=True):
    """Whom to take pieces from. Replaces the previous record of the task.

    Empty `generation` means that nobody knows the content yet: wait for the next record. `digest`
    is what the origin says the whole has, where no reader checks that for all; `modified` is when
    it was last changed there, in seconds since 1970. A `gateway` brings pieces into its zone.
    """

    generation: str = ""
    layout: Layout | None = None
    gateway: bool = False
    parents: list[ParentRef] = []
    readers: list[Reader] = []
    digest: str = ""
    modified: Seconds | None = None


class Read(Decision, frozen=True, kw_only=True, tag="read", omit_defaults=True):
    """A lease on the origin: read these ranges (all of it where `ranges` is None).

    Where `generation` is given the content must still be that one, judged by `validator`, and was
    `modified` at that time (seconds since 1970). `rate` is
    the most bytes per second to read, 0 for no limit. Empty `ranges` say that the lease is over.
    `request` is the id of a request that the content is read for, for the log.
    """

    lease: str
    spec: TaskSpec
    ranges: list[ByteRange] | None = None
    generation: str = ""
    validator: str = ""
    ranged: bool = False
    layout: Layout | None = None
    modified: Seconds | None = None
    rate: int = 0
    request: str = ""


class Stop(Decision, frozen=True, kw_only=True, tag="stop"):
    """The task cannot be had: every waiting request ends with this problem."""

    problem: Problem


class Withdrawn(Decision, frozen=True, kw_only=True, tag="withdrawn"):
    """The generation proved wrong or old: drop its bytes, serve none of them."""

    generation: str
    reason: str = ""


class Done(Decision, frozen=True, kw_only=True, tag="done"):
    """Nothing more will be decided for this task."""


class WhoHas(Decision, frozen=True, kw_only=True, tag="who-has"):
    """Register this task if you store any of it."""


class Reset(Decision, frozen=True, kw_only=True, tag="reset"):
    """The scheduler does not know you: announce and register everything again."""


class Goaway(Decision, frozen=True, kw_only=True, tag="goaway"):
    """The scheduler is about to stop: use another one, or come back. It names no task."""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A claim that cannot be had; `retry_after` are seconds, None where nobody knows."""

    number: int
    retry_after: float | None = None


class Allowance(Decision, frozen=True, kw_only=True, tag="allowance", omit_defaults=True):
    """What of a tenant's quotas this host may use; replaces the previous record. It names no task.

    `granted` and `refused` are of the claims in the host's last `Usage`. `bandwidth` is this host's
    part in bytes per second, 0 as long as there is none for it. Content that nobody uses is to be
    evicted until the tenant has no more than `keep` bytes stored here.
    """

    tenant: str
    limits: Limits = Limits()
    granted: list[int] = []
    refused: list[Refusal] = []
    bandwidth: int = 0
    keep: int | None = None


AnyDecision = Parents | Read | Stop | Withdrawn | Done | WhoHas | Reset | Goaway | Allowance


# ---------------------------------------------------------------------------- reports


class Report(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Something that happened at a host; `seq` counts up within the host's boot."""

    task: str
    seq: int = 0


def kind_of(message: Decision | Report) -> str:
    """What the message is called on the wire."""
    return str(type(message).__struct_config__.tag)


class Register(Report, frozen=True, kw_only=True, tag="register", omit_defaults=True):
    """This host takes part in a task, or has some of it stored.

    `want` None means all of it; an empty list nothing (it only serves what it has). `private`
    means that only this host can read the origin (its URL carries a signature, say).
    `readable` False forbids that anybody reads the origin for this request; without a `priority`
    it is that of its application, tag or URL. `lease` is the one
    under which its stored content was read; for content that was imported it is empty. `failover`
    says that the scheduler which should decide for this task is away. `request` is the id of the
    user's request, for the logs of those who have to do with it.
    """

    spec: TaskSpec
    want: list[ByteRange] | None = None
    private: bool = False
    readable: bool = True
    priority: int | None = None
    generation: str = ""
    layout: Layout | None = None
    have: list[Run] = []
    readers: list[Reader] = []
    failover: bool = False
    request: str = ""


class Have(Report, frozen=True, kw_only=True, tag="have", omit_defaults=True):
    """Pieces that became valid in this host's store; `senders` are bytes of them by the host that
    sent them."""

    generation: str
    pieces: list[Run]
    senders: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}


class ParentFailed(Report, frozen=True, kw_only=True, tag="parent-failed", omit_defaults=True):
    """A parent did not keep its promise; `reason` is a problem's suffix, `generation` the one that
    it was asked for."""

    parent: str
    reason: str = ""
    generation: str = ""


class PieceCorrupt(Report, frozen=True, kw_only=True, tag="piece-corrupt"):
    """A parent sent bytes that do not have their digest."""

    generation: str
    piece: int
    parent: str


class LeaseProgress(Report, frozen=True, kw_only=True, tag="lease-progress", omit_defaults=True):
    """A reader at work; `done` gives the lease back.

    Also sent while nothing arrives, for silence means a dead reader. `generation` is empty and
    `layout` without meaning until the origin has answered. `read_bytes` and `read_pieces`, whole
    ones, came under this lease. `validator` is a strong one; `ranged` says that the origin gives
    parts, too. `digest` is what the origin says the whole has; `checks`:
    nobody gets all of it before this reader has seen that it is so. `modified` is when the origin
    changed it last, in seconds since 1970.
    """

    lease: str
    generation: str
    layout: Layout
    validator: str = ""
    ranged: bool = False
    read_bytes: int = 0
    read_pieces: int = 0
    done: bool = False
    digest: str = ""
    checks: bool = False
    modified: Seconds | None = None


class Changed(Report, frozen=True, kw_only=True, tag="changed", omit_defaults=True):
    """The origin's content is no longer this generation."""

    generation: str
    lease: str = ""


class Length(Report, frozen=True, kw_only=True, tag="length"):
    """The total of a generation whose length was unknown, from its reader."""

    generation: str
    total: int


class Finished(Report, frozen=True, kw_only=True, tag="finished", omit_defaults=True):
    """Everything of the generation is valid in this host's store."""

    generation: str


class Failed(Report, frozen=True, kw_only=True, tag="failed", omit_defaults=True):
    """This host gave up on the task; a reader names its lease."""

    problem: Problem
    lease: str = ""


class Left(Report, frozen=True, kw_only=True, tag="left"):
    """This host no longer takes part and stores nothing of the task."""


ClaimKind = Literal["place", "read", "room"]
Size = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """Something of a tenant's quotas that a host wants, or has: a `place` for a download, bytes to
    `read` from origins, `room` for bytes to be stored. `size` is what of it is not used yet;
    numbers are never used again within the `life` of a host."""

    number: Size
    kind: ClaimKind
    size: Size
    granted: bool = False


class Idle(msgspec.Struct, frozen=True, array_like=True):
    """Stored content that nobody uses: when it was used last (seconds since 1970), its bytes."""

    used: float
    size: Size


class Usage(Report, frozen=True, kw_only=True, tag="usage", omit_defaults=True):
    """All that a host uses of a tenant's quotas; replaces what it said before. It names no task.

    `life` is one run of the host's process. `downloads` are at work, and got `rate` bytes per
    second lately, of the `bandwidth` that was this host's part then. `read_bytes` came from origins
    within the period of that number, in this life.
    `idle` is the content that may be evicted, the longest unused first, not necessarily all, and
    `idle_bytes` are those of all.
    `kept` repeats an allowance's `keep` that was kept to as far as was possible. `moved`: another
    scheduler decided before, `left`: another one does from now on.
    """

    tenant: str
    life: Annotated[str, msgspec.Meta(max_length=64)]
    claims: Annotated[list[Claim], msgspec.Meta(max_length=1 << 16)] = []
    downloads: Size = 0
    rate: Size = 0
    bandwidth: Size = 0
    period: Size = 0
    read_bytes: Size = 0
    stored_bytes: Size = 0
    idle: Annotated[list[Idle], msgspec.Meta(max_length=1024)] = []
    idle_bytes: Size = 0
    kept: Size | None = None
    moved: bool = False
    left: bool = False


AnyReport = (
    Register
    | Have
    | ParentFailed
    | PieceCorrupt
    | LeaseProgress
    | Changed
    | Length
    | Finished
    | Failed
    | Left
    | Usage
)


class ReportBatch(msgspec.Struct, frozen=True):
    """POST /scheduler/v1/hosts/{host}/reports; `events` are of kind `AnyReport`."""

    boot: str
    events: list[msgspec.Raw]


class ReportAnswer(msgspec.Struct, frozen=True):
    """`accepted` is the last sequence number the scheduler has; decisions may come with it."""

    epoch: str
    accepted: int
    report_after_ms: int
    decisions: list[msgspec.Raw] = []


# ---------------------------------------------------------------------------- peers


class Availability(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of a peer's availability stream; every field may be missing.

    `have` are pieces that may be asked for, `alone` those of them that no other child may ask for
    yet: who is told should ask for them before others. `free` are the upload slots now,
    `waiting_upstream` says that the peer itself waits for bytes, so that silence is not its fault.
    """

    total: int = -1
    piece_length: int = 0
    runs: list[DigestRun] = []
    have: list[Run] = []
    alone: list[Run] = []
    free: int | None = None
    waiting_upstream: bool = False


class DownloadRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /peer/v1/downloads: make content valid in this peer's store.

    Without a `tenant` it is the caller's own. `priority` is 0 to 6 (see `hawker.core.priorities`),
    or that of the application, tag or URL. `digest` is checked over the whole. `timeout` is in
    seconds. `pin` keeps the stream open after
    `done` until the client leaves, so that the stored file cannot be evicted meanwhile;
    `hard_link` prepares the stored file for a hard link (it becomes read-only). `headers` are shown
    to the URL's origin and to nobody else.
    """

    url: str
    tag: str = ""
    application: str = ""
    tenant: str = ""
    revision: str = ""
    digest: str = ""
    priority: int | None = None
    filtered_query_params: list[str] = []
    disable_back_to_source: bool = False
    range: ByteRange | None = None
    timeout: float = 7200.0
    pin: bool = False
    hard_link: bool = False
    trace: bool = False
    headers: dict[str, str] = {}


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """A run of pieces that became valid: who sent it (empty: the origin), when (seconds since the
    download began)."""

    first: int
    last: int
    source: str
    at: float


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a download's progress stream.

    `done` and `problem` end it. `path` (of the stored file) is given only over the unix socket, and
    `mark` with it: the file's size, time of last write (ns) and inode, as its store left it.
    `arrivals` only where the request asked for a trace. `ticket` comes with content that was read
    with header fields of the request's own, or through a signature, over TCP: while the stream is
    open, whoever shows it (`Hawker-Ticket`) may have the content by its id.
    """

    task: str
    generation: str = ""
    total: int | None = None
    piece_length: int = 0
    valid_bytes: int = 0
    from_origin: int = 0
    from_seeds: int = 0
    from_peers: int = 0
    seconds: float = 0.0
    done: bool = False
    path: str = ""
    mark: tuple[int, int, int] | None = None
    problem: Problem | None = None
    arrivals: list[Arrival] = []
    ticket: str = ""


class TaskStat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task as a peer stores it."""

    task: str
    generation: str
    spec: TaskSpec
    total: int | None
    piece_length: int
    valid_pieces: int
    valid_bytes: int
    complete: bool
    in_use: bool
    created: float
    used: float


# ---------------------------------------------------------------------------- coding

_encoder = msgspec.json.Encoder()
encode: Callable[[object], bytes] = _encoder.encode


class Decoder(Generic[T]):
    """Decodes one type; what cannot be decoded is a BadRequest that says where."""

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def __call__(self, raw: bytes | memoryview | str) -> T:
        try:
            return self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BadRequest(f"the message cannot be understood: {exc}") from exc


class _Kind(msgspec.Struct):
    kind: str = ""


class KnownKinds(Generic[T]):
    """Decodes a tagged union and counts what it skips because its kind is unknown."""

    def __init__(self, union: Any, kinds: frozenset[str]) -> None:
        self._decode: Decoder[T] = Decoder(union)
        self._peek: Decoder[_Kind] = Decoder(_Kind)
        self._kinds = kinds
        self.skipped = 0

    def __call__(self, raw: bytes | msgspec.Raw) -> T | None:
        """The message, None for an unknown kind; raises BadRequest for a malformed one."""
        data = bytes(raw)
        if self._peek(data).kind not in self._kinds:
            self.skipped += 1
            return None
        return self._decode(data)


def _tags(union: Any) -> frozenset[str]:
    return frozenset(member.__struct_config__.tag for member in union.__args__)


def decision_decoder() -> KnownKinds[AnyDecision]:
    return KnownKinds(AnyDecision, _tags(AnyDecision))


def report_decoder() -> KnownKinds[AnyReport]:
    return KnownKinds(AnyReport, _tags(AnyReport))


decode_announcement: Decoder[HostAnnouncement] = Decoder(HostAnnouncement)
decode_announced: Decoder[Announced] = Decoder(Announced)
decode_batch: Decoder[ReportBatch] = Decoder(ReportBatch)
decode_answer: Decoder[ReportAnswer] = Decoder(ReportAnswer)
decode_availability: Decoder[Availability] = Decoder(Availability)
decode_download: Decoder[DownloadRequest] = Decoder(DownloadRequest)
decode_progress: Decoder[Progress] = Decoder(Progress)
decode_problem: Decoder[Problem] = Decoder(Problem)
decode_stats: Decoder[list[TaskStat]] = Decoder(list[TaskStat])
decode_stat: Decoder[TaskStat] = Decoder(TaskStat)
