"""The command line: `hawker COMMAND`. This module names the commands and turns failures into one
line and an exit code; each command's module is imported when it runs.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 wrong digest, 6 origin failed,
7 deadline, 8 output exists or cannot be written, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from hawker.apps.cli.lazy import LazyGroup
from hawker.apps.cli.options import Session
from hawker.apps.cli.text import printable
from hawker.core.errors import HawkerError

USAGE = 2
INTERRUPTED = 130

COMMANDS = {
    "up": ("serve_commands:up", "Run every role in this process, as the cluster's seed."),
    "serve": ("serve_commands:serve", "Run the named roles in this process."),
    "get": ("get_command:get", "Download a URL."),
    "stat": ("cache_commands:stat", "Show one cached task."),
    "ls": ("cache_commands:ls", "List cached tasks."),
    "rm": ("cache_commands:rm", "Remove a cached task."),
    "import": ("cache_commands:import_", "Put a file into the daemon's cache."),
    "export": ("export_command:export", "Write cached content to a file."),
    "plugins": ("plugins_command:plugins", "List plugins and what became of them."),
    "config": ("settings_commands:config", "Show the settings and where they come from."),
    "cluster": ("settings_commands:cluster", "Make the key that a cluster's hosts share."),
    "join": ("join_command:join", "Join a cluster that a manager looks after."),
    "leave": ("join_command:leave", "Leave that cluster."),
    "setup": ("setup_command:setup", "Have clients of registries pull through Hawker."),
    "login": ("login_commands:login", "Sign in to a manager."),
    "logout": ("login_commands:logout", "Sign out of a manager."),
    "whoami": ("login_commands:whoami", "Show who is signed in to a manager."),
    "preheat": ("job_commands:preheat", "Have hosts store content before it is asked for."),
    "jobs": ("job_commands:jobs", "See, stop and repeat a manager's jobs."),
    "top": ("top_command:top", "Watch a cluster's tasks and who gets what from whom."),
    "ca": ("ca_command:ca", "Make certificates for TLS between processes."),
    "simulate": ("simulate_command:simulate", "Simulate a swarm of any size."),
    "doctor": ("doctor_command:doctor", "Check this machine and these settings."),
}
PLACES = {name: (f"hawker.apps.cli.{place}", help) for name, (place, help) in COMMANDS.items()}
PLACES["demo"] = ("hawker.apps.demo.command:demo", "Watch a small swarm share a file.")


@click.group(
    cls=LazyGroup,
    places=PLACES,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="hawker", message="%(prog)s %(version)s")
@click.pass_context
def hawker(ctx: click.Context) -> None:
    """Distribute files to many machines at once; the origin is read once.

    `hawker get URL` works alone; with `hawker up` on one host and `hawker serve peer
    --scheduler http://that-host:4000` on others they share what they download.

    Settings come from a TOML file (--config or HAWKER_CONFIG), from variables such as
    HAWKER_LISTEN__PORT, and from flags; later ones win.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Failures are told on stderr in one line."""
    session = Session()
    # What a command has to say it says itself; a server sets up its logs.
    logging.getLogger("hawker").addHandler(logging.NullHandler())
    try:
        result = hawker.main(arguments, prog_name="hawker", standalone_mode=False, obj=session)
    except (click.Abort, KeyboardInterrupt):
        return _tell("interrupted", INTERRUPTED)
    except click.ClickException as exc:
        return _tell(_usage(exc), exc.exit_code)
    except Exception as exc:
        return _failed(exc, session)
    return result if isinstance(result, int) else 0


def _usage(exc: click.ClickException) -> str:
    message = exc.format_message().rstrip(".")
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    return f"{message} (see `{context.command_path} --help`)" if context else message


def _failed(exc: Exception, session: Session) -> int:
    cause = _first(exc)
    if isinstance(cause, HawkerError):
        code = _tell(str(cause), cause.exit_code)
    elif isinstance(cause, OSError):
        # The machine said no: a full disk, a missing right. Not a fault of the program.
        place = f"{cause.filename}: " if cause.filename else ""
        code = _tell(f"{place}{cause.strerror or cause}", 1)
    else:
        where = "" if session.debug else "; HAWKER_TELEMETRY__LOG_LEVEL=debug shows where"
        code = _tell(f"{type(cause).__name__}: {cause} (this is a bug{where})", 1)
    if session.debug:
        traceback.print_exception(exc)
    return code


def _first(exc: BaseException) -> BaseException:
    """The first failure within groups of them (task groups raise groups)."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _tell(message: str, code: int) -> int:
    line = " ".join(message.split())
    click.echo(f"hawker: {printable(line)}", err=True)
    return code
