"""`hawker export`: cached content to a file, without asking the origin."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from hawker.apps.cli.cached import Cache, check_name, find_task, implied_digest, is_task
from hawker.apps.cli.display import tell_saved
from hawker.apps.cli.fetch import Saved
from hawker.apps.cli.local_daemon import find_daemon, open_daemon
from hawker.apps.cli.options import (
    Session,
    common_options,
    endpoint_option,
    filter_option,
    json_option,
    naming_options,
    output_options,
    pass_session,
    refuse_file_options,
    run_async,
)
from hawker.apps.cli.output import STDOUT, Output
from hawker.core.digests import Digest
from hawker.core.messages import DownloadRequest, TaskStat
from hawker.core.settings import Settings


class Wanted(msgspec.Struct, frozen=True):
    """What to export: a URL or task, and what else belongs to a URL's name."""

    name: str
    tag: str
    application: str
    filtered: tuple[str, ...]
    digest: str


@click.command()
@click.argument("task", metavar="URL|TASK")
@click.option(
    "-O", "--output", required=True, metavar="PATH|-", help="Output file, - for standard output."
)
@output_options
@naming_options
@filter_option
@json_option
@endpoint_option
@common_options
@pass_session
def export(
    session: Session,
    task: str,
    output: str,
    overwrite: bool,
    force_hard_link: bool,
    digest: str,
    tag: str,
    application: str,
    filtered: tuple[str, ...],
    as_json: bool,
    endpoint: str | None,
) -> None:
    """Write cached content to a file. The origin is not asked; other hosts may be.

    A URL whose content only other hosts have is taken from them. Without a daemon it must be
    complete in the data directory.
    """
    if digest:
        Digest.parse(digest)
    check_name(task, filtered)
    wanted = Wanted(task, tag, application, filtered, digest)
    settings = session.settings
    if output == STDOUT:
        refuse_file_options(force_hard_link=force_hard_link, as_json=as_json)
        run_async(_print(settings, endpoint, wanted))
        return
    target = Output(Path(output), overwrite, force_hard_link)
    target.check()
    saved = run_async(_save(settings, endpoint, wanted, target))
    if as_json:
        click.echo(msgspec.json.encode(saved))
    else:
        tell_saved(saved)


async def _save(settings: Settings, endpoint: str | None, wanted: Wanted, output: Output) -> Saved:
    found = find_daemon(settings, endpoint)
    if found is None:
        # Opens a database; of no use where a daemon answers.
        from hawker.apps.cli import offline

        async with offline.open_directory(settings) as directory:
            return await directory.save(await _task(directory, wanted), wanted.digest, output)
    from hawker.apps.cli import through_daemon

    async with open_daemon(settings, found) as daemon:
        request = await _request(daemon, wanted)
        if isinstance(request, TaskStat):
            return await through_daemon.save_stored(daemon, request, wanted.digest, output)
        return await through_daemon.save(daemon, request, output, lambda step: None)


async def _print(settings: Settings, endpoint: str | None, wanted: Wanted) -> None:
    found = find_daemon(settings, endpoint)
    if found is None:
        from hawker.apps.cli import offline

        async with offline.open_directory(settings) as directory:
            await directory.print_content(await _task(directory, wanted), wanted.digest)
        return
    from hawker.apps.cli import through_daemon

    async with open_daemon(settings, found) as daemon:
        request = await _request(daemon, wanted)
        if isinstance(request, TaskStat):
            await through_daemon.print_by_id(daemon, request, wanted.digest)
        else:
            await through_daemon.print_stored(daemon, request)


async def _task(cache: Cache, wanted: Wanted) -> str:
    return await find_task(
        cache,
        wanted.name,
        tag=wanted.tag,
        application=wanted.application,
        filtered=wanted.filtered,
    )


async def _request(cache: Cache, wanted: Wanted) -> DownloadRequest | TaskStat:
    """The download that only caches may answer; a task's own names come from the daemon.

    The task itself where its URL would name another: what was read with credentials, say.
    """
    if is_task(wanted.name):
        stat = await cache.stat(await find_task(cache, wanted.name))
        spec = stat.spec
        if spec.variant:
            return stat
        return DownloadRequest(
            url=spec.url,
            tag=spec.tag,
            application=spec.application,
            tenant=spec.tenant,
            revision=spec.revision,
            digest=wanted.digest,
            disable_back_to_source=True,
        )
    return DownloadRequest(
        url=wanted.name,
        tag=wanted.tag,
        application=wanted.application,
        digest=wanted.digest or implied_digest(wanted.name),
        filtered_query_params=list(wanted.filtered),
        disable_back_to_source=True,
    )
