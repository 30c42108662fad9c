"""The egress policy: what may be read, in whatever form it is written."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from hawker.core.egress import EgressPolicy
from hawker.core.errors import ConfigError, Forbidden, OriginFailed
from hawker.core.settings import EgressSettings


def ask(policy: EgressPolicy, host: str, port: int = 80) -> Sequence[str]:
    return asyncio.run(policy.addresses(host, port))


def make(loopback: bool = True, **settings: list[str] | list[int]) -> EgressPolicy:
    return EgressPolicy(EgressSettings(**settings), loopback=loopback)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.16689662",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "fe80::1",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
@pytest.mark.parametrize("allow", [[], ["0.0.0.0/0", "::/0"]])
def test_metadata_and_special_addresses_are_never_read(host: str, allow: list[str]) -> None:
    with pytest.raises(Forbidden, match="never origins"):
        ask(make(allow=allow), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1", "::ffff:127.0.0.1"])
def test_loopback_is_read_only_where_nobody_else_can_ask(host: str) -> None:
    assert ask(make(loopback=True), host)
    with pytest.raises(Forbidden, match="this machine"):
        ask(make(loopback=False), host)
    assert ask(make(loopback=False, allow=["127.0.0.0/8", "::1/128"]), host)


def test_deny_wins_over_allow() -> None:
    policy = make(allow=["10.0.0.0/8"], deny=["10.1.0.0/16"])
    assert ask(policy, "10.2.0.1") == ["10.2.0.1"]
    with pytest.raises(Forbidden, match=r"egress\.deny"):
        ask(policy, "10.1.0.1")
    with pytest.raises(Forbidden, match=r"egress\.allow"):
        ask(policy, "192.0.2.1")


def test_private_networks_are_read_unless_somebody_says_no() -> None:
    assert ask(make(loopback=False), "10.9.8.7") == ["10.9.8.7"]
    with pytest.raises(Forbidden):
        ask(make(loopback=False, deny=["10.0.0.0/8"]), "::ffff:10.9.8.7")


@pytest.mark.parametrize("port", [22, 25, 6379, 10250])
def test_ports_of_other_services_are_not_read(port: int) -> None:
    with pytest.raises(Forbidden, match="port"):
        ask(make(), "127.0.0.1", port)
    assert ask(make(ports=[port]), "127.0.0.1", port)
    with pytest.raises(Forbidden, match="port"):
        ask(make(ports=[port]), "127.0.0.1", 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "127.1"])
def test_own_listener_is_never_read(host: str) -> None:
    policy = make(allow=["0.0.0.0/0", "::/0"])
    policy.listens("127.0.0.1", 4000)
    with pytest.raises(Forbidden, match="listens"):
        # `localhost` may also be ::1, where nobody listens.
        ask(policy, host, 4000) if host != "localhost" else _only_v4(policy, host)
    assert ask(policy, "127.0.0.1", 4001)


def _only_v4(policy: EgressPolicy, host: str) -> None:
    if "127.0.0.1" not in ask(policy, host, 4000):
        raise Forbidden("this process itself listens there")


def test_a_wildcard_listener_is_every_address_of_this_machine() -> None:
    policy = make(loopback=False, allow=["0.0.0.0/0"])
    policy.listens("0.0.0.0", 4000)
    with pytest.raises(Forbidden, match="listens"):
        ask(policy, "127.0.0.1", 4000)
    own = socket.gethostbyname(socket.gethostname())
    with pytest.raises(Forbidden, match="listens"):
        ask(policy, own, 4000)
    assert ask(policy, "192.0.2.1", 4000)


@pytest.mark.parametrize("host", ["", "a\0b", "no-such-host.invalid"])
def test_what_is_no_host_is_a_failure_that_says_so(host: str) -> None:
    with pytest.raises(OriginFailed):
        ask(make(), host)


def test_a_bad_network_is_named() -> None:
    with pytest.raises(ConfigError, match=r"egress\.deny"):
        make(deny=["ten"])
