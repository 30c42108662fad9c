"""`hawker login`, `logout` and `whoami`: who runs commands, to a manager."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from hawker.apps.cli.options import (
    Session,
    common_options,
    json_option,
    manager_url,
    pass_session,
    run_async,
)
from hawker.apps.cli.text import table
from hawker.core.clients.logins import Login, Logins, configuration_directory
from hawker.core.clients.user import SECRET_VARIABLE, Method, UserClient
from hawker.core.errors import ConfigError, HawkerError
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings

DEFAULT_MANAGER = "http://127.0.0.1:4000"


manager_option = click.option(
    "--manager",
    callback=manager_url,
    metavar="URL",
    help=f"Process with a manager; the last one that was signed in to, or {DEFAULT_MANAGER}.",
)


@click.command()
@manager_option
@click.option("--name", metavar="NAME", help="User of the manager itself; asks for the password.")
@click.option("--provider", metavar="NAME", help="Whom to sign in with, if not the manager itself.")
@click.option("--device", is_flag=True, help="Sign in with a browser, here or elsewhere.")
@click.option(
    "--client-credentials", "machine", is_flag=True, help="Sign in as a program: --client-id."
)
@click.option(
    "--client-id",
    metavar="ID",
    help=f"The program, as the provider knows it; its secret is {SECRET_VARIABLE}, or asked for.",
)
@common_options
@pass_session
def login(
    session: Session,
    manager: str,
    name: str | None,
    provider: str | None,
    device: bool,
    machine: bool,
    client_id: str | None,
) -> None:
    """Sign in to a manager, for the commands that talk to it.

    With a name and a password; with a provider by --provider (in a browser, which may be another
    machine's); or as a program by --client-credentials. What that gave is kept for this user, in
    `hawker/logins.json` of the configuration directory (~/.config).
    """
    if device and machine:
        raise click.UsageError("--device and --client-credentials are two ways; choose one")
    if machine != (client_id is not None):
        raise click.UsageError("--client-credentials and --client-id belong together")
    elsewhere = device or machine or provider is not None
    if elsewhere and name is not None:
        raise click.UsageError("--name is a user of the manager itself, no provider's")
    logins = Logins(configuration_directory())
    place = manager or logins.current() or DEFAULT_MANAGER

    async def sign_in() -> dict[str, Any]:
        async with manager_client(session.settings, place) as client:
            if not elsewhere:
                given = name or _ask("Name")
                made = await client.by_password(given, _secret(f"Password of {given}"))
            elif machine:
                method = _chosen(await client.methods(), provider)
                secret = os.environ.get(SECRET_VARIABLE) or _secret(f"Secret of {client_id}")
                made = await client.by_credentials(method, client_id or "", secret)
            else:
                method = _chosen(await client.methods(), provider)
                asking, begun = await client.begin_device(method)
                click.echo(
                    f"Open {begun.complete or begun.url}\nand check that it shows {begun.code}"
                    if begun.complete
                    else f"Open {begun.url}\nand enter {begun.code}",
                    err=True,
                )
                made = await client.by_device(method, asking, begun)
            # Nothing is kept that the manager does not take.
            me = await client.ask(made, logins, "GET", "/me")
            async with logins.locked():
                logins.keep(made)
            return _object(me)

    me = run_async(sign_in())
    click.echo(f"signed in to {place} as {me['user']['name']}")


@click.command()
@manager_option
@common_options
@pass_session
def logout(session: Session, manager: str) -> None:
    """Sign out of a manager, and forget what `login` got."""
    logins = Logins(configuration_directory())
    known = logins.find(manager)

    async def sign_out() -> HawkerError | None:
        failed: HawkerError | None = None
        try:
            async with manager_client(session.settings, known.manager) as client:
                await client.sign_out(known)
        except HawkerError as exc:
            failed = exc
        async with logins.locked():
            logins.forget(known.manager)
        return failed

    failed = run_async(sign_out())
    click.echo(f"signed out of {known.manager}")
    if failed is not None:
        click.echo(f"hawker: it is forgotten here, and may go on elsewhere: {failed}", err=True)


@click.command()
@manager_option
@json_option
@common_options
@pass_session
def whoami(session: Session, manager: str, as_json: bool) -> None:
    """Show who is signed in to a manager, and what they may do there."""
    logins = Logins(configuration_directory())
    known = logins.find(manager)

    async def ask() -> bytes:
        async with manager_client(session.settings, known.manager) as client:
            return await client.ask(known, logins, "GET", "/me")

    answer = run_async(ask())
    click.echo(answer if as_json else _card(known, _object(answer)))


def manager_client(settings: Settings, manager: str) -> UserClient:
    """A client of a manager, which asks providers through the egress policy."""
    context = origin_tls(settings.tls.ca, "tls.ca")
    services = PluginHost(settings).services
    return UserClient(manager, context, OriginClient(services, origin_tls(settings.egress.ca)))


def _chosen(methods: Sequence[Method], name: str | None) -> Method:
    found = [method for method in methods if name in (None, method.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(method.name for method in methods) or "none"
    if name is None and found:
        raise ConfigError("the manager has several providers", hint=f"--provider: one of {names}")
    raise ConfigError(
        f"the manager has no provider {name}" if name else "the manager has no provider",
        hint=f"there are: {names}",
    )


def _ask(what: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(what, err=True))
    return sys.stdin.readline().rstrip("\n")


def _secret(what: str) -> str:
    """Asked for without showing it; the next line of standard input where that is no terminal."""
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\n")


def _object(raw: bytes) -> dict[str, Any]:
    return msgspec.json.decode(raw, type=dict[str, Any])


def _card(known: Login, me: dict[str, Any]) -> str:
    roles = [_role(one) for one in (*me["bindings"], *me["mapped"])]
    rows = [
        ("manager", known.manager),
        ("user", me["user"]["name"]),
        ("email", me["user"]["email"]),
        ("signed in by", known.how),
        ("roles", "; ".join(roles) or "none"),
    ]
    return table(("FIELD", "VALUE"), [row for row in rows if row[1]])


def _role(one: dict[str, Any]) -> str:
    within = [f"{kind} {one[kind]}" for kind in ("tenant", "cluster") if one[kind]]
    return f"{one['role']} {'in ' + ' and '.join(within) if within else 'everywhere'}"
