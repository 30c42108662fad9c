"""What everybody does for themselves: the first user, signing in and out, their tokens, and who
they are; and the list of what was changed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from tortoise.queryset import QuerySet

from hawker.apps.manager import models, wire
from hawker.apps.manager.access import permission_text
from hawker.apps.manager.attempts import Attempts, place_of
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.identity import Identity, check_same_site, permissions
from hawker.apps.manager.operation import PREFIX, Operation
from hawker.apps.manager.people import replace_password, view_binding, view_user
from hawker.apps.manager.secret import Passwords, new_token
from hawker.core.errors import Conflict, Forbidden, TooMany, Unauthenticated

SETUP = "setup"


class Tokens(Collection[models.Token]):
    """The caller's own; a token can make none that may do more than itself."""

    name = "tokens"
    model = models.Token
    view_type = wire.Token

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation(
                "POST", "/tokens", "Create a token; its value is told this once",
                ("tokens", "create"), self.create, body=wire.NewToken, answer=wire.CreatedToken,
                status=201,
            ),
        ]  # fmt: skip

    async def view(self, row: models.Token) -> wire.Token:
        return wire.Token(
            row.id, row.name, row.prefix, row.scopes, row.created, row.expires, row.used
        )

    def reached(self, call: Call) -> QuerySet[models.Token]:
        return models.Token.filter(user_id=call.who.user.id)

    async def find(self, call: Call, *, lock: bool = False) -> models.Token:
        row = await self.reached(call).filter(id=call.param("id")).first()
        if row is None:
            raise self.missing()
        return row

    async def create(self, call: Call) -> None:
        body: wire.NewToken = call.body
        who = call.who
        if not who.own:
            # Else it would do what its owner may, of which a provider's token may tell but a part.
            raise Forbidden("a provider's token makes no others", hint="sign in, and make it there")
        wanted = permissions(body.scopes)
        held = {p for grant in who.grants for p in grant.permissions}
        if wanted - held:
            raise Forbidden(
                f"{who.user.name} may not do {permission_text(min(wanted - held))!r} anywhere"
            )
        value = new_token()
        now = time.time()
        async with call.change():
            row = await models.Token.create(
                user=who.user,
                name=body.name,
                prefix=value[:12],
                digest=self._identity.hashed.digest("token", value),
                scopes=sorted(map(permission_text, wanted)),
                created=now,
                expires=now + body.days * 86400.0,
            )
            shown = await self.view(row)
            await call.audit("create", row.id, None, shown)
        call.answer = wire.CreatedToken(shown, value)
        call.headers["location"] = f"{call.mount}{PREFIX}/tokens/{row.id}"


class Audits(Collection[models.Audit]):
    """Newest first."""

    name = "audit"
    model = models.Audit
    view_type = wire.Audit
    filters: ClassVar = {
        "actor": "actor", "action": "action", "resource": "resource", "target": "target"
    }  # fmt: skip
    order = ("-at", "id")
    wide = True
    deletable = False

    async def view(self, row: models.Audit) -> wire.Audit:
        return wire.Audit(
            id=row.id,
            at=row.at,
            actor=row.actor,
            via=row.via,
            action=row.action,
            resource=row.resource,
            target=row.target,
            before=row.before,
            after=row.after,
        )


class Own:
    """Setup, sessions, and who is signed in."""

    def __init__(self, identity: Identity, passwords: Passwords, attempts: Attempts) -> None:
        self._identity = identity
        self._passwords = passwords
        self._attempts = attempts
        self.checked: Counter[str] = Counter()
        """How often a password that was shown was `ok`, `refused` or `limited`."""

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/setup", "Make the first user, with the token of the setup link",
                "anyone", self.set_up, body=wire.Setup, answer=wire.User, status=201,
                parameters=("token",),
            ),
            Operation(
                "POST", "/session", "Sign in", "anyone", self.sign_in, body=wire.SignIn,
                answer=wire.Me, cookie=True,
            ),
            Operation("DELETE", "/session", "Sign out", "signed-in", self.sign_out, cookie=True),
            Operation("GET", "/me", "Who asks", "signed-in", self.me, answer=wire.Me),
            Operation(
                "PUT", "/me/password", "Change one's own password, and end other sessions",
                "signed-in", self.set_password, body=wire.OwnPasswordChange,
            ),
        ]  # fmt: skip

    async def set_up(self, call: Call) -> None:
        check_same_site(call.request)
        token = call.request.query_params.get("token", "")
        digest = self._identity.hashed.digest(SETUP, token)
        await _check_setup(digest)
        hashed = await self._passwords.hash(call.body.password)
        async with call.change():
            await _check_setup(digest, lock=True)
            await models.Fact.filter(name=SETUP).delete()
            user = await models.User.create(name=call.body.name, password=hashed)
            binding = await models.RoleBinding.create(user=user, role="root")
            call.answer = await view_user(user)
            who: dict[str, Any] = {"actor": user.name, "via": SETUP}
            await call.audit("create", user.id, None, call.answer, resource="users", **who)
            shown = view_binding(binding)
            await call.audit("create", binding.id, None, shown, resource="bindings", **who)
        call.headers["location"] = f"{call.mount}{PREFIX}/users/{user.id}"

    async def sign_in(self, call: Call) -> None:
        check_same_site(call.request)
        body: wire.SignIn = call.body
        user = await self._check_password(call, body.name, body.password)
        call.cookie = await self._identity.begin_session(user)
        call.answer = await self._about(user, "session", None, ())

    async def _check_password(self, call: Call, name: str, password: str) -> models.User:
        """Who has this name and password; raises TooMany, Unauthenticated, which do not tell
        whether there is such a user."""
        client = call.request.client
        address = place_of(client.host) if client else "unix"
        try:
            begun = await self._attempts.begin(name=name, address=address)
        except TooMany:
            self.checked["limited"] += 1
            raise
        user = await models.User.get_or_none(name=name)
        right = await self._passwords.check(user.password if user else "", password)
        if user is None or not right or user.disabled:
            self.checked["refused"] += 1
            raise Unauthenticated("the name or the password is wrong")
        self.checked["ok"] += 1
        await self._attempts.succeeded(begun, name=name)
        return user

    async def sign_out(self, call: Call) -> None:
        await models.Session.filter(digest=call.who.session).delete()
        call.cookie = ""

    async def me(self, call: Call) -> None:
        who = call.who
        scopes = None if who.scopes is None else sorted(map(permission_text, who.scopes))
        call.answer = await self._about(who.user, who.via, scopes, who.mapped)

    async def _about(
        self, user: models.User, via: str, scopes: list[str] | None, mapped: Sequence[wire.Held]
    ) -> wire.Me:
        bound = await models.RoleBinding.filter(user_id=user.id).order_by("created", "id")
        return wire.Me(
            await view_user(user), via, [view_binding(b) for b in bound], list(mapped), scopes
        )

    async def set_password(self, call: Call) -> None:
        who = call.who
        if not who.session:
            raise Forbidden("a token may not change its owner's password", hint="sign in")
        user = await self._check_password(call, who.user.name, call.body.old)
        hashed = await self._passwords.hash(call.body.password)
        async with call.change():
            row = await models.User.filter(id=user.id).select_for_update().get()
            await replace_password(row, hashed)
            await models.Session.filter(user_id=row.id).exclude(digest=who.session).delete()
            await call.audit("password", row.id, None, await view_user(row), resource="users")


async def _check_setup(digest: str, *, lock: bool = False) -> None:
    """Raise Unauthenticated, or Conflict where there are users already."""
    query = models.Fact.filter(name=SETUP, value=digest, expires__gt=time.time())
    if not await (query.select_for_update() if lock else query).first():
        raise Unauthenticated(
            "the setup link is wrong, used, or older than an hour",
            hint="start the manager again for a new one, as long as there is no user",
        )
    if await models.User.exists():
        raise Conflict("there are users already")
