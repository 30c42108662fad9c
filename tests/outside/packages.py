"""Package clients that everybody has, through the proxy, against repositories built on the spot.

    python -m tests.outside.packages [NAME...]

Each installs something real on one node of a cluster, and again, with nothing of its own left, on
another; the rules are those of docs/clients. What it installed must be right to the byte, the
repository sends the packages once to the first, and nothing of them to the second. Then curl:
clear text, https that is intercepted and that is not, a wrong password, a URL that is blocked.
Exits with 1 where one of them fails, or is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import ssl
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trustme

from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, hawker, wait_for
from tests.outside.beginning import directory
from tests.outside.package_clients import CLIENTS, SHORT, SIZE, Client, Visit, payload
from tests.outside.repositories import Repository

DOCS = Path(__file__).parents[2] / "docs" / "clients"
# What an origin may send of its content to the first: single bytes for its length.
ONCE = 1.02


# ------------------------------------------------------------------ what the proxy refuses, or not


@dataclass
class Guarded:
    """A proxy that asks who its clients are, and intercepts nothing; a repository of https."""

    visit: Visit
    token: str
    origins: Path
    repository: Repository

    def curl(self, url: str, user: str, *flags: str, code: int = 0) -> str:
        """Get a URL; the statuses of the answer and of the proxy's, and the content's size."""
        shown = "%{http_code} %{http_connect} %{size_download}"
        command = ("curl", "-s", "-x", self.visit.proxy, "--proxy-user", user, "-w", shown)
        trusted = ("--cacert", self.origins, "-o", self.visit.folder / "got")
        return self.visit.command(*command, *trusted, *flags, url, code=code)

    @property
    def good(self) -> str:
        return f"any:{self.token}"


def tunnelled(guarded: Guarded) -> None:
    """Nobody looks inside: the repository's own certificate, and its content each time."""
    for number in (1, 2):
        told = guarded.curl(f"{guarded.repository.url}/trial.iso", guarded.good)
        assert told == f"200 200 {SIZE}", told
        assert guarded.repository.content == number * SIZE, "it came from elsewhere"


def wrong_password(guarded: Guarded) -> None:
    for user in ("any:wrong", f"any:{guarded.token}x"):
        told = guarded.curl(f"{guarded.repository.url}/trial.iso", user, code=56)
        assert told.startswith("000 407 "), told
        plain = guarded.repository.url.replace("https:", "http:")
        told = guarded.curl(f"{plain}/trial.iso", user)
        assert told.startswith("407 000 "), told
    assert not guarded.repository.asked, "the repository was asked"


def blocked(guarded: Guarded) -> None:
    plain = guarded.repository.url.replace("https:", "http:")
    told = guarded.curl(f"{plain}/secret/trial.iso", guarded.good)
    assert told.startswith("403 000 "), told
    assert b"a rule blocks" in (guarded.visit.folder / "got").read_bytes()
    assert not guarded.repository.asked, "the repository was asked"


REFUSALS = {"tunnelled": tunnelled, "wrong password": wrong_password, "blocked": blocked}


# ------------------------------------------------------------------ the cluster and the run


def documented_rules() -> list[dict[str, Any]]:
    """The rules that docs/clients names, in the order of its files."""
    found = []
    for file in sorted(DOCS.glob("*.md")):
        for block in file.read_text().split("\n\n"):
            text = textwrap.dedent(block)
            if text.startswith("[[proxy.rules]]"):
                found += tomllib.loads(text)["proxy"]["rules"]
    return found


@dataclass
class Bench:
    """Two nodes of a cluster, each with a peer and a proxy; how origins are known, and the
    authority by which the proxies look into https to loopback's addresses."""

    pair: list[Daemon]
    context: ssl.SSLContext
    origins: Path
    authority: Path


@contextlib.contextmanager
def bench(root: Path) -> Iterator[Bench]:
    """The nodes' settings are in the environment, for those that are started later, too."""
    origins = trustme.CA()
    origins.cert_pem.write_to_path(root / "origins.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    origins.issue_cert("127.0.0.1", SHORT, "localhost").configure_cert(context)
    made = hawker("ca", "create", str(root / "ca"))
    assert made.returncode == 0, made.stderr.decode()
    variables = {
        "RULES": json.dumps(documented_rules()),
        "INTERCEPT": f"127.0.0.1,{SHORT},localhost",
        "CA_CERTIFICATE": str(root / "ca" / "ca.crt"),
        "CA_KEY": str(root / "ca" / "ca.key"),
    }
    os.environ |= {f"HAWKER_PROXY__{name}": value for name, value in variables.items()}
    os.environ["HAWKER_EGRESS__CA"] = str(root / "origins.crt")
    cluster = Cluster(root)
    try:
        cluster.make_key()
        scheduler = cluster.scheduler()
        started = [cluster.peer("seed", scheduler, "--seed")]
        links = ("--scheduler", scheduler.url, "--cluster-key", str(cluster.key))
        for name in ("first", "second"):
            started.append(cluster.start(name, "serve", "peer", "proxy", *links))
        for daemon in started:
            daemon.wait_ready()
        yield Bench(started[1:], context, root / "origins.crt", root / "ca" / "ca.crt")
    finally:
        cluster.close()


def out_of_swarm(node: Daemon) -> float:
    return node.metric('hawker_proxy_requests_total{action="swarm"}')


def play(client: Client, scheme: str, bench: Bench, folder: Path) -> str:
    """Install on both nodes; what to tell of it. Raises AssertionError where it is wrong."""
    if missing := client.missing():
        raise AssertionError(f"IT IS MISSING: {'; '.join(missing)}")
    folder.mkdir()
    told = []
    context = bench.context if scheme == "https" else None
    with contextlib.closing(Repository(context)) as repository:
        install = client.offer(repository, folder)
        for node in bench.pair:
            visit = Visit(node.ready["proxy"], folder / node.data.name, bench.authority)
            visit.folder.mkdir()
            before, swarm = repository.content, out_of_swarm(node)
            repository.asked.clear()
            began = time.monotonic()
            install(visit)
            seconds = time.monotonic() - began
            sent, asked = repository.content - before, sum(repository.asked.values())
            told.append(f"{seconds:>6.1f} s {sent:>9} B {asked:>3} requests")
            # The client may have all of it before the proxy counts that.
            more = partial(lambda n, s: out_of_swarm(n) > s, node, swarm)
            wait_for(more, "nothing came out of the swarm", 5)
            if node is bench.pair[0]:
                assert repository.size <= sent <= repository.size * ONCE, f"{sent} bytes were sent"
            else:
                assert sent <= client.checked, f"{sent} bytes were sent again: {repository.asked}"
    return f"{told[0]}  again {told[1]}"


@contextlib.contextmanager
def guard(made: Bench, folder: Path) -> Iterator[Guarded]:
    """A node of its own that asks for tokens; within `bench`, whose rules it has."""
    folder.mkdir()
    os.environ |= {"HAWKER_AUTH__MODE": "required", "HAWKER_PROXY__INTERCEPT": ""}
    cluster = Cluster(folder)
    try:
        node = cluster.start("node", "up")
        node.wait_ready()
        token = ClusterKey(read_key_file(node.data / "cluster.key")).mint("", ["content"])
        with contextlib.closing(Repository(made.context)) as repository:
            repository.package("/trial.iso", payload(9))
            yield Guarded(Visit(node.ready["proxy"], folder), token, made.origins, repository)
    finally:
        cluster.close()
        for name in ("HAWKER_AUTH__MODE", "HAWKER_PROXY__INTERCEPT"):
            del os.environ[name]


def run_all(root: Path, names: list[str]) -> int:
    """Try every client; prints a line for each, and returns how many failed."""
    failed = 0

    def attempt(what: str, how: str, trial: Callable[[], str]) -> None:
        nonlocal failed
        try:
            told = trial()
        except (AssertionError, OSError, subprocess.SubprocessError) as exc:
            failed += 1
            told = f"WRONG: {exc}"
        print(f"{what:<13}{how:<16}{told}", flush=True)

    def refuse(name: str, made: Bench) -> str:
        with guard(made, root / name.replace(" ", "-")) as guarded:
            REFUSALS[name](guarded)
        return "as it should be"

    with bench(root) as made:
        for name, scheme in itertools.product(names, ("http", "https")):
            folder = root / f"{name}-by-{scheme}"
            attempt(name, scheme, partial(play, CLIENTS[name], scheme, made, folder))
        for name in REFUSALS if "curl" in names else ():
            attempt("curl", name, partial(refuse, name, made))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.outside.packages", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLIENTS)}")
    names = parser.parse_args().names or list(CLIENTS)
    if unknown := set(names) - set(CLIENTS):
        parser.error(f"no client is called {', '.join(sorted(unknown))}")
    with directory("packages") as root:
        sys.exit(1 if run_all(root, names) else 0)


if __name__ == "__main__":
    main()
