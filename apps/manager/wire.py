"""What goes over the manager's API: the structs that validate it and make the OpenAPI document.

Unknown fields are refused here, unlike between roles: a person's misspelt limit is none at all.
Times are seconds since 1970.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hawker.apps.manager.access import TABLE, parse_permission
from hawker.core.limits import Limits
from hawker.core.membership import Kind, Location, Short

Name = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$"),
]
Text = Annotated[str, Meta(max_length=4096)]
Id = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_-]+$")]
Password = Annotated[str, Meta(min_length=12, max_length=1024)]
Priority = Annotated[int, Meta(ge=0, le=6)]
HostName = Annotated[str, Meta(max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")]
Pattern = Annotated[str, Meta(max_length=253, pattern=r"^[A-Za-z0-9._*?-]+$")]
_PERMISSIONS = [f"{resource}:{verb}" for resource, verbs in TABLE.items() for verb in verbs]
Permissions = Annotated[
    list[Annotated[str, Meta(max_length=128, extra_json_schema={"enum": _PERMISSIONS})]],
    Meta(max_length=len(_PERMISSIONS)),
]
Network = Annotated[str, Meta(max_length=64, extra_json_schema={"format": "cidr"})]
Days = Annotated[int, Meta(ge=1, le=365)]


class Taken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of what is taken."""


class Scopes(Taken, frozen=True):
    """Which hosts a cluster is for, as a searcher is told: `cidrs` are networks, `hostnames` names
    or patterns such as `*.fra.example.com`."""

    idcs: Annotated[list[Short], Meta(max_length=64)] = []
    locations: Annotated[list[Location], Meta(max_length=64)] = []
    cidrs: Annotated[list[Network], Meta(max_length=1024)] = []
    hostnames: Annotated[list[Pattern], Meta(max_length=256)] = []

    def __post_init__(self) -> None:
        for cidr in self.cidrs:
            try:
                ipaddress.ip_network(cidr)
            except ValueError as exc:
                raise ValueError(f"cidrs: {exc}") from None


class SchedulerConfiguration(Taken, frozen=True):
    """A cluster's `[scheduler]`; None: as each scheduler is configured itself."""

    origin_reads: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    origin_rate: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    readers: Annotated[int, Meta(ge=1, le=64)] | None = None


class HostConfiguration(Taken, frozen=True):
    """A cluster's `[peer]`, of its seeds or of its peers; None: as each host is configured."""

    upload_slots: Annotated[int, Meta(ge=1, le=50_000)] | None = None


class NewCluster(Taken, frozen=True):
    name: Name
    description: Text = ""
    scopes: Scopes = Scopes()
    schedulers: SchedulerConfiguration = SchedulerConfiguration()
    seeds: HostConfiguration = HostConfiguration()
    peers: HostConfiguration = HostConfiguration()
    is_default: bool = False


class ClusterChange(Taken, frozen=True):
    name: Name | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    schedulers: SchedulerConfiguration | UnsetType = UNSET
    seeds: HostConfiguration | UnsetType = UNSET
    peers: HostConfiguration | UnsetType = UNSET
    is_default: bool | UnsetType = UNSET


class Cluster(msgspec.Struct, frozen=True):
    """`number` names it where ids are numbers, as in Harbor."""

    id: str
    number: int
    name: str
    description: str
    scopes: Scopes
    schedulers: SchedulerConfiguration
    seeds: HostConfiguration
    peers: HostConfiguration
    is_default: bool
    created: float
    revision: int


class Member(msgspec.Struct, frozen=True):
    """`state`: active, draining, or inactive where no keepalive came for 60 s. `enrolled`: it has
    a token of its own, and a certificate until `certificate_expires`; else a user's token announces
    it."""

    id: str
    cluster: str
    host: str
    kind: Kind
    url: str
    addresses: list[str]
    hostname: str
    idc: str
    location: str
    version: str
    state: Literal["active", "draining", "inactive"]
    created: float
    kept_alive: float
    enrolled: bool
    certificate_expires: float


class Draining(Taken, frozen=True):
    draining: bool


class NewEnrolment(Taken, frozen=True):
    """For one host, within so many minutes. Without a cluster, the one that fits the host best.
    `names`: the host names and addresses that its certificates may carry; none: its own."""

    kind: Kind
    cluster: Id | None = None
    names: Annotated[list[HostName], Meta(max_length=64)] = []
    minutes: Annotated[int, Meta(ge=1, le=43_200)] = 60


class Enrolment(msgspec.Struct, frozen=True):
    """`host` has joined with it; empty: nobody has yet."""

    id: str
    cluster: str | None
    kind: Kind
    names: list[str]
    host: str
    created: float
    expires: float


class CreatedEnrolment(Enrolment, frozen=True):
    """`token` is told this once."""

    token: str


class Found(msgspec.Struct, frozen=True):
    """How well a cluster fits a host, and why in words."""

    cluster: str
    name: str
    score: float
    reason: str
    schedulers: list[str]


class NewTenant(Taken, frozen=True):
    name: Name
    description: Text = ""
    quotas: Limits = Limits()


class TenantChange(Taken, frozen=True):
    """`quotas` take the place of those before, all of them."""

    description: Text | UnsetType = UNSET
    quotas: Limits | UnsetType = UNSET


class Tenant(msgspec.Struct, frozen=True):
    id: str
    name: str
    description: str
    quotas: Limits
    created: float
    revision: int


class Used(msgspec.Struct, frozen=True):
    """What a tenant uses of its quotas in one cluster, of which each has them for itself. None
    where its schedulers cannot be asked; `problem` says why.

    `bandwidth` are bytes per second lately, `waiting` downloads that wait for their turn,
    `origin_bytes` those read in the period that ends at `period_ends`.
    """

    cluster: str
    name: str
    problem: str
    stored_bytes: int | None = None
    bandwidth: int | None = None
    concurrent_downloads: int | None = None
    waiting: int | None = None
    origin_bytes: int | None = None
    period_ends: float | None = None


class TenantUse(msgspec.Struct, frozen=True):
    """A tenant's quotas, and what it uses of them in each cluster. What has no quota is not
    counted."""

    quotas: Limits
    clusters: list[Used]


class NewApplication(Taken, frozen=True):
    tenant: Id
    name: Name
    priority: Priority
    description: Text = ""


class ApplicationChange(Taken, frozen=True):
    priority: Priority | UnsetType = UNSET
    description: Text | UnsetType = UNSET


class Application(msgspec.Struct, frozen=True):
    id: str
    tenant: str
    name: str
    description: str
    priority: int
    created: float
    revision: int


class NewUser(Taken, frozen=True):
    """Without a password they cannot sign in until one is set."""

    name: Name
    email: Annotated[str, Meta(max_length=254)] = ""
    password: Password | None = None


class UserChange(Taken, frozen=True):
    email: Annotated[str, Meta(max_length=254)] | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class PasswordChange(Taken, frozen=True):
    password: Password


class OwnPasswordChange(Taken, frozen=True):
    old: Annotated[str, Meta(max_length=1024)]
    password: Password


class User(msgspec.Struct, frozen=True):
    """`provider` is the name of whoever else knows them, as `subject`; None where they are known
    here alone."""

    id: str
    name: str
    email: str
    disabled: bool
    has_password: bool
    provider: str | None
    subject: str | None
    created: float
    revision: int


class NewRole(Taken, frozen=True):
    """Permissions are `resource:verb`."""

    name: Name
    permissions: Permissions
    description: Text = ""

    def __post_init__(self) -> None:
        for text in self.permissions:
            parse_permission(text)


class RoleChange(Taken, frozen=True):
    permissions: Permissions | UnsetType = UNSET
    description: Text | UnsetType = UNSET

    def __post_init__(self) -> None:
        for text in self.permissions or ():
            parse_permission(text)


class Role(msgspec.Struct, frozen=True):
    id: str
    name: str
    description: str
    permissions: list[str]
    builtin: bool
    created: float
    revision: int


class NewBinding(Taken, frozen=True):
    """Within a tenant, a cluster, or everywhere."""

    user: Id
    role: Name
    tenant: Id | None = None
    cluster: Id | None = None


class Binding(msgspec.Struct, frozen=True):
    id: str
    user: str
    role: str
    tenant: str | None
    cluster: str | None
    created: float


class NewToken(Taken, frozen=True):
    """What its owner may do, and is among `scopes` (`resource:verb`); none: nothing."""

    name: Name
    scopes: Permissions = []
    days: Days = 30

    def __post_init__(self) -> None:
        for text in self.scopes:
            parse_permission(text)


class Token(msgspec.Struct, frozen=True):
    """`used` is 0 before it was; it is written once a minute."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created: float
    expires: float
    used: float


class CreatedToken(msgspec.Struct, frozen=True):
    """`value` is told this once."""

    token: Token
    value: str


class Audit(msgspec.Struct, frozen=True):
    """A change; `via` is `session`, `setup`, `token:` with its id, or `provider:` with its name."""

    id: str
    at: float
    actor: str
    via: str
    action: str
    resource: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class SignIn(Taken, frozen=True):
    name: Annotated[str, Meta(max_length=128)]
    password: Annotated[str, Meta(max_length=1024)]


class Setup(Taken, frozen=True):
    """The first user, who becomes root everywhere."""

    name: Name
    password: Password


class Held(msgspec.Struct, frozen=True):
    """A role that somebody has by a provider's rule."""

    role: str
    tenant: str | None
    cluster: str | None


class Me(msgspec.Struct, frozen=True):
    """Who asks, and what they may do where; empty: everywhere. `mapped` is by what their provider
    says of them."""

    user: User
    via: str
    bindings: list[Binding]
    mapped: list[Held]
    scopes: list[str] | None
