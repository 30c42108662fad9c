"""What schemathesis is told about the manager's API; `tests/outside/schemathesis.py` names it."""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from typing import Any

import schemathesis
from hypothesis import strategies as st

KEPT: set[str] = set(json.loads(os.environ["HAWKER_KEPT"]))
MADE: dict[str, str] = json.loads(os.environ["HAWKER_MADE"])
# They say how an answer comes, not what is in it. Allow is part of each 405.
UNDESCRIBED = {
    "date", "content-length", "content-type", "connection", "transfer-encoding", "allow"
}  # fmt: skip
BODY_FIELDS = {"tenant": "tenants", "cluster": "clusters", "user": "users"}
FEW = 4

_chance = random.Random(0)
_ids: dict[str, list[str]] = defaultdict(list)
"""The latest ids of what was made, by collection."""

schemathesis.openapi.format("base-url", st.integers(1, 65535).map("http://host.example:{}".format))
schemathesis.openapi.format("ip", st.ip_addresses().map(str))
schemathesis.openapi.format(
    "cidr",
    st.one_of(
        st.ip_addresses(v=4).map(lambda address: f"{address}/32"),
        st.ip_addresses(v=6).map(lambda address: f"{address}/128"),
        st.sampled_from(["10.0.0.0/8", "fd00::/8", "0.0.0.0/0"]),
    ),
)


def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Have every other good request name what exists, and none end the token or its owner."""
    found = case.path_parameters or {}
    if case.meta is not None and case.meta.generation.mode.is_positive:
        for name in found.keys() & {"id", "cluster"}:
            _name_known(found, name, "clusters" if name == "cluster" else _collection(case))
        if isinstance(case.body, dict):
            for name in case.body.keys() & BODY_FIELDS.keys():
                _name_known(case.body, name, BODY_FIELDS[name])
            if "role" in case.body and _chance.random() < 0.5:
                case.body["role"] = "viewer"
            # Of hosts, what is not known is not looked at, but that it may have no NUL.
            case.body = {name: one for name, one in case.body.items() if not _has_nul({name: one})}
            if case.path.startswith("/providers"):
                _make_whole(case.body, new=case.method == "POST")
        case.body = _with_integers(case.body)
    kept = KEPT | {*MADE.values()} if case.method == "DELETE" else KEPT
    if found.get("id") in kept and case.method != "GET":
        found["id"] = "0"


def _make_whole(provider: dict[str, Any], *, new: bool) -> None:
    """What a schema does not say of a provider's fields together."""
    for name in ("plugin", "redirect_uri", "secret", "client"):
        provider.pop(name, None)
    if new:
        provider["issuer"] = f"https://{_chance.randrange(10**9)}.example"
        provider["client"] = "c"


def _name_known(values: dict[str, Any], name: str, collection: str) -> None:
    known = [*_ids[collection], *([MADE[collection]] if collection in MADE else [])]
    if known and _chance.random() < 0.5:
        values[name] = _chance.choice(known)


def _has_nul(value: Any) -> bool:
    return "\\u0000" in json.dumps(value)


def _with_integers(value: Any) -> Any:
    """JSON Schema takes 5.0 for an integer."""
    if isinstance(value, dict):
        return {name: _with_integers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_integers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def after_call(context: Any, case: Any, response: Any) -> None:
    """Remember what was made, until it is deleted."""
    known = _ids[_collection(case)]
    if response.status_code == 201 and "id" in response.json():
        known.append(response.json()["id"])
        del known[:-FEW]
    elif case.method == "DELETE" and (case.path_parameters or {}).get("id") in known:
        known.remove(case.path_parameters["id"])


def _described(case: Any) -> dict[str, Any]:
    operation = case.operation
    told: dict[str, Any] = operation.schema.raw_schema["paths"][operation.path]
    return dict(told[operation.method.lower()])


def _collection(case: Any) -> str:
    path: str = case.operation.path
    return path.split("/")[1]


def described_headers(context: Any, response: Any, case: Any) -> None:
    """Each header of an answer is described."""
    answer = _described(case)["responses"].get(str(response.status_code))
    if answer is None or response.request.method != case.operation.method.upper():
        return
    known = {name.lower() for name in answer.get("headers", ())} | UNDESCRIBED
    more = {name.lower() for name in response.headers} - known
    assert not more, f"these headers are not described: {', '.join(sorted(more))}"


# Not as decorators: where schemathesis is not installed, these would be without types.
schemathesis.hook(before_call)
schemathesis.hook(after_call)
schemathesis.check(described_headers)
