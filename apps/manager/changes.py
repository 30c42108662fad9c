"""Changes that every manager of a database must hear of, and members that are none any more.

Whoever makes such a change locks its rows first and counts it last, so that nobody waits for each
other in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from tortoise.expressions import F

from hawker.apps.manager import models
from hawker.apps.manager.database import transaction

CHANGES = "changes"
JOBS = "jobs"
CLUSTERS = "clusters"
Why = Literal["removed", "left", "forgotten"]


async def begin() -> None:
    """Make the counters, where the database has none yet, and number the clusters of before."""
    for name in (CHANGES, JOBS, CLUSTERS):
        await models.Counter.get_or_create(defaults={"value": 0}, name=name)
    async with transaction():
        await lock(CLUSTERS)
        for cluster in await models.Cluster.filter(number=0).order_by("created", "id"):
            await give_number(cluster)


async def give_number(cluster: models.Cluster) -> None:
    """The next one: numbers are given once."""
    await models.Counter.filter(name=CLUSTERS).update(value=F("value") + 1)
    counter = await models.Counter.get(name=CLUSTERS)
    cluster.number = counter.value
    await cluster.save(update_fields=["number"])


async def lock(name: str) -> None:
    """Wait for whoever else has locked this counter; to the end of the transaction."""
    await models.Counter.filter(name=name).update(value=F("value"))


async def current() -> int:
    """The number of the last change."""
    counter = await models.Counter.get(name=CHANGES)
    return int(counter.value)


async def count() -> int:
    """The number of a change, in its transaction, which makes no other change after it but to write
    the number down."""
    await models.Counter.filter(name=CHANGES).update(value=F("value") + 1)
    return await current()


async def part(rows: Sequence[models.Member], why: Why) -> None:
    """Members are none any more; in a transaction that has their rows locked."""
    ids = [row.id for row in rows]
    shown = dict(
        await models.Credential.filter(member_id__in=ids).values_list("member_id", "digest")
    )
    now = time.time()
    await models.Member.filter(id__in=ids).delete()
    number = await count()
    await models.Gone.bulk_create(
        models.Gone(
            id=row.id,
            cluster=row.cluster_id,
            host=row.host,
            kind=row.kind,
            why=why,
            digest=shown.get(row.id, ""),
            at=now,
            changed=number,
        )
        for row in rows
    )


async def forget(silent_since: float) -> None:
    """Part with members that are silent since then and have no token of their own: nobody can say
    of a host that announces itself whether it will come back."""
    async with transaction():
        silent = models.Member.filter(kept_alive__lte=silent_since, credential=None)
        ids = await silent.values_list("id", flat=True)
        rows = (
            await models.Member.filter(id__in=list(ids), kept_alive__lte=silent_since)
            .order_by("id")
            .select_for_update()
        )
        if rows:
            await part(rows, "forgotten")
