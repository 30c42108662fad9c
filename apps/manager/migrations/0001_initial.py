"""The first tables."""

from __future__ import annotations

from time import time

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from hawker.apps.manager.models import new_id


class Migration(migrations.Migration):
    initial = True

    operations = [
        ops.CreateModel(
            name="Audit",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                ("at", fields.FloatField(db_index=True)),
                ("actor", fields.CharField(max_length=128)),
                ("via", fields.CharField(max_length=64)),
                ("action", fields.CharField(max_length=32)),
                ("resource", fields.CharField(max_length=32)),
                ("target", fields.CharField(max_length=64)),
                ("before", fields.JSONField(null=True)),
                ("after", fields.JSONField(null=True)),
            ],
            options={
                "table": "audit",
                "app": "manager",
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Cluster",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                ("name", fields.CharField(unique=True, max_length=128)),
                ("description", fields.TextField(default="", unique=False)),
                ("scopes", fields.JSONField(default=dict)),
                ("schedulers", fields.JSONField(default=dict)),
                ("seeds", fields.JSONField(default=dict)),
                ("peers", fields.JSONField(default=dict)),
                ("is_default", fields.BooleanField(default=False)),
                ("created", fields.FloatField(default=time)),
                ("revision", fields.IntField(default=1)),
            ],
            options={
                "table": "cluster",
                "app": "manager",
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Fact",
            fields=[
                (
                    "name",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32),
                ),
                ("value", fields.CharField(max_length=128)),
                ("expires", fields.FloatField(default=0)),
            ],
            options={
                "table": "fact",
                "app": "manager",
                "pk_attr": "name",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Member",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                (
                    "cluster",
                    fields.ForeignKeyField(
                        "manager.Cluster",
                        source_field="cluster_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("host", fields.CharField(max_length=32)),
                ("kind", fields.CharField(max_length=16)),
                ("url", fields.CharField(max_length=512)),
                ("addresses", fields.JSONField(default=list)),
                ("hostname", fields.CharField(default="", max_length=253)),
                ("idc", fields.CharField(default="", max_length=128)),
                ("location", fields.CharField(default="", max_length=512)),
                ("version", fields.CharField(default="", max_length=64)),
                ("draining", fields.BooleanField(default=False)),
                ("created", fields.FloatField(default=time)),
                ("kept_alive", fields.FloatField(db_index=True)),
            ],
            options={
                "table": "member",
                "app": "manager",
                "unique_together": (("cluster", "host", "kind"),),
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Repeat",
            fields=[
                (
                    "digest",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64),
                ),
                ("request", fields.CharField(max_length=64)),
                ("status", fields.IntField()),
                ("body", fields.TextField(unique=False)),
                ("created", fields.FloatField(db_index=True)),
            ],
            options={
                "table": "repeat",
                "app": "manager",
                "pk_attr": "digest",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Role",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                ("name", fields.CharField(unique=True, max_length=128)),
                ("description", fields.TextField(default="", unique=False)),
                ("permissions", fields.JSONField(default=list)),
                ("created", fields.FloatField(default=time)),
                ("revision", fields.IntField(default=1)),
            ],
            options={
                "table": "role",
                "app": "manager",
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Tenant",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                ("name", fields.CharField(unique=True, max_length=128)),
                ("description", fields.TextField(default="", unique=False)),
                ("created", fields.FloatField(default=time)),
                ("revision", fields.IntField(default=1)),
            ],
            options={
                "table": "tenant",
                "app": "manager",
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Application",
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
                ("name", fields.CharField(max_length=128)),
                ("description", fields.TextField(default="", unique=False)),
                ("priority", fields.IntField()),
                ("created", fields.FloatField(default=time)),
                ("revision", fields.IntField(default=1)),
            ],
            options={
                "table": "application",
                "app": "manager",
                "unique_together": (("tenant", "name"),),
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="User",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                ("name", fields.CharField(unique=True, max_length=128)),
                ("email", fields.CharField(default="", max_length=254)),
                ("password", fields.CharField(default="", max_length=255)),
                ("disabled", fields.BooleanField(default=False)),
                ("created", fields.FloatField(default=time)),
                ("revision", fields.IntField(default=1)),
            ],
            options={
                "table": "user",
                "app": "manager",
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="RoleBinding",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "manager.User",
                        source_field="user_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("role", fields.CharField(db_index=True, max_length=128)),
                (
                    "tenant",
                    fields.ForeignKeyField(
                        "manager.Tenant",
                        source_field="tenant_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "cluster",
                    fields.ForeignKeyField(
                        "manager.Cluster",
                        source_field="cluster_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("created", fields.FloatField(default=time)),
            ],
            options={
                "table": "role_binding",
                "app": "manager",
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Session",
            fields=[
                (
                    "digest",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "manager.User",
                        source_field="user_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("created", fields.FloatField(default=time)),
                ("expires", fields.FloatField(db_index=True)),
            ],
            options={
                "table": "session",
                "app": "manager",
                "pk_attr": "digest",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Token",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "manager.User",
                        source_field="user_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("name", fields.CharField(max_length=128)),
                ("prefix", fields.CharField(max_length=16)),
                ("digest", fields.CharField(unique=True, max_length=64)),
                ("scopes", fields.JSONField(default=list)),
                ("created", fields.FloatField(default=time)),
                ("expires", fields.FloatField()),
                ("used", fields.FloatField(default=0)),
            ],
            options={
                "table": "token",
                "app": "manager",
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
    ]
