"""A member does what it is told soon, goes on without its manager, and ends when it is removed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hawker.apps.membership import certificate
from hawker.apps.membership.certificate import host_pem
from hawker.apps.membership.joining import Wish, join
from hawker.apps.membership.member import Member
from hawker.apps.serve import Files, Listen, serving
from hawker.core import tls
from hawker.core.certificates import request_pem
from hawker.core.contracts import Directions
from hawker.core.errors import ConfigError, Removed, StorageFailed, Unauthenticated
from hawker.core.membership import Configuration
from hawker.core.settings import Settings, TlsSettings, load
from hawker.core.storage.identity import KEY_FILE
from hawker.core.storage.membership import load_membership, underlay
from hawker.core.tls import ClientTls, client_context, server_context
from tests.apps.membership.standin import Authority, StandIn
from tests.apps.serve.h3client import H3Client

URL = "https://127.0.0.1:7"


class FakeRole:
    """Remembers what it was told."""

    name = "peer"

    def __init__(self) -> None:
        self.told: list[Directions] = []

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        yield

    async def follow(self, directions: Directions) -> None:
        self.told.append(directions)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    @property
    def rate(self) -> int:
        return self.told[-1].settings.scheduler.origin_rate if self.told else -1


class BrokenRole(FakeRole):
    async def follow(self, directions: Directions) -> None:
        raise RuntimeError("cannot")


def settings_of(data: Path) -> Settings:
    return underlay(load({"storage.data": str(data)}, environ={})).settings


async def joined(manager: StandIn, data: Path, *, plain: bool = True) -> Settings:
    await join(data, Wish(manager.url, "hwe_good", "h1", [], plain=plain))
    return await asyncio.to_thread(settings_of, data)


@contextlib.asynccontextmanager
async def at_work(data: Path, *roles: FakeRole) -> AsyncIterator[Member]:
    """The process of a data directory that joined."""
    settings = await asyncio.to_thread(settings_of, data)
    member = await asyncio.to_thread(Member.of, settings, ["peer"])
    assert member is not None

    async def advertise() -> str:
        return URL

    member.serve(list(roles), advertise)
    async with member.lifespan():
        yield member


async def until(true: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


def value(member: Member, name: str, *labels: str) -> Any:
    [found] = [m for m in member.metrics() if m.name == f"hawker_membership_{name}"]
    return found.values[labels]


def test_what_is_told_reaches_every_role_while_it_polls(manager: StandIn, tmp_path: Path) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        role = FakeRole()
        async with at_work(tmp_path, BrokenRole(), role) as member:
            await until(lambda: role.told, "the first answer")
            assert not role.told[-1].draining
            began = time.monotonic()
            manager.tell(configuration=Configuration(origin_rate=1000, upload_slots=3))
            await until(lambda: role.rate == 1000, "a change of the configuration")
            # A poll is kept back for 20 s: whoever only came by then would be late.
            assert time.monotonic() - began < 10
            assert role.told[-1].settings.peer.upload_slots == 3
            manager.tell(drain=True, removed=["ab" * 16], schedulers=["http://s:1"])
            await until(lambda: role.told[-1].draining, "to drain")
            assert role.told[-1].removed == {"ab" * 16}
            assert role.told[-1].settings.peer.schedulers == ["http://s:1"]
            assert value(member, "draining") == value(member, "connected") == 1
            asked = manager.keepalives
            await until(lambda: asked[-1].known == manager.kept.revision, "the next poll")
            assert (asked[0].known, asked[0].wait, asked[0].url) == ("", 0, URL)
            assert len(asked) < 10, "it asks again when it was answered, and not else"

    asyncio.run(main())


def test_who_starts_without_its_manager_does_what_it_was_told_last(
    manager: StandIn, tmp_path: Path
) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        manager.tell(
            configuration=Configuration(origin_rate=77), drain=True, schedulers=["http://s:1"]
        )
        role = FakeRole()
        async with at_work(tmp_path, role):
            await until(lambda: role.rate == 77, "the first answer")
            folder = tmp_path / "membership"
            await until(lambda: (m := load_membership(folder)) and m.told, "it is written")
        manager.stop()
        again = FakeRole()
        async with at_work(tmp_path, again) as member:
            # Before anything of it could be asked for.
            assert again.rate == 77 and again.told[-1].draining
            assert member.settings.peer.schedulers == ["http://s:1"]
            await until(lambda: value(member, "keepalives", "failed"), "it tries")
            assert value(member, "connected") == 0
        manager.start()

    asyncio.run(main())


def test_a_manager_that_dies_and_returns_is_followed_again(
    manager: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        role = FakeRole()
        async with at_work(tmp_path, role) as member:
            await until(lambda: value(member, "connected"), "the first answer")
            manager.stop()
            await until(lambda: not value(member, "connected"), "it is away", 40)
            said = len(role.told)
            await asyncio.sleep(1.0)
            assert len(role.told) == said and not member.removed.is_set()
            manager.tell(configuration=Configuration(origin_rate=5))
            manager.start()
            await until(lambda: role.rate == 5, "it is back", 40)

    with caplog.at_level(logging.INFO, "hawker"):
        asyncio.run(main())
    warned = [r for r in caplog.records if "cannot be asked" in r.getMessage()]
    assert [r.levelname for r in warned] == ["WARNING"], "said once"
    assert any("answers again" in r.getMessage() for r in caplog.records)


def test_a_manager_that_freezes_is_given_up_and_tried_again(
    manager: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawker.apps.membership.member.KEEPALIVE", 0.5)
    monkeypatch.setattr("hawker.core.clients.manager.ANSWER_TIMEOUT", 0.5)

    async def main() -> None:
        await joined(manager, tmp_path)
        role = FakeRole()
        async with at_work(tmp_path, role) as member:
            await until(lambda: value(member, "connected"), "the first answer")
            manager.thawed.clear()
            await until(lambda: not value(member, "connected"), "it is frozen")
            manager.tell(configuration=Configuration(origin_rate=5))
            manager.thawed.set()
            await until(lambda: role.rate == 5, "it is back")

    asyncio.run(main())


def test_a_manager_with_another_database_is_no_reason_to_end(
    manager: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        manager.tell(configuration=Configuration(origin_rate=5))
        role = FakeRole()
        async with at_work(tmp_path, role) as member:
            await until(lambda: role.rate == 5, "the first answer")
            manager.refuse(Unauthenticated("the token is not good"))
            await until(lambda: value(member, "keepalives", "refused") >= 2, "it is refused")
            assert not member.removed.is_set() and role.rate == 5
            manager.refuse(None)
            await until(lambda: value(member, "connected"), "the old database is back", 40)

    with caplog.at_level(logging.INFO, "hawker"):
        asyncio.run(main())
    assert [r.levelname for r in caplog.records if "cannot be asked" in r.getMessage()] == ["ERROR"]


def test_who_is_removed_ends_and_does_not_start_again(
    manager: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        async with at_work(tmp_path, FakeRole()) as member:
            await until(lambda: value(member, "connected"), "the first answer")
            manager.refuse(Removed("an operator removed it"))
            async with asyncio.timeout(15):
                await member.removed.wait()
        with pytest.raises(ConfigError, match="was removed from the cluster eu"):
            async with at_work(tmp_path, FakeRole()):
                pass

    asyncio.run(main())
    assert any(
        r.levelname == "ERROR" and "was removed from the cluster eu" in r.getMessage()
        for r in caplog.records
    )


def stored(folder: Path) -> Configuration | None:
    """The configuration that is remembered there."""
    found = load_membership(folder)
    return found.told.configuration if found is not None and found.told is not None else None


def test_what_cannot_be_written_is_done_and_written_later(
    manager: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "membership"

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    async def main() -> None:
        await joined(manager, tmp_path)
        role = FakeRole()
        async with at_work(tmp_path, role) as member:
            await until(lambda: value(member, "saved") and role.told, "the first answer")
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", full)
                manager.tell(configuration=Configuration(origin_rate=5))
                await until(lambda: role.rate == 5, "it is done")
                await until(lambda: not value(member, "saved"), "it is told")
                assert stored(folder) == Configuration(), "what was there is whole"
                assert not [p for p in folder.iterdir() if p.name.startswith(".")]
            manager.tell(configuration=Configuration(origin_rate=6))
            # What could not be written before may be written first.
            await until(lambda: stored(folder) == Configuration(origin_rate=6), "it is written")
            await until(lambda: value(member, "saved"), "it is told")

    asyncio.run(main())


def test_two_processes_are_not_one_member(manager: StandIn, tmp_path: Path) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        async with at_work(tmp_path, FakeRole()):
            with pytest.raises(StorageFailed, match="in use by process"):
                async with at_work(tmp_path, FakeRole()):
                    pass

    asyncio.run(main())


def test_another_host_key_is_another_host(manager: StandIn, tmp_path: Path) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        (tmp_path / KEY_FILE).unlink()
        with pytest.raises(ConfigError, match="is not the one that joined eu"):
            async with at_work(tmp_path, FakeRole()):
                pass

    asyncio.run(main())


def test_a_wrong_clock_is_told(
    manager: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await joined(manager, tmp_path)
        manager.ahead = 600.0
        async with at_work(tmp_path, FakeRole()) as member:
            await until(lambda: value(member, "connected"), "the first answer")
            assert 590 < value(member, "clock_skew_seconds") < 610

    asyncio.run(main())
    assert sum("clock is +" in r.getMessage() for r in caplog.records) == 1


def test_a_certificate_is_renewed_in_time_and_shown_by_what_listens_already(
    manager: StandIn, tmp_path: Path
) -> None:
    manager.lifetime = 3.0

    async def main() -> None:
        settings = await joined(manager, tmp_path, plain=False)
        context = await asyncio.to_thread(server_context, settings.tls)
        listen = Listen("127.0.0.1", 0, tmp_path / "s.sock", context)
        client = await asyncio.to_thread(client_context, settings.tls)
        clients = ClientTls(settings.tls)
        in_threads = await asyncio.to_thread(clients.context)
        first = await asyncio.to_thread(_ends, tmp_path)
        async with serving(_nothing, listen) as where:
            assert await _shown(where.port, client) == first
            manager.lifetime = 3600.0
            role = FakeRole()
            async with at_work(tmp_path, role) as member:
                await until(lambda: manager.renewals, "it is renewed before it ends", 3.0)
                await until(lambda: value(member, "certificate_expiry_seconds") > first + 60, "")
                second = await asyncio.to_thread(_ends, tmp_path)
                assert second > first + 60 and await _shown(where.port, client) == second
                assert clients.context() is not in_threads, "threads take a new context"
                await asyncio.sleep(0.5)
                assert manager.renewals == 1, "once is enough"

    asyncio.run(main())


def test_a_renewed_certificate_is_shown_over_http3_too(tmp_path: Path) -> None:
    authority = Authority()
    pem = tmp_path / "host.pem"

    def issue(seconds: float) -> float:
        key = ec.generate_private_key(ec.SECP256R1())
        chain = authority.sign(request_pem(key, ["127.0.0.1"]), seconds)
        pem.write_bytes(host_pem(chain, key))
        pem.chmod(0o600)
        end = x509.load_pem_x509_certificate(chain.encode()).not_valid_after_utc
        return end.timestamp()

    async def shown(port: int) -> float:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
        configuration.load_verify_locations(cadata=authority.pem.encode())

        def client_of(quic: QuicConnection, stream_handler: Any = None) -> H3Client:
            return H3Client(quic)

        async with connect(
            "127.0.0.1", port, configuration=configuration, create_protocol=client_of
        ) as client:
            found = client._quic.tls._peer_certificate
            assert found is not None
            return found.not_valid_after_utc.timestamp()

    async def main() -> None:
        first = issue(600)
        context = server_context(TlsSettings(certificate=str(pem)))
        listen = Listen("127.0.0.1", 0, tmp_path / "s.sock", context, Files(pem, pem))
        async with serving(_nothing, listen) as where:
            assert await shown(where.port) == first
            second = issue(3600)
            tls.renew()
            assert await shown(where.port) == second

    asyncio.run(main())


def test_a_certificate_that_looks_old_by_a_wrong_clock_is_not_renewed_without_end(
    manager: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() + 400 * 86400

    monkeypatch.setattr(certificate, "time", Clock)

    async def main() -> None:
        await joined(manager, tmp_path, plain=False)
        async with at_work(tmp_path, FakeRole()):
            await until(lambda: manager.renewals, "it tries")
            await asyncio.sleep(1.0)
            assert manager.renewals == 1

    asyncio.run(main())


def test_a_host_without_its_manager_keeps_the_certificate_it_has(
    manager: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "FIRST_RETRY", 0.1)
    manager.lifetime = 0.5

    async def main() -> None:
        await joined(manager, tmp_path, plain=False)
        manager.stop()
        before = (tmp_path / "membership" / "host.pem").read_bytes()
        async with at_work(tmp_path, FakeRole()):
            await asyncio.sleep(0.5)
            assert (tmp_path / "membership" / "host.pem").read_bytes() == before
            manager.lifetime = 3600.0
            manager.start()
            await until(lambda: manager.renewals, "the manager is back")

    asyncio.run(main())


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


def _ends(data: Path) -> float:
    pem = (data / "membership" / "host.pem").read_bytes()
    return x509.load_pem_x509_certificates(pem)[0].not_valid_after_utc.timestamp()


async def _shown(port: int, client: ssl.SSLContext) -> float:
    """When the certificate ends that a listener shows."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
