"""Tenants' tokens for clients, those that are revoked, and names of tenants that are gone."""

from __future__ import annotations

from time import time

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from hawker.apps.manager.models import new_id


class Migration(migrations.Migration):
    dependencies = [("manager", "0004_jobs")]

    initial = False

    operations = [
        ops.CreateModel(
            name="RetiredTenant",
            fields=[
                (
                    "name",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=128),
                ),
                ("at", fields.FloatField(default=time)),
            ],
            options={"table": "retired_tenant", "app": "manager", "pk_attr": "name"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="ClientToken",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                (
                    "tenant",
                    fields.ForeignKeyField(
                        "manager.Tenant",
                        source_field="tenant_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "cluster",
                    fields.ForeignKeyField(
                        "manager.Cluster",
                        source_field="cluster_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("name", fields.CharField(max_length=128)),
                ("verbs", fields.JSONField(default=list)),
                ("actor", fields.CharField(max_length=128)),
                ("created", fields.FloatField(default=time)),
                ("expires", fields.FloatField(db_index=True)),
            ],
            options={"table": "client_token", "app": "manager", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Revocation",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32),
                ),
                (
                    "cluster",
                    fields.ForeignKeyField(
                        "manager.Cluster",
                        source_field="cluster_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("expires", fields.FloatField(db_index=True)),
                ("changed", fields.BigIntField()),
            ],
            options={
                "table": "revocation",
                "app": "manager",
                "indexes": [Index(fields=["changed", "id"])],
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
    ]
