"""Two managers on one PostgreSQL; `python -m tests.outside.postgres` runs this."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.apps.manager.hosts import SOON, Host, Waiting, at_once, enrol
from tests.apps.manager.running import SERVER, Manager, created, new_database
from tests.apps.manager.test_signing_in import Site
from tests.plugins.signing_in import SignInProvider


def test_they_start_at_once_on_an_empty_database(tmp_path: Path) -> None:
    assert SERVER, "run it with python -m tests.outside.postgres"
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o600)
    database, started = new_database(), []

    def start(number: int) -> None:
        key = str(tmp_path / "key")
        data = tmp_path / str(number)
        started.append(Manager(data, database=database, HAWKER_MANAGER__KEY_FILE=key))

    threads = [threading.Thread(target=start, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len(started) == 4
        for manager in started:
            manager.check()
    finally:
        for manager in started:
            manager.close()


def test_what_one_answers_the_other_knows_and_one_may_die(pair: tuple[Manager, Manager]) -> None:
    first, second = pair
    # The link of whoever started last is the one that is good.
    with second.set_up() as there:
        with first.client(cookies=there.cookies) as here:
            tenants = []
            for number in range(40):
                if number == 20:
                    first.kill()
                client = here if number % 2 and number < 20 else there
                body = {"name": f"t-{number}"}
                tenants.append(created(client.post("/tenants", json=body)))
        listed = there.get("/tenants?per_page=100").json()
        assert listed == tenants
        assert len(there.get("/audit?resource=tenants&per_page=100").json()) == 40
        second.check()


def test_changes_at_both_at_once_do_not_undo_each_other(pair: tuple[Manager, Manager]) -> None:
    first, second = pair
    with second.set_up() as there, first.client(cookies=there.cookies) as here:
        tenant = created(there.post("/tenants", json={"name": "contended"}))
        statuses: list[int] = []

        def change(client: httpx.Client, text: str) -> None:
            answer = client.patch(
                f"/tenants/{tenant['id']}", json={"description": text}, headers={"if-match": '"1"'}
            )
            statuses.append(answer.status_code)

        clients = [first.client(cookies=there.cookies) for _ in range(6)]
        clients += [second.client(cookies=there.cookies) for _ in range(6)]
        threads = [
            threading.Thread(target=change, args=(client, str(n)))
            for n, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
        assert sorted(statuses) == [200] + [412] * 11
        assert here.get(f"/tenants/{tenant['id']}").json()["revision"] == 2


def test_a_token_that_both_get_at_once_is_good_for_one_host(pair: tuple[Manager, Manager]) -> None:
    with pair[1].set_up() as root:
        cluster = created(root.post("/clusters", json={"name": "joined"}))["id"]
        for attempt in range(10):
            token = enrol(root, "peer", cluster)["token"]
            hosts = [Host(pair[n % 2], "peer") for n in range(8)]
            answers = at_once([partial(host.enrol, token) for host in hosts])
            statuses = [answer.status_code for answer in answers]
            _close(hosts)
            assert sorted(statuses) == [201] + [401] * 7
            found = root.get("/members", params={"cluster": cluster, "per_page": 100}).json()
            assert len(found) == attempt + 1
        for manager in pair:
            manager.check()


def test_the_first_hosts_of_a_cluster_share_one_authority(pair: tuple[Manager, Manager]) -> None:
    """Whichever manager they join at, at once."""
    with pair[1].set_up() as root:
        for attempt in range(5):
            cluster = created(root.post("/clusters", json={"name": f"new-{attempt}"}))["id"]
            hosts = [Host(pair[n % 2], "peer") for n in range(6)]
            tokens = [enrol(root, "peer", cluster)["token"] for _ in hosts]
            at_once([partial(h.join, token) for h, token in zip(hosts, tokens, strict=True)])
            _close(hosts)
            assert len({(h.member["ca"], h.member["cluster_key"]) for h in hosts}) == 1
        for manager in pair:
            manager.check()


def test_what_one_changes_wakes_those_who_wait_at_the_other(pair: tuple[Manager, Manager]) -> None:
    first, second = pair
    with second.set_up() as root, Host(first, "peer") as peer, Host(second, "scheduler") as other:
        cluster = created(root.post("/clusters", json={"name": "told"}))["id"]
        for host, kind in ((peer, "peer"), (other, "scheduler")):
            host.join(enrol(root, kind, cluster)["token"])
            host.keep()
        other.keep()
        time.sleep(1)
        told = peer.keep()
        # Both say the same to who comes to either.
        assert _at(second, peer).keep() == told
        mine = f"/members/{peer.member['id']}"
        acts: dict[str, Callable[[], object]] = {
            "configuration": lambda: root.patch(
                f"/clusters/{cluster}",
                json={"peers": {"upload_slots": 9}},
                headers={"if-match": "*"},
            ),
            "scheduler": lambda: other.keep(url="http://127.0.0.1:4999"),
            "drained": lambda: root.put(f"{mine}/draining", json={"draining": True}),
            "removed": lambda: root.delete(mine),
        }
        seconds = {}
        for what, act in acts.items():
            poll = Waiting(_at(first, peer))
            assert poll.waits, what
            began = time.monotonic()
            act()
            answer = poll.end()
            seconds[what] = time.monotonic() - began
            if what != "removed":
                assert answer.json()["revision"] != peer.told["revision"]
                peer.told = answer.json()
        assert peer.told["drain"] and peer.told["configuration"] == {"upload_slots": 9}
        assert peer.told["schedulers"] == ["http://127.0.0.1:4999"]
        assert answer.json()["type"] == "urn:hawker:problem:removed"
        assert max(seconds.values()) < SOON, seconds
        # The other one refuses it, too.
        assert _at(second, peer).ask().json()["type"] == "urn:hawker:problem:removed"


def test_joining_draining_removing_and_changing_at_both_at_once_is_no_fault(
    pair: tuple[Manager, Manager],
) -> None:
    """Nobody waits for each other in a circle, and both tell the same in the end."""
    with pair[1].set_up() as root:
        cluster = created(root.post("/clusters", json={"name": "busy"}))["id"]
        until = time.monotonic() + 8
        statuses: Counter[int] = Counter()
        watching = Host(pair[0], "scheduler")
        watching.join(enrol(root, "scheduler", cluster)["token"])

        def hosts(number: int) -> None:
            with pair[number % 2].client(cookies=root.cookies) as client:
                while time.monotonic() < until:
                    with Host(pair[(number // 2) % 2], ("scheduler", "peer")[number % 2]) as host:
                        token = enrol(client, host.kind, cluster)["token"]
                        statuses[host.enrol(token).status_code] += 1
                        host.join(token)
                        host.keep()
                        member = f"/members/{host.member['id']}"
                        drained = client.put(f"{member}/draining", json={"draining": True})
                        statuses[drained.status_code] += 1
                        statuses[client.delete(member).status_code] += 1

        def change(number: int) -> None:
            with pair[number % 2].client(cookies=root.cookies) as client:
                while time.monotonic() < until:
                    body = {"peers": {"upload_slots": number + 1}, "is_default": bool(number % 2)}
                    headers = {"if-match": "*"}
                    answer = client.patch(f"/clusters/{cluster}", json=body, headers=headers)
                    statuses[answer.status_code] += 1

        at_once([*(partial(hosts, n) for n in range(6)), *(partial(change, n) for n in range(2))])
        assert set(statuses) <= {200, 201, 204}, statuses
        time.sleep(1)
        told = watching.keep()
        assert told == _at(pair[1], watching).keep() and len(told["removed"]) > 5
        watching.client.close()
        for manager in pair:
            manager.check()


def _close(hosts: Iterable[Host]) -> None:
    for host in hosts:
        host.client.close()


def _at(manager: Manager, host: Host) -> Host:
    """The host, with its next keepalives to this manager."""
    host.client.close()
    host.client = manager.client()
    return host


def test_a_server_that_drops_its_connections_is_used_again(pair: tuple[Manager, Manager]) -> None:
    """As in its restart: no answer is a fault of the manager's own."""
    _, manager = pair

    async def drop() -> None:
        connection = await asyncpg.connect(SERVER)
        try:
            name = manager.database.rpartition("/")[2]
            ended = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
            )
            assert ended
        finally:
            await connection.close()

    with manager.set_up() as root:
        for number in range(10):
            asyncio.run(drop())
            statuses = [
                root.post("/tenants", json={"name": f"t-{number}-{n}"}).status_code
                for n in range(4)
            ]
            assert set(statuses) <= {201, 503} and statuses[-1] == 201, statuses
        manager.check()


def test_a_key_is_good_at_both(pair: tuple[Manager, Manager]) -> None:
    _, second = pair
    with second.set_up() as root:
        cookies = root.cookies
        for turn in range(5):
            answers: list[httpx.Response] = []

            def post(number: int, turn: int = turn, answers: Any = answers) -> None:
                with pair[number % 2].client(cookies=cookies) as client:
                    key = {"idempotency-key": f"both-{turn}"}
                    body = {"name": f"both-{turn}"}
                    answers.append(client.post("/tenants", json=body, headers=key))

            _at_once(*(partial(post, number) for number in range(8)))
            assert len({answer.text for answer in answers}) == 1
            assert {answer.status_code for answer in answers} == {201}
            assert len({answer.headers["location"] for answer in answers}) == 1
        assert len(root.get("/audit?resource=tenants&per_page=100").json()) == 5
        for manager in pair:
            manager.check()


def test_without_the_key_another_manager_does_not_start(
    pair: tuple[Manager, Manager], tmp_path: Path
) -> None:
    first, _ = pair
    with pytest.raises(AssertionError, match="cannot be read"):
        Manager(tmp_path / "three", database=first.database)
    assert not (tmp_path / "three" / "manager.key").exists()
    shutil.rmtree(tmp_path / "three")


def _at_once(*calls: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_cluster_is_the_default(pair: tuple[Manager, Manager]) -> None:
    """However many take the mark at once, through whichever manager."""
    _, second = pair
    with second.set_up() as root:
        cookies = root.cookies
        for turn in range(8):

            def take(number: int, turn: int = turn) -> None:
                body = {"name": f"c-{turn}-{number}", "is_default": True}
                with pair[number % 2].client(cookies=cookies) as client:
                    created(client.post("/clusters", json=body))

            _at_once(*(partial(take, number) for number in range(6)))
            assert len(root.get("/clusters?is_default=true&per_page=100").json()) == 1
        for manager in pair:
            manager.check()


def test_nobody_is_left_with_a_role_that_is_gone(pair: tuple[Manager, Manager]) -> None:
    """Else whoever makes another one of that name would give them what it allows."""
    first, second = pair
    with second.set_up() as root:
        cookies = root.cookies
        users = [created(root.post("/users", json={"name": f"u-{n}"}))["id"] for n in range(6)]
        for turn in range(8):
            body = {"name": f"r-{turn}", "permissions": ["clusters:read"]}
            role = created(root.post("/roles", json=body))
            statuses: list[int] = []

            def bind(user: str, name: str, statuses: list[int]) -> None:
                with first.client(cookies=cookies) as client:
                    answer = client.post("/bindings", json={"user": user, "role": name})
                    statuses.append(answer.status_code)

            def delete(url: str, statuses: list[int]) -> None:
                with second.client(cookies=cookies) as client:
                    statuses.append(client.delete(url).status_code)

            binds = [partial(bind, user, role["name"], statuses) for user in users]
            deletes = partial(delete, f"/roles/{role['id']}", statuses)
            _at_once(*binds[:3], deletes, *binds[3:])
            assert set(statuses) <= {201, 204, 404, 409}, statuses
            if root.get(f"/roles/{role['id']}").status_code == 404:
                assert root.get("/bindings", params={"role": role["name"]}).json() == []
        for manager in pair:
            manager.check()


def test_they_count_attempts_to_sign_in_together(pair: tuple[Manager, Manager]) -> None:
    first, second = pair
    second.set_up().close()
    with first.client() as here, second.client() as there:
        statuses = []
        for number in range(12):
            body = {"name": "root", "password": f"wrong password {number}"}
            statuses.append((here, there)[number % 2].post("/session", json=body).status_code)
        assert statuses == [401] * 10 + [429] * 2
        # Nor is it forgotten with the process.
        first.kill()
        first.start()
        with first.client() as again:
            body = {"name": "root", "password": "wrong password 13"}
            assert again.post("/session", json=body).status_code == 429


def test_a_sign_in_begun_at_one_ends_at_the_other(pair: tuple[Manager, Manager]) -> None:
    """And the secret that one has sealed, the other opens."""
    first, second = pair
    provider = SignInProvider()
    try:
        with second.set_up() as root:
            site = Site(second, root, provider)
        with httpx.Client(trust_env=False, timeout=30) as browser:
            answer = browser.get(f"{first.url}{site.auth}/login")
            back = provider.agree(answer.headers["location"])
            assert browser.get(back).status_code == 200
            assert browser.get(f"{first.url}{site.auth}/login").status_code == 303
            me = browser.get(f"{first.url}/manager/api/v1/me").json()
            assert me["user"]["subject"] == "somebody"
    finally:
        provider.close()
