"""Who opened an intercepted tunnel is asked about with each request inside; and connections to
origins are used for one caller each."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import h11
import pytest

from hawker.apps.proxy.front import _Requests
from hawker.apps.proxy.relay import Relay
from hawker.apps.proxy.room import Room
from hawker.apps.proxy.rules import Rules
from hawker.core.contracts import Caller
from hawker.core.errors import Unauthenticated


class Front:
    """Lets in who shows a token, until it is revoked."""

    name = "hawker-test"

    def __init__(self) -> None:
        self.good = {"one", "two"}
        self.dialer = None
        self.room = Room(8)
        self.rules = Rules([])
        self.handled: Counter[str] = Counter()
        self.origins = self

    async def admit(self, shown: str) -> Caller:
        if shown not in self.good:
            raise Unauthenticated("no")
        return Caller(shown, tenant=shown)


def test_a_tunnel_is_its_opener_s_as_long_as_that_may_open_one() -> None:
    front: Any = Front()
    inside = _Requests(front, "https://origin.test", "one")
    outside = _Requests(front)

    async def main() -> None:
        assert (await inside.admit({})).tenant == "one"
        # What is shown inside is for the origin.
        assert (await inside.admit({"proxy-authorization": "two"})).tenant == "one"
        assert (await outside.admit({"proxy-authorization": "two"})).tenant == "two"
        front.good.remove("one")
        with pytest.raises(Unauthenticated):
            await inside.admit({"proxy-authorization": "two"})
        with pytest.raises(Unauthenticated):
            await outside.admit({})

    asyncio.run(main())


class Kept(Relay):
    """Notes which requests it carried."""

    def __init__(self) -> None:
        self.carried: list[str] = []

    async def exchange(self, client: Any, request: h11.Request, url: str) -> None:
        self.carried.append(url)

    async def close(self) -> None:
        return


def test_what_one_caller_used_carries_no_other_s_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some origins know whose a connection is, and another proxy may mix its clients' requests."""
    made: list[Kept] = []

    def relay(dialer: object, name: str) -> Kept:
        made.append(Kept())
        return made[-1]

    monkeypatch.setattr("hawker.apps.proxy.front.Relay", relay)
    front: Any = Front()
    requests = _Requests(front)

    async def main() -> None:
        for number, who in enumerate(("one", "two", "one", "two")):
            url = f"http://origin.test/{number}"
            asked = h11.Request(method="GET", target=url, headers=[("host", "origin.test")])
            client: Any = None
            await requests.answer(client, asked, Caller(who, tenant=who))
        assert front.room.taken == 1
        await requests.close()

    asyncio.run(main())
    places = [[url.rpartition("/")[2] for url in kept.carried] for kept in made]
    assert places == [["0", "2"], ["1", "3"]]
    assert front.room.taken == 0
