"""The manager's tests on PostgreSQL, and two managers on one database.

    python -m tests.outside.postgres

Starts a server of its own in a temporary directory, as the user `nobody` where this is root, on a
free port of 127.0.0.1, and runs `tests/apps/manager` in a process of its own with a new database
for each manager, then `two_managers.py`, `killed_managers.py` and `job_managers.py`. Exits with 1
where a test fails or none ran, with 2 where PostgreSQL 15 (Debian: apt-get install postgresql) or
asyncpg is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.outside.beginning import demand, directory
from tests.outside.registry_programs import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
START_SECONDS = 60
WHAT = (
    "tests/apps/manager",
    "tests/outside/two_managers.py",
    "tests/outside/killed_managers.py",
    "tests/outside/job_managers.py",
)


@contextmanager
def server(root: Path) -> Iterator[str]:
    """A server that trusts everybody on loopback; its URL. Stopped at the end."""
    data, port = root / "postgres", free_port()
    data.mkdir(mode=0o700)
    root.chmod(0o755)
    become: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(data, "nobody", "nogroup")
        become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    control = [*become, str(BINARIES[-1] / "pg_ctl"), "-D", str(data), "-w"]
    make = [*become, str(BINARIES[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres"]
    run = {"check": True, "timeout": START_SECONDS, "cwd": "/"}
    subprocess.run([*make, "--no-sync", "-E", "UTF8"], stdout=subprocess.DEVNULL, **run)  # type: ignore[call-overload]
    log = ["-l", str(data / "log"), "-o", f"{options} -c fsync=off"]
    subprocess.run([*control, *log, "start"], stdout=subprocess.DEVNULL, **run)  # type: ignore[call-overload]
    try:
        yield f"postgres://postgres@127.0.0.1:{port}/postgres"
    finally:
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, stdout=subprocess.DEVNULL, **run)  # type: ignore[call-overload]


def main() -> int:
    if not BINARIES:
        print("these are missing: apt-get install postgresql", file=sys.stderr)
        return 2
    demand({"setpriv": "util-linux"} if os.geteuid() == 0 else {}, "asyncpg")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = []
    with directory("postgres") as root, server(root) as url:
        environment = {**os.environ, "HAWKER_TEST_POSTGRES": url}
        for what in WHAT:
            print(f"== {what} on PostgreSQL", flush=True)
            command = [sys.executable, "-m", "pytest", "-q", what]
            # pytest's 5 says that it found no tests.
            if subprocess.run(command, env=environment).returncode != 0:
                failed.append(what)
    for what in failed:
        print(f"failed on PostgreSQL: {what}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
