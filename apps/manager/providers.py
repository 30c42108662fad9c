"""Providers: whoever else says who people are, and what their rules give. Nobody makes one, or
changes one, that could give more than they have themselves."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from hawker.apps.manager import models, provider_wire
from hawker.apps.manager.access import covers
from hawker.apps.manager.accounts import Accounts, bindings, rules_of
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.identity import grants
from hawker.apps.manager.operation import PREFIX
from hawker.apps.manager.people import check_role
from hawker.apps.manager.secret import Seal
from hawker.core.errors import BadRequest, Conflict, Forbidden, NotFound
from hawker.core.openid.provider import is_trustworthy

SECRET = "provider secret"


class Providers(Collection[models.Provider]):
    """Their issuers and names stay: users are known by them. With users, they are disabled, not
    deleted."""

    name = "providers"
    model = models.Provider
    view_type = provider_wire.Provider
    new_type = provider_wire.NewProvider
    change_type = provider_wire.ProviderChange
    filters: ClassVar = {"name": "name", "issuer": "issuer", "plugin": "plugin"}
    flags = ("disabled",)

    def __init__(self, accounts: Accounts, seal: Seal) -> None:
        self._accounts = accounts
        self._seal = seal

    async def view(self, row: models.Provider) -> provider_wire.Provider:
        return provider_wire.Provider(
            id=row.id,
            name=row.name,
            issuer=row.issuer,
            plugin=row.plugin,
            audiences=row.audiences,
            client=row.client,
            has_secret=bool(row.secret),
            redirect_uri=row.redirect_uri,
            device_client=row.device_client,
            scopes=row.scopes,
            resource=row.resource,
            rules=rules_of(row),
            disabled=row.disabled,
            created=row.created,
            revision=row.revision,
        )

    async def values(self, call: Call) -> dict[str, Any]:
        body: provider_wire.NewProvider | provider_wire.ProviderChange = call.body
        values = {
            name: msgspec.to_builtins(value)
            for name in body.__struct_fields__
            if (value := getattr(body, name)) is not msgspec.UNSET
        }
        if isinstance(body, provider_wire.NewProvider):
            values["id"] = models.new_id()
            if body.plugin is not None:
                self._accounts.check_plugin(body.plugin)
            _check_whole(body.name, models.Provider(**{**values, "secret": body.secret or ""}))
        if "secret" in values:
            row = values.get("id") or call.param("id")
            secret = values["secret"]
            values["secret"] = "" if secret is None else self.close(secret, row)
        if body.rules is not msgspec.UNSET:
            await _check_rules(call, body.rules)
        return values

    async def check_change(self, call: Call, row: models.Provider, values: dict[str, Any]) -> None:
        await _check_covers(call, row)
        changed = {name: getattr(row, name) for name in models.Provider._meta.db_fields}
        if row.plugin is not None and set(values) - {"rules", "disabled"}:
            raise BadRequest("a plugin has rules, and nothing else that can be changed")
        _check_whole(row.name, models.Provider(**{**changed, **values}))

    async def changed(self, call: Call, row: models.Provider) -> None:
        for role in sorted({rule.role for rule in rules_of(row)}):
            await check_role(role, lock=True)
        if row.disabled:
            users = await models.Account.filter(provider_id=row.id).values_list(
                "user_id", flat=True
            )
            await models.Session.filter(user_id__in=list(users)).delete()

    async def check_delete(self, call: Call, row: models.Provider) -> None:
        await _check_covers(call, row)
        if await models.Account.exists(provider_id=row.id):
            raise Conflict(
                f"there are users whom {row.name} knows", hint="disable it, and they are out"
            )

    def close(self, secret: str, row: str) -> str:
        return self._seal.close(secret.encode(), SECRET, row)


def secret_of(row: models.Provider, seal: Seal) -> str:
    """The client's secret; raises StorageFailed where it was sealed with another key."""
    return seal.open(row.secret, SECRET, row.id).decode() if row.secret else ""


def _check_whole(name: str, row: models.Provider) -> None:
    """Raise BadRequest for what makes no sense together."""
    if row.redirect_uri:
        end = f"{PREFIX}/auth/{name}/callback"
        if not is_trustworthy(row.redirect_uri) or not row.redirect_uri.endswith(end):
            raise BadRequest(
                f"redirect_uri: {row.redirect_uri!r} is not where people come back to",
                hint=f"it is https://this-manager/…{end}; http only for this machine",
            )
        if not row.client:
            raise BadRequest("redirect_uri needs `client`, whom the provider knows it of")
        if "openid" not in row.scopes:
            raise BadRequest("scopes: without `openid` the provider does not say who signs in")
    if row.secret and not row.client:
        raise BadRequest("a secret needs the `client` that it is of")


async def _check_rules(call: Call, rules: list[provider_wire.Rule]) -> None:
    for rule in rules:
        await check_role(rule.role)
        if rule.tenant is not None and not await models.Tenant.exists(id=rule.tenant):
            raise NotFound(f"rules: there is no tenant {rule.tenant!r}")
        if rule.cluster is not None and not await models.Cluster.exists(id=rule.cluster):
            raise NotFound(f"rules: there is no cluster {rule.cluster!r}")
    if not covers(call.who.grants, await grants(bindings(rules))):
        raise Forbidden(f"{call.who.user.name} may not do all that the rules allow")


async def _check_covers(call: Call, row: models.Provider) -> None:
    """Raise Forbidden unless the caller may do all that anybody may whom the provider knows: who
    says whom its tokens are taken from could be any of them."""
    users = models.Account.filter(provider_id=row.id).values_list("user_id", flat=True)
    bound = await models.RoleBinding.filter(user_id__in=list(await users))
    if not covers(call.who.grants, await grants([*bound, *bindings(rules_of(row))])):
        raise Forbidden(f"users whom {row.name} knows may do what {call.who.user.name} may not")
