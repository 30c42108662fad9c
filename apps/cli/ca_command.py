"""`hawker ca`: a small certificate authority for the TLS between a cluster's processes."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hawker.core.certificates import (
    authority_certificate,
    certificate_pem,
    host_certificate,
    key_pem,
)
from hawker.core.errors import ConfigError
from hawker.core.files import create_file

CA_CERTIFICATE = "ca.crt"
CA_KEY = "ca.key"
# Clocks of the hosts differ; a certificate is valid from a little before it was made.
SKEW = datetime.timedelta(minutes=5)


@click.group(no_args_is_help=False)
def ca() -> None:
    """Make certificates for TLS between the processes of a cluster."""


@ca.command()
@click.argument("directory", default="ca", type=click.Path(path_type=Path))
@click.option("--days", type=click.IntRange(1, 7300), default=3650, show_default=True)
def create(directory: Path, days: int) -> None:
    """Make an authority in DIRECTORY: ca.crt goes to every host, ca.key stays where it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    certificate = authority_certificate("Hawker cluster authority", key, now - SKEW, end)
    _write(directory / CA_KEY, key_pem(key), secret=True)
    _write(directory / CA_CERTIFICATE, certificate_pem(certificate), secret=False)
    click.echo(directory / CA_CERTIFICATE)


@ca.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME|ADDRESS...")
@click.option(
    "--ca",
    "authority",
    default="ca",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The authority's directory.",
)
@click.option(
    "-O", "--output", default=".", type=click.Path(path_type=Path), help="Where the files go."
)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=397, show_default=True, help="Days it is valid."
)
def issue(names: Sequence[str], authority: Path, output: Path, days: int) -> None:
    """Make a certificate and key for one host: exactly the names and addresses given."""
    general_names = [_general_name(name) for name in names]
    try:
        signer = x509.load_pem_x509_certificate((authority / CA_CERTIFICATE).read_bytes())
        signing = serialization.load_pem_private_key((authority / CA_KEY).read_bytes(), None)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{authority} is no authority: {exc}", hint="make one with `hawker ca create`"
        ) from exc
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{authority / CA_KEY} was not made by `hawker ca create`")
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    certificate = host_certificate(
        names[0], general_names, key.public_key(), signer, signing, now - SKEW, end
    )
    stem = names[0].replace(":", "_")
    key_file, certificate_file = output / f"{stem}.key", output / f"{stem}.crt"
    _write(key_file, key_pem(key), secret=True)
    _write(certificate_file, certificate_pem(certificate), secret=False)
    click.echo(certificate_file)
    click.echo(key_file)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.split(".")
    if not name.isascii() or any(not label or not _is_label(label) for label in labels):
        raise click.BadParameter(f"{name!r} is no host name and no address", param_hint="NAME")
    return x509.DNSName(name)


def _is_label(label: str) -> bool:
    return label.replace("-", "").replace("_", "").isalnum() and label.strip("-") == label


def _write(path: Path, data: bytes, *, secret: bool) -> None:
    create_file(
        path,
        data,
        mode=0o600 if secret else 0o644,
        what=str(path),
        hint="remove it first if nobody uses it any more",
    )
