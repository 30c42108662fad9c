"""What goes over the manager's API of tenants' tokens for clients."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from hawker.apps.manager.wire import Days, Id, Taken
from hawker.core.contracts import CLIENT_VERBS, ClientVerb


class NewClientToken(Taken, frozen=True):
    """For clients of a cluster that are of a tenant. Without them, the one that its maker is bound
    to, and the only one that they may use."""

    name: Annotated[
        str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")
    ]
    tenant: Id | None = None
    cluster: Id | None = None
    verbs: Annotated[list[ClientVerb], Meta(min_length=1, max_length=len(CLIENT_VERBS))] = (
        msgspec.field(default_factory=lambda: ["content"])
    )
    days: Days = 30


class ClientToken(msgspec.Struct, frozen=True):
    """`name` is what refusals call it by, `actor` who made it."""

    id: str
    tenant: str
    cluster: str
    name: str
    verbs: list[str]
    actor: str
    created: float
    expires: float


class CreatedClientToken(msgspec.Struct, frozen=True):
    """`value` is told this once."""

    token: ClientToken
    value: str
