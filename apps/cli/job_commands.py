"""`hawker preheat` and `hawker jobs`: a manager brings content to hosts, and tells how it goes."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import click
import msgspec

from hawker.apps.cli.login_commands import manager_client, manager_option
from hawker.apps.cli.options import Session, common_options, json_option, pass_session, run_async
from hawker.apps.cli.text import age, printable, size, table
from hawker.core.clients.logins import Login, Logins, configuration_directory
from hawker.core.clients.user import UserClient
from hawker.core.errors import NotFound, Unavailable

T = TypeVar("T")

SCOPES = ("single-seed", "all-seeds", "all-peers")
OPEN = ("pending", "running")
PATIENCE = 60.0
"""How long a manager may be away while a job is watched."""
SHOWN = 20
MANIFEST = re.compile(r"^https?://[^/]+/v2/.+/manifests/[^/]+$")


class Asking:
    """Whoever is signed in to a manager asks it."""

    def __init__(self, client: UserClient, login: Login, logins: Logins) -> None:
        self._client, self._login, self._logins = client, login, logins

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self._client.ask(self._login, self._logins, method, path, body)
        return msgspec.json.decode(answer)

    async def raw(self, path: str) -> bytes:
        """What is at a path, as it came."""
        return await self._client.ask(self._login, self._logins, "GET", path)

    def stream(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The data of a stream's events."""
        return self._client.events(self._login, self._logins, path)

    async def id_of(self, kind: str, name: str) -> str:
        """The id of a cluster or tenant by its name; raises NotFound."""
        for row in await self.ask("GET", f"/{kind}?per_page=100&name={name}"):
            return str(row["id"])
        raise NotFound(f"there is no {name!r} among {kind}", hint=f"{kind} are called by name")

    async def watched(self, job: int) -> AsyncIterator[dict[str, Any]]:
        """How a job is, each time that it changes, until it has ended; a manager that is away for
        a moment is asked again."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                path = f"/jobs/{job}/events"
                async with self._client.events(self._login, self._logins, path) as events:
                    async for event in events:
                        until = time.monotonic() + PATIENCE
                        news = msgspec.json.decode(event)["job"]
                        yield news
                        if news["state"] not in OPEN:
                            return
            except Unavailable:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(1.0)


@asynccontextmanager
async def asking(session: Session, manager: str) -> AsyncIterator[Asking]:
    logins = Logins(configuration_directory())
    known = logins.find(manager)
    async with manager_client(session.settings, known.manager) as client:
        yield Asking(client, known, logins)


def _run(session: Session, manager: str, work: Callable[[Asking], Awaitable[T]]) -> T:
    async def run() -> T:
        async with asking(session, manager) as asked:
            return await work(asked)

    return run_async(run())


@click.command()
@click.argument("content", nargs=-1, required=True, metavar="IMAGE|URL...")
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Of an image.")
@click.option("--referrers", is_flag=True, help="With what refers to the image: signatures, say.")
@click.option(
    "--scope", type=click.Choice(SCOPES), default=SCOPES[0], show_default=True, help="Which hosts."
)
@click.option("--host", "hosts", multiple=True, metavar="ID", help="These hosts instead.")
@click.option("--count", type=click.IntRange(1), help="So many of them in each cluster.")
@click.option("--percent", type=click.IntRange(1, 100), help="So many of a hundred of them.")
@click.option("--cluster", "clusters", multiple=True, metavar="NAME", help="Else in every one.")
@click.option("--tenant", metavar="NAME", help="Whose content it is; else the default tenant's.")
@click.option("--tag", default="", help="Name versions of a URL apart.")
@click.option("--application", default="", help="Name uses of a URL apart.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="For the origin.")
@click.option("--priority", type=click.IntRange(0, 6), help="As of `hawker get`.")
@click.option("--no-wait", is_flag=True, help="Print the job's number, and leave it to itself.")
@manager_option
@json_option
@common_options
@pass_session
def preheat(
    session: Session,
    /,
    manager: str,
    content: tuple[str, ...],
    clusters: tuple[str, ...],
    tenant: str | None,
    no_wait: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Have hosts of a manager's clusters store an image, or files, before anybody asks for them.

    IMAGE is such as nginx:1.27, or the URL of a manifest. Waits for the end, and shows how it goes;
    the exit code is 1 where anything failed. Needs `hawker login`.
    """
    wanted = _wanted(content, **given)

    async def work(asking: Asking) -> dict[str, Any]:
        wanted["clusters"] = [await asking.id_of("clusters", name) for name in clusters]
        if tenant is not None:
            wanted["tenant"] = await asking.id_of("tenants", tenant)
        job: dict[str, Any] = await asking.ask("POST", "/jobs", wanted)
        return job if no_wait else await _followed(asking, job["id"])

    job = _run(session, manager, work)
    if no_wait:
        click.echo(msgspec.json.encode(job) if as_json else job["id"])
        return 0
    return _tell(job, as_json)


def _wanted(content: Sequence[str], **given: Any) -> dict[str, Any]:
    images = [one for one in content if "://" not in one or MANIFEST.match(one)]
    if images and len(content) > 1:
        raise click.UsageError("name one image, or files alone")
    headers = {}
    for header in given.pop("headers"):
        name, colon, value = header.partition(":")
        if not colon:
            raise click.BadParameter(f"{header!r} is not NAME:VALUE", param_hint="--header")
        headers[name.strip()] = value.strip()
    wanted = {name: value for name, value in given.items() if value not in (None, "", (), False)}
    if given["hosts"]:
        wanted["scope"] = "hosts"
    what: dict[str, Any] = {"image": images[0]} if images else {"urls": content}
    return {"kind": "preheat", "headers": headers, **what, **wanted}


@click.group()
def jobs() -> None:
    """See jobs of a manager, stop them, and have done again what failed."""


@jobs.command("list")
@click.option("--state", help="Those alone: running, failed …")
@manager_option
@json_option
@common_options
@pass_session
def list_(session: Session, manager: str, state: str | None, as_json: bool) -> None:
    """List jobs, the newest first; the last hundred."""
    query = "/jobs?per_page=100" + (f"&state={state}" if state else "")
    found = _run(session, manager, lambda asking: asking.ask("GET", query))
    if as_json:
        click.echo(msgspec.json.encode(found))
    elif found:
        click.echo(table(("JOB", "STATE", "PARTS", "BYTES", "AGE", "WHAT"), [*map(_row, found)]))


@jobs.command()
@click.argument("job", type=click.IntRange(0))
@manager_option
@json_option
@common_options
@pass_session
def show(session: Session, manager: str, job: int, as_json: bool) -> None:
    """Show a job, and its parts that failed."""

    async def work(asking: Asking) -> tuple[Any, Any]:
        return await asking.ask("GET", f"/jobs/{job}"), await _failed(asking, job)

    found, failed = _run(session, manager, work)
    if as_json:
        click.echo(msgspec.json.encode({**found, "failed": failed}))
    else:
        click.echo(_card(found))
        _tell_failed(failed)


@jobs.command()
@click.argument("job", type=click.IntRange(0))
@manager_option
@json_option
@common_options
@pass_session
def watch(session: Session, manager: str, job: int, as_json: bool) -> int:
    """Watch a job until it has ended; the exit code is 1 where anything failed."""
    return _tell(_run(session, manager, lambda asking: _followed(asking, job)), as_json)


@jobs.command()
@click.argument("job", type=click.IntRange(0))
@manager_option
@common_options
@pass_session
def cancel(session: Session, manager: str, job: int) -> None:
    """Stop a job; what is stored stays."""
    _run(session, manager, lambda asking: asking.ask("POST", f"/jobs/{job}/cancel"))


@jobs.command()
@click.argument("job", type=click.IntRange(0))
@click.option("--no-wait", is_flag=True, help="Leave it to itself.")
@manager_option
@json_option
@common_options
@pass_session
def retry(session: Session, manager: str, job: int, no_wait: bool, as_json: bool) -> int:
    """Do again what failed of a job, or was cancelled."""

    async def work(asking: Asking) -> dict[str, Any]:
        again: dict[str, Any] = await asking.ask("POST", f"/jobs/{job}/retry")
        return again if no_wait else await _followed(asking, job)

    found = _run(session, manager, work)
    return 0 if no_wait else _tell(found, as_json)


# -------------------------------------------------------------------- how it goes


async def _followed(asking: Asking, job: int) -> dict[str, Any]:
    """A job once it has ended, with its parts that `failed`."""
    found: dict[str, Any] = {}
    with _display() as shown:
        async for found in asking.watched(job):
            shown(found)
    return {**found, "failed": await _failed(asking, job)}


async def _failed(asking: Asking, job: int) -> Any:
    return await asking.ask("GET", f"/jobs/{job}/parts?state=failed&per_page={SHOWN}")


@contextmanager
def _display() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda job: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=None)

        def show(job: dict[str, Any]) -> None:
            text = f"job {job['id']} {job['state']}, {_parts(job)}"
            bar.update(line, description=text, total=job["total"] or None, completed=job["bytes"])

        yield show


def _tell(job: dict[str, Any], as_json: bool) -> int:
    if as_json:
        click.echo(msgspec.json.encode(job))
    else:
        why = f": {job['problem']}" if job["problem"] else ""
        line = f"job {job['id']} {job['state']}, {_parts(job)}, {size(job['bytes'])}{why}"
        click.echo(printable(line))
        _tell_failed(job["failed"])
    return 0 if job["state"] == "succeeded" else 1


def _tell_failed(failed: Sequence[dict[str, Any]]) -> None:
    rows = [(part["hostname"] or part["host"], part["url"], part["problem"]) for part in failed]
    if rows:
        click.echo(table(("HOST", "FAILED", "WHY"), rows))


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    passed = age(time.time() - job["created"])
    return str(job["id"]), job["state"], _parts(job), size(job["bytes"]), passed, _what(job)


def _card(job: dict[str, Any]) -> str:
    rows = [
        ("job", str(job["id"])),
        ("what", _what(job)),
        ("state", job["state"]),
        ("why", job["problem"]),
        ("parts", _parts(job)),
        ("bytes", f"{size(job['bytes'])} of {size(job['total'])}"),
        ("by", job["actor"]),
        ("age", age(time.time() - job["created"])),
    ]
    return table(("FIELD", "VALUE"), [row for row in rows if row[1]])


def _parts(job: dict[str, Any]) -> str:
    counted = job["parts"]
    text = f"{counted['succeeded']} of {sum(counted.values())} parts"
    return text + (f", {counted['failed']} failed" if counted["failed"] else "")


def _what(job: dict[str, Any]) -> str:
    args = job["args"]
    urls = args.get("urls", [])
    more = f" and {len(urls) - 1} more" if len(urls) > 1 else ""
    return f"{job['kind']} {args.get('image') or (urls or [''])[0]}{more}"
