"""Points of what clusters did."""

from __future__ import annotations

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("manager", "0005_client_tokens")]

    initial = False

    operations = [
        ops.CreateModel(
            name="SeriesPoint",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                ("cluster", fields.CharField(max_length=32)),
                ("step", fields.IntField()),
                ("at", fields.BigIntField()),
                ("hosts", fields.FloatField()),
                ("tasks", fields.FloatField()),
                ("peers", fields.FloatField()),
                ("origin_bytes", fields.BigIntField()),
                ("delivered_bytes", fields.BigIntField()),
                ("sums", fields.JSONField(default=dict)),
            ],
            options={
                "table": "series_point",
                "app": "manager",
                "unique_together": (("cluster", "step", "at"),),
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
    ]
