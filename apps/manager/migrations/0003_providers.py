"""Whoever else says who somebody is, whom they know, and attempts to sign in."""

from __future__ import annotations

from time import time

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from hawker.apps.manager.models import new_id


class Migration(migrations.Migration):
    dependencies = [("manager", "0002_joining")]

    operations = [
        ops.CreateModel(
            name="Attempt",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                ("digest", fields.CharField(max_length=64)),
                ("at", fields.FloatField(db_index=True)),
            ],
            options={
                "table": "attempt",
                "app": "manager",
                "indexes": [Index(fields=["digest", "id"])],
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Provider",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                ("name", fields.CharField(unique=True, max_length=128)),
                ("issuer", fields.CharField(null=True, unique=True, max_length=512)),
                ("plugin", fields.CharField(null=True, unique=True, max_length=128)),
                ("audiences", fields.JSONField(default=list)),
                ("client", fields.CharField(default="", max_length=255)),
                ("secret", fields.TextField(default="", unique=False)),
                ("device_client", fields.CharField(default="", max_length=255)),
                ("redirect_uri", fields.CharField(default="", max_length=512)),
                ("scopes", fields.JSONField(default=list)),
                ("resource", fields.CharField(default="", max_length=512)),
                ("rules", fields.JSONField(default=list)),
                ("disabled", fields.BooleanField(default=False)),
                ("created", fields.FloatField(default=time)),
                ("revision", fields.IntField(default=1)),
            ],
            options={"table": "provider", "app": "manager", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Account",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                (
                    "user",
                    fields.OneToOneField(
                        "manager.User",
                        source_field="user_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "provider",
                    fields.ForeignKeyField(
                        "manager.Provider",
                        source_field="provider_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("subject", fields.CharField(max_length=255)),
                ("said", fields.JSONField(default=dict)),
                ("at", fields.FloatField(default=0)),
            ],
            options={
                "table": "account",
                "app": "manager",
                "unique_together": (("provider", "subject"),),
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
    ]
