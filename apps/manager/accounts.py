"""People whom somebody else knows: who shows a provider's access token, or what an authenticator
plugin understands, and which user that is here.

They are known by provider and subject, never by a name or an e-mail address: whoever can have those
written into a token would be somebody else here. A user appears when they are seen first.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from tortoise.exceptions import IntegrityError

from hawker.apps.manager import models, provider_wire, wire
from hawker.apps.manager.database import transaction
from hawker.apps.manager.rules import held, said
from hawker.core.contracts import Authenticator, Plugins
from hawker.core.errors import BadRequest, Unauthenticated, Unavailable, UnknownPlugin
from hawker.core.openid.client import ProviderClient
from hawker.core.openid.provider import Provider, is_issuer
from hawker.core.openid.tokens import MAX_SUBJECT, TokenChecker
from hawker.core.outgoing import OriginClient
from hawker.core.tokens import issuer_of

REMEMBERED = 30 * 86400.0
"""Seconds after a sign-in for which what the provider said counts without its word, for tokens that
somebody made here."""
GROUP = "hawker.auth"
_EMAIL = 254

Known = tuple[models.User, list[wire.Held], str]
"""Who it is, the roles that a provider's rules give them, and the provider's name."""


class Accounts:
    """Asks the providers that the database has. What is known of an issuer (its keys) is kept as
    long as this object is open."""

    def __init__(self, plugins: Plugins, context: ssl.SSLContext) -> None:
        """`context` verifies providers."""
        self._plugins = plugins
        self._origins = OriginClient(plugins.services, context)
        self._providers: dict[str, Provider] = {}

    async def by_token(self, token: str) -> Known | None:
        """Whose access token this is; None where no provider issues such.

        Raises:
            Unauthenticated: it is no good, or its owner may not come in.
            Unavailable: the provider is away, and its keys are not known.
        """
        issuer = issuer_of(token)
        if not is_issuer(issuer) or len(issuer) > models.URL or not issuer.isprintable():
            return None
        row = await models.Provider.get_or_none(issuer=issuer)
        if row is None or row.disabled or not row.audiences:
            return None
        checker = TokenChecker(self.provider(issuer), row.audiences)
        return await self._known(row, await checker.access(token))

    async def by_plugin(self, request: Request) -> Known | None:
        """Whom an authenticator plugin knows by this request; None where none does. Raises as
        `by_token`."""
        rows = await models.Provider.filter(plugin__isnull=False, disabled=False)
        for row in sorted(rows, key=lambda row: (row.created, row.id)):
            caller = await self.plugin(row).authenticate(request.headers)
            if caller is None:
                continue
            if caller.task:
                raise Unauthenticated("the token is for one task alone")
            if not 0 < len(caller.subject) <= MAX_SUBJECT or not caller.subject.isprintable():
                raise Unauthenticated(f"{row.name} knows the caller by no name")
            claims = {
                "sub": caller.subject, "tenant": caller.tenant, "verbs": sorted(caller.verbs)
            }  # fmt: skip
            return await self._known(row, claims)
        return None

    async def signed_in(self, row: models.Provider, claims: Mapping[str, Any]) -> models.User:
        """Whom a provider said this of, just now; raises Unauthenticated where they are disabled
        here."""
        account = await _account(row, claims)
        email = claims.get("email")
        async with transaction():
            account.said, account.at = said(claims, rules_of(row)), time.time()
            await account.save(update_fields=["said", "at"])
            if isinstance(email, str) and len(email) <= _EMAIL and email.isprintable():
                await models.User.filter(id=account.user_id).update(email=email)
        _check_enabled(account.user)
        return account.user

    async def _known(self, row: models.Provider, claims: Mapping[str, Any]) -> Known:
        rules = rules_of(row)
        account = await _account(row, claims)
        _check_enabled(account.user)
        return account.user, held(rules, said(claims, rules)), row.name

    # ------------------------------------------------------------------ who is asked

    def provider(self, issuer: str) -> Provider:
        if issuer not in self._providers:
            self._providers[issuer] = Provider(issuer, self._origins)
        return self._providers[issuer]

    async def client(self, row: models.Provider, secret: str) -> ProviderClient:
        """Ourselves, as the provider knows us, to sign people in: of its own words about them, no
        `resource` is told. Raises Unavailable where it is away."""
        assert row.issuer is not None
        return ProviderClient(
            await self.provider(row.issuer).document(),
            self._origins,
            row.client,
            secret,
            scopes=row.scopes,
        )

    def plugin(self, row: models.Provider) -> Authenticator:
        """Raises Unavailable where this process does not have it."""
        try:
            found: Authenticator = self._plugins.get(GROUP, row.plugin or "")
        except UnknownPlugin as exc:
            raise Unavailable(
                f"the provider {row.name} needs the plugin {row.plugin}", hint=str(exc)
            ) from exc
        return found

    def check_plugin(self, name: str) -> None:
        """Raise BadRequest where this process has no such authenticator."""
        try:
            self._plugins.get(GROUP, name)
        except UnknownPlugin as exc:
            raise BadRequest(f"plugin: {exc.detail}", hint=exc.hint) from exc

    async def close(self) -> None:
        for provider in self._providers.values():
            await provider.close()
        self._providers.clear()
        await self._origins.close()


def rules_of(row: models.Provider) -> list[provider_wire.Rule]:
    return msgspec.convert(row.rules, list[provider_wire.Rule])


def bindings(given: list[wire.Held] | list[provider_wire.Rule]) -> list[models.RoleBinding]:
    """What rules give, as bindings that no table has."""
    return [
        models.RoleBinding(role=one.role, tenant_id=one.tenant, cluster_id=one.cluster)
        for one in given
    ]


def remembered(account: models.Account) -> list[wire.Held]:
    """The roles that somebody has by what their provider said at their last sign-in; its rules are
    those of now."""
    if account.at <= time.time() - REMEMBERED:
        return []
    return held(rules_of(account.provider), account.said)


async def account_of(user: models.User) -> models.Account | None:
    """With its provider; None where nobody else knows them."""
    return await models.Account.get_or_none(user_id=user.id).select_related("provider")


async def _account(row: models.Provider, claims: Mapping[str, Any]) -> models.Account:
    """The account of whom a provider speaks of, made where it is the first time."""
    subject: str = claims["sub"]
    for _ in range(2):
        known = models.Account.get_or_none(provider_id=row.id, subject=subject)
        account = await known.select_related("user")
        if account is not None:
            return account
        try:
            async with transaction():
                user = await models.User.create(name=_name(row.name, subject))
                await models.Account.create(user=user, provider=row, subject=subject)
                await models.Audit.create(
                    at=time.time(),
                    actor=user.name,
                    via=f"provider:{row.name}",
                    action="create",
                    resource="users",
                    target=user.id,
                    before=None,
                    after={"id": user.id, "name": user.name, "provider": row.name},
                )
        except IntegrityError:
            # They came twice at once.
            continue
    raise Unavailable(f"{row.name} and its user were changed at the same time", retry_after=1)


def _name(provider: str, subject: str) -> str:
    """A user's name, which nobody of here can have: theirs have no colon."""
    name = f"{provider}:{subject}"
    if len(name) > models.NAME:
        digest = hashlib.sha256(subject.encode()).hexdigest()
        name = f"{provider[:60]}:{digest}"
    return name


def _check_enabled(user: models.User) -> None:
    if user.disabled:
        raise Unauthenticated("the user is disabled")
