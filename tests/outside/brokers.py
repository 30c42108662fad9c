"""Jobs by way of real brokers: Redis streams, and NATS JetStream.

    python -m tests.outside.brokers

Starts each server on a free port of 127.0.0.1, and PostgreSQL as `tests.outside.postgres` does, and
runs with each broker the tests of jobs that there are without one, on SQLite, and those of two
managers, on PostgreSQL. Each must have gone by the broker, which is asked how much it carried. Then
come the brokers' contract and `broker_faults.py`, in which they die. Exits with 1 where a test
fails or none ran, with 2 where something is missing (Debian: apt-get install redis-server
nats-server postgresql).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from tests.outside import postgres
from tests.outside.beginning import demand, directory
from tests.outside.broker_servers import SERVERS

ALONE = (
    "tests/e2e/test_jobs.py",
    "tests/e2e/test_job_commands.py",
    "tests/apps/manager/test_jobs.py",
    "tests/apps/manager/test_harbor.py",
)
SHARED = ("tests/outside/job_managers.py",)
OWN = ("tests/outside/broker_contracts.py", "tests/outside/broker_faults.py")
# Of the tests of the API none comes to parts.
CARRYING = ("tests/e2e/test_jobs.py", *SHARED)


def run(what: str, where: str, environment: Mapping[str, str]) -> bool:
    """Whether these tests pass."""
    print(f"== {what} on {where}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", what]
    # pytest's 5 says that it found no tests.
    return subprocess.run(command, env={**os.environ, **environment}).returncode == 0


def main() -> int:
    if not postgres.BINARIES:
        print("these are missing: apt-get install postgresql", file=sys.stderr)
        return 2
    programs = {
        "redis-server": "redis-server", "redis-cli": "redis-tools", "nats-server": "nats-server"
    }  # fmt: skip
    if os.geteuid() == 0:
        programs["setpriv"] = "util-linux"
    demand(programs, "asyncpg", "redis", "nats")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed: list[str] = []
    with directory("brokers") as root, postgres.server(root) as database:
        for kind in SERVERS:
            with kind(root, lasting=True) as broker:
                for what in (*ALONE, *SHARED):
                    environment = dict(broker.environment)
                    if what in SHARED:
                        environment["HAWKER_TEST_POSTGRES"] = database
                    before = broker.carried()
                    if not run(what, broker.name, environment):
                        failed.append(f"{what} on {broker.name}")
                    if what in CARRYING and broker.carried() - before < 10:
                        failed.append(f"{what} did not go by {broker.name}")
        for what in OWN:
            if not run(what, "servers of its own", {}):
                failed.append(what)
    for what in failed:
        print(f"failed: {what}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
