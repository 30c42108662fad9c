"""Who may call: tokens between roles always, open sides only where everything is local.

Open means that a request without credentials is the local user's. It is refused where it comes
from a web page of another site (`Origin`), by another name (`Host`, which stops DNS rebinding), or
through a forwarding proxy.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from hawker.core.contracts import Authenticator, Caller, Plugins
from hawker.core.egress import is_loopback
from hawker.core.errors import ConfigError, Forbidden, HawkerError, Unauthenticated
from hawker.core.settings import Settings

FORWARDING = ("forwarded", "x-real-ip", "via")
FORWARDING_PREFIX = "x-forwarded-"
LOCAL = "hawker.local"
"""The ASGI extension of connections that only this user can make."""
LOCAL_USER = Caller(subject="local", verbs=frozenset({"*"}))


def decide_mode(settings: Settings, *, loopback_only: bool) -> bool:
    """Whether client-facing sides are open.

    Raises:
        ConfigError: they would be open to more than this machine.
    """
    mode = settings.auth.mode
    if mode == "required":
        return False
    if loopback_only:
        return True
    raise ConfigError(
        f"listening on {settings.listen.host}, "
        + ("auth.mode may not be open" if mode else "auth.mode must be set"),
        hint="set auth.mode = required (HAWKER_AUTH__MODE), or listen on 127.0.0.1",
    )


def as_bearer(credentials: str) -> str:
    """Credentials with a Basic password as the bearer token that it is: clients of proxies and
    registries can be given nothing else. Empty for a Basic that makes no sense."""
    scheme, _, value = credentials.partition(" ")
    if scheme.lower() != "basic":
        return credentials
    try:
        password = base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return f"Bearer {password}"


def is_local(scope: Mapping[str, Any]) -> bool:
    """The request came over the unix socket of our own server. Another's is not known to be for
    this user alone, and may name no client for other reasons."""
    return LOCAL in (scope.get("extensions") or {})


class Access:
    """Checks requests by the configured authenticators.

    Raises:
        UnknownPlugin: one of them cannot be used, which nobody should learn from a request.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        open_: bool,
        revoked: Collection[str] = frozenset(),
    ) -> None:
        self._authenticators: list[Authenticator] = [
            plugins.get("hawker.auth", name) for name in settings.auth.plugins
        ]
        self._open = open_
        self._revoked = revoked

    def refuse(self, revoked: Collection[str]) -> None:
        """Let nobody in with clients' tokens of these ids, from now on."""
        self._revoked = revoked

    async def caller(self, scope: Mapping[str, Any]) -> Caller | None:
        """Who shows credentials, None where there are none, or none that an authenticator knows.

        Raises:
            Unauthenticated: bad ones, revoked ones, or somebody of no tenant: an empty name is
                nowhere the default one's.
            Unavailable: whoever could tell is away.
        """
        headers = Headers(raw=list(scope["headers"]))
        for authenticator in self._authenticators:
            caller = await authenticator.authenticate(headers)
            if caller is None:
                continue
            if not caller.tenant:
                raise Unauthenticated(f"{caller.subject} is of no tenant")
            if caller.token and caller.token in self._revoked:
                raise Unauthenticated(
                    f"the token of {caller.subject} was revoked", hint="get another one"
                )
            return caller
        return None

    async def require(self, scope: Mapping[str, Any], verb: str, task: str | None = "") -> Caller:
        """The caller, if it may do this; where `task` is None only the verb is looked at, and the
        task is for `check_allowed` as soon as it is known.

        Raises:
            Unauthenticated: credentials are needed.
            Forbidden: these may not, or an open side is asked from elsewhere.
        """
        caller = await self.caller(scope)
        if caller is None and self._open:
            _check_here(scope)
            caller = LOCAL_USER
        if caller is not None and task is None:
            task = caller.task
        return check_allowed(caller, verb, task or "", scope)

    async def oversees(self, scope: Mapping[str, Any]) -> bool:
        """Whether who asks may know what all tenants do: whoever may ask for all hosts."""
        try:
            await self.require(scope, "hosts")
        except HawkerError:
            return False
        return True

    async def require_token(
        self, scope: Mapping[str, Any], verb: str, task: str = "", host: str = ""
    ) -> Caller:
        """The role that calls; its token must allow the verb, and be of `host` where one is named.

        Raises:
            Unauthenticated, Forbidden: as for `require`, in open mode too; Forbidden for a client
                of the cluster, whatever its verbs are.
        """
        caller = check_allowed(await self.caller(scope), verb, task, scope)
        if not caller.role:
            raise Forbidden(f"{caller.subject} is a client: only roles of the cluster may ask this")
        if host and (caller.host != host or not caller.proven):
            raise Forbidden("the token is another host's, or not signed with its key")
        return caller


def check_allowed(
    caller: Caller | None, verb: str, task: str, request: Mapping[str, Any] | None = None
) -> Caller:
    """The caller, if it may do this; raises Unauthenticated, Forbidden. `request`: the scope of the
    request, for what it showed."""
    if caller is None:
        if request is not None and "authorization" in Headers(raw=list(request["headers"])):
            raise Unauthenticated(
                "nobody here knows such a token", hint="its issuer is none of auth.plugins"
            )
        raise Unauthenticated("a token is needed", hint="send Authorization: Bearer …")
    if not caller.may(verb, task):
        scope = f", being let in for task {caller.task} alone" if caller.task else ""
        raise Forbidden(f"{caller.subject} may not do {verb!r} here{scope}")
    return caller


def _check_here(scope: Mapping[str, Any]) -> None:
    """Raise Forbidden for a request that does not come from this machine's own user."""
    headers = Headers(scope=dict(scope))
    for name in headers.keys():
        if name in FORWARDING or name.startswith(FORWARDING_PREFIX):
            raise Forbidden(
                f"requests forwarded by a proxy ({name}) are not taken without a token",
                hint="set auth.mode = required",
            )
    origin = headers.get("origin")
    if origin is not None and not is_loopback(_host_of(origin)):
        raise Forbidden(f"requests from pages of {origin} are not taken without a token")
    if is_local(scope):
        return
    host = headers.get("host", "")
    if not is_loopback(_host_of(f"//{host}")):
        raise Forbidden(f"{host!r} is not a name of this machine's loopback")


def _host_of(url: str) -> str:
    """The host a URL names, empty where it names none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
