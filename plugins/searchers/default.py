"""The `default` searcher: the weights of the field.

score = 0.30 network + 0.30 host name + 0.25 idc + 0.14 location + 0.01 default

network    1 where an address of the host is in one of the cluster's networks
host name  1 where it fits one of the cluster's patterns, in any case of letters
idc        1 where it is one of the cluster's data centres, in any case of letters
location   equal leading elements / 5, 1 for equal ones; the nearest of the cluster's
default    1 for the default cluster

No cluster is left out: a host that none is meant for joins the default one, and where there is none
the first by name. Equal ones are in the order of their names.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
from collections.abc import Iterator, Sequence

from hawker.core.contracts import ClusterMatch, ClusterView, HostView, Searcher
from hawker.core.egress import Address, Network, within
from hawker.pluggy_specs import hookimpl
from hawker.plugins.locations import closeness

NETWORK = 0.30
HOSTNAME = 0.30
IDC = 0.25
LOCATION = 0.14
DEFAULT = 0.01

NOTHING_FITS = "none of its scopes fits"
NO_SCHEDULER = "no scheduler of it is active"


class DefaultSearcher:
    """See the module for the formula; a score lies between 0 and 1."""

    def search(self, host: HostView, clusters: Sequence[ClusterView]) -> Sequence[ClusterMatch]:
        found = [_match(host, cluster) for cluster in clusters]
        found.sort(key=lambda m: (not m.cluster.active, -m.score, m.cluster.name))
        return found


def _match(host: HostView, cluster: ClusterView) -> ClusterMatch:
    parts = list(_parts(host, cluster))
    words = [f"{reason} ({part:.4g})" for part, reason in parts] or [NOTHING_FITS]
    if not cluster.active:
        words.append(NO_SCHEDULER)
    # Hundredths and thousandths do not add up exactly.
    score = round(sum(part for part, _ in parts), 9)
    return ClusterMatch(cluster, score, "; ".join(words))


def _parts(host: HostView, cluster: ClusterView) -> Iterator[tuple[float, str]]:
    """What the score is made of, and why."""
    for address in host.addresses:
        network = _network_of(address, cluster.cidrs)
        if network:
            yield NETWORK, f"{address} is in {network}"
            break
    name = host.hostname.lower()
    for pattern in cluster.hostnames:
        if name and fnmatch.fnmatchcase(name, pattern.lower()):
            yield HOSTNAME, f"host name {host.hostname} fits {pattern}"
            break
    if host.idc and host.idc.lower() in (idc.lower() for idc in cluster.idcs):
        yield IDC, f"data centre {host.idc}"
    nearest = max(cluster.locations, key=lambda place: closeness(host.location, place), default="")
    near = closeness(host.location, nearest)
    if near:
        yield LOCATION * near, f"location {host.location} is in or near {nearest}"
    if cluster.default:
        yield DEFAULT, "it is the default cluster"


def _network_of(text: str, cidrs: Sequence[str]) -> str:
    """The first network that has the address, empty where none has."""
    address = _address(text)
    if address is None:
        return ""
    for cidr in cidrs:
        network = _network(cidr)
        if network is not None and within(address, (network,)):
            return cidr
    return ""


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


@functools.lru_cache(maxsize=4096)
def _network(cidr: str) -> Network | None:
    try:
        return ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return None


@hookimpl
def hawker_searcher(name: str) -> Searcher:
    return DefaultSearcher()
