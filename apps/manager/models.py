"""The manager's tables. Ids are strings, times seconds since 1970; `revision` grows with each
change of what can be changed, and is the row's entity tag."""

from __future__ import annotations

import secrets
import time

from tortoise import fields
from tortoise.models import Model

NAME, URL = 128, 512


def new_id() -> str:
    """16 hex digits at random."""
    return secrets.token_hex(8)


class Cluster(Model):
    """Schedulers, seed peers and peers that work together. `number` is what those call it who take
    no other id."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    number = fields.IntField(default=0, db_default=0)
    name = fields.CharField(max_length=NAME, unique=True)
    description = fields.TextField(default="")
    scopes = fields.JSONField[dict[str, object]](default=dict)
    schedulers = fields.JSONField[dict[str, object]](default=dict)
    seeds = fields.JSONField[dict[str, object]](default=dict)
    peers = fields.JSONField[dict[str, object]](default=dict)
    is_default = fields.BooleanField(default=False)
    created = fields.FloatField(default=time.time)
    revision = fields.IntField(default=1)

    class Meta:
        table = "cluster"


class Member(Model):
    """A host of a cluster, by its last keepalive.

    `silent`: a scheduler that the managers have found inactive, until it keeps itself alive again.
    `changed` is the number of the last change, of `Counter`, that managers must hear of.
    """

    id = fields.CharField(max_length=48, primary_key=True)
    cluster: fields.ForeignKeyRelation[Cluster] = fields.ForeignKeyField(
        "manager.Cluster", on_delete=fields.RESTRICT
    )
    cluster_id: str
    host = fields.CharField(max_length=32)
    kind = fields.CharField(max_length=16)
    url = fields.CharField(max_length=512)
    addresses = fields.JSONField[list[str]](default=list)
    hostname = fields.CharField(max_length=253, default="")
    idc = fields.CharField(max_length=NAME, default="")
    location = fields.CharField(max_length=512, default="")
    version = fields.CharField(max_length=64, default="")
    draining = fields.BooleanField(default=False)
    # Of a default in the database, too, which rows get that were there before the column.
    silent = fields.BooleanField(default=False, db_default=False)
    created = fields.FloatField(default=time.time)
    kept_alive = fields.FloatField(db_index=True)
    changed = fields.BigIntField(default=0, db_default=0)

    class Meta:
        table = "member"
        unique_together = (("cluster", "host", "kind"),)
        indexes = (("changed", "id"),)


class Enrolment(Model):
    """A token with which one host may join; without a cluster, the one that fits the host best.

    `host` is who has joined with it. `names` are those that its certificate may carry; none: the
    host's own.
    """

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    cluster: fields.ForeignKeyNullableRelation[Cluster] = fields.ForeignKeyField(
        "manager.Cluster", null=True
    )
    cluster_id: str | None
    kind = fields.CharField(max_length=16)
    names = fields.JSONField[list[str]](default=list)
    digest = fields.CharField(max_length=64, unique=True)
    host = fields.CharField(max_length=32, default="")
    created = fields.FloatField(default=time.time)
    expires = fields.FloatField(db_index=True)

    class Meta:
        table = "enrolment"


class Credential(Model):
    """What a member that joined shows: the keyed hash of its token, and the names that its
    certificates may carry. `expires` is when the last of these ends."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    member: fields.OneToOneRelation[Member] = fields.OneToOneField(
        "manager.Member", related_name="credential"
    )
    member_id: str
    digest = fields.CharField(max_length=64, unique=True)
    names = fields.JSONField[list[str]](default=list)
    created = fields.FloatField(default=time.time)
    expires = fields.FloatField()

    class Meta:
        table = "credential"


class Gone(Model):
    """A member that is none any more, and why: `removed`, `left`, or `forgotten`, as it was silent
    and had no token of its own. What it showed is told from what nobody knows."""

    id = fields.CharField(max_length=48, primary_key=True)
    cluster = fields.CharField(max_length=32)
    host = fields.CharField(max_length=32)
    kind = fields.CharField(max_length=16)
    why = fields.CharField(max_length=16)
    digest = fields.CharField(max_length=64, default="")
    at = fields.FloatField(db_index=True)
    changed = fields.BigIntField()

    class Meta:
        table = "gone"
        indexes = (("changed", "id"),)


class Authority(Model):
    """What a cluster's members share: `certificate` is its authority's, PEM; its private key and
    the cluster key are sealed with a key that the database does not have."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    cluster: fields.OneToOneRelation[Cluster] = fields.OneToOneField("manager.Cluster")
    cluster_id: str
    certificate = fields.TextField()
    sealed_key = fields.TextField()
    sealed_cluster_key = fields.TextField()
    created = fields.FloatField(default=time.time)

    class Meta:
        table = "authority"


class Counter(Model):
    """Counts the changes that every manager of the database must hear of. Whoever makes one counts
    it last in their transaction: until that ends nobody else can, so that numbers are seen in
    their order."""

    name = fields.CharField(max_length=32, primary_key=True)
    value = fields.BigIntField(default=0)

    class Meta:
        table = "counter"


class Tenant(Model):
    """An isolated owner of tasks, tokens, quotas (None: it has none); roles know it by its name."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    name = fields.CharField(max_length=NAME, unique=True)
    description = fields.TextField(default="")
    quotas = fields.JSONField[dict[str, object] | None](null=True)
    created = fields.FloatField(default=time.time)
    revision = fields.IntField(default=1)

    class Meta:
        table = "tenant"


class Application(Model):
    """What content is for; its priority is 0 to 6."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    tenant: fields.ForeignKeyRelation[Tenant] = fields.ForeignKeyField(
        "manager.Tenant", on_delete=fields.RESTRICT
    )
    tenant_id: str
    name = fields.CharField(max_length=NAME)
    description = fields.TextField(default="")
    priority = fields.IntField()
    created = fields.FloatField(default=time.time)
    revision = fields.IntField(default=1)

    class Meta:
        table = "application"
        unique_together = (("tenant", "name"),)


class User(Model):
    """A person or a program. `password` is an argon2id hash; empty: none, they cannot sign in."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    name = fields.CharField(max_length=NAME, unique=True)
    email = fields.CharField(max_length=254, default="")
    password = fields.CharField(max_length=255, default="")
    disabled = fields.BooleanField(default=False)
    created = fields.FloatField(default=time.time)
    revision = fields.IntField(default=1)

    class Meta:
        table = "user"


class Provider(Model):
    """Whoever else says who somebody is: an OpenID Connect provider (by its issuer), or an
    authenticator plugin (by its name); the other of the two is None.

    `secret` is sealed. `rules` are `provider_wire.Rule`s.
    """

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    name = fields.CharField(max_length=NAME, unique=True)
    issuer = fields.CharField(max_length=URL, unique=True, null=True)
    plugin = fields.CharField(max_length=NAME, unique=True, null=True)
    audiences = fields.JSONField[list[str]](default=list)
    client = fields.CharField(max_length=255, default="")
    secret = fields.TextField(default="")
    device_client = fields.CharField(max_length=255, default="")
    redirect_uri = fields.CharField(max_length=512, default="")
    scopes = fields.JSONField[list[str]](default=list)
    resource = fields.CharField(max_length=512, default="")
    rules = fields.JSONField[list[dict[str, object]]](default=list)
    disabled = fields.BooleanField(default=False)
    created = fields.FloatField(default=time.time)
    revision = fields.IntField(default=1)

    class Meta:
        table = "provider"


class Account(Model):
    """Whom a provider knows by a subject, and which user that is here. `said` are the claims that
    rules look at, as they were at the last sign-in, `at` then."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    user: fields.OneToOneRelation[User] = fields.OneToOneField("manager.User")
    user_id: str
    provider: fields.ForeignKeyRelation[Provider] = fields.ForeignKeyField(
        "manager.Provider", on_delete=fields.RESTRICT
    )
    provider_id: str
    subject = fields.CharField(max_length=255)
    said = fields.JSONField[dict[str, list[str]]](default=dict)
    at = fields.FloatField(default=0)

    class Meta:
        table = "account"
        unique_together = (("provider", "subject"),)


class Attempt(Model):
    """A sign-in that did not succeed, or has not yet: `digest` is of whose name, or from where. The
    database numbers them, as managers' clocks differ."""

    id = fields.BigIntField(primary_key=True, generated=True)
    digest = fields.CharField(max_length=64)
    at = fields.FloatField(db_index=True)

    class Meta:
        table = "attempt"
        indexes = (("digest", "id"),)


class Role(Model):
    """A role of the organisation's own, beside the built-in ones."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    name = fields.CharField(max_length=NAME, unique=True)
    description = fields.TextField(default="")
    permissions = fields.JSONField[list[str]](default=list)
    created = fields.FloatField(default=time.time)
    revision = fields.IntField(default=1)

    class Meta:
        table = "role"


class RoleBinding(Model):
    """A user's role, within a tenant and a cluster or everywhere. It goes with what it is within:
    a binding that lost its bounds would be one without."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("manager.User")
    user_id: str
    role = fields.CharField(max_length=NAME, db_index=True)
    tenant: fields.ForeignKeyNullableRelation[Tenant] = fields.ForeignKeyField(
        "manager.Tenant", null=True
    )
    tenant_id: str | None
    cluster: fields.ForeignKeyNullableRelation[Cluster] = fields.ForeignKeyField(
        "manager.Cluster", null=True
    )
    cluster_id: str | None
    created = fields.FloatField(default=time.time)

    class Meta:
        table = "role_binding"


class Token(Model):
    """A personal access token: its keyed hash, and the beginning that people know it by."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("manager.User")
    user_id: str
    name = fields.CharField(max_length=NAME)
    prefix = fields.CharField(max_length=16)
    digest = fields.CharField(max_length=64, unique=True)
    scopes = fields.JSONField[list[str]](default=list)
    created = fields.FloatField(default=time.time)
    expires = fields.FloatField()
    used = fields.FloatField(default=0)

    class Meta:
        table = "token"


class Session(Model):
    """Somebody who signed in; `digest` is the keyed hash of the cookie."""

    digest = fields.CharField(max_length=64, primary_key=True)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("manager.User")
    user_id: str
    created = fields.FloatField(default=time.time)
    expires = fields.FloatField(db_index=True)

    class Meta:
        table = "session"


class Audit(Model):
    """A change: who, what, and how it was before and after, without secrets."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    at = fields.FloatField(db_index=True)
    actor = fields.CharField(max_length=NAME)
    via = fields.CharField(max_length=64)
    action = fields.CharField(max_length=32)
    resource = fields.CharField(max_length=32)
    target = fields.CharField(max_length=64)
    before = fields.JSONField[dict[str, object] | None](null=True)
    after = fields.JSONField[dict[str, object] | None](null=True)

    class Meta:
        table = "audit"


class Repeat(Model):
    """The answer to a POST that named an Idempotency-Key, kept for whoever sends it again."""

    digest = fields.CharField(max_length=64, primary_key=True)
    request = fields.CharField(max_length=64)
    status = fields.IntField()
    body = fields.TextField()
    created = fields.FloatField(db_index=True)

    class Meta:
        table = "repeat"


KEY = "key"
"""The fact that is always there: the fingerprint."""


class Fact(Model):
    """What the whole installation is, by name: the fingerprint of the key that tokens are hashed
    with, and the setup link that is open."""

    name = fields.CharField(max_length=32, primary_key=True)
    value = fields.CharField(max_length=128)
    expires = fields.FloatField(default=0)

    class Meta:
        table = "fact"


TABLES: tuple[type[Model], ...] = (
    Cluster, Member, Enrolment, Credential, Gone, Authority, Counter, Tenant, Application, User,
    Provider, Account, Attempt, Role, RoleBinding, Token, Session, Audit, Repeat, Fact,
)  # fmt: skip
for _table in TABLES:
    # Else docstrings would be comments in the database, and each new wording a migration.
    _table._meta.table_description = ""
