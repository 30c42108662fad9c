"""The manager's API against its own OpenAPI document, with data that schemathesis makes up.

    python -m tests.outside.schemathesis [--examples N] [--seed N]

A real `hawker serve manager` on SQLite, and a token that may do everything; those of an enrolment
and of a member for what hosts ask. Every operation is
asked with data as it is described and with data that is not, and with what other operations
answered. No answer is a 500, has a status, a content type or a header that is not described, or
disagrees with its schema; what is described is taken, what is not is refused. Exits with 1 where
something of that is not so or the manager's log tells of a fault, with 2 where schemathesis is
missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.apps.manager.hosts import Host, enrol
from tests.apps.manager.running import API, Manager, add_token, created
from tests.outside.beginning import demand, directory

EXAMPLES = 40
# A cookie and a token are two ways to say who one is; schemathesis makes a bad one of one of them
# beside a good one of the other: `tests/apps/manager/test_routes.py` looks at all of them instead.
# 412 tells of a condition that does not hold, whatever is in it. No schema says which request a
# host has signed, which fields of a job go together, how many points a series may have, or who has
# to name a tenant.
CONFIGURATION = """
headers = {{ Authorization = "Bearer {token}" }}
[checks]
ignored_auth.enabled = false
positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 412, 429]
negative_data_rejection.expected-statuses = ["4xx"]
missing_required_header.expected-statuses = ["4xx"]
[[operations]]
include-name = "POST /jobs"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "GET /clusters/{{cluster}}/series"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "POST /client-tokens"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "POST /members"
headers = {{ Authorization = "Bearer {enrolment}" }}
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "POST /members/{{id}}/certificate"
headers = {{ Authorization = "Bearer {member}" }}
checks.positive_data_acceptance.enabled = false
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of each operation")
    parser.add_argument("--seed", type=int, help="that of another run, to have it again")
    arguments = parser.parse_args()
    demand({}, "schemathesis")
    with directory("schemathesis") as root:
        manager = Manager(root / "data", database="")
        try:
            code = _run(manager, root, arguments.examples, arguments.seed)
            manager.check()
        finally:
            manager.close()
    return code


def _run(manager: Manager, root: Path, examples: int, seed: int | None) -> int:
    with manager.set_up() as client:
        token = add_token(client, *client.get("/roles/root").json()["permissions"])
        me = client.get("/me").json()
        [own] = client.get("/tokens").json()
        made = _something_of_each(client)
        with Host(manager, "peer") as host:
            joined = host.join(enrol(client, "peer", made["clusters"])["token"])
        enrolment = enrol(client, "peer", made["clusters"])["token"]
    tokens = {"token": token, "enrolment": enrolment, "member": joined["token"]}
    (root / "schemathesis.toml").write_text(CONFIGURATION.format(**tokens))
    # Without these nobody could go on.
    kept = [me["user"]["id"], me["bindings"][0]["id"], own["id"], joined["id"]]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.outside.schemathesis_hooks",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HAWKER_KEPT": json.dumps(kept),
        "HAWKER_MADE": json.dumps(made),
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{manager.url}{API}/openapi.json"]
    command += ["--max-examples", str(examples), "--continue-on-failure"]
    if seed is not None:
        command += ["--seed", str(seed)]
    return subprocess.run(command, cwd=root, env=environment).returncode


def _something_of_each(client: httpx.Client) -> dict[str, str]:
    """What operations can be asked for from the beginning: ids by collection."""
    tenant = created(client.post("/tenants", json={"name": "a"}))["id"]
    cluster = created(client.post("/clusters", json={"name": "a"}))["id"]
    application = {"tenant": tenant, "name": "a", "priority": 0}
    user = created(client.post("/users", json={"name": "a"}))["id"]
    binding = {"user": user, "role": "viewer", "cluster": cluster}
    role = {"name": "a", "permissions": ["clusters:read"]}
    keepalive = {"kind": "peer", "url": "http://127.0.0.1:1"}
    answer = client.put(f"/clusters/{cluster}/members/{'0' * 32}", json=keepalive)
    assert answer.status_code == 200, answer.text
    [member] = client.get("/members").json()
    job = {"kind": "find", "urls": ["http://127.0.0.1:1/file"]}
    return {
        "tenants": tenant,
        "jobs": str(created(client.post("/jobs", json=job))["id"]),
        "clusters": cluster,
        "applications": created(client.post("/applications", json=application))["id"],
        "users": user,
        "bindings": created(client.post("/bindings", json=binding))["id"],
        "roles": created(client.post("/roles", json=role))["id"],
        "members": member["id"],
        "enrolments": created(client.post("/enrolments", json={"kind": "peer"}))["id"],
        "audit": client.get("/audit").json()[0]["id"],
    }


if __name__ == "__main__":
    sys.exit(main())
