"""The egress policy: what may be read, in whatever form it is written."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from hawker.core.contracts import UpstreamProxy
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


# ------------------------------------------------------------------ an upstream proxy

PROXY = "http://proxy.example.test:3128"


def through(policy: EgressPolicy, host: str, port: int = 80) -> UpstreamProxy | None:
    return asyncio.run(policy.proxy(host, port))


def made(proxy: str = PROXY, loopback: bool = True, **more: list[str]) -> EgressPolicy:
    return EgressPolicy(EgressSettings(proxy=proxy, **more), loopback=loopback)  # type: ignore[arg-type]


def test_without_an_upstream_proxy_everything_is_connected_to() -> None:
    assert through(make(), "example.test") is None


def test_names_are_left_to_the_upstream_proxy() -> None:
    found = through(made("http://a%40b:p%2Fw@[::1]:3128"), "no-such-name.invalid", 443)
    assert found == UpstreamProxy("http", "::1", 3128, "a@b", "p/w")
    assert (found.name, found.url) == ("[::1]:3128", "http://[::1]:3128")
    assert "p/w" not in repr(found)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "fe80::1",
     "169.254.169.254.", "metadata.google.internal", "Metadata.Google.Internal."],
)  # fmt: skip
@pytest.mark.parametrize("allow", [[], ["0.0.0.0/0", "::/0"]])
def test_an_upstream_proxy_is_not_asked_for_metadata(host: str, allow: list[str]) -> None:
    with pytest.raises(Forbidden, match="never origins"):
        through(made(allow=allow), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "a.localhost", "127.1", "::1"])
def test_loopback_behind_an_upstream_proxy_is_ours_only_where_the_proxy_is(host: str) -> None:
    with pytest.raises(Forbidden, match="this machine"):
        through(made(), host)
    assert through(made(allow=["127.0.0.0/8", "::1/128"]), host)
    near = "http://127.0.0.1:3128"
    assert through(made(near), host)
    with pytest.raises(Forbidden, match="this machine"):
        through(made(near, loopback=False), host)


@pytest.mark.parametrize("host", ["1.2.3.4.5", "0x7f.1.1.1.1", "a b", "%31%32", "a/b", "", "x\0"])
def test_what_may_be_read_as_another_address_is_not_handed_on(host: str) -> None:
    with pytest.raises(Forbidden, match="no name of a host"):
        through(made(), host)


def test_ports_and_networks_hold_through_an_upstream_proxy() -> None:
    with pytest.raises(Forbidden, match="port"):
        through(made(), "example.test", 6379)
    with pytest.raises(Forbidden, match=r"egress\.deny"):
        through(made(deny=["10.0.0.0/8"]), "10.1.2.3")
    # Which network a name is in only the proxy knows.
    assert through(made(deny=["10.0.0.0/8"]), "example.test")
    with pytest.raises(Forbidden, match=r"egress\.allow"):
        through(made(allow=["10.0.0.0/8"]), "example.test")
    assert through(made(allow=["10.0.0.0/8"]), "10.1.2.3")


def test_this_process_is_not_read_through_an_upstream_proxy() -> None:
    policy = made("http://127.0.0.1:3128")
    policy.listens("0.0.0.0", 4000)
    policy.listens("peer-7.example.test", 4000)
    for host in ("127.0.0.1", "localhost", "peer-7.example.test", socket.gethostname()):
        with pytest.raises(Forbidden, match="itself"):
            through(policy, host, 4000)
    assert through(policy, "no-such-name.invalid", 4000)
    # Nor is it its own upstream proxy.
    policy.listens("127.0.0.1", 3128)
    with pytest.raises(Forbidden, match="itself"):
        asyncio.run(policy.proxy_addresses())


def test_the_upstream_proxy_is_reached_wherever_it_is() -> None:
    assert asyncio.run(made("http://10.1.2.3:25", deny=["10.0.0.0/8"]).proxy_addresses()) == [
        "10.1.2.3"
    ]
    with pytest.raises(OriginFailed, match=r"upstream proxy no-such-name\.invalid:80 cannot be"):
        asyncio.run(made("http://no-such-name.invalid").proxy_addresses())


def test_what_is_direct_is_checked_as_if_there_were_no_proxy() -> None:
    policy = made(direct=["*.example.com", "Example.com.", "10.0.0.0/8", "::1"], loopback=False)
    for host in ("a.example.com", "example.com", "A.B.Example.COM.", "10.9.9.9", "0x0a010101"):
        assert through(policy, host) is None
    assert through(policy, "badexample.com")
    # Names are not resolved to find out.
    assert through(policy, "11.1.1.1")
    assert through(policy, "::1") is None
    with pytest.raises(Forbidden, match="this machine"):
        ask(policy, "::1")


@pytest.mark.parametrize(
    "url",
    ["proxy:3128", "socks5://proxy:1080", "http://", "http://proxy:port", "http://u:s3cr3t@h/path",
     "http://h?q", "http://a%3Ab:s3cr3t@h"],
)  # fmt: skip
def test_a_proxy_that_is_none_is_a_mistake_that_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"egress\.proxy") as told:
        made(url)
    assert "s3cr3t" not in str(told.value)
    with pytest.raises(ConfigError, match=r"egress\.direct"):
        made(direct=["10.0.0.0/33"])
