"""Certificates for hosts whose https the rules are for, from an authority that the operator made.

Without such an authority, and for every other host, nothing is intercepted: a tunnel is a tunnel.
"""

from __future__ import annotations

import asyncio
import datetime
import fnmatch
import ipaddress
import ssl
import tempfile
from collections import OrderedDict
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from hawker.core.certificates import builder, certificate_pem, common_name, key_pem
from hawker.core.errors import ConfigError
from hawker.core.settings import ProxySettings

MAX_CONTEXTS = 256
# Clocks differ; what was issued is kept for a good part of its life.
BEFORE = datetime.timedelta(days=1)
LIFE = datetime.timedelta(days=30)
RENEWED = datetime.timedelta(days=7)
HINT = "make one with `hawker ca create`, and have clients trust its certificate"


class Interception:
    """Which hosts are intercepted, and the TLS that each is answered with. Making one blocks.

    Raises:
        ConfigError: hosts are named without an authority, or it cannot be used.
    """

    def __init__(self, settings: ProxySettings) -> None:
        self._hosts = [pattern.lower().rstrip(".") for pattern in settings.intercept]
        self._contexts: OrderedDict[str, tuple[ssl.SSLContext, datetime.datetime]] = OrderedDict()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._authority: x509.Certificate | None = None
        self._signer: CertificateIssuerPrivateKeyTypes | None = None
        if self._hosts:
            self._authority, self._signer = _load(settings.ca_certificate, settings.ca_key)

    def covers(self, host: str) -> bool:
        """Whether the rules look into tunnels to this host."""
        name = host.lower().rstrip(".")
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._hosts)

    async def context(self, host: str) -> ssl.SSLContext:
        """The TLS of a host, for HTTP/2 and HTTP/1.1."""
        known = self._contexts.get(host)
        now = datetime.datetime.now(datetime.UTC)
        if known is None or now >= known[1]:
            self._contexts[host] = await asyncio.to_thread(self._made, host), now + RENEWED
            while len(self._contexts) > MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(host)
        return self._contexts[host][0]

    def _made(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2", "http/1.1"])
        # OpenSSL reads files alone; this one only we may read, and only for now.
        with tempfile.NamedTemporaryFile() as file:
            file.write(self._issued(host))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def _issued(self, host: str) -> bytes:
        """A certificate for the host, its key, and the authority's certificate, as PEM."""
        assert self._authority is not None and self._signer is not None
        now = datetime.datetime.now(datetime.UTC)
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        begin = max(now - BEFORE, self._authority.not_valid_before_utc)
        end = min(now + LIFE, self._authority.not_valid_after_utc)
        certificate = (
            builder(common_name(host), self._authority.subject, self._key.public_key(), begin, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(self._signer, hashes.SHA256())
        )
        return key_pem(self._key) + certificate_pem(certificate) + certificate_pem(self._authority)


def _load(
    certificate_file: str, key_file: str
) -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
    if not certificate_file or not key_file:
        raise ConfigError("proxy.intercept needs proxy.ca_certificate and proxy.ca_key", hint=HINT)
    try:
        certificate = x509.load_pem_x509_certificate(Path(certificate_file).read_bytes())
        if Path(key_file).stat().st_mode & 0o077:
            raise ConfigError(f"others may read {key_file}", hint=f"chmod 600 {key_file}")
        key = serialization.load_pem_private_key(Path(key_file).read_bytes(), None)
    except OSError as exc:
        raise ConfigError(f"{exc.filename} cannot be read: {exc.strerror}", hint=HINT) from exc
    except (ValueError, TypeError) as exc:
        raise ConfigError(
            f"{certificate_file} and {key_file} are no certificate and its key", hint=HINT
        ) from exc
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        signs = constraints.ca
    except x509.ExtensionNotFound:
        signs = False
    if not signs or key.public_key() != certificate.public_key():
        raise ConfigError(f"{certificate_file} is no authority with the key {key_file}", hint=HINT)
    return certificate, key  # type: ignore[return-value]
