"""Quotas of tenants."""

from __future__ import annotations

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("manager", "0006_series")]

    initial = False

    operations = [
        ops.AddField(
            model_name="Tenant",
            name="quotas",
            field=fields.JSONField(null=True),
        ),
    ]
