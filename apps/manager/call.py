"""One request to the manager's API: who asks, what for, and the change it makes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from tortoise.exceptions import IntegrityError

from hawker.apps.manager import models
from hawker.apps.manager.access import Grant, Permission, allowed, permission_text, reach
from hawker.apps.manager.database import transaction
from hawker.apps.manager.standing import Seat
from hawker.apps.manager.wire import Held
from hawker.core.errors import (
    BadRequest,
    Changed,
    Conflict,
    Forbidden,
    NotFound,
    Unauthenticated,
    Unconditional,
)


@dataclass(frozen=True)
class Principal:
    """Who asks. `scopes` are a token's, None for somebody who signed in; `mapped` what a provider's
    rules give, among `grants`. `own` are credentials that were made here: no provider's."""

    user: models.User
    grants: Collection[Grant]
    via: str
    scopes: frozenset[Permission] | None = None
    session: str = ""
    mapped: Sequence[Held] = ()
    own: bool = True


class Repeated(Exception):
    """Somebody else's request with the same Idempotency-Key was done first."""


@dataclass
class Call:
    """What an operation's handler is given; `answer`, or `html`, is what the client gets.

    `cookie` is the session's, `secure` whether it is for TLS alone (None: as the request came);
    `cookies` are others, with their attributes.
    """

    request: Request
    principal: Principal | None = None
    seat: Seat | None = None
    """The member that asks, by its own token."""
    token: str = ""
    """The enrolment's, of a host that joins."""
    permission: Permission | None = None
    body: Any = None
    page: int = 1
    per_page: int = 0
    filters: dict[str, str] = field(default_factory=dict)
    repeat: tuple[str, str] | None = None
    status: int = 200
    answer: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cookie: str | None = None
    cookies: dict[str, dict[str, Any]] = field(default_factory=dict)
    html: str | None = None
    secure: bool | None = None
    more: bool = False

    def param(self, name: str) -> str:
        value: str = self.request.path_params[name]
        return value

    @property
    def mount(self) -> str:
        """The path that the role is mounted at, such as /manager."""
        found: str = self.request.scope.get("root_path", "")
        return found

    @property
    def who(self) -> Principal:
        """Who asks; raises Unauthenticated where nobody is known."""
        if self.principal is None:
            raise Unauthenticated("sign in, or send a token")
        return self.principal

    def may(
        self, permission: Permission, tenant: str | None = None, cluster: str | None = None
    ) -> bool:
        return allowed(self.who.grants, permission, tenant, cluster)

    def require(self, tenant: str | None = None, cluster: str | None = None) -> None:
        """Raise Forbidden where this operation is not allowed there; NotFound where they may not
        even read what is there, so that nobody learns what exists."""
        assert self.permission is not None
        if self.may(self.permission, tenant, cluster):
            return
        resource, verb = self.permission
        if verb != "create" and not self.may((resource, "read"), tenant, cluster):
            raise NotFound(f"there is no such thing among {resource}")
        raise Forbidden(
            f"{self.who.user.name} may not do {permission_text(self.permission)!r} there"
        )

    def own_tenant(self) -> str | None:
        """The tenant of a caller who may do this within one tenant alone; None for others."""
        tenants = {tenant for tenant, _ in self.reach()}
        return None if len(tenants) != 1 else min(tenants) or None

    def reach(self) -> set[tuple[str, str]]:
        assert self.permission is not None
        return reach(self.who.grants, self.permission)

    def matching(self, revision: int, *, needed: bool = True) -> None:
        """Raise Unconditional, or Changed where If-Match names another revision."""
        given = self.request.headers.get("if-match", "")
        if not given:
            if needed:
                raise Unconditional(
                    "a change needs If-Match", hint="send the ETag of what you have read"
                )
            return
        tags = [tag.strip() for tag in given.split(",")]
        if "*" not in tags and f'"{revision}"' not in tags:
            raise Changed(
                f"it has revision {revision}, not {given}", hint="read it again, then change it"
            )

    @contextlib.asynccontextmanager
    async def change(self) -> AsyncIterator[None]:
        """A transaction; inside, `audit` what was changed and set `answer`. All of it happens, or
        nothing.

        Raises:
            Conflict: a name is taken, or something is in use or missing.
        """
        try:
            async with transaction():
                await self._claim()
                yield
                await self._remember()
        except IntegrityError as exc:
            raise Conflict(
                "the name is taken, something still uses it, or what it names does not exist"
            ) from exc

    async def _claim(self) -> None:
        """Before anything is changed: whoever has the same key waits here for the first to end."""
        if self.repeat is None:
            return
        digest, request = self.repeat
        try:
            await models.Repeat.create(
                digest=digest, request=request, status=0, body="", created=time.time()
            )
        except IntegrityError as exc:
            raise Repeated from exc

    async def _remember(self) -> None:
        if self.repeat is None:
            return
        body = msgspec.json.encode(self.answer).decode()
        kept = models.Repeat.filter(digest=self.repeat[0])
        await kept.update(status=self.status, body=body)

    async def audit(
        self,
        action: str,
        target: str,
        before: msgspec.Struct | None,
        after: msgspec.Struct | None,
        *,
        resource: str = "",
        actor: str = "",
        via: str = "",
    ) -> None:
        """Write down a change, inside `change`; what is given is what clients see of it."""
        if self.seat is not None:
            actor, via = f"host:{self.seat.host}", f"member:{self.seat.id}"
        await models.Audit.create(
            at=time.time(),
            actor=actor or self.who.user.name,
            via=via or self.who.via,
            action=action,
            resource=resource or (self.permission[0] if self.permission else ""),
            target=target,
            before=None if before is None else msgspec.to_builtins(before),
            after=None if after is None else msgspec.to_builtins(after),
        )


def integer(text: str, name: str, low: int, high: int) -> int:
    """A query parameter; raises BadRequest outside its bounds."""
    if text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high:
        return int(text)
    raise BadRequest(f"{name}={text!r} is not a number from {low} to {high}")
