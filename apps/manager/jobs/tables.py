"""The tables of jobs. Rows of both are worked on under leases: they are those of a manager's
process, `owner`, until `leased_until`; then another may take its place."""

from __future__ import annotations

import time

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model

from hawker.apps.manager.models import NAME, Cluster, Tenant
from hawker.core.ids import DEFAULT_TENANT


class Job(Model):
    """What somebody wants done. `cluster` is the one it is for, none where there are several;
    `args` what was asked for, less what is secret: that is in `sealed`."""

    id = fields.BigIntField(primary_key=True)
    kind = fields.CharField(max_length=16)
    cluster: fields.ForeignKeyNullableRelation[Cluster] = fields.ForeignKeyField(
        "manager.Cluster", null=True
    )
    cluster_id: str | None
    clusters = fields.JSONField[list[str]](default=list)
    tenant: fields.ForeignKeyNullableRelation[Tenant] = fields.ForeignKeyField(
        "manager.Tenant", null=True
    )
    tenant_id: str | None
    args = fields.JSONField[dict[str, object]](default=dict)
    sealed = fields.TextField(default="")
    state = fields.CharField(max_length=16, db_index=True)
    problem = fields.TextField(default="")
    actor = fields.CharField(max_length=NAME)
    created = fields.FloatField(default=time.time, db_index=True)
    begun = fields.FloatField(default=0)
    ended = fields.FloatField(default=0)
    attempts = fields.IntField(default=0)
    after = fields.FloatField(default=0)
    owner = fields.CharField(max_length=32, default="")
    leased_until = fields.FloatField(default=0)

    class Meta:
        table = "job"


async def tenant_of(job: Job) -> str:
    """The name of the tenant whose content a job is about."""
    if job.tenant_id is None:
        return DEFAULT_TENANT
    return (await Tenant.get(id=job.tenant_id)).name


class JobPart(Model):
    """One content on one host. `number` is the content's among those of the job; `private`: its
    origin is shown what is secret; `after` is when it
    may be tried (again), `updated` when the row was changed last."""

    id = fields.BigIntField(primary_key=True)
    job: fields.ForeignKeyRelation[Job] = fields.ForeignKeyField("manager.Job")
    job_id: int
    number = fields.IntField()
    url = fields.TextField()
    name = fields.CharField(max_length=256, default="")
    private = fields.BooleanField(default=False)
    cluster = fields.CharField(max_length=32)
    host = fields.CharField(max_length=32)
    hostname = fields.CharField(max_length=253, default="")
    address = fields.CharField(max_length=64, default="")
    state = fields.CharField(max_length=16)
    bytes = fields.BigIntField(default=0)
    total = fields.BigIntField(null=True)
    attempts = fields.IntField(default=0)
    problem = fields.TextField(default="")
    after = fields.FloatField(default=0)
    owner = fields.CharField(max_length=32, default="")
    leased_until = fields.FloatField(default=0)
    updated = fields.FloatField(default=time.time)

    class Meta:
        table = "job_part"
        indexes = (
            Index(fields=("job_id", "state", "id")),
            Index(fields=("job_id", "updated")),
            Index(fields=("owner", "state")),
        )


TABLES: tuple[type[Model], ...] = (Job, JobPart)
for _table in TABLES:
    _table._meta.table_description = ""
