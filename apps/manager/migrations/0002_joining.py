"""Hosts join: enrolments, what members show, what clusters share, and who is a member no more."""

from __future__ import annotations

from time import time

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from hawker.apps.manager.models import new_id


class Migration(migrations.Migration):
    dependencies = [("manager", "0001_initial")]

    operations = [
        ops.CreateModel(
            name="Authority",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                (
                    "cluster",
                    fields.OneToOneField(
                        "manager.Cluster",
                        source_field="cluster_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("certificate", fields.TextField(unique=False)),
                ("sealed_key", fields.TextField(unique=False)),
                ("sealed_cluster_key", fields.TextField(unique=False)),
                ("created", fields.FloatField(default=time)),
            ],
            options={"table": "authority", "app": "manager", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Counter",
            fields=[
                (
                    "name",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32),
                ),
                ("value", fields.BigIntField(default=0)),
            ],
            options={"table": "counter", "app": "manager", "pk_attr": "name"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Credential",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
                    ),
                ),
                (
                    "member",
                    fields.OneToOneField(
                        "manager.Member",
                        related_name="credential",
                        source_field="member_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("digest", fields.CharField(unique=True, max_length=64)),
                ("names", fields.JSONField(default=list)),
                ("created", fields.FloatField(default=time)),
                ("expires", fields.FloatField()),
            ],
            options={"table": "credential", "app": "manager", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Enrolment",
            fields=[
                (
                    "id",
                    fields.CharField(
                        primary_key=True, default=new_id, unique=True, db_index=True, max_length=32
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
                ("kind", fields.CharField(max_length=16)),
                ("names", fields.JSONField(default=list)),
                ("digest", fields.CharField(unique=True, max_length=64)),
                ("host", fields.CharField(default="", max_length=32)),
                ("created", fields.FloatField(default=time)),
                ("expires", fields.FloatField(db_index=True)),
            ],
            options={"table": "enrolment", "app": "manager", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Gone",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("cluster", fields.CharField(max_length=32)),
                ("host", fields.CharField(max_length=32)),
                ("kind", fields.CharField(max_length=16)),
                ("why", fields.CharField(max_length=16)),
                ("digest", fields.CharField(default="", max_length=64)),
                ("at", fields.FloatField(db_index=True)),
                ("changed", fields.BigIntField()),
            ],
            options={
                "table": "gone",
                "app": "manager",
                "indexes": [Index(fields=["changed", "id"])],
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.AddField(
            model_name="Member",
            name="changed",
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name="Member",
            name="silent",
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.AddIndex(
            model_name="Member",
            index=Index(fields=["changed", "id"]),
        ),
    ]
