"""Certificates, the cluster key, plugins. Blocking."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509

from hawker.apps.cli.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding, failure
from hawker.core.errors import HawkerError
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.storage.membership import load_membership
from hawker.core.tls import client_context, server_context
from hawker.core.tokens import read_key_file

SOON = datetime.timedelta(days=14)


def membership(settings: Settings) -> Finding:
    """The cluster of a manager that this host joined."""
    name = "membership"
    try:
        known = load_membership(settings.membership_folder)
    except HawkerError as exc:
        return failure(name, exc)
    if known is None:
        return Finding(name, SKIPPED, "it joined no manager's cluster")
    told = f"a {known.kind} of the cluster {known.cluster_name} of {known.manager}"
    if known.removed:
        return Finding(name, FAILED, f"{told}, which removed it", "`hawker leave`, then join again")
    if known.told is None:
        return Finding(name, WARNING, f"{told}, told nothing yet", "has it been started since?")
    return Finding(name, OK, told + (", draining" if known.told.drain else ""))


def tls(settings: Settings) -> Finding:
    """The certificate this process shows, and whether its cluster would believe it."""
    name, given = "TLS", settings.tls
    if not given.certificate and not given.ca:
        return Finding(name, SKIPPED, "plain HTTP: no tls.certificate")
    try:
        client = client_context(given)
        server = server_context(given)
    except HawkerError as exc:
        return failure(name, exc)
    if server is None:
        return Finding(name, OK, f"others are verified by {given.ca}; plain HTTP here")
    certificate = x509.load_pem_x509_certificate(Path(given.certificate).read_bytes())
    names = _names(certificate)
    until = certificate.not_valid_after_utc
    left = until - datetime.datetime.now(datetime.UTC)
    joined = Path(given.certificate).parent == settings.membership_folder
    # A member's is renewed when a third of its life is left.
    soon = SOON / 2 if joined else SOON
    renew = "is its manager reached?" if joined else "make a new one with `hawker ca issue`"
    if left < datetime.timedelta():
        told = f"{given.certificate} expired on {until:%Y-%m-%d}"
        return Finding(name, FAILED, told, renew)
    if not names:
        told = f"{given.certificate} is for no name"
        return Finding(name, FAILED, told, "make one with `hawker ca issue NAME`")
    reason = _disbelief(server, client, names[0])
    if reason:
        told = f"{given.certificate} is not believed by those who trust {given.ca or 'the system'}"
        return Finding(name, FAILED, f"{told}: {reason}", "issue it by that authority")
    told = f"{given.certificate} for {', '.join(names)} until {until:%Y-%m-%d}"
    if left < soon:
        return Finding(name, WARNING, told, renew + ("" if joined else " in time"))
    return Finding(name, OK, told + (", mutual" if given.mutual else ""))


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = found.get_values_for_type(x509.IPAddress)
    return [*found.get_values_for_type(x509.DNSName), *map(str, addresses)]


def _disbelief(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """Why a handshake between this process and one of its kind fails; empty where it does not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(8):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as exc:
                return exc.verify_message or str(exc)
            except ssl.SSLError as exc:
                return str(exc)
    return ""


def cluster_key(settings: Settings) -> Finding:
    """What hosts of one cluster share."""
    name, file = "cluster key", settings.cluster_key_file
    if not file.exists():
        if settings.peer.schedulers or settings.cluster.key_file:
            hint = "copy that of the cluster there, or make one with `hawker cluster key`"
            return Finding(name, FAILED, f"{file} is not there", hint)
        return Finding(name, SKIPPED, "none: `hawker up` makes one")
    try:
        read_key_file(file)
    except HawkerError as exc:
        return failure(name, exc)
    return Finding(name, OK, str(file))


def plugins(settings: Settings) -> Finding:
    """Plugins that are installed and cannot be used."""
    rows = PluginHost(settings).report()
    broken = [row for row in rows if row.state in ("failed", "duplicate")]
    if broken:
        told = "; ".join(f"{row.kind} {row.name}: {row.reason}" for row in broken)
        return Finding("plugins", FAILED, told, "repair or uninstall them, or plugins.disable")
    usable = sum(row.state == "ok" for row in rows)
    return Finding("plugins", OK, f"{usable} load, {len(rows) - usable} are off")
