"""The hosts of clusters, as a manager calls them: with a token of the cluster that they joined, and
a certificate of its authority, which those with `tls.mutual` ask for."""

from __future__ import annotations

import asyncio
import random
import ssl
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tortoise.queryset import QuerySet

from hawker.apps.manager import models
from hawker.apps.manager.authority import Shared, known
from hawker.apps.manager.jobs.wire import PLACING, NewJob
from hawker.apps.manager.roster import EXPIRY
from hawker.apps.manager.secret import Seal
from hawker.core.clients.daemon import DaemonClient
from hawker.core.egress import is_loopback
from hawker.core.errors import Forbidden, NotFound, Unavailable
from hawker.core.tokens import ClusterKey

KINDS = ("seed", "peer")
RENEWED = 86400.0
"""What opens a cluster's hosts is made anew after so many seconds."""


@dataclass(frozen=True)
class Trust:
    """What opens the hosts of one cluster to a manager, `until` it is made anew."""

    key: ClusterKey
    tls: ssl.SSLContext
    until: float


class Members:
    """Finds hosts that joined, and makes clients of them."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._trusted: dict[str, Trust] = {}

    async def client(
        self, cluster: str, host: str, tenant: str, verbs: Sequence[str], *, secrets: bool
    ) -> DaemonClient:
        """A client of a host, as this tenant; `secrets`: it will be shown what is meant for an
        origin alone.

        Raises:
            NotFound: it is no member any more.
            Unavailable: nobody knows where it is.
            Forbidden: what it is shown could be read on the way.
        """
        row = await joined(cluster).filter(host=host).first()
        if row is None:
            raise NotFound(f"the host {host} is not a member of the cluster any more")
        if not row.url:
            raise Unavailable(f"{row.hostname or host} has not said where it is")
        parts = urlsplit(row.url)
        if secrets and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise Forbidden(
                f"{row.url} is not shown header fields or signatures: it is not encrypted",
                hint="have the host join without --plain",
            )
        trust = await self.trust(cluster)
        token = trust.key.mint("", verbs, tenant=tenant, subject="manager")
        return DaemonClient(row.url, token=token, tls=trust.tls)

    async def trust(self, cluster: str) -> Trust:
        """What opens a cluster's hosts; raises NotFound where none has joined it."""
        now = time.time()
        trust = self._trusted.get(cluster)
        if trust is None or now >= trust.until:
            shared = await known(cluster, self._seal)
            if shared is None:
                raise NotFound("no host has joined the cluster")
            context = await asyncio.to_thread(_context, shared)
            key = ClusterKey(bytes.fromhex(shared.cluster_key))
            trust = self._trusted[cluster] = Trust(key, context, now + RENEWED)
        return trust


def _context(shared: Shared) -> ssl.SSLContext:
    """Towards hosts of a cluster: who they are, and who calls them, is said by its authority."""
    context = ssl.create_default_context(cadata=shared.ca)
    # OpenSSL reads files alone; this one only we may read, and only for now.
    with tempfile.NamedTemporaryFile() as file:
        file.write(shared.manager_pem())
        file.flush()
        context.load_cert_chain(file.name)
    return context


async def chosen(clusters: Sequence[str], wanted: NewJob, now: float) -> list[models.Member]:
    """The hosts of clusters that a job is for, by its scope: those that are there. What brings
    content is for those alone that take work.

    Raises:
        NotFound: a cluster has none, or one that was named is not there.
    """
    found: list[models.Member] = []
    for cluster in clusters:
        there = joined(cluster).filter(kept_alive__gt=now - EXPIRY).exclude(url="")
        if wanted.kind in PLACING:
            there = there.filter(draining=False)
        rows: list[models.Member] = await there
        found += rows if wanted.where == "hosts" else await _some(cluster, rows, wanted)
    return _named(found, wanted.hosts) if wanted.where == "hosts" else found


async def _some(cluster: str, rows: Sequence[models.Member], wanted: NewJob) -> list[models.Member]:
    kinds = {"all": KINDS, "all-peers": ("peer",)}.get(wanted.where, ("seed",))
    found = [row for row in rows if row.kind in kinds]
    if not found:
        name = (await models.Cluster.get(id=cluster)).name
        raise NotFound(
            f"the cluster {name} has no {' or '.join(kinds)} that joined and is active",
            hint="choose another scope, or see what keeps its hosts away",
        )
    return random.sample(found, _how_many(wanted, len(found)))


def _named(rows: Sequence[models.Member], hosts: Sequence[str]) -> list[models.Member]:
    found = {row.host: row for row in rows}
    missing = [host for host in hosts if host not in found]
    if missing:
        raise NotFound(
            f"no active host that joined the cluster is {', '.join(missing[:5])}",
            hint="see GET /members",
        )
    return [found[host] for host in dict.fromkeys(hosts)]


def _how_many(wanted: NewJob, there: int) -> int:
    """Of a percentage, rounded up."""
    if wanted.where == "single-seed":
        return 1
    if wanted.percent is not None:
        return -(-there * wanted.percent // 100)
    return there if wanted.count is None else min(there, wanted.count)


def joined(cluster: str) -> QuerySet[models.Member]:
    """The hosts of a cluster that store content and have joined it."""
    return models.Member.filter(
        cluster_id=cluster, kind__in=KINDS, credential__not_isnull=True
    ).order_by("id")
