"""The default searcher: which cluster a host is told to join, and why."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.contracts import ClusterView, HostView, Searcher
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.testing.searchers import SearcherContract
from hawker.plugins.searchers.default import NO_SCHEDULER, NOTHING_FITS, DefaultSearcher


class TestDefaultSearcher(SearcherContract):
    def make_searcher(self) -> Searcher:
        searcher: Searcher = PluginHost(Settings()).get("hawker.searchers", "default")
        return searcher


def host(
    hostname: str = "", addresses: tuple[str, ...] = (), idc: str = "", location: str = ""
) -> HostView:
    return HostView(hostname, addresses, idc, location)


def cluster(name: str, /, **scopes: object) -> ClusterView:
    base: dict[str, object] = {
        "default": False, "active": True, "idcs": [], "locations": [], "cidrs": [], "hostnames": []
    }  # fmt: skip
    return ClusterView(name, **{**base, **scopes})  # type: ignore[arg-type] # fields by name


def score(where: HostView, **scopes: object) -> float:
    return DefaultSearcher().search(where, [cluster("c", **scopes)])[0].score


@pytest.mark.parametrize(
    ("where", "scopes", "expected"),
    [
        (host(addresses=("10.1.2.3",)), {"cidrs": ["10.0.0.0/8"]}, 0.3),
        (host(addresses=("192.0.2.1", "10.1.2.3")), {"cidrs": ["10.0.0.0/8"]}, 0.3),
        (host(addresses=("10.1.2.3",)), {"cidrs": ["10.0.0.0/8", "10.1.0.0/16"]}, 0.3),
        (host(addresses=("::ffff:10.1.2.3",)), {"cidrs": ["10.0.0.0/8"]}, 0.3),
        (host(addresses=("2001:db8::1",)), {"cidrs": ["2001:db8::/32"]}, 0.3),
        (host(addresses=("2001:db8::1",)), {"cidrs": ["0.0.0.0/0"]}, 0.0),
        (host(addresses=("10.1.2.3",)), {"cidrs": ["10.1.2.3"]}, 0.3),
        (host(addresses=("10.1.2.3",)), {"cidrs": ["nonsense", "11.0.0.0/8"]}, 0.0),
        (host(hostname="Node-1.fra"), {"hostnames": ["node-*.FRA"]}, 0.3),
        (host(hostname="node-1.fra.evil"), {"hostnames": ["node-*.fra"]}, 0.0),
        (host(hostname=""), {"hostnames": ["*"]}, 0.0),
        (host(idc="FRA1"), {"idcs": ["nyc", "fra1"]}, 0.25),
        (host(idc="fra"), {"idcs": ["fra1"]}, 0.0),
        (host(idc=""), {"idcs": [""]}, 0.0),
        (host(location="eu|de|fra"), {"locations": ["EU|DE|FRA"]}, 0.14),
        (host(location="eu|de|fra"), {"locations": ["us", "eu|de|muc"]}, 0.056),
        (host(location="eu"), {"locations": ["us"]}, 0.0),
        (host(), {"default": True}, 0.01),
    ],
)
def test_each_part_has_its_weight(
    where: HostView, scopes: dict[str, object], expected: float
) -> None:
    assert score(where, **scopes) == pytest.approx(expected)


def test_all_parts_together_are_one() -> None:
    where = host("n.fra", ("10.1.2.3",), "fra1", "eu|de")
    whole = cluster(
        "c",
        default=True,
        idcs=["fra1"],
        locations=["eu|de"],
        cidrs=["10.0.0.0/8"],
        hostnames=["*.fra"],
    )
    (match,) = DefaultSearcher().search(where, [whole])
    assert match.score == 1
    assert match.reason == (
        "10.1.2.3 is in 10.0.0.0/8 (0.3); host name n.fra fits *.fra (0.3); "
        "data centre fra1 (0.25); location eu|de is in or near eu|de (0.14); "
        "it is the default cluster (0.01)"
    )


def test_what_fits_most_comes_first_and_the_default_where_nothing_fits() -> None:
    clusters = [
        cluster("a-none"),
        cluster("b-default", default=True),
        cluster("c-place", locations=["eu|de"]),
        cluster("d-network", cidrs=["10.0.0.0/8"]),
        cluster("e-away", active=False, cidrs=["10.0.0.0/8"], idcs=["fra1"]),
    ]
    where = host(addresses=("10.1.2.3",), idc="fra1", location="eu|de|fra")
    for order in itertools.permutations(clusters):
        found = DefaultSearcher().search(where, order)
        names = [match.cluster.name for match in found]
        assert names == ["d-network", "c-place", "b-default", "a-none", "e-away"]
    reasons = {match.cluster.name: match.reason for match in found}
    assert reasons["a-none"] == NOTHING_FITS
    assert reasons["e-away"].endswith(NO_SCHEDULER)
    unknown = DefaultSearcher().search(host(), clusters)
    assert unknown[0].cluster.name == "b-default"


networks = st.ip_addresses().flatmap(
    lambda a: st.integers(0, a.max_prefixlen).map(
        lambda n: ipaddress.ip_network(f"{a}/{n}", strict=False)
    )
)


@given(networks, st.data())
def test_an_address_is_in_a_network_as_arithmetic_says(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, data: st.DataObject
) -> None:
    version = network.version
    inside = data.draw(st.ip_addresses(v=version, network=network))
    other = data.draw(st.ip_addresses(v=version))
    lowest, highest = int(network[0]), int(network[-1])
    for address in (inside, other):
        inner = getattr(address, "ipv4_mapped", None)
        if inner is None:
            fits = lowest <= int(address) <= highest
            got = score(host(addresses=(str(address),)), cidrs=[str(network)])
            assert (got > 0) == fits


words = st.sampled_from(["", "eu", "EU|de", "eu|de|fra", "us", "fra1", "n1.fra", "10.1.2.3", "x*"])
scopes = st.lists(words | st.sampled_from(["10.0.0.0/8", "*.fra", "*"]), max_size=3)


@given(words, st.lists(words, max_size=3), words, words, scopes, scopes, scopes, scopes)
def test_one_more_scope_never_makes_a_cluster_fit_less(
    hostname: str,
    addresses: list[str],
    idc: str,
    location: str,
    idcs: list[str],
    locations: list[str],
    cidrs: list[str],
    hostnames: list[str],
) -> None:
    where = host(hostname, tuple(addresses), idc, location)
    fields = {"idcs": idcs, "locations": locations, "cidrs": cidrs, "hostnames": hostnames}
    whole = score(where, **fields)
    assert 0 <= whole <= 0.99 + 1e-9
    for name, values in fields.items():
        assert score(where, **{**fields, name: values[:-1]}) <= whole
    assert score(where, **fields, default=True) == pytest.approx(whole + 0.01)
