"""Signing in with a provider, in a browser: the code flow with PKCE, and the session at its end.

What is to be remembered until the provider sends the browser back (RFC 6749 section 4.1) is sealed
in a cookie: whoever only asks for the first page leaves nothing in the database, and any manager of
it can answer the second. That cookie is `SameSite=Lax`, as the way back comes from another site;
the session's is `Strict`, so that the last page leads on by itself, rather than by a redirect that
would still count as the other site's.
"""

from __future__ import annotations

import hmac
import html
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from hawker.apps.manager import models, provider_wire
from hawker.apps.manager.accounts import Accounts
from hawker.apps.manager.attempts import Attempts, place_of
from hawker.apps.manager.call import Call
from hawker.apps.manager.identity import Identity
from hawker.apps.manager.operation import PREFIX, Operation
from hawker.apps.manager.providers import secret_of
from hawker.core.errors import BadRequest, HawkerError, NotFound, TooMany, Unauthenticated
from hawker.core.openid.tokens import TokenChecker

COOKIE = "hawker_sign_in"
PURPOSE = "sign-in"
SECONDS = 600.0
# A path of this host as browsers read it: no `//host`, no backslash, nothing that is not ASCII.
_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~!$&'()*+,;=:@%/?#-]{0,511}\Z")


class Begun(msgspec.Struct, frozen=True):
    """What the browser keeps of a sign-in that it has begun."""

    provider: str
    state: str
    nonce: str
    verifier: str
    next: str
    expires: float


class SigningIn:
    """The two pages of a sign-in, and the list of whom one may sign in with."""

    def __init__(self, identity: Identity, accounts: Accounts, attempts: Attempts) -> None:
        self._identity = identity
        self._accounts = accounts
        self._attempts = attempts
        self.ended: Counter[str] = Counter()
        """How often a browser that came back with a code was signed in (`ok`), `refused`, or
        `limited` unseen; `failed`: the provider could not be asked."""

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/auth", "Whom people may sign in with", "anyone", self.methods,
                answer=provider_wire.Methods,
            ),
            Operation(
                "GET", "/auth/{provider}/login", "Go to a provider to sign in, then to `next`",
                "anyone", self.login, status=303, parameters=("next",), cookie=True,
            ),
            Operation(
                "GET", "/auth/{provider}/callback", "Come back from a provider",
                "anyone", self.callback, parameters=("code", "state", "iss", "error"),
                open_query=True, html=True, cookie=True,
            ),
        ]  # fmt: skip

    async def methods(self, call: Call) -> None:
        rows = await models.Provider.filter(issuer__isnull=False, disabled=False).order_by("name")
        call.answer = provider_wire.Methods(
            [
                provider_wire.Method(
                    row.name,
                    row.issuer or "",
                    f"{call.mount}{PREFIX}/auth/{row.name}/login" if row.redirect_uri else "",
                    row.device_client,
                    row.scopes,
                    row.resource,
                )
                for row in rows
            ]
        )

    async def login(self, call: Call) -> None:
        row = await _find(call)
        next_ = call.request.query_params.get("next", "")
        if next_ and not _is_own(next_, call.mount):
            raise BadRequest(
                f"next: {next_[:200]!r} is no path below {call.mount or '/'} of this manager"
            )
        client = await self._accounts.client(row, "")
        begun = Begun(
            row.id,
            secrets.token_urlsafe(32),
            secrets.token_urlsafe(32),
            secrets.token_urlsafe(48),
            next_,
            time.time() + SECONDS,
        )
        call.headers["location"] = await client.sign_in_url(
            row.redirect_uri, state=begun.state, nonce=begun.nonce, verifier=begun.verifier
        )
        sealed = self._identity.hashed.seal.close(msgspec.json.encode(begun), PURPOSE)
        self._remember(call, row, sealed)

    async def callback(self, call: Call) -> None:
        row = await _find(call)
        begun = self._begun(call, row)
        given = call.request.query_params
        if not hmac.compare_digest(given.get("state", "").encode(), begun.state.encode()):
            raise Unauthenticated("the answer is not to this browser's sign-in", hint=_AGAIN)
        document = await self._accounts.provider(row.issuer or "").document()
        wanted = bool(document.get("authorization_response_iss_parameter_supported"))
        # RFC 9207: another provider's answer.
        if given.get("iss", None if wanted else row.issuer) != row.issuer:
            raise Unauthenticated("the answer is another provider's", hint=_AGAIN)
        if error := given.get("error", ""):
            raise Unauthenticated(f"{row.name} did not sign you in: {error[:200]}", hint=_AGAIN)
        if not given.get("code"):
            raise BadRequest(f"{row.name} sent no code", hint=_AGAIN)
        # Each costs the provider a request; who is sent back by it has no reason to try often.
        client = call.request.client
        address = place_of(client.host) if client else "unix"
        try:
            attempt = await self._attempts.begin(address=address)
            user = await self._exchange(row, begun, given["code"])
        except HawkerError as exc:
            limited, refused = isinstance(exc, TooMany), isinstance(exc, Unauthenticated)
            self.ended["limited" if limited else "refused" if refused else "failed"] += 1
            raise
        self.ended["ok"] += 1
        await self._attempts.succeeded(attempt)
        self._remember(call, row, "")
        call.cookie = await self._identity.begin_session(user)
        call.secure = row.redirect_uri.startswith("https:")
        call.html = _page(begun.next)

    async def _exchange(self, row: models.Provider, begun: Begun, code: str) -> models.User:
        """Raises Unauthenticated, OriginFailed, Unavailable."""
        client = await self._accounts.client(row, secret_of(row, self._identity.hashed.seal))
        try:
            tokens = await client.by_code(code, row.redirect_uri, begun.verifier)
            checker = TokenChecker(self._accounts.provider(row.issuer or ""), [row.client])
            claims = await checker.identity(tokens.identity, begun.nonce)
            more: Mapping[str, Any] = await client.user_info(tokens.access)
        except HawkerError as exc:
            exc.hint = exc.hint or _AGAIN
            raise
        # OpenID Connect Core 1.0 section 5.3.2.
        if more and more.get("sub") != claims["sub"]:
            raise Unauthenticated(f"{row.name} speaks of somebody else", hint=_AGAIN)
        return await self._accounts.signed_in(row, {**more, **claims})

    def _begun(self, call: Call, row: models.Provider) -> Begun:
        """What this browser began; raises Unauthenticated where that was nothing, or too long
        ago."""
        try:
            sealed = call.request.cookies.get(COOKIE, "")
            raw = self._identity.hashed.seal.open(sealed, PURPOSE)
            begun = msgspec.json.decode(raw, type=Begun)
        except (ValueError, HawkerError):
            begun = None
        if begun is None or begun.provider != row.id or begun.expires <= time.time():
            raise Unauthenticated(
                "this browser began no sign-in, another one since, or more than ten minutes ago",
                hint=_AGAIN,
            )
        return begun

    def _remember(self, call: Call, row: models.Provider, sealed: str) -> None:
        call.cookies[COOKIE] = {
            "value": sealed,
            "path": f"{call.mount}{PREFIX}/auth/{row.name}",
            "secure": row.redirect_uri.startswith("https:"),
            "httponly": True,
            "samesite": "lax",
            "max_age": int(SECONDS) if sealed else 0,
        }


_AGAIN = "begin again at the sign-in page"


async def _find(call: Call) -> models.Provider:
    name = call.param("provider")
    row = None
    if len(name) <= models.NAME:
        row = await models.Provider.get_or_none(name=name, disabled=False)
    if row is None or not row.redirect_uri:
        raise NotFound(
            f"nobody signs in here with {name[:200]!r}", hint="see /auth for those that are"
        )
    return row


def _is_own(path: str, mount: str) -> bool:
    return _PATH.match(path) is not None and path.startswith(f"{mount}/")


def _page(next_: str) -> str:
    """The last page: leads on, or says that it is done."""
    place = html.escape(next_, quote=True)
    leads = f'<meta http-equiv="refresh" content="0; url={place}">' if next_ else ""
    text = f'<a href="{place}">Go on</a>' if next_ else "You are signed in."
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{leads}'
        f"<title>Signed in</title></head><body><p>{text}</p></body></html>\n"
    )
