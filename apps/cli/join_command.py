"""`hawker join` and `hawker leave`: this host in a cluster that a manager looks after."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import click
import msgspec

from hawker.apps.cli.local_daemon import find_daemon
from hawker.apps.cli.options import (
    Session,
    data_options,
    json_option,
    manager_url,
    pass_session,
    run_async,
)
from hawker.core.egress import is_loopback
from hawker.core.errors import ConfigError
from hawker.core.settings import Settings, TlsSettings


def _read(ctx: click.Context, param: click.Parameter, file: TextIO | None) -> str | None:
    return None if file is None else file.read(4096)


@click.command()
@click.argument("manager", metavar="MANAGER", callback=manager_url)
@click.option(
    "--token", metavar="TOKEN", help="The enrolment's token; other users may see it here."
)
@click.option(
    "--token-file",
    type=click.File(),
    callback=_read,
    metavar="FILE",
    help="File that has the token; - for standard input.",
)
@click.option("--hostname", default="", metavar="NAME", help="Name of this host.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="IP",
    help="Address that others reach this host by; may be repeated.",
)
@click.option("--idc", default="", metavar="NAME", help="Data centre of this host.")
@click.option("--location", default="", metavar="A|B|…", help="Place of this host, general first.")
@click.option("--plain", is_flag=True, help="Take no certificate: plain HTTP between hosts.")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Authority of the manager's certificate, if not one of the system's.",
)
@json_option
@data_options
@pass_session
def join(
    session: Session,
    manager: str,
    token: str | None,
    token_file: str | None,
    hostname: str,
    addresses: tuple[str, ...],
    idc: str,
    location: str,
    plain: bool,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Join a cluster of the manager at MANAGER, such as https://manager:4000.

    What this host is to be (scheduler, seed or peer), and of which cluster, says the enrolment that
    the token is of (POST /manager/api/v1/enrolments makes one). The host keeps the cluster's key
    and its own certificate in its data directory; `hawker serve scheduler` or `hawker serve peer`
    with that directory then takes everything else from the manager.
    """
    from hawker.apps.membership.joining import Wish
    from hawker.apps.membership.joining import join as join_cluster
    from hawker.core.tls import client_context

    shown = _token(token, token_file)
    settings = session.settings
    if settings.membership_folder.exists():
        raise ConfigError(
            f"{settings.data} has joined a cluster already",
            hint="`hawker leave` first, or choose another --data",
        )
    _refuse_running(settings)
    if ca is not None:
        if manager.startswith("http://"):
            raise click.UsageError("--ca is for a manager at an https URL")
        client_context(TlsSettings(ca=str(ca)))
    if manager.startswith("http://") and not is_loopback(urlsplit(manager).hostname or ""):
        click.echo("hawker: without https the cluster's key comes to this host in clear", err=True)
    wish = Wish(
        manager=manager,
        token=shown,
        hostname=hostname or settings.peer.hostname or socket.gethostname(),
        addresses=list(addresses),
        idc=idc or settings.peer.idc,
        location=location or settings.peer.location,
        plain=plain,
        ca=ca.read_bytes() if ca else b"",
    )
    membership, reason = run_async(join_cluster(settings.data, wish))
    if as_json:
        names = ("cluster", "cluster_name", "kind", "member", "host")
        told = {name: getattr(membership, name) for name in names}
        click.echo(msgspec.json.encode({**told, "reason": reason}))
        return
    role = "scheduler" if membership.kind == "scheduler" else "peer"
    click.echo(f"joined the cluster {membership.cluster_name} as a {membership.kind}: {reason}")
    click.echo(f"next: hawker serve {role} --data {settings.data}")


@click.command()
@data_options
@pass_session
def leave(session: Session) -> None:
    """Leave the cluster that this data directory joined.

    Stop its process first. What is stored stays, and so does the host's own key.
    """
    from hawker.apps.membership.joining import leave as leave_cluster

    settings = session.settings
    _refuse_running(settings)
    membership, knew = run_async(leave_cluster(settings.data))
    click.echo(f"left the cluster {membership.cluster_name}")
    if not knew:
        click.echo(f"the manager {membership.manager} did not know this host any more", err=True)


def _token(token: str | None, from_file: str | None) -> str:
    if (token is None) == (from_file is None):
        raise click.UsageError("give the enrolment's token by --token or --token-file")
    text = (token or from_file or "").strip()
    if not re.fullmatch(r"hwe_[A-Za-z0-9_-]{1,256}", text):
        raise click.UsageError("that is no enrolment's token: those begin with hwe_")
    return text


def _refuse_running(settings: Settings) -> None:
    if find_daemon(settings, None) is not None:
        raise ConfigError(
            f"a process serves with {settings.data} now",
            hint="stop it first, or choose another --data",
        )
