"""Users, roles and bindings. Nobody gives a right, or takes over an account with one, that they do
not have; and somebody is always left who may do everything."""

from __future__ import annotations

from typing import Any, ClassVar

from hawker.apps.manager import models, wire
from hawker.apps.manager.access import ROLES, Grant, covers, permission_text
from hawker.apps.manager.accounts import account_of, rules_of
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.identity import grants, most_of, permissions
from hawker.apps.manager.operation import Operation
from hawker.apps.manager.secret import Passwords
from hawker.core.errors import Conflict, Forbidden, NotFound


class Users(Collection[models.User]):
    """They are disabled, never deleted: the audit names them."""

    name = "users"
    model = models.User
    view_type = wire.User
    new_type = wire.NewUser
    change_type = wire.UserChange
    filters: ClassVar = {"name": "name", "email": "email"}
    flags = ("disabled",)
    deletable = False

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation(
                "PUT", "/users/{id}/password", "Set a user's password, and end their sessions",
                ("users", "update"), self.set_password, body=wire.PasswordChange,
            ),
        ]  # fmt: skip

    async def view(self, row: models.User) -> wire.User:
        return await view_user(row)

    async def values(self, call: Call) -> dict[str, Any]:
        values = await super().values(call)
        if values.get("password") is not None:
            values["password"] = await self._passwords.hash(values["password"])
        return values

    async def check_change(self, call: Call, row: models.User, values: dict[str, Any]) -> None:
        await self._check_covers(call, row)
        if values.get("disabled") and not row.disabled:
            await keep_a_root(without_user=row.id)

    async def changed(self, call: Call, row: models.User) -> None:
        if row.disabled:
            await models.Session.filter(user_id=row.id).delete()

    async def set_password(self, call: Call) -> None:
        await self.find(call)
        hashed = await self._passwords.hash(call.body.password)
        async with call.change():
            row = await self.find(call, lock=True)
            await self._check_covers(call, row)
            if (account := await account_of(row)) is not None:
                raise Conflict(f"{row.name} signs in with {account.provider.name}")
            await replace_password(row, hashed)
            await models.Session.filter(user_id=row.id).delete()
            await call.audit("password", row.id, None, await view_user(row))

    async def _check_covers(self, call: Call, row: models.User) -> None:
        if not covers(call.who.grants, await most_of(row)):
            raise Forbidden(f"{row.name} may do what {call.who.user.name} may not")


class Roles(Collection[models.Role]):
    """The organisation's own roles, and beside them those that are built in."""

    name = "roles"
    model = models.Role
    view_type = wire.Role
    new_type = wire.NewRole
    change_type = wire.RoleChange
    filters: ClassVar = {"name": "name"}

    async def list_(self, call: Call) -> None:
        """The built-in ones come first, and are counted as the others are."""
        fixed = [r for r in BUILT_IN if call.filters.get("name", r.name) == r.name]
        skipped = (call.page - 1) * call.per_page
        shown = fixed[skipped : skipped + call.per_page]
        rows = await self.page(call, max(0, skipped - len(fixed)), call.per_page - len(shown))
        call.answer = [*shown, *[await self.view(row) for row in rows]]

    async def read(self, call: Call) -> None:
        call.answer = next((r for r in BUILT_IN if r.id == call.param("id")), None)
        if call.answer is None:
            await super().read(call)

    async def view(self, row: models.Role) -> wire.Role:
        return wire.Role(
            id=row.id,
            name=row.name,
            description=row.description,
            permissions=row.permissions,
            builtin=False,
            created=row.created,
            revision=row.revision,
        )

    async def values(self, call: Call) -> dict[str, Any]:
        values = await super().values(call)
        if values.get("name") in ROLES:
            raise Conflict(f"{values['name']!r} is a built-in role")
        if "permissions" in values:
            wanted = permissions(values["permissions"])
            if not covers(call.who.grants, [Grant(wanted)]):
                raise Forbidden(f"{call.who.user.name} may not give all of these permissions")
            values["permissions"] = sorted(map(permission_text, wanted))
        return values

    async def check_delete(self, call: Call, row: models.Role) -> None:
        if await models.RoleBinding.exists(role=row.name):
            raise Conflict(f"the role {row.name!r} is bound to somebody")
        for provider in await models.Provider.all():
            if any(rule.role == row.name for rule in rules_of(provider)):
                raise Conflict(f"a rule of {provider.name} gives the role {row.name!r}")


BUILT_IN = tuple(
    wire.Role(
        id=name,
        name=name,
        description="",
        permissions=sorted(map(permission_text, held)),
        builtin=True,
        created=0,
        revision=0,
    )
    for name, held in ROLES.items()
)


class Bindings(Collection[models.RoleBinding]):
    """Which roles users have, and where."""

    name = "bindings"
    model = models.RoleBinding
    view_type = wire.Binding
    new_type = wire.NewBinding
    tenant_field = "tenant_id"
    cluster_field = "cluster_id"
    filters: ClassVar = {
        "user": "user_id", "role": "role", "tenant": "tenant_id", "cluster": "cluster_id"
    }  # fmt: skip

    async def view(self, row: models.RoleBinding) -> wire.Binding:
        return view_binding(row)

    async def values(self, call: Call) -> dict[str, Any]:
        body: wire.NewBinding = call.body
        await check_role(body.role)
        values = {
            "user_id": body.user,
            "role": body.role,
            "tenant_id": body.tenant,
            "cluster_id": body.cluster,
        }
        given = await grants([models.RoleBinding(**values)])
        if not covers(call.who.grants, given):
            raise Forbidden(f"{call.who.user.name} may not do all that the role allows there")
        return values

    async def changed(self, call: Call, row: models.RoleBinding) -> None:
        # It names a role that is there, or will be gone once this waits no more.
        await check_role(row.role, lock=True)

    async def check_delete(self, call: Call, row: models.RoleBinding) -> None:
        if not covers(call.who.grants, await grants([row])):
            raise Forbidden(f"{call.who.user.name} may not do all that the role allows there")
        if row.role == "root" and not row.tenant_id and not row.cluster_id:
            await keep_a_root(without_binding=row.id)


async def check_role(name: str, *, lock: bool = False) -> None:
    """Raise NotFound where there is no such role; with `lock` nobody deletes it meanwhile."""
    query = models.Role.filter(name=name)
    if name not in ROLES and not await (query.select_for_update() if lock else query).first():
        raise NotFound(f"there is no role {name!r}")


async def keep_a_root(*, without_user: str = "", without_binding: str = "") -> None:
    """Raise Conflict where nobody else could do everything, inside a transaction."""
    # Those who take another root away at the same time wait here.
    rows = await models.RoleBinding.filter(
        role="root", tenant_id=None, cluster_id=None
    ).select_for_update()
    users = {row.user_id for row in rows if row.id != without_binding} - {without_user}
    if not await models.User.filter(id__in=users, disabled=False).exists():
        raise Conflict("nobody would be left who may do everything")


async def replace_password(row: models.User, hashed: str) -> None:
    row.password = hashed
    row.revision += 1
    await row.save(update_fields=["password", "revision"])


async def view_user(row: models.User) -> wire.User:
    account = await account_of(row)
    return wire.User(
        id=row.id,
        name=row.name,
        email=row.email,
        disabled=row.disabled,
        has_password=bool(row.password),
        provider=None if account is None else account.provider.name,
        subject=None if account is None else account.subject,
        created=row.created,
        revision=row.revision,
    )


def view_binding(row: models.RoleBinding) -> wire.Binding:
    return wire.Binding(row.id, row.user_id, row.role, row.tenant_id, row.cluster_id, row.created)
