"""`hawker up` and `hawker serve`: roles in this process."""

from __future__ import annotations

import asyncio
import difflib
from importlib.metadata import entry_points

import click

from hawker.apps.cli.options import Session, pass_session, serving_options
from hawker.core.settings import Settings

ROLES = "hawker.roles"

ready_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the ready line as a JSON object."
)


@click.command()
@ready_option
@serving_options
@pass_session
def up(session: Session, as_json: bool) -> int:
    """Run every role in this process, its peer being the cluster's seed.

    Makes a cluster key in the data directory where there is none. Prints one line when it can be
    used; --port 0 takes a free port, which that line names.
    """
    session.flags.setdefault("peer.seed", True)
    return _run(session.settings, _roles(), as_json=as_json, up=True)


@click.command()
@click.argument("roles", nargs=-1, required=True, metavar="ROLE...")
@ready_option
@serving_options
@pass_session
def serve(session: Session, roles: tuple[str, ...], as_json: bool) -> int:
    """Run the named roles in this process: scheduler, peer, registry, proxy, manager, or another
    that a plugin brings.

    A peer needs --scheduler where none runs in the same process; a registry or proxy needs a peer.
    """
    known = _roles()
    for role in roles:
        if role not in known:
            near = difflib.get_close_matches(role, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"roles are {', '.join(known)}"
            raise click.BadParameter(f"there is no role {role!r} ({hint})", param_hint="ROLE")
    return _run(session.settings, list(dict.fromkeys(roles)), as_json=as_json, up=False)


def _roles() -> list[str]:
    return sorted({entry.name for entry in entry_points(group=ROLES)})


def _run(settings: Settings, roles: list[str], *, as_json: bool, up: bool) -> int:
    # The server and its framework; `serve --help` and mistakes in the arguments need neither.
    from hawker.apps.runner import run

    return asyncio.run(run(settings, roles, json=as_json, up=up))
