"""What Harbor and other registries ask of a preheat provider: Dragonfly's API of Harbor 2.12 and
later, the one of before, and Kraken's notifications, which are those of a Docker registry, too.

Harbor's drivers are satisfied with any 2xx; states and ids must be as they know them, and times
have a zone. What they send besides what is known here is ignored: they send every field they have.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from hawker.apps.manager import models
from hawker.apps.manager.call import Call
from hawker.apps.manager.jobs.resource import Jobs
from hawker.apps.manager.jobs.tables import Job, JobPart
from hawker.apps.manager.jobs.wire import OPEN, NewJob, Scope
from hawker.apps.manager.operation import Layer, Operation
from hawker.apps.web.access import as_bearer
from hawker.apps.web.endpoints import Endpoint
from hawker.apps.web.requests import json_response
from hawker.core.errors import BadRequest, Forbidden, NotFound
from hawker.core.registries import MANIFEST_TYPES

log = logging.getLogger(__name__)

SCOPES: Mapping[str, Scope] = {
    "": "single-seed",
    "single_seed_peer": "single-seed",
    "single_peer": "single-seed",
    "all_seed_peers": "all-seeds",
    "all_peers": "all-peers",
}
MAX_TASKS = 1000
"""Of a cluster in an answer, those that failed first."""
MAX_ERRORS = 5
NANOSECONDS = 1e9
LONGEST = 86_400.0


class _Args(msgspec.Struct):
    """`timeout` is in nanoseconds, 0 for none; `filtered_query_params` are joined by `&`."""

    url: str
    type: str = "image"
    tag: str = ""
    application: str = ""
    filtered_query_params: str = ""
    headers: dict[str, str] | None = None
    scope: str = ""
    platform: str = ""
    count: int | None = None
    percentage: int | None = None
    timeout: int = 0


class _New(msgspec.Struct):
    args: _Args
    type: str = "preheat"
    scheduler_cluster_ids: list[int] | None = None


class Harbor:
    """Routes that make jobs of the same kind as the API's, and tell of these as Harbor knows them.

    Whoever asks shows a token of the manager's: as a bearer, or as the password of any user.
    """

    def __init__(self, layer: Layer, jobs: Jobs) -> None:
        self._layer = layer
        self._jobs = jobs

    def routes(self) -> list[Route]:
        create, read = ("jobs", "create"), ("jobs", "read")
        health = [Route(path, _healthy) for path in ("/healthy", "/health", "/_ping")]
        made = [
            Operation(
                "POST", "/oapi/v1/jobs", "Preheat", create, self.create, body=dict, answer=dict
            ),
            Operation("GET", "/oapi/v1/jobs/{id}", "A preheat", read, self.read, answer=dict),
            Operation("POST", "/preheats", "Preheat", create, self.preheat, body=dict, answer=dict),
            Operation("GET", "/preheats/{id}", "A preheat", read, self.status, answer=dict),
            Operation(
                "POST", "/registry/notifications", "What was pushed is preheated", create,
                self.notified, body=dict, answer=dict,
            ),
        ]  # fmt: skip
        return [*health, *(self._route(operation) for operation in made)]

    def _route(self, operation: Operation) -> Route:
        serve = self._layer.endpoint(operation)

        async def with_bearer(request: Request, receive: Any, send: Any) -> None:
            given = request.headers.get("authorization", "")
            fields = [pair for pair in request.scope["headers"] if pair[0] != b"authorization"]
            if given:
                shown = as_bearer(given).encode("latin-1", "replace")
                fields.append((b"authorization", shown))
            await serve(Request({**request.scope, "headers": fields}, receive), receive, send)

        return Route(operation.path, Endpoint(with_bearer), methods=[operation.method])

    # ------------------------------------------------------------------ Harbor 2.12 and later

    async def create(self, call: Call) -> None:
        asked = _converted(call.body, _New)
        if asked.type != "preheat":
            raise BadRequest(f"type: {asked.type[:40]!r} is not 'preheat'")
        clusters = await _clusters(asked.scheduler_cluster_ids or [])
        row = await self._jobs.make(call, _wanted(asked.args, clusters))
        call.answer = await _shown(row)

    async def read(self, call: Call) -> None:
        call.answer = await _shown(await self._jobs.find(call))

    # ------------------------------------------------------------------ Harbor before 2.12

    async def preheat(self, call: Call) -> None:
        row = await self._jobs.make(call, _wanted(_converted(call.body, _Args), []))
        call.answer = {"id": str(row.id)}

    async def status(self, call: Call) -> None:
        row = await self._jobs.find(call)
        states = {"pending": "PENDING", "running": "RUNNING", "succeeded": "SUCCESS"}
        call.answer = {
            "id": str(row.id),
            "status": states.get(row.state, "FAIL"),
            "startTime": _time(row.begun or row.created),
            "finishTime": _time(row.ended) if row.ended else "",
            "errorMsg": "; ".join([text for _, text in await _errors(row)]),
        }

    # ------------------------------------------------------------------ notifications

    async def notified(self, call: Call) -> None:
        """As Kraken answers: what is wrong with one image is logged, and keeps nobody from others.

        Raises:
            TooMany, Unavailable: the registry is to send them again.
        """
        made: list[int] = []
        for event in _field(call.body, "events") or []:
            target = _field(event, "target")
            url, media_type = _field(target, "url"), _field(target, "mediatype")
            if _field(event, "action") != "push" or media_type not in MANIFEST_TYPES:
                continue
            try:
                row = await self._jobs.make(call, _wanted(_Args(url=str(url or "")), []))
                made.append(row.id)
            except (BadRequest, NotFound, Forbidden) as exc:
                log.warning("%s was pushed and is not preheated: %s", url, exc)
        call.answer = {"jobs": made}


async def _healthy(request: Request) -> Any:
    return json_response({"status": "ok"})


def _converted(body: Any, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"the body: {exc}") from exc


def _wanted(args: _Args, clusters: list[str]) -> NewJob:
    """Raises BadRequest for what cannot be done."""
    if args.type not in ("image", "file"):
        raise BadRequest(f"type: {args.type[:40]!r} is not 'image' or 'file'")
    if args.scope not in SCOPES:
        raise BadRequest(
            f"scope: {args.scope[:40]!r} is not known",
            hint=f"one of {', '.join(filter(None, SCOPES))}",
        )
    wanted: dict[str, Any] = {
        "kind": "preheat",
        "scope": SCOPES[args.scope],
        "clusters": clusters,
        "tag": args.tag,
        "application": args.application,
        "headers": args.headers or {},
        "filtered_query_params": [name for name in args.filtered_query_params.split("&") if name],
    }
    if args.type == "image":
        wanted |= {"image": args.url, "platforms": [args.platform] if args.platform else []}
    else:
        wanted["urls"] = [args.url]
    if args.count or args.percentage:
        wanted |= {"percent": args.percentage} if args.percentage else {"count": args.count}
    if args.timeout > 0:
        wanted["timeout"] = min(LONGEST, max(1.0, args.timeout / NANOSECONDS))
    found: NewJob = _converted(wanted, NewJob)
    return found


async def _clusters(numbers: Sequence[int]) -> list[str]:
    """The ids of clusters by their numbers; raises NotFound."""
    if not numbers:
        return []
    rows = await models.Cluster.filter(number__in=list(numbers)).values_list("number", "id")
    known = dict(rows)
    if missing := sorted(set(numbers) - set(known)):
        raise NotFound(f"there is no cluster with the number {', '.join(map(str, missing))}")
    return [known[number] for number in dict.fromkeys(numbers)]


async def _shown(row: Job) -> dict[str, Any]:
    """A job as Dragonfly shows it. Harbor takes any state but these three for a failure."""
    state = {"succeeded": "SUCCESS", "failed": "FAILURE", "cancelled": "FAILURE"}
    over = row.state not in OPEN
    numbers = dict(await models.Cluster.filter(id__in=row.clusters).values_list("id", "number"))
    errors = dict(await _errors(row))
    states = [
        {
            "task_uuid": f"{row.id}-{numbers.get(cluster, 0)}",
            "task_name": row.kind,
            "state": state.get(row.state, "PENDING"),
            "error": errors.get(cluster, errors.get("", "")),
            "results": await _results(row, cluster, numbers.get(cluster, 0)),
        }
        for cluster in (row.clusters if over else [])
    ]
    updated = _time(row.ended or row.begun or row.created)
    result = {"group_uuid": str(row.id), "state": state.get(row.state), "job_states": states}
    return {
        "id": row.id,
        "created_at": _time(row.created),
        "updated_at": updated,
        "task_id": str(row.id),
        "type": row.kind,
        "state": state.get(row.state, "PENDING"),
        "args": row.args,
        "result": result if over else None,
        "scheduler_clusters": [{"id": numbers.get(cluster, 0)} for cluster in row.clusters],
    }


async def _results(row: Job, cluster: str, number: int) -> list[dict[str, Any]]:
    """What became of each content on each host of a cluster; none where it came to nothing."""
    mine = JobPart.filter(job_id=row.id, cluster=cluster)
    bad = await mine.exclude(state="succeeded").order_by("id").limit(MAX_TASKS)
    good = await mine.filter(state="succeeded").order_by("id").limit(MAX_TASKS - len(bad))
    if not bad and not good:
        return []
    return [
        {
            "success_tasks": [_task(part) for part in good],
            "failure_tasks": [
                _task(part) | {"description": part.problem or part.state} for part in bad
            ],
            "scheduler_cluster_id": number,
        }
    ]


def _task(part: JobPart) -> dict[str, str]:
    return {"url": part.url, "hostname": part.hostname, "ip": part.address}


async def _errors(row: Job) -> list[tuple[str, str]]:
    """Why a job failed, by cluster; under none where it came to nothing."""
    if row.state == "cancelled":
        return [("", "the job was cancelled")]
    if row.problem:
        return [("", row.problem)]
    failed = JobPart.filter(job_id=row.id, state="failed").distinct()
    rows = await failed.values_list("cluster", "problem")
    found: dict[str, list[str]] = {}
    for cluster, text in rows:
        found.setdefault(cluster, []).append(text)
    return [(cluster, "; ".join(texts[:MAX_ERRORS])) for cluster, texts in found.items()]


def _time(seconds: float) -> str:
    """RFC 3339, with a zone: Harbor does not understand one without."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _field(value: Any, name: str) -> Any:
    """A field whatever the case of its name; None where there is none."""
    if not isinstance(value, dict):
        return None
    return next((found for key, found in value.items() if key.lower() == name), None)
