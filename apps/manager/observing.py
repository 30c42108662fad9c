"""A cluster's schedulers, as a manager asks them: with tokens of the cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx

from hawker.apps.manager import models
from hawker.apps.manager.roster import EXPIRY
from hawker.core.clients.observed import Observed
from hawker.core.clients.window import WindowClient
from hawker.core.tokens import ClusterKey
from hawker.core.window import OBSERVE


def observed_by(
    urls: Sequence[str], client: httpx.AsyncClient, key: ClusterKey, tenants: Sequence[str] | None
) -> Observed:
    """The schedulers at these URLs, as who may see the tasks of these tenants sees them; None:
    those of all."""
    return Observed(
        [
            (url, WindowClient(f"{url}/scheduler/v1", client, {"authorization": f"Bearer {token}"}))
            for url in urls
            for token in _tokens(key, tenants)
        ]
    )


def _tokens(key: ClusterKey, tenants: Sequence[str] | None) -> list[str]:
    if tenants is None:
        return [key.mint("", [OBSERVE], subject="manager")]
    return [key.mint("", ["tasks"], tenant=tenant, subject="manager") for tenant in tenants]


async def urls_of(cluster: str) -> list[str]:
    """The schedulers that joined a cluster and keep themselves alive, those that drain too."""
    rows = await models.Member.filter(
        cluster_id=cluster,
        kind="scheduler",
        credential__not_isnull=True,
        kept_alive__gt=time.time() - EXPIRY,
    ).order_by("url")
    return [row.url.rstrip("/") for row in rows if row.url]
