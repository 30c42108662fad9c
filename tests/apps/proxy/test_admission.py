"""Who opened an intercepted tunnel is asked about with each request inside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hawker.apps.proxy.front import _Requests
from hawker.core.contracts import Caller
from hawker.core.errors import Unauthenticated


class Front:
    """Lets in who shows a token, until it is revoked."""

    name = "hawker-test"

    def __init__(self) -> None:
        self.good = {"one", "two"}

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
