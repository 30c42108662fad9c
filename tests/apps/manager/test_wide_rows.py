"""Clusters of a thousand networks: whoever lists them does not keep the event loop from others."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from starlette.requests import Request

from hawker.apps.manager import models
from hawker.apps.manager.access import EVERYTHING, Grant
from hawker.apps.manager.call import Call, Principal
from hawker.apps.manager.clusters import Clusters
from hawker.apps.manager.collection import AT_ONCE
from hawker.apps.manager.database import Database
from tests.apps.manager.running import new_database

SCOPES = {"cidrs": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1000)]}
CLUSTERS = 23


def _call(page: int, per_page: int) -> Call:
    principal = Principal(models.User(name="ada"), [Grant(EVERYTHING)], "session")
    request = Request({"type": "http", "headers": [], "query_string": b"", "path": "/"})
    return Call(request, principal, permission=("clusters", "read"), page=page, per_page=per_page)


def test_a_page_of_them_is_taken_apart_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And networks that were checked when they were written are not checked again."""
    url = new_database()
    taken, most = 0, 0
    field: Any = models.Cluster._meta.fields_map["scopes"]
    plain = field.to_python_value

    def counting(value: Any) -> Any:
        nonlocal taken
        taken += 1
        return plain(value)

    def refuse(*_: object) -> None:
        raise AssertionError("checked again")

    async def watch() -> None:
        nonlocal taken, most
        while True:
            most, taken = max(most, taken), 0
            await asyncio.sleep(0)

    async def check() -> None:
        database = Database(url, tmp_path)
        await database.open()
        try:
            with database.active():
                for number in range(CLUSTERS):
                    await models.Cluster.create(name=f"c-{number:02}", scopes=SCOPES)
                monkeypatch.setattr(ipaddress, "ip_network", refuse)
                monkeypatch.setattr(field, "to_python_value", counting)
                names: list[str] = []
                clusters = Clusters(cast(Any, None))
                async with asyncio.TaskGroup() as group:
                    watching = group.create_task(watch())
                    for page in (1, 2, 3):
                        call = _call(page, 10)
                        await clusters.list_(call)
                        names += [one.name for one in call.answer]
                        assert call.more == (page < 3)
                        shown = msgspec.json.decode(msgspec.json.encode(call.answer))
                        assert all(one["scopes"] == SCOPES for one in shown)
                    watching.cancel()
                assert names == [f"c-{number:02}" for number in range(CLUSTERS)]
        finally:
            await database.close()

    asyncio.run(check())
    assert 0 < most <= AT_ONCE


def test_a_large_body_is_checked_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    from hawker.apps.manager import operation, wire

    async def check() -> None:
        where: list[int] = []
        plain = ipaddress.ip_network

        def noting(*args: Any) -> Any:
            where.append(threading.get_ident())
            return plain(*args)

        monkeypatch.setattr(ipaddress, "ip_network", noting)
        for count, beside in ((1, False), (1000, True)):
            where.clear()
            raw = msgspec.json.encode({"name": "c", "scopes": {"cidrs": SCOPES["cidrs"][:count]}})
            taken = await operation.take(raw, wire.NewCluster)
            assert len(taken.scopes.cidrs) == len(where) == count
            assert (threading.get_ident() not in where) == beside

    asyncio.run(check())
