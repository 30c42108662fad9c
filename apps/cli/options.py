"""Flags shared by commands. A flag for a setting is kept aside until the settings are loaded."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from hawker.core.settings import Loaded, Settings, load

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

TERMINATED = 143
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h|d)?$")
_FIELD_NAME = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Session:
    """One run of the command line: the flags given for settings, and what they led to."""

    def __init__(self) -> None:
        self.flags: dict[str, Any] = {}
        self.config_file: str | None = None
        self.debug = False

    def load(self) -> Loaded:
        """The settings from file, environment and flags, and of a host that joined a cluster what
        it joined with; raises ConfigError, StorageFailed."""
        loaded = load(self.flags, config_file=self.config_file)
        if os.access(loaded.settings.membership_folder, os.R_OK):
            # Few have joined, and others need not wait for its imports.
            from hawker.core.storage.membership import underlay

            loaded = underlay(loaded)
        self.debug = loaded.settings.telemetry.log_level == "debug"
        if self.debug:
            logging.basicConfig(level=logging.DEBUG)
        return loaded

    @property
    def settings(self) -> Settings:
        return self.load().settings


pass_session = click.make_pass_decorator(Session)


def seconds(text: str) -> float:
    """Seconds, or a number with a unit: 90, 90s, 15m, 2h, 1d."""
    match = _DURATION.match(text)
    value = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if value <= 0:
        raise click.BadParameter(f"{text!r} is not a time: write 90, 90s, 15m, 2h or 1d")
    return value


def header_fields(
    ctx: click.Context, param: click.Parameter, lines: tuple[str, ...]
) -> dict[str, str]:
    """Header fields by name, from lines as curl takes them; the values are never shown."""
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _FIELD_NAME.match(name) or not value.strip().isprintable():
            raise click.BadParameter("write it as 'Name: value'")
        fields[name] = value.strip()
    return fields


def scheduler_url(text: str) -> str:
    """The base URL of a process with a scheduler, such as http://host:4000."""
    url = text.rstrip("/")
    if not re.match(r"^https?://[^/\s]+", url):
        raise click.BadParameter(f"{text!r} is not a URL such as http://host:4000")
    # The role is mounted there; its own base URL is taken as well.
    return url.removesuffix("/scheduler")


def manager_url(ctx: click.Context, param: click.Parameter, text: str | None) -> str:
    """The base URL of a process with a manager; the role's own one is taken as well. Empty where
    none is given."""
    if text is None:
        return ""
    url = text.rstrip("/").removesuffix("/api/v1").removesuffix("/manager")
    if not re.fullmatch(r"https?://[^/?#@\s]+", url):
        raise click.BadParameter(f"{text!r} is not a URL such as https://manager:4000")
    return url


def _setting(*names: str, key: str, **attributes: Any) -> Callable[[Command], Command]:
    """A flag for the setting `key`."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None and value != ():
            ctx.ensure_object(Session).flags[key] = list(value) if param.multiple else value

    return click.option(*names, expose_value=False, callback=keep, **attributes)


def _file_setting(name: str, key: str, help: str) -> Callable[[Command], Command]:
    """A flag for a setting that names a file; absolute, as the process may change its directory."""
    return _setting(name, key=key, type=os.path.abspath, metavar="FILE", help=help)


def _keep_config_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.ensure_object(Session).config_file = value


_COMMON = (
    click.option(
        "--config",
        type=click.Path(),
        metavar="FILE",
        expose_value=False,
        callback=_keep_config_file,
        help="Configuration file (TOML).",
    ),
    # Absolute, for a daemon tells its clients where its files are.
    _setting(
        "--data", key="storage.data", type=os.path.abspath, metavar="DIR", help="Data directory."
    ),
    _file_setting("--cluster-key", "cluster.key_file", "The cluster's key."),
    _setting("--token", key="auth.token", metavar="TOKEN", help="Token to show to a daemon."),
    _file_setting("--tls-ca", "tls.ca", "Authority of the cluster's certificates."),
    _file_setting("--tls-certificate", "tls.certificate", "Certificate of this process."),
    _file_setting("--tls-key", "tls.key", "Private key of the certificate."),
)
_SERVING = (
    _setting("--host", key="listen.host", metavar="ADDRESS", help="Address to listen on."),
    _setting(
        "--port", key="listen.port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one."
    ),
    _setting(
        "--scheduler",
        key="peer.schedulers",
        type=scheduler_url,
        multiple=True,
        metavar="URL",
        help="Process with a scheduler, such as http://host:4000; may be repeated.",
    ),
    _setting(
        "--advertise", key="peer.advertise", metavar="URL", help="This process as others reach it."
    ),
    _setting(
        "--mutual-tls",
        key="tls.mutual",
        is_flag=True,
        default=None,
        help="Take only TCP clients with a certificate of --tls-ca.",
    ),
    _setting(
        "--http3",
        key="listen.http3",
        is_flag=True,
        default=None,
        help="Speak HTTP/3, too; needs --tls-certificate.",
    ),
    _setting("--seed/--no-seed", key="peer.seed", default=None, help="Read origins for all."),
    _setting("--idc", key="peer.idc", metavar="NAME", help="Data centre of this host."),
    _setting(
        "--location",
        key="peer.location",
        metavar="A|B|…",
        help="Place of this host, general first.",
    ),
)


def _all(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_options = _all(*_COMMON[:2])
common_options = _all(*_COMMON)
serving_options = _all(*_SERVING, *_COMMON)
endpoint_option = click.option(
    "-e", "--endpoint", metavar="SOCKET|URL", help="Daemon to use instead of the local one."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
naming_options = _all(
    click.option("--tag", default="", metavar="TEXT", help="Part of the task's name."),
    click.option("--application", default="", metavar="TEXT", help="Part of the task's name."),
)
filter_option = click.option(
    "--filtered-query-param",
    "filtered",
    multiple=True,
    metavar="NAME",
    help="Query parameter that does not name content; may be repeated.",
)

output_options = _all(
    click.option("--overwrite", is_flag=True, help="Replace the output where it exists."),
    click.option(
        "--force-hard-link", is_flag=True, help="Link to the stored file; fail instead of copying."
    ),
    click.option("--digest", default="", metavar="sha256:HEX", help="What the content must have."),
)


def refuse_file_options(*, force_hard_link: bool, as_json: bool) -> None:
    """Raises UsageError for what makes no sense where the content goes to standard output."""
    if force_hard_link or as_json:
        raise click.UsageError("-O - takes neither --force-hard-link nor --json")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine. SIGTERM ends it like Ctrl-C does: nothing is left behind."""

    async def supervised() -> T:
        task = asyncio.current_task()
        assert task is not None
        terminated = False

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await work
        except asyncio.CancelledError:
            if terminated:
                sys.exit(TERMINATED)
            raise

    return asyncio.run(supervised())
