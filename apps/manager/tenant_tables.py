"""The tables of tenants' tokens for clients, and of names of tenants that are gone."""

from __future__ import annotations

import time

from tortoise import fields
from tortoise.models import Model

from hawker.apps.manager.models import NAME, Cluster, Tenant, new_id


class RetiredTenant(Model):
    """The name of a tenant that was deleted. Roles know tenants by their names, and may have its
    content for long: nobody else is called so."""

    name = fields.CharField(max_length=NAME, primary_key=True)
    at = fields.FloatField(default=time.time)

    class Meta:
        table = "retired_tenant"


class ClientToken(Model):
    """What is known of a token that a tenant's clients show to roles of a cluster; the token itself
    is nowhere."""

    id = fields.CharField(max_length=32, primary_key=True, default=new_id)
    tenant: fields.ForeignKeyRelation[Tenant] = fields.ForeignKeyField(
        "manager.Tenant", on_delete=fields.RESTRICT
    )
    tenant_id: str
    cluster: fields.ForeignKeyRelation[Cluster] = fields.ForeignKeyField("manager.Cluster")
    cluster_id: str
    name = fields.CharField(max_length=NAME)
    verbs = fields.JSONField[list[str]](default=list)
    actor = fields.CharField(max_length=NAME)
    created = fields.FloatField(default=time.time)
    expires = fields.FloatField(db_index=True)

    class Meta:
        table = "client_token"


class Revocation(Model):
    """A client's token that is to be refused until it ends by itself."""

    id = fields.CharField(max_length=32, primary_key=True)
    cluster: fields.ForeignKeyRelation[Cluster] = fields.ForeignKeyField("manager.Cluster")
    cluster_id: str
    expires = fields.FloatField(db_index=True)
    changed = fields.BigIntField()

    class Meta:
        table = "revocation"
        indexes = (("changed", "id"),)


TABLES: tuple[type[Model], ...] = (RetiredTenant, ClientToken, Revocation)
for _table in TABLES:
    # As in `models`.
    _table._meta.table_description = ""
