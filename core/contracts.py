"""What plugins return: one protocol for each group of entry points.

A hook (`pluggy_specs`) is synchronous and returns one of these objects; their methods are async
where they may wait. An object serves many tasks at once and lives until `close()`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, get_args

import msgspec

from hawker.core.ids import DEFAULT_TENANT
from hawker.core.ranges import ByteRange
from hawker.core.settings import Settings

# ---------------------------------------------------------------------------- sources


class SourceRequest(msgspec.Struct, frozen=True):
    """What to read: the URL as the user wrote it, header fields for the origin only.

    `tenant` is whose request it is: configured credentials are for one tenant each.
    `local`: this machine's own user asks, who may have what others may not (see the `file` source).
    `rate` is how many bytes per second will be taken of the body, 0 for as many as there are: a
    source should not let the origin send much more ahead of that.
    """

    url: str
    headers: Mapping[str, str] = {}
    local: bool = False
    rate: int = 0
    tenant: str = DEFAULT_TENANT

    def __repr__(self) -> str:
        # The fields may hold credentials, which must not reach a log.
        return f"SourceRequest({self.url!r}, {sorted(self.headers)})"


class Reading(Protocol):
    """An opened representation: what is known of it, and its bytes.

    Attributes:
        total: bytes of the whole representation, None where the origin does not say.
        validator: a STRONG validator (it changes whenever the bytes do), None where there is none.
        ranges: whether `Source.read` can fetch parts of it.
        digest: what the origin says the whole has, as `sha256:<hex>`; empty where it says nothing.
        span: the bytes that `stream` gives, None where the whole is streamed.
        modified: seconds since 1970 of the last change; None where the origin does not say, or the
            content may have changed twice in that second.
    """

    total: int | None
    validator: str | None
    ranges: bool
    digest: str
    span: ByteRange | None
    modified: int | None

    def stream(self) -> AsyncIterator[bytes]:
        """The bytes, in order, in chunks of the origin's choice; may be called once.

        Raises:
            OriginFailed: the body ended early or the connection broke.
        """
        ...

    async def close(self) -> None:
        """Give the connection back, whether or not all was read."""
        ...


class SourceItem(msgspec.Struct, frozen=True):
    """An entry of a listing."""

    url: str
    size: int | None = None
    directory: bool = False


class Source(Protocol):
    """Reads origins of one scheme (group `hawker.sources`, name = scheme)."""

    async def open(self, request: SourceRequest, span: ByteRange | None = None) -> Reading:
        """Open and stat in one request.

        `span` is a wish: where the origin has ranges only that part is streamed, and the reading's
        `span` says so.

        Raises:
            NotFound: the origin has no such object.
            OriginRefused: the origin wants other credentials.
            OriginFailed: anything else.
        """
        ...

    async def read(
        self, request: SourceRequest, span: ByteRange, validator: str, total: int | None
    ) -> Reading:
        """Exactly `span`, on the condition that the validator still holds.

        Raises:
            OriginChanged: the representation is another one now.
            RangeIgnored: the answer is not the range that was asked.
            OriginFailed: anything else.
        """
        ...

    def list(self, request: SourceRequest) -> AsyncIterator[SourceItem]:
        """The entries below a URL; raises BadRequest where the scheme cannot list."""
        ...

    async def close(self) -> None: ...


class Credential(msgspec.Struct, frozen=True):
    """What one origin wants to see; a source uses the fields that its protocol knows.

    `headers` are complete header fields, `username` and `password` a user of HTTP's Basic scheme,
    `token` an HTTP bearer token. `access_key`, `secret_key` and `session_token` are an object
    store's; `anonymous` says that its requests go unsigned.
    """

    headers: Mapping[str, str] = {}
    username: str = ""
    password: str = ""
    token: str = ""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    anonymous: bool = False

    def __repr__(self) -> str:
        return "Credential(…)"


class Credentials(Protocol):
    """Signs in at origins (group `hawker.credentials`)."""

    async def find(self, url: str, tenant: str) -> Credential | None:
        """What to show to the origin of this URL and to no other, for requests of this tenant and
        of no other; None where it has nothing.

        Raises:
            OriginRefused: there should be something, and it cannot be had (a broken helper, say).
        """
        ...

    async def close(self) -> None: ...


class UpstreamProxy(msgspec.Struct, frozen=True):
    """A proxy that stands between this process and origins."""

    scheme: str
    host: str
    port: int
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"UpstreamProxy({self.name!r})"

    @property
    def name(self) -> str:
        """Host and port, for people and requests."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Its URL, without user and password."""
        return f"{self.scheme}://{self.name}"


class Egress(Protocol):
    """Which hosts may be connected to (design: egress policy)."""

    async def proxy(self, host: str, port: int) -> UpstreamProxy | None:
        """The upstream proxy that a host must be read through, which resolves its name; None for
        one that is connected to at its `addresses`.

        Raises:
            Forbidden: the policy does not let the upstream proxy be asked for this host.
        """
        ...

    async def proxy_addresses(self) -> Sequence[str]:
        """Where to connect to for the upstream proxy.

        Raises:
            Forbidden: this process itself listens there.
            OriginFailed: its name cannot be resolved.
        """
        ...

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host that may be connected to: connect to one of these, and to no
        other, so that a name cannot be resolved to something else in between.

        Raises:
            Forbidden: the policy allows none of them.
            OriginFailed: the name cannot be resolved.
        """
        ...


class SourceServices(msgspec.Struct, frozen=True):
    """What a plugin that asks other hosts gets from the process: the egress policy and the
    configured credentials."""

    egress: Egress
    credentials: Credentials


# ---------------------------------------------------------------------------- scheduling


class Candidate(msgspec.Struct, frozen=True):
    """A possible parent as an evaluator sees it; rates are bytes per second."""

    host: str
    seed: bool
    have: int
    wanted: int
    upload_slots: int
    uploads: int
    served: int
    failed: int
    serving_rate: float
    idc: str
    location: str
    same_zone: bool
    depth: int


class Child(msgspec.Struct, frozen=True):
    """The peer that a parent is wanted for."""

    host: str
    idc: str
    location: str


class Evaluator(Protocol):
    """Ranks possible parents (group `hawker.evaluators`, name = algorithm).

    Pure and quick: called inside the scheduler's decision, without I/O or clock.
    """

    def score(self, child: Child, candidate: Candidate) -> float:
        """Higher is better; a negative score excludes the candidate."""
        ...


class HostView(msgspec.Struct, frozen=True):
    """A host as a searcher sees it; what is not known is empty.

    `addresses` are IP addresses, `location` goes from general to particular, separated by `|`.
    """

    hostname: str
    addresses: Sequence[str]
    idc: str
    location: str


class ClusterView(msgspec.Struct, frozen=True):
    """A cluster with the scopes it is meant for.

    `active`: it has a scheduler that is there now. `cidrs` are networks, `hostnames` patterns such
    as `*.fra.example.com`. What is no network fits no address.
    """

    name: str
    default: bool
    active: bool
    idcs: Sequence[str]
    locations: Sequence[str]
    cidrs: Sequence[str]
    hostnames: Sequence[str]


class ClusterMatch(msgspec.Struct, frozen=True):
    """How well a cluster fits a host: higher is better, and why, for people."""

    cluster: ClusterView
    score: float
    reason: str


class Searcher(Protocol):
    """Which cluster a host belongs to (group `hawker.searchers`, name = algorithm).

    Pure and quick: called while a host waits for an answer, without I/O or clock.
    """

    def search(self, host: HostView, clusters: Sequence[ClusterView]) -> Sequence[ClusterMatch]:
        """The clusters that the host may join, best first; whatever the order they are given in.

        Those with an active scheduler come before those without, whatever their scores. Facts that
        make no sense fit nothing: nothing is raised.
        """
        ...


# ---------------------------------------------------------------------------- transfer


class ContentDecoder(Protocol):
    """Decodes one coded body as it arrives."""

    def feed(self, data: bytes | memoryview) -> bytes:
        """Decoded bytes so far; raises ValueError where the data is not in this coding."""
        ...

    @property
    def finished(self) -> bool:
        """The end of the coded body was seen."""
        ...


class Codec(Protocol):
    """A content coding for pieces (group `hawker.compression`, name = the coding's token)."""

    def worthwhile(self, sample: bytes | memoryview) -> bool:
        """A quick probe: does coding data like this sample save enough?"""
        ...

    def encode(self, data: bytes | memoryview) -> bytes:
        """One complete coded body. Called in a thread; should release the GIL."""
        ...

    def decoder(self) -> ContentDecoder: ...


class Sink(Protocol):
    """Where a transport puts the decoded bytes of a body, in order.

    Called from the transport's own thread or task; it hashes and stores before it returns. It
    raises where more bytes come than it expects, or where storing fails.
    """

    def write(self, data: memoryview) -> None: ...


class PieceRequest(msgspec.Struct, frozen=True):
    """One GET of a run of pieces.

    `length` is the number of decoded bytes that must come. `stall` is the longest time in seconds
    without any byte.
    """

    base_url: str
    path: str
    headers: Mapping[str, str]
    length: int
    stall: float
    codecs: Mapping[str, Codec] = {}


class Transport(Protocol):
    """Moves the bodies of pieces between peers (group `hawker.transports`)."""

    async def fetch(self, request: PieceRequest, sink: Sink) -> None:
        """All `length` bytes into the sink. Cancelling ends it within 500 ms.

        Raises:
            Busy: the parent has no free slot; `retry_after` says when to ask again.
            NotFound, GenerationGone, Forbidden, Unauthenticated: as the parent says.
            Unavailable: no connection, a broken one, a body of the wrong length; Stalled: nothing
                came for `stall` seconds.
        """
        ...

    async def close(self) -> None: ...


# ---------------------------------------------------------------------------- callers


class Caller(msgspec.Struct, frozen=True):
    """Who calls us: a subject, its tenant and the verbs it may use ("*" all).

    `role`: it is a role of the cluster, which holds the cluster key, and not one of its clients.
    `proven`: the caller holds the private key of `host`. `token` is the id of what was shown, by
    which it can be revoked; empty where it cannot.
    """

    subject: str
    tenant: str = DEFAULT_TENANT
    verbs: frozenset[str] = frozenset()
    task: str = ""
    host: str = ""
    role: bool = False
    proven: bool = False
    token: str = ""

    def may(self, verb: str, task: str = "") -> bool:
        """Whether this caller may do `verb`, on `task` or, where none is named, on none alone.

        Who is let in for one task may do nothing that is not about it.
        """
        if self.task and self.task != task:
            return False
        return "*" in self.verbs or verb in self.verbs


ClientVerb = Literal["content", "downloads", "tasks", "tasks:delete", "tasks:import"]
"""What clients of a cluster do: each within its own tenant."""
CLIENT_VERBS: tuple[str, ...] = get_args(ClientVerb)


class Authenticator(Protocol):
    """Tells who calls us (group `hawker.auth`, name = method).

    Several are asked in turn, so that each leaves to the others what is not of its kind; of JWTs,
    those of other issuers (`tokens.issuer_of`).
    """

    async def authenticate(self, headers: Mapping[str, str]) -> Caller | None:
        """The caller, None where the request carries nothing this plugin understands.

        The names of `headers` are in lower case. No error repeats what was shown.

        Raises:
            Unauthenticated: the credentials are of this plugin's kind, and wrong.
            Unavailable: they are of its kind, and whoever could judge them is away.
        """
        ...

    async def close(self) -> None: ...


# ---------------------------------------------------------------------------- roles, jobs


class Directions(msgspec.Struct, frozen=True):
    """What holds in a process from now on, as the manager of its cluster told it.

    `draining`: it takes no new work. `removed` are hosts that are members no more, `revoked` the
    ids of clients' tokens that nobody is let in with.
    """

    settings: Settings
    draining: bool = False
    removed: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()


ASGIScope = dict[str, Any]
ASGIReceive = Callable[[], Awaitable[dict[str, Any]]]
ASGISend = Callable[[dict[str, Any]], Awaitable[None]]


class RoleApp(Protocol):
    """A role: a plain ASGI app with a lifespan of its own."""

    name: str

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Start and stop the role; counted, so entering twice starts once."""
        ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Plugins(Protocol):
    """The plugin host, as a role sees it."""

    @property
    def services(self) -> SourceServices:
        """The egress policy and the configured credentials."""
        ...

    def get(self, group: str, name: str) -> Any:
        """The object that the plugin's hook returned; raises UnknownPlugin."""
        ...

    def names(self, group: str) -> list[str]:
        """Names of the entry points of a group, sorted; nothing is loaded."""
        ...


class RoleContext(msgspec.Struct, frozen=True):
    """What a role is made of.

    `advertise` waits for the listener and returns the base URL of this process as others reach it
    (`http://host:port`; a role adds the path it is mounted at, which is `path` where somebody
    else's app says so, and may be empty). `open` says whether every listener is loopback or a unix
    socket. `beside` names the roles of the same process, `transports` the transports by which its
    listener can be asked for pieces. `member`: a manager tells the process by `Directions` which
    settings hold; those here were told last, and so were `revoked`.
    """

    settings: Settings
    plugins: Plugins
    advertise: Callable[[], Awaitable[str]]
    open: bool
    beside: Sequence[str] = ()
    transports: Sequence[str] = ("http1",)
    member: bool = False
    revoked: frozenset[str] = frozenset()
    path: str | None = None


class JobMessage(msgspec.Struct, frozen=True):
    """One delivery of what was put: `receipt` is the broker's own word for it."""

    body: str
    receipt: str


class JobBroker(Protocol):
    """Tells managers what may be begun (group `hawker.jobs`, name = the broker).

    What is to be done, and who does it, is in the managers' database: a broker may repeat what was
    put, give it in another order, and lose it. Bodies are text of at most 1 KiB; queues of
    different names have nothing to do with each other. A call ends 10 s after it should at the
    latest, and connects anew where that is needed.

    Attributes:
        redelivery: seconds after which what was taken and not acknowledged is given again.
    """

    redelivery: float

    async def put(self, queue: str, bodies: Sequence[str]) -> None:
        """Raises Unavailable where the broker is away; some may have been put all the same."""
        ...

    async def take(self, queue: str, most: int, wait: float) -> Sequence[JobMessage]:
        """At most `most`, as soon as there is one; none where none comes within `wait` seconds.
        Whoever asks takes them from the others, until `redelivery` is over.

        Raises:
            Unavailable: the broker is away, or has lost what was put before.
        """
        ...

    async def acknowledge(self, queue: str, messages: Sequence[JobMessage]) -> None:
        """They are not to be given again. Those that the broker does not know are left out.

        Raises:
            Unavailable: the broker is away; they may be given again.
        """
        ...

    async def close(self) -> None: ...
