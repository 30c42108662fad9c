"""The contract of a job broker as tests: subclass `JobBrokerContract` in a test module of your own.

    from hawker.core.testing.brokers import JobBrokerContract

    class TestMyBroker(JobBrokerContract):
        def make_broker(self):
            return MyBroker(URL, redelivery=REDELIVERY)

        def make_away(self):
            return MyBroker(NOBODY_LISTENS_THERE)

Each test has a queue of its own, and makes brokers on its own event loop, which it closes.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from hawker.core.contracts import JobBroker, JobMessage
from hawker.core.errors import Unavailable

DEADLINE = 60.0
GRACE = 10.0
"""A call ends so long after it should at the latest."""
REDELIVERY = 1.0
SECRET = "opensesame"
"""A password in the URL of a broker that is away is in no error."""
MANY = 200

Check = Callable[[JobBroker, JobBroker, str], Awaitable[None]]


class JobBrokerContract:
    """What `hawker.core.contracts.JobBroker` promises."""

    def make_broker(self) -> JobBroker:
        """A client of one and the same broker each time, whose `redelivery` is `REDELIVERY`."""
        raise NotImplementedError

    def make_away(self) -> JobBroker:
        """A client of a broker that is not there, with `SECRET` as the password."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what is put is taken

    def test_what_one_puts_another_takes_once(self) -> None:
        bodies = [str(number) for number in range(MANY)]

        async def check(one: JobBroker, two: JobBroker, queue: str) -> None:
            await one.put(queue, bodies)
            taken = [*await _all(one, queue, MANY // 2), *await _all(two, queue, MANY // 2)]
            assert sorted(taken, key=int) == bodies
            await asyncio.sleep(REDELIVERY * 1.5)
            for broker in (one, two):
                assert not await broker.take(queue, 10, 0.2), "what was acknowledged is gone"

        self._run(check)

    def test_what_is_taken_is_nobody_else_s(self) -> None:
        async def check(one: JobBroker, two: JobBroker, queue: str) -> None:
            await one.put(queue, [str(number) for number in range(20)])
            taken: Counter[str] = Counter()

            async def take(broker: JobBroker) -> None:
                while found := await broker.take(queue, 3, 0.2):
                    assert len(found) <= 3
                    await broker.acknowledge(queue, found)
                    taken.update(message.body for message in found)

            async with asyncio.TaskGroup() as group:
                for broker in (one, two):
                    group.create_task(take(broker))
            assert taken == Counter(str(number) for number in range(20))

        self._run(check)

    def test_who_waits_is_told_at_once_and_not_longer_than_asked(self) -> None:
        async def check(one: JobBroker, two: JobBroker, queue: str) -> None:
            began = time.monotonic()
            assert not await one.take(queue, 1, 0.5)
            assert time.monotonic() - began < 0.5 + GRACE
            waiting = asyncio.ensure_future(one.take(queue, 1, DEADLINE / 2))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await two.put(queue, ["late"])
            async with asyncio.timeout(GRACE):
                [message] = await waiting
            assert message.body == "late"
            await one.acknowledge(queue, [message])

        self._run(check)

    def test_any_text_comes_as_it_was_put(self) -> None:
        chance = random.Random(1)
        bodies = ["", " ", "0", "\r\n", "\0", "ü€😀", "{}", "x" * 1024, '"', "a b\tc"]
        bodies += ["".join(chr(chance.randrange(1, 0xD800)) for _ in range(300)) for _ in range(5)]

        async def check(one: JobBroker, two: JobBroker, queue: str) -> None:
            await one.put(queue, [])
            await one.put(queue, bodies)
            assert sorted(await _all(two, queue, len(bodies))) == sorted(bodies)

        self._run(check)

    def test_queues_have_nothing_to_do_with_each_other(self) -> None:
        async def check(one: JobBroker, two: JobBroker, queue: str) -> None:
            other = f"{queue}-other"
            await one.put(queue, ["here"])
            await one.put(other, ["there"])
            assert await _all(two, other, 1) == ["there"]
            assert not await two.take(other, 1, 0.2)
            assert await _all(two, queue, 1) == ["here"]

        self._run(check)

    # ------------------------------------------------------------------ who dies, who is away

    def test_what_is_not_acknowledged_is_another_s_after_a_while(self) -> None:
        async def check(one: JobBroker, two: JobBroker, queue: str) -> None:
            await one.put(queue, ["left behind"])
            [message] = await one.take(queue, 1, GRACE)
            assert not await two.take(queue, 1, REDELIVERY / 4)
            assert await _all(two, queue, 1) == ["left behind"]
            # Whoever took it first may say so late, and more than once.
            await one.acknowledge(queue, [message])
            await one.acknowledge(queue, [message, message])

        self._run(check)

    def test_who_stops_waiting_takes_nothing_along(self) -> None:
        async def check(one: JobBroker, two: JobBroker, queue: str) -> None:
            chance = random.Random(2)
            bodies = [str(number) for number in range(20)]
            for body in bodies:
                waiting = asyncio.ensure_future(one.take(queue, 1, 5.0))
                await asyncio.sleep(chance.random() * 0.01)
                put = asyncio.ensure_future(two.put(queue, [body]))
                await asyncio.sleep(chance.random() * 0.002)
                waiting.cancel()
                await put
                await asyncio.gather(waiting, return_exceptions=True)
            taken: set[str] = set()
            while len(taken) < len(bodies):
                found = await two.take(queue, 10, 0.2)
                taken.update(message.body for message in found)
                await two.acknowledge(queue, found)
                # What was given to who had gone comes again, to anybody.
                found = await one.take(queue, 10, 0.2)
                taken.update(message.body for message in found)
                await one.acknowledge(queue, found)
            assert taken == set(bodies)

        self._run(check)

    def test_one_that_is_away_says_so_in_time_and_tells_no_password(self) -> None:
        async def check(broker: JobBroker) -> None:
            nobody = [JobMessage("1", "1")]
            calls: Sequence[Callable[[], Awaitable[object]]] = (
                lambda: broker.put("queue", ["1"]),
                lambda: broker.take("queue", 1, 0.1),
                lambda: broker.acknowledge("queue", nobody),
            )
            for call in (*calls, *calls):
                with pytest.raises(Unavailable) as caught:
                    async with asyncio.timeout(GRACE + 0.1):
                        await call()
                cause: BaseException | None = caught.value
                while cause is not None:
                    assert SECRET not in f"{cause} {cause!r}"
                    cause = cause.__cause__

        async def main() -> None:
            broker = self.make_away()
            try:
                await check(broker)
            finally:
                await broker.close()
            await _nothing_is_left()

        asyncio.run(main())

    # ------------------------------------------------------------------ own

    def _run(self, check: Check) -> None:
        """Run a check with two clients; then no task is left of what it did."""

        async def main() -> None:
            async with asyncio.timeout(DEADLINE):
                one, two = self.make_broker(), self.make_broker()
                assert one.redelivery == two.redelivery == REDELIVERY
                try:
                    await check(one, two, secrets.token_hex(8))
                finally:
                    await one.close()
                    await two.close()
                await _nothing_is_left()

        asyncio.run(main())


async def _all(broker: JobBroker, queue: str, many: int) -> list[str]:
    """So many bodies, acknowledged."""
    taken: list[str] = []
    until = time.monotonic() + DEADLINE / 2
    while len(taken) < many:
        assert time.monotonic() < until, f"{len(taken)} of {many} came"
        found = await broker.take(queue, min(7, many - len(taken)), 0.5)
        await broker.acknowledge(queue, found)
        taken += [message.body for message in found]
    return taken


async def _nothing_is_left() -> None:
    """Tasks that were told to end have ended; a library may take a moment for it."""
    for _ in range(50):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"these are left: {asyncio.all_tasks()}")
