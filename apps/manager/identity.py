"""Who asks: somebody who signed in, by a cookie, the owner of a personal access token, or somebody
whom a provider knows."""

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
from hawker.apps.manager.accounts import (
    Accounts,
    Known,
    account_of,
    bindings,
    remembered,
    rules_of,
)
from hawker.apps.manager.call import Principal
from hawker.apps.manager.secret import TOKEN_PREFIX, KeyedHash
from hawker.apps.manager.wire import Held
from hawker.core.errors import Forbidden, Unauthenticated

COOKIE = "hawker_session"
SESSION_SECONDS = 12 * 3600.0
USED_EVERY = 60.0
SAFE = ("GET", "HEAD")


class Identity:
    """Finds out who asks; `hashed` makes what the database has of tokens and cookies."""

    def __init__(self, hashed: KeyedHash, accounts: Accounts) -> None:
        self.hashed = hashed
        self._accounts = accounts

    async def who(self, request: Request) -> Principal | None:
        """None where the request shows nothing.

        Raises:
            Unauthenticated: what it shows is no good (any more).
            Forbidden: it comes from a page of another site.
            Unavailable: whoever could judge what it shows is away.
        """
        shown = "authorization" in request.headers
        known: Known | None = None
        if value := bearer(request):
            if value.startswith(TOKEN_PREFIX):
                return await self._owner(value)
            known = await self._accounts.by_token(value)
        elif not shown and (cookie := request.cookies.get(COOKIE)) is not None:
            check_same_site(request)
            if (principal := await self._signed_in(cookie)) is not None:
                return principal
        if known is None and (known := await self._accounts.by_plugin(request)) is not None:
            # Browsers may add by themselves what a plugin looks at.
            check_same_site(request)
        if known is not None:
            return await self._elsewhere(*known)
        if shown:
            raise Unauthenticated(
                "nobody here knows these credentials",
                hint="send a personal access token, or a token that a provider of this manager "
                "issued for it",
            )
        return None

    async def _elsewhere(self, user: models.User, mapped: list[Held], provider: str) -> Principal:
        bound = await models.RoleBinding.filter(user_id=user.id)
        given = await grants([*bound, *bindings(mapped)])
        return Principal(user, given, f"provider:{provider}", mapped=mapped, own=False)

    async def _owner(self, value: str) -> Principal:
        now = time.time()
        digest = self.hashed.digest("token", value)
        token = await models.Token.get_or_none(digest=digest).select_related("user")
        if token is None or token.expires <= now or token.user.disabled:
            raise Unauthenticated("the token is unknown, expired, or its owner is disabled")
        account = await account_of(token.user)
        if account is not None and account.provider.disabled:
            raise Unauthenticated(f"{account.provider.name}, which knows its owner, is disabled")
        if now - token.used > USED_EVERY:
            # Reading goes on where nothing can be written, as on a full disk.
            with contextlib.suppress(OperationalError):
                await models.Token.filter(id=token.id).update(used=now)
        scopes = permissions(token.scopes)
        given, mapped = await _rights(token.user, account)
        kept = narrowed(given, scopes)
        return Principal(token.user, kept, f"token:{token.id}", scopes, mapped=mapped)

    async def _signed_in(self, cookie: str) -> Principal | None:
        digest = self.hashed.digest("session", cookie)
        session = await models.Session.get_or_none(digest=digest).select_related("user")
        if session is None or session.expires <= time.time() or session.user.disabled:
            # As if it had none: browsers keep a cookie that has ended.
            return None
        account = await account_of(session.user)
        if account is not None and account.provider.disabled:
            return None
        given, mapped = await _rights(session.user, account)
        return Principal(session.user, given, "session", session=session.digest, mapped=mapped)

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
    return value.strip() if scheme.lower() == "bearer" else ""


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


async def _rights(
    user: models.User, account: models.Account | None
) -> tuple[list[Grant], list[Held]]:
    """What somebody's roles allow, and which of those are by what their provider said."""
    mapped = [] if account is None else remembered(account)
    bound = await models.RoleBinding.filter(user_id=user.id)
    return await grants([*bound, *bindings(mapped)]), mapped


async def most_of(user: models.User) -> list[Grant]:
    """What a user's roles allow, and all that their provider's rules could give them."""
    bound = await models.RoleBinding.filter(user_id=user.id)
    account = await account_of(user)
    given = [] if account is None else bindings(rules_of(account.provider))
    return await grants([*bound, *given])


async def grants(given: Iterable[models.RoleBinding]) -> list[Grant]:
    """What bindings allow; a role that is no more allows nothing."""
    found = list(given)
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
