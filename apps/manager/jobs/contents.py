"""What a job is about: its contents, and what is kept sealed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hawker.apps.manager.jobs.tables import Job
from hawker.apps.manager.jobs.wire import NewJob
from hawker.apps.manager.secret import Seal
from hawker.core.ids import PRIVATE, SIGNED, TaskSpec, canonical_url, loses_credentials
from hawker.core.messages import DownloadRequest

_PLACE = "what is secret of a job"


@dataclass(frozen=True)
class Content:
    """`url` is canonical, `name` for people, `size` in bytes where that is known beforehand.
    `private`: its origin is shown what is secret of the job."""

    url: str
    name: str = ""
    size: int | None = None
    private: bool = False


class Secrets(msgspec.Struct, frozen=True):
    """What origins are shown: header fields, and URLs whose canonical form has lost a signature,
    by that form."""

    headers: dict[str, str] = {}
    urls: dict[str, str] = {}

    def __repr__(self) -> str:
        return "Secrets(…)"


def take_apart(wanted: NewJob) -> tuple[NewJob, Secrets]:
    """A job without what is secret of it, and that.

    Raises:
        BadRequest: a URL names nothing.
    """
    filtered = wanted.filtered_query_params
    shown = {url: canonical_url(url, filtered) for url in wanted.urls}
    signed = {
        canonical: url.partition("#")[0]
        for url, canonical in shown.items()
        if loses_credentials(url, filtered)
    }
    told = msgspec.structs.replace(wanted, urls=list(dict.fromkeys(shown.values())), headers={})
    return told, Secrets(wanted.headers, signed)


def seal(secrets: Secrets, with_: Seal) -> str:
    """As the database keeps it; empty where there is nothing to keep."""
    if secrets == Secrets():
        return ""
    return with_.close(msgspec.json.encode(secrets), _PLACE)


def opened(job: Job, seal: Seal) -> Secrets:
    """Raises StorageFailed where it cannot be opened."""
    if not job.sealed:
        return Secrets()
    return msgspec.json.decode(seal.open(job.sealed, _PLACE), type=Secrets)


def wish_of(job: Job) -> NewJob:
    """What was asked for, less what is secret."""
    return msgspec.convert(job.args, NewJob)


def request_for(wanted: NewJob, url: str, secrets: Secrets) -> DownloadRequest:
    """How a host is asked for one content."""
    return DownloadRequest(
        url=secrets.urls.get(url, url),
        tag=wanted.tag,
        application=wanted.application,
        priority=wanted.priority,
        filtered_query_params=wanted.filtered_query_params,
        timeout=wanted.timeout,
        headers=secrets.headers,
        disable_back_to_source=wanted.kind == "push",
    )


def tasks_of(wanted: NewJob, url: str, tenant: str) -> list[str]:
    """The ids that a content may have: everybody's, and those of what was had with header fields or
    through a signature."""
    spec = TaskSpec(url, tenant, wanted.tag, wanted.application)
    return [
        msgspec.structs.replace(spec, variant=variant).task_id for variant in ("", PRIVATE, SIGNED)
    ]


def args_of(told: NewJob) -> Mapping[str, Any]:
    """As the database keeps it."""
    found: dict[str, Any] = msgspec.to_builtins(told)
    return found
