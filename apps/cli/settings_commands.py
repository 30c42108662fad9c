"""`hawker config` and `hawker cluster`: settings and the cluster's key."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from hawker.apps.cli.local_daemon import VERBS
from hawker.apps.cli.options import (
    Session,
    common_options,
    json_option,
    pass_session,
    serving_options,
)
from hawker.apps.cli.text import table
from hawker.core.masking import mask

MASK = "********"
DAY = 86_400.0
# Nobody can call a token back, short of another cluster key.
LONGEST_DAYS = 365
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SECRET = re.compile(
    r"token|secret|password|passwd|credential|private|api_?key|access_?key|authorization|cookie",
    re.IGNORECASE,
)


@click.group(no_args_is_help=False)
def config() -> None:
    """Show the settings and where they come from."""


@config.command()
@json_option
@serving_options
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Print every setting, its value and its origin; secrets are masked.

    The origin is `default`, `flag`, the name of a variable or the configuration file. Flags are
    taken as by `serve`.
    """
    rows = [(key, _masked(key, value), origin) for key, value, origin in session.load().rows()]
    if as_json:
        named = [dict(zip(("key", "value", "origin"), row, strict=True)) for row in rows]
        click.echo(msgspec.json.encode(named))
    else:
        shown = [(key, msgspec.json.encode(value).decode(), origin) for key, value, origin in rows]
        click.echo(table(("KEY", "VALUE", "ORIGIN"), shown))


def _masked(key: str, value: Any) -> Any:
    """The value without secrets; plugins' options hold them under names of their own."""
    if isinstance(value, dict):
        return {name: _masked(str(name), inner) for name, inner in value.items()}
    name = key.rpartition(".")[2]
    if value and isinstance(value, str | list) and _SECRET.search(name):
        return MASK
    # A URL may have a user and a password in it.
    return mask(value) if isinstance(value, str) else value


@click.group(no_args_is_help=False)
def cluster() -> None:
    """Make the key that a cluster's hosts share, and tokens for their clients."""


@cluster.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@common_options
@pass_session
def key(session: Session, file: Path | None) -> None:
    """Make a new cluster key in FILE and print its path.

    Hosts that hold the same key work together without a manager: copy the file to each of them
    and name it with --cluster-key. Without FILE it goes where `up` and `serve` look for it.
    """
    # joserfc comes with it; `config show` has no use for that.
    from hawker.core.tokens import create_key_file

    path = file or session.settings.cluster_key_file
    create_key_file(path)
    click.echo(path)


def _named(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise click.BadParameter("write up to 64 letters, digits and . _ @ -")
    return value


@cluster.command()
@click.option("--name", required=True, callback=_named, help="Whom it is for; refusals name it.")
@click.option("--days", type=click.IntRange(1, LONGEST_DAYS), default=30, show_default=True)
@click.option(
    "--tenant", default="default", show_default=True, callback=_named, help="Whose content."
)
@click.option(
    "--verb",
    "verbs",
    type=click.Choice(VERBS),
    multiple=True,
    default=("content",),
    show_default=True,
    help="What it allows; may be repeated. A mirror and a proxy ask for content.",
)
@common_options
@pass_session
def token(session: Session, name: str, days: int, tenant: str, verbs: tuple[str, ...]) -> None:
    """Print a token for a client that can make none itself, good for --days.

    It is the password, of any user, that a mirror or a proxy with auth.mode = required asks for, or
    a bearer token. It cannot be called back: it ends by itself, or with the cluster's key.
    """
    from hawker.core.tokens import ClusterKey, read_key_file

    signer = ClusterKey(read_key_file(session.settings.cluster_key_file))
    click.echo(signer.mint_for_client(name, set(verbs), tenant=tenant, lifetime=days * DAY))
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    click.echo(f"good until {end:%Y-%m-%d %H:%M} UTC", err=True)
