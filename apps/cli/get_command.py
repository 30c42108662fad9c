"""`hawker get`: through the local daemon if there is one, else alone."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from hawker.apps.cli.cached import implied_digest
from hawker.apps.cli.display import display, tell_saved
from hawker.apps.cli.fetch import Saved
from hawker.apps.cli.local_daemon import find_daemon, open_daemon
from hawker.apps.cli.options import (
    Session,
    common_options,
    endpoint_option,
    filter_option,
    header_fields,
    json_option,
    naming_options,
    output_options,
    pass_session,
    refuse_file_options,
    run_async,
    seconds,
)
from hawker.apps.cli.output import STDOUT, Output, default_name
from hawker.core.digests import Digest
from hawker.core.ids import canonical_url
from hawker.core.messages import DownloadRequest
from hawker.core.settings import Settings


@click.command()
@click.argument("url")
@click.option(
    "-O",
    "--output",
    metavar="PATH|-",
    help="Output file, - for standard output. Default: the URL's last segment, here.",
)
@output_options
@click.option(
    "--timeout",
    type=seconds,
    default="2h",
    show_default=True,
    metavar="TIME",
    help="Most time for the whole download: 90, 90s, 15m, 2h.",
)
@click.option(
    "-p",
    "--priority",
    type=click.IntRange(0, 6),
    help="With dfget's meaning, unless its application, tag or URL has one: at 1 and 2 only what"
    " peers have, at 3 this peer reads the origin, else a seed peer.",
)
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    callback=header_fields,
    metavar="'NAME: VALUE'",
    help="Header field for the origin, and for nobody else; may be repeated.",
)
@naming_options
@filter_option
@click.option(
    "--disable-back-to-source", is_flag=True, help="Take the content from other hosts only."
)
@click.option("--no-progress", is_flag=True, help="Show no progress on a terminal.")
@json_option
@endpoint_option
@common_options
@pass_session
def get(
    session: Session,
    url: str,
    output: str | None,
    overwrite: bool,
    force_hard_link: bool,
    timeout: float,
    digest: str,
    priority: int | None,
    tag: str,
    application: str,
    headers: dict[str, str],
    filtered: tuple[str, ...],
    disable_back_to_source: bool,
    no_progress: bool,
    as_json: bool,
    endpoint: str | None,
) -> None:
    """Download URL, which may also be sha256:HEX for content that was imported.

    The output appears when it is complete and right, or not at all. A download that was
    interrupted continues where it was when the same command is given again.
    """
    canonical_url(url, filtered)
    digest = digest or implied_digest(url)
    if digest:
        Digest.parse(digest)
    request = DownloadRequest(
        url=url,
        tag=tag,
        application=application,
        digest=digest,
        priority=priority,
        filtered_query_params=list(filtered),
        disable_back_to_source=disable_back_to_source,
        timeout=timeout,
        headers=headers,
    )
    settings = session.settings
    if output == STDOUT:
        refuse_file_options(force_hard_link=force_hard_link, as_json=as_json)
        run_async(_print(settings, endpoint, request))
        return
    target = Output(Path(output or default_name(url)), overwrite, force_hard_link)
    target.check()
    saved = run_async(_save(settings, endpoint, request, target, progress=not no_progress))
    if as_json:
        click.echo(msgspec.json.encode(saved))
    else:
        tell_saved(saved)


async def _save(
    settings: Settings,
    endpoint: str | None,
    request: DownloadRequest,
    output: Output,
    *,
    progress: bool,
) -> Saved:
    found = find_daemon(settings, endpoint)
    with display(output.path.name, wanted=progress) as show:
        # Each way has its own heavy imports; the other's are left alone.
        if found is None:
            from hawker.apps.cli import alone

            return await alone.save(settings, request, output, show)
        from hawker.apps.cli import through_daemon

        async with open_daemon(settings, found) as daemon:
            return await through_daemon.save(daemon, request, output, show)


async def _print(settings: Settings, endpoint: str | None, request: DownloadRequest) -> None:
    found = find_daemon(settings, endpoint)
    if found is None:
        from hawker.apps.cli import alone

        await alone.print_content(settings, request)
        return
    from hawker.apps.cli import through_daemon

    async with open_daemon(settings, found) as daemon:
        await through_daemon.print_content(daemon, request)
