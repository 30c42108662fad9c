"""What members say of themselves, collected in memory and written in batches, so that a keepalive
costs no transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from hawker.apps.manager import changes, models
from hawker.apps.manager.database import Database, transaction
from hawker.core.membership import Keepalive

Facts = tuple[str, tuple[str, ...], str, str, str, str]
FIELDS = ("url", "addresses", "hostname", "idc", "location", "version")
"""The columns of `Facts`."""
MOVE_SECONDS = 20.0


def facts_of(said: Keepalive) -> Facts:
    return (
        said.url, tuple(said.addresses), said.hostname, said.idc, said.location, said.version
    )  # fmt: skip


class Heard:
    """`write` writes down who was heard of, about each second: a manager that is killed takes no
    more than that with it. `move` writes at once what others are told, for all who ask for it
    meanwhile together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: set[str] = set()
        self._said: dict[str, Facts] = {}
        self._moved: dict[str, Facts] = {}
        self._writing = asyncio.Lock()
        self._moving = asyncio.Lock()

    def keep(self, member: str) -> None:
        """It is alive."""
        self._kept.add(member)

    def say(self, member: str, facts: Facts) -> None:
        """It says this of itself, which nobody is told: that has time."""
        self._said[member] = facts

    async def write(self) -> None:
        """When members were heard of last, in one statement, and what they say of themselves."""
        async with self._writing:
            kept, self._kept = self._kept, set()
            said, self._said = self._said, {}
            if not kept:
                return
            try:
                # Outside of one, tortoise leaves what is cancelled open behind it.
                async with transaction():
                    if said:
                        await self._database.describe(FIELDS, said)
                    await self._database.keep_alive(list(kept), time.time())
            except BaseException:
                self._kept |= kept
                self._said = {**said, **self._said}
                raise

    async def move(self, member: str, facts: Facts, follow: Callable[[], Awaitable[None]]) -> None:
        """A scheduler is elsewhere than before, or was silent: written once this returns, and
        `follow` was called after it."""
        self._moved[member] = facts
        async with self._moving, asyncio.timeout(MOVE_SECONDS):
            if member not in self._moved:
                # Whoever waited before us has written it.
                return
            moved, self._moved = self._moved, {}
            try:
                await self._write_moved(moved)
            except BaseException:
                self._moved = {**moved, **self._moved}
                raise
            await follow()

    async def _write_moved(self, moved: dict[str, Facts]) -> None:
        async with transaction():
            found = models.Member.filter(id__in=list(moved)).order_by("id")
            ids = [row.id for row in await found.select_for_update(no_key=True)]
            await self._database.describe(FIELDS, {id_: moved[id_] for id_ in ids})
            heard = {"silent": False, "kept_alive": time.time()}
            number = await changes.count()
            await models.Member.filter(id__in=ids).update(**heard, changed=number)

    async def silence(self, since: float) -> bool:
        """Write down that schedulers are silent of whom nobody has heard since then; whether there
        are such."""
        late = models.Member.filter(kind="scheduler", silent=False, kept_alive__lte=since)
        late = late.exclude(id__in=list(self._kept))
        if not await late.exists():
            return False
        async with transaction():
            ids = [row.id for row in await late.order_by("id").select_for_update(no_key=True)]
            number = await changes.count()
            await models.Member.filter(id__in=ids).update(silent=True, changed=number)
        return True
