"""`hawker setup`: has this machine's clients of registries pull through Hawker."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

import click

from hawker.apps.cli.client_texts import (
    CLIENTS,
    DROP_INS,
    REGISTRIES,
    Configuration,
    Mirror,
    registries_in,
)
from hawker.apps.cli.options import Session, common_options, pass_session
from hawker.apps.cli.placing import Setups
from hawker.core.errors import ConfigError, OutputFailed
from hawker.core.settings import Settings
from hawker.core.upstreams import base_urls, plain_name

CLOSED = (
    "This process asks for tokens (auth.mode): clients that have none would be refused, and go to"
    " the upstream. Give them one with --token (`hawker cluster token` makes it), or run a mirror"
    " of its own on loopback beside it (`hawker serve registry --port 4001 --cluster-key FILE`,"
    " with registry.peer = this process's unix socket) and name it with --mirror."
)


@click.command()
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.option("--write", is_flag=True, help="Write the files.")
@click.option("--undo", is_flag=True, help="Take back what --write did.")
@click.option(
    "--root",
    default="/",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take all paths as below this directory.",
)
@click.option("--mirror", metavar="URL", help="The mirror, if not the one of this machine.")
@common_options
@pass_session
def setup(
    session: Session, client: str, write: bool, undo: bool, root: Path, mirror: str | None
) -> None:
    """Have CLIENT pull images through this machine's mirror (`hawker serve peer registry`).

    Prints the files that CLIENT would read; --write writes them, --undo takes them back. The
    registries are those of `registry.upstreams`; each stays what CLIENT falls back to. An https
    mirror is verified by --tls-ca; one that asks for tokens is shown --token.
    """
    if write and undo:
        raise click.UsageError("--write and --undo exclude each other")
    root = root.resolve()
    setups = Setups(root)
    if undo:
        _tell(setups.undo(client), root)
        return
    found = _mirror(session.settings, mirror)
    configuration = CLIENTS[client](found, setups.exists)
    if write:
        if client in ("podman", "crio"):
            _refuse_conflicts(setups, root, configuration, found.upstreams)
        _tell(setups.write(client, configuration.files), root)
    else:
        texts = [
            (_shown(file.path, root), setups.shown(client, file)) for file in configuration.files
        ]
        for path, text in texts:
            click.echo(f"{path}:\n")
            click.echo(text)
    notes = configuration.notes
    if mirror is None and session.settings.auth.mode == "required" and not found.token:
        notes = [CLOSED, *notes]
    for note in notes:
        click.echo(note, err=write)


def _mirror(settings: Settings, given: str | None) -> Mirror:
    port = settings.listen.port
    if given is None and not port:
        raise ConfigError("listen.port is 0, any free port", hint="name the mirror with --mirror")
    scheme = "https" if settings.tls.certificate else "http"
    registry = settings.registry
    url = (given or f"{scheme}://127.0.0.1:{port}").rstrip("/")
    # An open mirror would hand it on to the upstream.
    asks = given is not None or settings.auth.mode == "required"
    return Mirror(
        url,
        base_urls(registry.upstreams),
        plain_name(registry.default),
        authority=_certificates(settings.tls.ca) if url.startswith("https://") else "",
        token=settings.auth.token if asks else "",
    )


def _certificates(path: str) -> str:
    """The certificates of a file, and nothing else that it has; empty where no file is named.

    Raises:
        ConfigError: there are none.
    """
    if not path:
        return ""
    # As long as `setup` takes to start, and for https alone.
    from cryptography import x509

    from hawker.core.certificates import certificate_pem

    try:
        found = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"tls.ca: {path} cannot be used: {exc}", hint="name a file of PEM certificates"
        ) from exc
    return b"".join(map(certificate_pem, found)).decode()


def _refuse_conflicts(
    setups: Setups, root: Path, configuration: Configuration, upstreams: Iterable[str]
) -> None:
    """Raise OutputFailed where a file says already where images of these registries come from: of
    two that name one, the last is taken and the first forgotten, with all that it forbids."""
    drop_ins = root / DROP_INS.lstrip("/")
    names = sorted(path.name for path in drop_ins.glob("*.conf")) if drop_ins.is_dir() else []
    mine = {file.path for file in configuration.files}
    for path in (REGISTRIES, *(f"{DROP_INS}/{name}" for name in names)):
        text = setups.read(path) if path not in mine else None
        if text is None or text.startswith(b"# Written by `hawker setup"):
            continue
        try:
            said = set(registries_in(tomllib.loads(text.decode())))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"{_shown(path, root)} is not TOML: {exc}", hint="correct it first"
            ) from exc
        for name in sorted(said & set(upstreams)):
            raise OutputFailed(
                f"{_shown(path, root)} says already where images of {name} come from",
                hint="add the mirror there by hand, or leave that registry out of"
                " registry.upstreams",
            )


def _tell(done: Iterable[tuple[str, str]], root: Path) -> None:
    for verb, path in done:
        click.echo(f"{verb} {_shown(path, root)}")


def _shown(path: str, root: Path) -> Path:
    return root / path.lstrip("/")
