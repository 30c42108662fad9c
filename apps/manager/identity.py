"""Who asks: somebody who signed in, by a cookie, or the owner of a personal access token."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request
from tortoise.exceptions import OperationalError

from hawker.apps.manager import models
from hawker.apps.manager.access import ROLES, Grant, Permission, narrowed, parse_permission
from hawker.apps.manager.call import Principal
from hawker.apps.manager.secret import TOKEN_PREFIX, KeyedHash
from hawker.core.errors import Forbidden, Unauthenticated

COOKIE = "hawker_session"
SESSION_SECONDS = 12 * 3600.0
USED_EVERY = 60.0
SAFE = ("GET", "HEAD")


class Identity:
    """Finds out who asks; `hashed` makes what the database has of tokens and cookies."""

    def __init__(self, hashed: KeyedHash) -> None:
        self.hashed = hashed

    async def who(self, request: Request) -> Principal | None:
        """None where the request shows nothing.

        Raises:
            Unauthenticated: what it shows is no good (any more).
            Forbidden: it comes from a page of another site.
        """
        if "authorization" in request.headers:
            value = bearer(request)
            if not value.startswith(TOKEN_PREFIX):
                raise Unauthenticated("only personal access tokens are taken as Authorization")
            return await self._owner(value)
        cookie = request.cookies.get(COOKIE)
        if cookie is None:
            return None
        check_same_site(request)
        return await self._signed_in(cookie)

    async def _owner(self, value: str) -> Principal:
        now = time.time()
        digest = self.hashed.digest("token", value)
        token = await models.Token.get_or_none(digest=digest).select_related("user")
        if token is None or token.expires <= now or token.user.disabled:
            raise Unauthenticated("the token is unknown, expired, or its owner is disabled")
        if now - token.used > USED_EVERY:
            # Reading goes on where nothing can be written, as on a full disk.
            with contextlib.suppress(OperationalError):
                await models.Token.filter(id=token.id).update(used=now)
        scopes = permissions(token.scopes)
        grants = narrowed(await grants_of(token.user), scopes)
        return Principal(token.user, grants, f"token:{token.id}", scopes)

    async def _signed_in(self, cookie: str) -> Principal | None:
        digest = self.hashed.digest("session", cookie)
        session = await models.Session.get_or_none(digest=digest).select_related("user")
        if session is None or session.expires <= time.time() or session.user.disabled:
            # As if it had none: browsers keep a cookie that has ended.
            return None
        return Principal(
            session.user, await grants_of(session.user), "session", session=session.digest
        )

    async def begin_session(self, user: models.User) -> str:
        """The value of the cookie of somebody who just showed that it is them."""
        cookie = secrets.token_urlsafe(32)
        now = time.time()
        await models.Session.create(
            digest=self.hashed.digest("session", cookie),
            user=user,
            created=now,
            expires=now + SESSION_SECONDS,
        )
        return cookie


def bearer(request: Request) -> str:
    """The token that is shown (RFC 6750); empty where there is none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value if scheme.lower() == "bearer" else ""


def check_same_site(request: Request) -> None:
    """Raise Forbidden for a change that a page of another site asks for."""
    if request.method in SAFE:
        return
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    if site not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise Forbidden(f"changes are not taken from pages of {origin or 'other sites'}")


async def grants_of(user: models.User) -> list[Grant]:
    """What a user's roles allow."""
    bindings = await models.RoleBinding.filter(user_id=user.id)
    return await grants(bindings)


async def grants(bindings: Iterable[models.RoleBinding]) -> list[Grant]:
    """What bindings allow; a role that is no more allows nothing."""
    found = list(bindings)
    own = {b.role for b in found} - set(ROLES)
    rows = await models.Role.filter(name__in=own) if own else []
    known = {**{row.name: permissions(row.permissions) for row in rows}, **ROLES}
    return [
        Grant(known[b.role], b.tenant_id or "", b.cluster_id or "")
        for b in found
        if b.role in known
    ]


def permissions(texts: Iterable[str]) -> frozenset[Permission]:
    """Those that this version knows, of those that an older one may have written."""
    kept = set()
    for text in texts:
        try:
            kept.add(parse_permission(text))
        except ValueError:
            continue
    return frozenset(kept)
