"""What goes over the API about jobs. Times are seconds since 1970."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hawker.apps.manager.wire import Id, Priority
from hawker.core.ids import MAX_FIELD_LENGTH, MAX_URL_LENGTH

Kind = Literal["preheat", "push", "delete", "find", "collect", "refresh"]
State = Literal["pending", "running", "succeeded", "failed", "cancelled"]
Scope = Literal["single-seed", "all-seeds", "all-peers", "all", "hosts"]

OPEN = ("pending", "running")
"""States in which there is something left to do."""
AGAIN = ("failed", "cancelled")
"""States in which it may be tried again."""

PLACING = ("preheat", "push")
"""Kinds that bring content to hosts; the others are for those that are draining, too."""
OF_HOSTS = ("collect", "refresh")
"""Kinds that are about hosts, whatever content they have."""

Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL_LENGTH)]
Field = Annotated[str, Meta(max_length=MAX_FIELD_LENGTH)]
HostId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Platform = Annotated[str, Meta(max_length=128, pattern=r"^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$")]
HeaderName = Annotated[str, Meta(max_length=128, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
HeaderValue = Annotated[str, Meta(max_length=16_384, pattern=r"^[\t\x20-\x7e]*$")]


class NewJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is wanted, where, and how.

    `preheat` has hosts store content, `push` brings them what the swarm has, without asking its
    origin. `delete` drops content, `find` says who has it. `collect` has each host drop what was
    not used for `unused` seconds, and what was used longest ago of more than `keep` bytes.
    `refresh` asks hosts whether they are there.

    Content is that of `urls`, or an `image`, such as `nginx:1.27` or the URL of its manifest: of an
    index that for `platforms` (none: all), with `referrers` what refers to it, too.

    `clusters`: none means every one that the caller may use. Hosts are those that joined: `scope`
    says which (none: a single seed to preheat, all for what brings no content), `count` or
    `percent` how many of them, at random; `hosts` go with the scope of that name. `headers` are
    shown to the origin of the content, and are kept sealed. `at_once` parts are worked on at a
    time, each content for `timeout` seconds at most.
    """

    kind: Kind
    urls: Annotated[list[Url], Meta(max_length=1000)] = []
    image: Annotated[str, Meta(max_length=MAX_FIELD_LENGTH)] = ""
    platforms: Annotated[list[Platform], Meta(max_length=64)] = []
    referrers: bool = False
    clusters: Annotated[list[Id], Meta(max_length=256)] = []
    tenant: Id | None = None
    scope: Scope | None = None
    count: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    percent: Annotated[int, Meta(ge=1, le=100)] | None = None
    hosts: Annotated[list[HostId], Meta(max_length=10_000)] = []
    tag: Field = ""
    application: Field = ""
    filtered_query_params: Annotated[list[Field], Meta(max_length=64)] = []
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(max_length=64)] = {}
    priority: Priority | None = None
    at_once: Annotated[int, Meta(ge=1, le=256)] = 16
    timeout: Annotated[float, Meta(ge=1, le=86_400)] = 7200.0
    keep: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    unused: Annotated[float, Meta(ge=0, le=3.2e7)] | None = None

    @property
    def where(self) -> Scope:
        """The scope, chosen or not."""
        return self.scope or ("single-seed" if self.kind == "preheat" else "all")

    def __post_init__(self) -> None:
        if self.kind in OF_HOSTS and (self.urls or self.image):
            raise ValueError(f"urls, image: {self.kind} is about hosts, not about content")
        if self.kind not in OF_HOSTS and bool(self.urls) == bool(self.image):
            raise ValueError("urls, image: name some of the one, or the other")
        if (self.kind == "collect") != (self.keep is not None or self.unused is not None):
            raise ValueError("keep, unused: one of them, or both, go with collect")
        if self.kind == "push" and self.scope is None:
            raise ValueError("scope: a push says where to")
        if not self.image and (self.platforms or self.referrers):
            raise ValueError("platforms and referrers go with an image")
        if (self.scope == "hosts") != bool(self.hosts):
            raise ValueError("hosts: they go with the scope 'hosts'")
        if self.count is not None and self.percent is not None:
            raise ValueError("count and percent exclude each other")
        narrow = self.count is not None or self.percent is not None
        if narrow and self.scope not in ("all-seeds", "all-peers"):
            raise ValueError("count and percent narrow the scopes all-seeds and all-peers")


class Parts(msgspec.Struct, frozen=True):
    """How many parts are in which state."""

    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class Job(msgspec.Struct, frozen=True):
    """`args` is what was asked for, less what is secret. `problem` is why there are no parts; each
    part has its own. `bytes` of `total` are there, as far as parts know theirs."""

    id: int
    kind: Kind
    clusters: list[str]
    tenant: str | None
    state: State
    problem: str
    actor: str
    created: float
    begun: float
    ended: float
    parts: Parts
    bytes: int
    total: int
    args: dict[str, Any]


class Part(msgspec.Struct, frozen=True):
    """One content on one host. `total` is None until it is known."""

    id: int
    url: str
    name: str
    cluster: str
    host: str
    hostname: str
    state: State
    bytes: int
    total: int | None
    attempts: int
    problem: str
    updated: float


class News(msgspec.Struct, frozen=True):
    """An event of a job's stream: how it is now, and the parts that changed."""

    job: Job
    parts: list[Part]
