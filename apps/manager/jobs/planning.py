"""What a job comes to: which contents, on which hosts."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hawker.apps.manager import models
from hawker.apps.manager.jobs.contents import Content, Secrets, opened, wish_of
from hawker.apps.manager.jobs.images import Image, Images
from hawker.apps.manager.jobs.members import chosen
from hawker.apps.manager.jobs.tables import Job, tenant_of
from hawker.apps.manager.jobs.wire import OF_HOSTS, NewJob
from hawker.apps.manager.secret import Seal
from hawker.core.errors import NotFound, OriginRefused

Plan = tuple[list[Content], list[models.Member]]


class Planner:
    """`bases` are the URLs of registries by their names."""

    def __init__(self, images: Images, bases: Mapping[str, str], seal: Seal) -> None:
        self._images = images
        self._bases = bases
        self._seal = seal

    def check(self, wanted: NewJob) -> None:
        """Raise BadRequest for an image that is none."""
        if wanted.image:
            Image.parse(wanted.image, self._bases)

    async def plan(self, job: Job) -> Plan:
        """Content and hosts of a job, as they are now.

        Raises:
            HawkerError: there are none, or nobody can say which.
        """
        wanted = wish_of(job)
        hosts = await chosen(job.clusters, wanted, time.time())
        contents = await self._contents(wanted, opened(job, self._seal), await tenant_of(job))
        return contents, hosts

    async def _contents(self, wanted: NewJob, secrets: Secrets, tenant: str) -> list[Content]:
        if wanted.kind in OF_HOSTS:
            return [Content("", wanted.kind)]
        if not wanted.image:
            return [
                Content(url, private=bool(secrets.headers) or url in secrets.urls)
                for url in wanted.urls
            ]
        image = Image.parse(wanted.image, self._bases)
        try:
            # As its hosts ask for what is everybody's: a mirror's clients that show nothing are
            # given that alone.
            return await self._images.contents(
                image, wanted.platforms, {}, tenant=tenant, referrers=wanted.referrers
            )
        except (OriginRefused, NotFound):
            if not secrets.headers:
                raise
        found = await self._images.contents(
            image, wanted.platforms, secrets.headers, tenant=tenant, referrers=wanted.referrers
        )
        return [Content(one.url, one.name, one.size, private=True) for one in found]
