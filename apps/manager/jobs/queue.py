"""The broker's queue, as a manager uses it: it may go and come, and jobs go on.

What may be begun is in the database; a broker only carries it to whoever has time. While it is
away managers look into the database instead, as those without a broker do; once it is back, all
that was put there before counts as lost, and is put again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from hawker.core.contracts import JobBroker, JobMessage
from hawker.core.errors import HawkerError, Unavailable

log = logging.getLogger(__name__)

WAIT = 5.0
"""How long the broker is asked to wait for something."""
TRY = 0.1
"""The same while it is not known whether the broker is there."""
AGAIN = 1.0
"""Seconds after which a broker that is away is asked again."""
PATIENCE = 3.0
"""What a broker may take for an answer: leases are renewed meanwhile."""
TAKING = 15.0
"""How much longer than asked a broker may take where nothing waits for it."""
NOTHING = "0"
"""No part has this number: it is put to see whether that can be done."""

Answer = TypeVar("Answer")


class Queue:
    """One queue of a broker, by the name that all managers of a database have for it.

    Attributes:
        connected: what is put is put; else nothing is.
        messages: how many were `put` and `taken`, and of these `void`: to be begun no more.
    """

    def __init__(self, broker: JobBroker, plugin: str, name: str) -> None:
        self.connected = False
        self.messages: Counter[str] = Counter()
        self._broker = broker
        self._plugin = plugin
        self._name = name
        self._told = ""

    @property
    def note(self) -> str:
        """What is to be said about it; empty where all is well."""
        if self.connected:
            return ""
        return f"the job broker {self._plugin} is away: jobs go on by the database alone"

    @property
    def lasting(self) -> float:
        """Seconds that it may take to give again what was taken and not begun."""
        return 2 * self._broker.redelivery

    async def put(self, bodies: Sequence[str]) -> None:
        """Where that fails the broker is away from now on."""
        with contextlib.suppress(Unavailable):
            await self._ask(lambda: self._broker.put(self._name, bodies), PATIENCE)
            self.messages["put"] += len(bodies)

    async def take(self, most: int, returned: Callable[[], None]) -> Sequence[JobMessage]:
        """What came, at most so many; nothing after a while. `returned` is called when the broker
        is there, and was not before."""
        wait = WAIT if self.connected else TRY
        try:
            found = await self._ask(
                lambda: self._broker.take(self._name, most, wait), wait + TAKING
            )
            if not self.connected:
                # One that is full, or may only be read, is of no use.
                await self._ask(lambda: self._broker.put(self._name, [NOTHING]), PATIENCE)
                log.info("the job broker %s is there", self._plugin)
                self.connected, self._told = True, ""
                returned()
        except Unavailable:
            await asyncio.sleep(AGAIN)
            return []
        return found

    async def acknowledge(self, messages: Sequence[JobMessage]) -> None:
        with contextlib.suppress(Unavailable):
            await self._ask(lambda: self._broker.acknowledge(self._name, messages), PATIENCE)

    async def _ask(self, call: Callable[[], Awaitable[Answer]], seconds: float) -> Answer:
        """A call's answer; whatever else comes of it, the broker is away, and it is told once.

        Raises:
            Unavailable: it failed.
        """
        try:
            async with asyncio.timeout(seconds):
                return await call()
        except TimeoutError:
            failure = f"the job broker {self._plugin} did not answer within {seconds:g} s"
        except HawkerError as exc:
            failure = str(exc)
        except Exception as exc:
            # A plugin's fault stops no jobs.
            log.debug("the job broker %s failed", self._plugin, exc_info=True)
            failure = f"the job broker {self._plugin} failed: {type(exc).__name__}: {exc}"
        self.connected = False
        lost = Unavailable(failure)
        if lost.detail != self._told:
            self._told = lost.detail
            log.warning("jobs go on by the database alone: %s", lost.detail)
        raise lost
