"""The conformance suite of the OCI distribution specification, through Hawker's mirror.

    python -m tests.outside.conformance

Two registries, Debian's docker-registry and olareg (which has referrers and sha512, too), are
tested directly and through a mirror: in write-through mode with all of the suite, read-only with
what it has for that. Exits with 1 where a test ends worse through the mirror than directly, with 2
where a program is missing. Needs docker-registry and go, which builds the suite and olareg from
their modules.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx

from tests.e2e.conftest import Cluster, Daemon, wait_for
from tests.outside.beginning import demand, directory
from tests.outside.registry_programs import (
    CONFIG,
    INDEX,
    MANIFEST,
    answers,
    docker_registry,
    free_port,
    process,
)

NEEDED = {"docker-registry": "docker-registry", "go": "golang-go"}
SUITE = "github.com/opencontainers/distribution-spec/conformance"
SUITE_VERSION = "v0.0.0-20260831232431-97274622c111"
OLAREG = "github.com/olareg/olareg"
OLAREG_VERSION = "v0.1.2"
# Its own command is a module that not every module proxy has.
OLAREG_MAIN = """\
package main

import (
	"net/http"
	"os"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

func main() {
	yes := true
	conf := config.Config{}
	conf.Storage.StoreType = config.StoreMem
	conf.API.DeleteEnabled = &yes
	conf.API.Blob.DeleteEnabled = &yes
	conf.API.Referrer.Enabled = &yes
	panic(http.ListenAndServe(os.Args[1], olareg.New(conf)))
}
"""
# Building, and each run of the suite.
PATIENCE = 300.0
# The whole run.
LONGEST = 900
REPOSITORY = "conformance/given"
# The suite's answers that come last are its tables of these.
TABLES = ("API conformance:", "Data conformance:")
HEAD = re.compile(
    r"(?P<indent> *)OCI Conformance Test(?:/(?P<name>.*))?:"
    r" (?P<status>Pass|FAIL|Error|Skip|Disabled)"
)
BLOB_DIGESTS, MANIFEST_DIGESTS = "OCI_API_BLOBS_DIGEST_HEADER", "OCI_API_MANIFESTS_DIGEST_HEADER"
# olareg does not say the digest of what was pushed.
WRITING = {
    "docker-registry": {BLOB_DIGESTS: "true", MANIFEST_DIGESTS: "true"},
    "olareg": {BLOB_DIGESTS: "false", MANIFEST_DIGESTS: "false"},
}
# With content that it did not push, this version of the suite looks for the digest of a manifest in
# an answer that it has not kept, and fails at every registry.
READING = {BLOB_DIGESTS: "true", MANIFEST_DIGESTS: "false"}


@dataclass
class Result:
    """What the suite says of one registry."""

    # How often each test ended so: (name, status), as one test is run on several blobs.
    tests: Counter[tuple[str, str]]
    # What failed tests said, by their name.
    said: dict[str, str]
    # The suite's own summary, in its order.
    table: dict[str, str]

    def count(self, status: str) -> int:
        return sum(count for (_, ended), count in self.tests.items() if ended == status)


class Suite:
    """The built suite."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._program = build(root / "suite", SUITE, SUITE_VERSION)

    def run(self, place: str, variables: dict[str, str]) -> Result:
        """Test a registry. What the suite prints says how, as it does not get to write its files
        where nothing can be pushed, and ends with the same code whichever test failed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OCI_")}
        asked = {
            "OCI_REGISTRY": place,
            "OCI_TLS": "disabled",
            # With what the specification has after 1.1: tags in a digest's PUT, uploads given up.
            "OCI_VERSION": "dev",
            "OCI_LOG": "error",
            "OCI_RESULTS_DIR": str(self._root / "results"),
        }
        done = subprocess.run(
            [str(self._program)],
            env=kept | asked | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
        results, begun, _ = done.stdout.partition("\nConfiguration:\n")
        assert begun, f"the suite ended without a report: {done.stderr[-800:]}"
        tests, said = _tests(results)
        return Result(tests, said, _table(done.stdout))


def _tests(printed: str) -> tuple[Counter[tuple[str, str]], dict[str, str]]:
    """How often each test ended so, and what the failed ones said, out of the suite's tree: a line
    `<indent>Title/name/of/test: Pass` for each, those of a group below it, and what was said after
    the test that it is of."""
    lines = printed.splitlines()
    heads = [
        (number, match) for number, line in enumerate(lines) if (match := HEAD.fullmatch(line))
    ]
    tests: Counter[tuple[str, str]] = Counter()
    said: dict[str, str] = {}
    ends = [*heads[1:], (len(lines), None)]
    for (number, head), (end, following) in zip(heads, ends, strict=True):
        if following is not None and len(following["indent"]) > len(head["indent"]):
            continue
        tests[head["name"], head["status"]] += 1
        if end > number + 1:
            said.setdefault(head["name"], " ".join(lines[number + 1 : end]).strip(" -"))
    assert tests, "the suite ran no test"
    return tests, said


def _table(printed: str) -> dict[str, str]:
    """The lines of the suite's summary, `name....:  Pass`."""
    found: dict[str, str] = {}
    for title in TABLES:
        _, begun, rest = printed.partition(f"\n{title}\n")
        assert begun, f"the suite printed no {title!r}"
        for line in rest.partition("\n\n")[0].splitlines():
            name, _, status = line.rpartition(":")
            found[name.strip().rstrip(".")] = status.strip()
    return found


def build(place: Path, module: str, version: str, main: str = "") -> Path:
    """Build a program of a Go module, or one that uses it, in a module of its own."""
    place.mkdir()
    program = place / "program"
    if main:
        (place / "main.go").write_text(main)
    for words in (
        ("mod", "init", "outside"),
        ("get", f"{module}@{version}"),
        ("build", "-o", str(program), "." if main else module),
    ):
        done = subprocess.run(
            ["go", *words],
            cwd=place,
            # A module above this directory is none of ours.
            env=os.environ | {"GOWORK": "off", "GOFLAGS": "-mod=mod"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            print(f"go {' '.join(words)}: {done.stderr[-1500:]}", file=sys.stderr)
            sys.exit(2)
    return program


@contextmanager
def olareg(root: Path) -> Iterator[str]:
    program = build(root / "olareg", OLAREG, OLAREG_VERSION, OLAREG_MAIN)
    place = f"127.0.0.1:{free_port()}"
    log = root / "olareg.log"
    with process(str(program), place, log=log):
        wait_for(lambda: answers(f"http://{place}/v2/"), f"no olareg came: {log.read_text()}", 20)
        yield place


def given(place: str) -> dict[str, str]:
    """Content for a mirror that nothing can be pushed to: an image, an index that has it, two tags;
    how the suite is told of it."""

    def put(path: str, data: bytes, kind: str) -> None:
        answer = client.put(path, content=data, headers={"content-type": kind})
        assert answer.status_code == 201, f"{path}: {answer.status_code} {answer.text}"

    def blob(data: bytes, kind: str) -> dict[str, object]:
        begun = client.post(f"/v2/{REPOSITORY}/blobs/uploads/")
        where = httpx.URL(f"http://{place}").join(begun.headers["location"])
        described = _described(data, kind)
        put(
            str(where.copy_merge_params({"digest": str(described["digest"])})),
            data,
            "application/octet-stream",
        )
        return described

    with httpx.Client(base_url=f"http://{place}", trust_env=False, timeout=30) as client:
        layer = blob(os.urandom(4096), "application/vnd.oci.image.layer.v1.tar")
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = blob(
            json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode(), CONFIG
        )
        image = json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
        ).encode()
        manifest = _described(image, MANIFEST)
        index = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}
        ).encode()
        manifests = f"/v2/{REPOSITORY}/manifests"
        put(f"{manifests}/1", image, MANIFEST)
        put(f"{manifests}/latest", index, INDEX)
    digest = _described(index, INDEX)["digest"]
    return {
        "OCI_REPO1": REPOSITORY,
        "OCI_API_PUSH": "false",
        "OCI_API_BLOBS_DELETE": "false",
        "OCI_API_MANIFESTS_DELETE": "false",
        "OCI_API_TAGS_DELETE": "false",
        "OCI_RO_DATA_TAGS": "1 latest",
        "OCI_RO_DATA_MANIFESTS": f"{manifest['digest']} {digest}",
        "OCI_RO_DATA_BLOBS": f"{layer['digest']} {config['digest']}",
        "OCI_RO_DATA_REFERRERS": f"{manifest['digest']}",
    }


def own_repositories(name: str) -> dict[str, str]:
    return {"OCI_REPO1": f"conformance/{name}1", "OCI_REPO2": f"conformance/{name}2"}


def _described(data: bytes, kind: str) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def mirror(cluster: Cluster, scheduler: Daemon, name: str, upstream: str, *, push: bool) -> str:
    """The place of a mirror of this registry, which it means where no other is named."""
    config = cluster.root / f"{name}.toml"
    config.write_text(
        f'[registry]\ndefault = "{upstream}"\npush = {str(push).lower()}\n'
        f'[registry.upstreams]\n"{upstream}" = "http://{upstream}"\n'
    )
    links = ("--scheduler", scheduler.url, "--cluster-key", str(cluster.key))
    node = cluster.start(name, "serve", "peer", "registry", "--config", str(config), *links)
    node.wait_ready()
    return node.url.removeprefix("http://")


def compare(what: str, direct: Result, through: Result) -> list[str]:
    """Print both; the tests that end worse through the mirror."""
    print(f"\n{what:<34}{'directly':>10}{'mirror':>10}")
    for name in direct.table:
        print(f"  {name:<32}{direct.table[name]:>10}{through.table.get(name, '-'):>10}")
    for status in ("Pass", "FAIL", "Error", "Skip"):
        print(f"  {status:<32}{direct.count(status):>10}{through.count(status):>10}")
    worse = []
    for name in dict.fromkeys(name for name, _ in (*direct.tests, *through.tests)):
        bad = [
            result.tests[name, "FAIL"] + result.tests[name, "Error"] for result in (direct, through)
        ]
        passed = [result.tests[name, "Pass"] for result in (direct, through)]
        if bad[1] > bad[0] or passed[1] < passed[0]:
            said = through.said.get(name, "not run").strip().replace("\n", "; ")[:300]
            worse.append(f"{what}: {name}: {passed[0]} passed directly, {passed[1]} here: {said}")
        elif passed[1] > passed[0]:
            print(f"  better here: {name}: {passed[1]} passed, {passed[0]} directly")
    return worse


def run_all(root: Path) -> int:
    """Run the suite on everything; how many tests end worse through the mirror."""
    worse: list[str] = []
    with ExitStack() as stack:
        suite = Suite(root)
        places = {
            "docker-registry": stack.enter_context(docker_registry(root / "registry")).place,
            "olareg": stack.enter_context(olareg(root)),
        }
        cluster = Cluster(root)
        stack.callback(cluster.close)
        cluster.make_key()
        scheduler = cluster.scheduler()
        cluster.peer("seed", scheduler, "--seed").wait_ready()
        for name, place in places.items():
            pushing = mirror(cluster, scheduler, f"{name}-pushing", place, push=True)
            # What one run leaves there may not be in the other's lists.
            both = [
                suite.run(where, WRITING[name] | own_repositories(run))
                for where, run in ((place, "direct"), (pushing, "mirror"))
            ]
            worse += compare(f"{name}, write-through", *both)
            pulling = mirror(cluster, scheduler, f"{name}-pulling", place, push=False)
            told = READING | given(place)
            both = [suite.run(where, told) for where in (place, pulling)]
            worse += compare(f"{name}, read-only", *both)
    print()
    for line in worse:
        print(f"WORSE  {line}")
    if not worse:
        print("no test ends worse through the mirror")
    return len(worse)


def _too_long(signum: int, frame: object) -> NoReturn:
    raise SystemExit(f"this took longer than {LONGEST} s")


def main() -> None:
    demand(NEEDED)
    signal.signal(signal.SIGALRM, _too_long)
    # Ends what it started, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(LONGEST)
    with directory("conformance") as root:
        sys.exit(1 if run_all(root) else 0)


if __name__ == "__main__":
    main()
