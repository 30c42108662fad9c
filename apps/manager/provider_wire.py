"""What goes over the manager's API about providers, and how one may sign in; as `wire`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hawker.apps.manager.wire import Id, Name, Taken
from hawker.core.openid.provider import is_issuer

ClaimName = Annotated[str, Meta(min_length=1, max_length=128)]
ClaimPath = Annotated[str, Meta(max_length=255, pattern=r"^[^.\x00]+(\.[^.\x00]+)*$")]


class Rule(Taken, frozen=True):
    """Whoever has `value` as, or among, what stands at `claim` has the role, within a tenant, a
    cluster, or everywhere. `claim` is a path such as `realm_access.roles`, or a list of names where
    one has dots in it. Of an authenticator plugin's caller the claims are `sub`, `tenant` and
    `verbs`."""

    claim: ClaimPath | Annotated[list[ClaimName], Meta(min_length=1, max_length=8)]
    value: Annotated[str, Meta(min_length=1, max_length=255)]
    role: Name
    tenant: Id | None = None
    cluster: Id | None = None


Rules = Annotated[list[Rule], Meta(max_length=256)]
Audiences = Annotated[list[Annotated[str, Meta(min_length=1, max_length=255)]], Meta(max_length=16)]
ClientId = Annotated[str, Meta(max_length=255, pattern=r"^[\x20-\x7e]*$")]
Secret = Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[\x20-\x7e]+$")]
ScopeNames = Annotated[
    list[Annotated[str, Meta(max_length=255, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]],
    Meta(max_length=32),
]
Resource = Annotated[str, Meta(max_length=512, pattern=r'^([A-Za-z][A-Za-z0-9+.-]*:[!-"$-~]+)?$')]
Place = Annotated[str, Meta(max_length=512)]


class NewProvider(Taken, frozen=True):
    """Somebody else who says who people are: an OpenID Connect `issuer`, or an authenticator
    `plugin` of this process.

    Of an issuer: access tokens for one of `audiences` are taken. With `client`, and its `secret`
    where it has one, people sign in at `redirect_uri`, which ends in `/auth/NAME/callback`.
    `device_client` is the public client of `hawker login`. `scopes` are asked for; by `hawker
    login`, of `resource` (RFC 8707) where it is named.
    """

    name: Name
    issuer: Place | None = None
    plugin: Name | None = None
    audiences: Audiences = msgspec.field(default_factory=list)
    client: ClientId = ""
    secret: Secret | None = None
    redirect_uri: Place = ""
    device_client: ClientId = ""
    scopes: ScopeNames = msgspec.field(default_factory=lambda: ["openid"])
    resource: Resource = ""
    rules: Rules = msgspec.field(default_factory=list)
    disabled: bool = False

    def __post_init__(self) -> None:
        if (self.issuer is None) == (self.plugin is None):
            raise ValueError("name an issuer, or a plugin")
        if self.issuer is not None and not is_issuer(self.issuer):
            raise ValueError(
                "issuer: write https://host/path as the provider does; http only for this machine"
            )
        if self.plugin is not None and (
            self.audiences or self.client or self.secret or self.redirect_uri or self.device_client
        ):
            raise ValueError("a plugin has no audiences, clients or redirect_uri")


class ProviderChange(Taken, frozen=True):
    """`secret`: null takes it away."""

    audiences: Audiences | UnsetType = UNSET
    client: ClientId | UnsetType = UNSET
    secret: Secret | UnsetType | None = UNSET
    redirect_uri: Place | UnsetType = UNSET
    device_client: ClientId | UnsetType = UNSET
    scopes: ScopeNames | UnsetType = UNSET
    resource: Resource | UnsetType = UNSET
    rules: Rules | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class Provider(msgspec.Struct, frozen=True):
    """The client's secret is told nobody."""

    id: str
    name: str
    issuer: str | None
    plugin: str | None
    audiences: list[str]
    client: str
    has_secret: bool
    redirect_uri: str
    device_client: str
    scopes: list[str]
    resource: str
    rules: list[Rule]
    disabled: bool
    created: float
    revision: int


class Method(msgspec.Struct, frozen=True):
    """A provider that somebody may sign in with, as anyone is told: in a browser at `login`, at a
    terminal as `device_client`; either is empty where that is not set up."""

    name: str
    issuer: str
    login: str
    device_client: str
    scopes: list[str]
    resource: str


class Methods(msgspec.Struct, frozen=True):
    """How one may sign in, besides with a name and a password."""

    providers: list[Method]
