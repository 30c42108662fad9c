"""The table of what clusters did, by steps of time."""

from __future__ import annotations

from typing import Any

from tortoise import fields
from tortoise.models import Model


class SeriesPoint(Model):
    """A step of a cluster. `sums` are what each scheduler had counted at its end, by URL: when it
    began, bytes from origins, bytes delivered; of the finest step alone."""

    id = fields.BigIntField(primary_key=True)
    cluster = fields.CharField(max_length=32)
    step = fields.IntField()
    at = fields.BigIntField()
    hosts = fields.FloatField()
    tasks = fields.FloatField()
    peers = fields.FloatField()
    origin_bytes = fields.BigIntField()
    delivered_bytes = fields.BigIntField()
    sums = fields.JSONField[dict[str, Any]](default=dict)

    class Meta:
        table = "series_point"
        unique_together = (("cluster", "step", "at"),)


TABLES: tuple[type[Model], ...] = (SeriesPoint,)
for _table in TABLES:
    _table._meta.table_description = ""
