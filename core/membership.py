"""What a manager and the hosts of its clusters tell each other: joining, keeping alive, renewing.

A host joins once, with an enrolment's token, and is then a member with a token of its own. Its
keepalives are long polls: they are answered when something that the member is told has changed, or
after their wait. As between all roles, fields that are not known are ignored. Times are seconds
since 1970.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from hawker.core.digests import HostKey, signed_by
from hawker.core.ids import digest_of_fields, host_id
from hawker.core.limits import Limits
from hawker.core.priorities import PriorityRule

Kind = Literal["scheduler", "seed", "peer"]

ENROLMENT_PREFIX = "hwe_"
MEMBER_PREFIX = "hwm_"
KEEPALIVE = 20.0
"""Seconds after which a member must keep itself alive again, and the longest wait of a poll."""

Short = Annotated[str, Meta(max_length=128)]
Location = Annotated[str, Meta(max_length=512)]
Hostname = Annotated[str, Meta(max_length=253)]
Address = Annotated[str, Meta(max_length=64, extra_json_schema={"format": "ip"})]
Url = Annotated[
    str,
    Meta(
        max_length=512,
        pattern=r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$",
        extra_json_schema={"format": "base-url"},
    ),
]
Request = Annotated[str, Meta(max_length=16_384)]
"""A certificate signing request (PKCS #10), PEM."""


class Enrol(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host joins. `key` is its Ed25519 public key, `proof` its signature over `statement`, both
    in hex."""

    host: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    proof: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$")]
    csr: Request
    hostname: Hostname = ""
    addresses: Annotated[list[Address], Meta(max_length=32)] = []
    idc: Short = ""
    location: Location = ""
    version: Annotated[str, Meta(max_length=64)] = ""

    def __post_init__(self) -> None:
        check_addresses(self.addresses)

    def proven(self, token: str) -> bool:
        """Whether the host that is named has made this, for this token."""
        key = bytes.fromhex(self.key)
        stated = statement(token, self.host, self.csr)
        return host_id(key) == self.host and signed_by(key, bytes.fromhex(self.proof), stated)


class Enrolled(msgspec.Struct, frozen=True):
    """A host is a member. `reason` says in words why of this cluster; `token` is told this once;
    `cluster_key` is what the cluster key file holds; `certificate` is the chain without the
    authority's own, which is `ca`, both PEM."""

    id: str
    host: str
    cluster: str
    cluster_name: str
    kind: Kind
    reason: str
    token: str
    cluster_key: str
    certificate: str
    ca: str


class Renewal(msgspec.Struct, frozen=True):
    """A member wants a new certificate."""

    csr: Request


class Renewed(msgspec.Struct, frozen=True):
    """As in `Enrolled`."""

    certificate: str
    ca: str


class Keepalive(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host says that it is there. `known` is the revision of what it was told last, `wait` the
    seconds that the answer may be kept back while nothing else is to be told."""

    kind: Kind
    url: Url
    addresses: Annotated[list[Address], Meta(max_length=32)] = []
    hostname: Hostname = ""
    idc: Short = ""
    location: Location = ""
    version: Annotated[str, Meta(max_length=64)] = ""
    known: Annotated[str, Meta(max_length=64)] = ""
    wait: Annotated[float, Meta(ge=0, le=KEEPALIVE)] = 0.0

    def __post_init__(self) -> None:
        try:
            _ = urlsplit(self.url).port
        except ValueError as exc:
            raise ValueError(f"url: {exc}") from None
        check_addresses(self.addresses)


class Configuration(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cluster sets for hosts of the member's kind: the first three, quotas by tenant, and
    priorities of applications for its schedulers, `upload_slots` for its seeds or its peers. None,
    and a tenant without quotas here: as the host itself is configured. Priorities count after
    those that the host itself is configured with."""

    origin_reads: int | None = None
    origin_rate: int | None = None
    readers: int | None = None
    upload_slots: int | None = None
    tenants: dict[str, Limits] = {}
    priorities: list[PriorityRule] = []


class Kept(msgspec.Struct, frozen=True):
    """The answer to a keepalive: send the next one after so many seconds at the latest.

    `drain`: take no new work. `revision` names all that follows and `drain`, to be sent as `known`.
    `schedulers` are the URLs of the cluster's active ones that are not draining, sorted. `removed`
    are hosts that are members no more; schedulers alone are told, and refuse them. `revoked` are
    ids of clients' tokens of the cluster that have not ended by themselves.
    """

    after: float
    drain: bool
    revision: str = ""
    schedulers: Sequence[str] = ()
    configuration: Configuration = Configuration()
    removed: Sequence[str] = ()
    revoked: Sequence[str] = ()


def statement(token: str, host: str, csr: str) -> bytes:
    """What a host signs when it joins: this token, this request, by this host."""
    return digest_of_fields("hawker-enrol-1", token, host, csr).encode()


def prove(key: HostKey, token: str, csr: str) -> str:
    """The `proof` of an `Enrol`."""
    return key.sign_bytes(statement(token, key.host, csr)).hex()


def check_addresses(addresses: Sequence[str]) -> None:
    """Raise ValueError where one is no IP address."""
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError as exc:
            raise ValueError(f"addresses: {exc}") from None
