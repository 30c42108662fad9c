"""What the members of a cluster share, made with its first member: an authority for their
certificates, and the cluster key. Whoever has the manager's key can open both, and nobody else."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from hawker.apps.manager import models
from hawker.apps.manager.secret import Seal
from hawker.core.certificates import (
    authority_certificate,
    certificate_pem,
    host_certificate,
    key_pem,
)
from hawker.core.errors import BadRequest
from hawker.core.files import KEY_BYTES

LIFE_OF_AUTHORITY = datetime.timedelta(days=3653)
LIFE = datetime.timedelta(days=30)
# Clocks of hosts that are behind ours take it all the same.
BEFORE = datetime.timedelta(hours=1)
MAX_NAMES = 64
_KEY, _CLUSTER_KEY = "authority", "cluster key"


@dataclass(frozen=True)
class Shared:
    """What the members of one cluster share, in the open: for members alone."""

    cluster_key: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def ca(self) -> str:
        return certificate_pem(self.certificate).decode()

    def issue(self, host: str, request: Request) -> tuple[str, float]:
        """A certificate of a member for what it asked for, PEM, and when it ends."""
        now = datetime.datetime.now(datetime.UTC)
        certificate = host_certificate(
            host, request.general, request.key, self.certificate, self.key, now - BEFORE, now + LIFE
        )
        return certificate_pem(certificate).decode(), certificate.not_valid_after_utc.timestamp()

    def manager_pem(self) -> bytes:
        """A certificate for the manager as a client of the members, and its new key. It has no
        names, so that nobody can be a server by it."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        certificate = host_certificate(
            "manager", [], key.public_key(), self.certificate, self.key, now - BEFORE, now + LIFE
        )
        return certificate_pem(certificate) + key_pem(key)


class Request:
    """A certificate signing request that has been read: a key, and names for it."""

    def __init__(self, pem: str) -> None:
        """Raises BadRequest where it is none, or for a key or names of kinds that are not taken."""
        try:
            csr = x509.load_pem_x509_csr(pem.encode())
            signed = csr.is_signature_valid
            key = csr.public_key()
            found = _asked(csr)
        except (ValueError, InvalidSignature, x509.DuplicateExtension, TypeError) as exc:
            raise BadRequest(f"csr: {exc}", hint="it is a PKCS #10 request, PEM") from exc
        except Exception as exc:
            # cryptography's own, of algorithms and curves it does not know.
            raise BadRequest(f"csr: {type(exc).__name__}: {exc}") from exc
        if not signed:
            raise BadRequest("csr: its signature is not by the key in it")
        if isinstance(key, rsa.RSAPublicKey):
            if not 2048 <= key.key_size <= 4096:
                raise BadRequest(f"csr: an RSA key has 2048 to 4096 bits, not {key.key_size}")
        elif not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
            raise BadRequest("csr: the key is not an elliptic curve's, Ed25519 or RSA")
        if len(found) > MAX_NAMES:
            raise BadRequest(f"csr: more than {MAX_NAMES} names")
        self.key = key
        self.general = found
        self.names = [canonical(str(name.value)) for name in found]

    def check(self, allowed: Iterable[str]) -> None:
        """Raise BadRequest that names those which are not allowed."""
        known = set(map(canonical, allowed))
        others = [name for name in self.names if name not in known]
        if others:
            raise BadRequest(
                f"csr: the certificate may not carry {', '.join(others)}",
                hint=f"it may carry {', '.join(sorted(known)) or 'no name'}",
            )


def _asked(csr: x509.CertificateSigningRequest) -> list[x509.DNSName | x509.IPAddress]:
    try:
        extension = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names: list[x509.DNSName | x509.IPAddress] = []
    for name in extension.value:
        if isinstance(name, x509.DNSName):
            # What is not a host's name is shown to nobody, a pattern is no host's.
            if not 0 < len(name.value) <= 253 or not _is_name(name.value):
                raise ValueError(f"{name.value!r} is not a host's name")
        elif not isinstance(name, x509.IPAddress) or _is_network(name):
            raise ValueError(f"only names of hosts and addresses are taken, not {name!r}")
        names.append(name)
    return names


def _is_name(text: str) -> bool:
    return text.isascii() and all(c.isalnum() or c in "-._" for c in text)


def _is_network(name: x509.IPAddress) -> bool:
    return isinstance(name.value, ipaddress.IPv4Network | ipaddress.IPv6Network)


def canonical(name: str) -> str:
    """One spelling of a host name or an address."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().removesuffix(".")


def own_names(hostname: str, addresses: Collection[str], source: str) -> list[str]:
    """The names that a host's certificate may carry where its enrolment names none: what it calls
    itself, if it is where it says it is.

    `source` is the address that it asks from; empty for a unix socket.

    Raises:
        BadRequest: none of the addresses is the source; or one is beyond loopback, and the source
            is not.
    """
    given = [ipaddress.ip_address(address) for address in addresses]
    here = ipaddress.ip_address(source) if source else None
    here = getattr(here, "ipv4_mapped", None) or here
    if here is None or here.is_loopback:
        beyond = [str(address) for address in given if not address.is_loopback]
        if beyond:
            raise BadRequest(
                f"addresses: {', '.join(beyond)} cannot be told from here: the request comes"
                " over loopback",
                hint="name what its certificate may carry in the enrolment's `names`",
            )
    elif here not in given:
        raise BadRequest(
            f"addresses: {here}, where the request comes from, is not among them",
            hint="name what its certificate may carry in the enrolment's `names`",
        )
    return [name for name in (hostname, *map(str, given)) if name]


async def shared(cluster: models.Cluster, seal: Seal) -> Shared:
    """What the cluster's members share, made where there is nothing yet; in a transaction that has
    the cluster's row locked."""
    found = await known(cluster.id, seal)
    if found is None:
        found = _make(cluster.name)
        await models.Authority.create(
            cluster_id=cluster.id,
            certificate=found.ca,
            sealed_key=seal.close(key_pem(found.key), cluster.id, _KEY),
            sealed_cluster_key=seal.close(found.cluster_key.encode(), cluster.id, _CLUSTER_KEY),
        )
    return found


async def known(cluster: str, seal: Seal) -> Shared | None:
    """What the members of the cluster with this id share; None where nobody has joined it."""
    row = await models.Authority.get_or_none(cluster_id=cluster)
    if row is None:
        return None
    key = serialization.load_pem_private_key(seal.open(row.sealed_key, cluster, _KEY), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Shared(
        seal.open(row.sealed_cluster_key, cluster, _CLUSTER_KEY).decode(),
        x509.load_pem_x509_certificate(row.certificate.encode()),
        key,
    )


def _make(name: str) -> Shared:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = authority_certificate(
        f"Hawker cluster {name}", key, now - BEFORE, now + LIFE_OF_AUTHORITY
    )
    return Shared(secrets.token_hex(KEY_BYTES), certificate, key)
