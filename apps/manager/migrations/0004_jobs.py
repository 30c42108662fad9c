"""Jobs and their parts, and numbers of clusters."""

from __future__ import annotations

from time import time

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("manager", "0003_providers")]

    initial = False

    operations = [
        ops.AddField(
            model_name="Cluster",
            name="number",
            field=fields.IntField(default=0, db_default=0),
        ),
        ops.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                ("kind", fields.CharField(max_length=16)),
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
                ("clusters", fields.JSONField(default=list)),
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
                ("args", fields.JSONField(default=dict)),
                ("sealed", fields.TextField(default="", unique=False)),
                ("state", fields.CharField(db_index=True, max_length=16)),
                ("problem", fields.TextField(default="", unique=False)),
                ("actor", fields.CharField(max_length=128)),
                ("created", fields.FloatField(default=time, db_index=True)),
                ("begun", fields.FloatField(default=0)),
                ("ended", fields.FloatField(default=0)),
                ("attempts", fields.IntField(default=0)),
                ("after", fields.FloatField(default=0)),
                ("owner", fields.CharField(default="", max_length=32)),
                ("leased_until", fields.FloatField(default=0)),
            ],
            options={"table": "job", "app": "manager", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="JobPart",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                (
                    "job",
                    fields.ForeignKeyField(
                        "manager.Job",
                        source_field="job_id",
                        db_constraint=True,
                        to_field="id",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("number", fields.IntField()),
                ("url", fields.TextField(unique=False)),
                ("name", fields.CharField(default="", max_length=256)),
                ("private", fields.BooleanField(default=False)),
                ("cluster", fields.CharField(max_length=32)),
                ("host", fields.CharField(max_length=32)),
                ("hostname", fields.CharField(default="", max_length=253)),
                ("address", fields.CharField(default="", max_length=64)),
                ("state", fields.CharField(max_length=16)),
                ("bytes", fields.BigIntField(default=0)),
                ("total", fields.BigIntField(null=True)),
                ("attempts", fields.IntField(default=0)),
                ("problem", fields.TextField(default="", unique=False)),
                ("after", fields.FloatField(default=0)),
                ("owner", fields.CharField(default="", max_length=32)),
                ("leased_until", fields.FloatField(default=0)),
                ("updated", fields.FloatField(default=time)),
            ],
            options={
                "table": "job_part",
                "app": "manager",
                "indexes": [
                    Index(fields=["job_id", "state", "id"]),
                    Index(fields=["job_id", "updated"]),
                    Index(fields=["owner", "state"]),
                ],
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
    ]
