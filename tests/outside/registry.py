"""Clients of registries that everybody has, through a swarm of mirrors.

    python -m tests.outside.registry

An upstream (Debian's docker-registry), a scheduler, a seed and three nodes with a mirror each. What
clients get must be what a direct pull gets, each blob is read from the upstream once, by its own
access log, and a client whose mirror is killed in mid-pull completes from the upstream, at once or
when it pulls again. Needs root, docker-registry, skopeo, buildah, podman and containerd. Exits with
1 where a check fails, with 2 where a program is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import httpx

from hawker.core.upstreams import in_a_path
from tests.e2e.conftest import Cluster, Daemon
from tests.faults.proxy import Links
from tests.outside.beginning import demand, directory
from tests.outside.registry_programs import (
    INDEX,
    SKOPEO,
    Image,
    containerd,
    docker_registry,
    make_image,
    run,
)
from tests.outside.registry_world import MB, World, mirrored, once, same

NEEDED = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "buildah": "buildah",
    "podman": "podman",
    "containerd": "containerd",
    "ctr": "containerd",
}
PULL = {
    "buildah": ("buildah", "pull", "-q", "--policy", "always"),
    "podman": ("podman", "pull", "-q"),
}
# How they name themselves: podman as its library.
AGENTS = {"buildah": "buildah", "podman": "containers/"}
# The whole run.
LONGEST = 900
# What passes to the mirrors while one is to be killed in mid-pull, in bytes per second.
SLOW = 8e6
# Vectors of the OCI distribution specification's conformance suite, on a blob of 2048 bytes.
BLOB = 2048
RANGES = (
    ("bytes=500-1499", 206, (500, 1500)),
    ("bytes=500-", 206, (500, 2048)),
    ("bytes=-500", 206, (1548, 2048)),
    ("bytes=2000-5000", 206, (2000, 2048)),
    ("bytes=500-0", 416, None),
    ("bytes=5000-10000", 416, None),
)


# ------------------------------------------------------------------ the checks


def three_at_once(world: World) -> str:
    name, image = world.image(20 * MB, 3 * MB)
    direct = world.direct(name)
    world.registry.mark()

    def pull(number: int) -> Path:
        target = world.root / f"three-{number}"
        source = f"docker://{mirrored(world.nodes[number])}/{name}:1"
        run(*SKOPEO, "--src-tls-verify=false", source, f"dir:{target}")
        return target

    with ThreadPoolExecutor(3) as threads:
        targets = list(threads.map(pull, range(3)))
    for target in targets:
        same(direct, target)
    assert not world.registry.asked_by("skopeo"), "a client asked the registry itself"
    return f"3 pulls identical to a direct one; {once(world.registry, image, set(image.sizes))}"


def storing(program: str) -> Callable[[World], str]:
    """A check of a program that has a store of images of its own."""

    def check(world: World) -> str:
        name, image = world.image(6 * MB, 1 * MB)
        environ = world.drop_in(world.nodes[0], program)
        world.registry.mark()
        run(*PULL[program], f"{world.registry.place}/{name}:1", environ=environ)
        listed = run(program, "images", "--digests", "--no-trunc", environ=environ)
        assert image.digest in listed, listed
        assert not world.registry.asked_by(AGENTS[program]), "the client asked the registry itself"
        return once(world.registry, image, image.blobs["amd64"])

    return check


def skopeo_with_drop_in(world: World) -> str:
    return _skopeo_through(world, world.nodes[1], "drop-in")


def beside(world: World) -> str:
    return _skopeo_through(world, world.beside_a_peer_for_others(), "beside")


def _skopeo_through(world: World, node: Daemon, what: str) -> str:
    """skopeo with a drop-in that names this node's mirror."""
    name, image = world.image(6 * MB, 1 * MB)
    direct, target = world.direct(name), world.root / what
    environ = world.drop_in(node, f"skopeo-{what}")
    world.registry.mark()
    source = f"docker://{world.registry.place}/{name}:1"
    run(*SKOPEO, source, f"dir:{target}", environ=environ)
    same(direct, target)
    assert not world.registry.asked_by("skopeo"), "the client asked the registry itself"
    return once(world.registry, image, set(image.sizes))


def pulled_by_ctr(world: World, name: str, image: Image, hosts: Path) -> str:
    world.registry.mark()
    source = f"{world.registry.place}/{name}:1"
    world.ctr.pull(source, hosts, "--all-platforms")
    assert world.ctr.has(source, image), "containerd lacks some of it"
    assert not world.registry.asked_by("containerd"), "the client asked the registry itself"
    return once(world.registry, image, set(image.sizes))


def ctr(world: World) -> str:
    name, image = world.image(6 * MB, 1 * MB)
    hosts = world.setup("containerd", world.nodes[2], "ctr") / "etc/containerd/certs.d"
    return pulled_by_ctr(world, name, image, hosts)


def ctr_behind_tls(world: World) -> str:
    name, image = world.image(6 * MB, 1 * MB)
    node, authority, token = world.behind_tls()
    trusting = ("--tls-ca", authority, "--token", token)
    hosts = world.setup("containerd", node, "ctr-tls", *trusting) / "etc/containerd/certs.d"
    # The file names its authority as below /.
    text = hosts / world.registry.place / "hosts.toml"
    text.write_text(text.read_text().replace('ca = "/etc', f'ca = "{hosts.parents[1]}'))
    return pulled_by_ctr(world, name, image, hosts)


def skopeo_behind_tls(world: World) -> str:
    name, image = world.image(6 * MB, 1 * MB)
    direct, target = world.direct(name), world.root / "tls"
    node, authority, token = world.behind_tls()
    environ = world.drop_in(node, "skopeo-tls", "--tls-ca", authority, "--token", token)
    environ["REGISTRY_AUTH_FILE"] = str(world.root / "auth.json")
    login = ("skopeo", "login", "--username", "any", "--password")
    for wrong in ("wrong", token[:-3]):
        try:
            run(*login, wrong, mirrored(node), environ=environ)
        except AssertionError as exc:
            assert "unauthorized" in str(exc) or "invalid username/password" in str(exc), exc
        else:
            raise AssertionError("a wrong token opens the mirror")
    run(*login, token, mirrored(node), environ=environ)
    world.registry.mark()
    source = f"docker://{world.registry.place}/{name}:1"
    run(*SKOPEO, source, f"dir:{target}", environ=environ)
    same(direct, target)
    assert not world.registry.asked_by("skopeo"), "the client asked the registry itself"
    return f"2 wrong tokens refused; {once(world.registry, image, set(image.sizes))}"


@contextmanager
def killed_in_mid_pull(world: World, node: Daemon, after: int) -> Iterator[list[int]]:
    """Slow down what the mirrors get, and kill a node once so much came; what came, in a list."""
    passed: list[int] = []
    world.slow.bucket.rate = SLOW
    begun = world.slow.passed
    done = threading.Event()

    def watch() -> None:
        while world.slow.passed - begun < after and not done.wait(0.01):
            pass
        if not done.is_set():
            passed.append(world.slow.passed - begun)
            node.kill()
            world.slow.bucket.rate = 0.0

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield passed
    finally:
        done.set()
        thread.join()
        world.slow.bucket.rate = 0.0


def _fell_back(world: World, agent: str, passed: list[int], total: int) -> str:
    assert passed, "the pull ended before the mirror could be killed"
    reads = [read for read in world.registry.reads() if agent in read.agent.lower()]
    assert reads, "the client did not go to the upstream"
    partial = sum(read.status == 206 for read in reads)
    return (
        f"killed when {passed[0] / MB:.1f} of {total / MB:.1f} MB had come; complete with"
        f" {len(reads)} GETs ({partial} of the rest of a blob),"
        f" {sum(read.size for read in reads) / MB:.1f} MB, from the upstream"
    )


def ctr_falls_back(world: World) -> str:
    name, image = world.image(40 * MB, 3 * MB)
    node = world.node("doomed-ctr")
    hosts = world.setup("containerd", node, "ctr-killed") / "etc/containerd/certs.d"
    world.registry.mark()
    source = f"{world.slow_place}/{name}:1"
    with killed_in_mid_pull(world, node, 16 * MB) as passed:
        world.ctr.pull(source, hosts, "--all-platforms")
    assert world.ctr.has(source, image), "containerd lacks some of it"
    return _fell_back(world, "containerd", passed, image.total)


def again_if_need_be(pull: Callable[[], object]) -> str:
    """Pull, and again where that failed: these clients take all blobs from the mirror that gave the
    manifest. Releases from before 2023, whose reader does not reconnect, give a pull up
    whose stream breaks off: the user (or the kubelet) asks again."""
    try:
        pull()
    except AssertionError as exc:
        assert "unexpected EOF" in str(exc) or "connection re" in str(exc), exc
    else:
        return "the same pull"
    pull()
    return "the next pull"


def skopeo_falls_back(world: World) -> str:
    name, image = world.image(40 * MB, 3 * MB)
    direct, target = world.direct(name), world.root / "skopeo-killed"
    node = world.node("doomed-skopeo")
    environ = world.drop_in(node, "skopeo-killed")
    world.registry.mark()
    pull = (*SKOPEO, f"docker://{world.slow_place}/{name}:1", f"dir:{target}")
    with killed_in_mid_pull(world, node, 16 * MB) as passed:
        which = again_if_need_be(lambda: run(*pull, environ=environ))
    same(direct, target)
    return f"{which}: {_fell_back(world, 'skopeo', passed, image.total)}"


def storing_falls_back(program: str) -> Callable[[World], str]:
    def check(world: World) -> str:
        name, image = world.image(40 * MB, 3 * MB)
        node = world.node(f"doomed-{program}")
        environ = world.drop_in(node, f"{program}-killed")
        world.registry.mark()
        pull = (*PULL[program], f"{world.slow_place}/{name}:1")
        with killed_in_mid_pull(world, node, 16 * MB) as passed:
            which = again_if_need_be(lambda: run(*pull, environ=environ))
        listed = run(program, "images", "--digests", "--no-trunc", environ=environ)
        assert image.digest in listed, listed
        total = sum(image.sizes[digest] for digest in image.blobs["amd64"])
        return f"{which}: {_fell_back(world, AGENTS[program], passed, total)}"

    return check


def write_through(world: World) -> str:
    image = make_image(world.root / "pushed", 1000, (5 * MB, 1 * MB))
    node = world.node("pushing", HAWKER_REGISTRY__PUSH="true")
    place = f"{mirrored(node)}/{in_a_path(world.registry.place)}/pushed/img:1"
    push = (*SKOPEO, "--dest-tls-verify=false", f"oci:{image.directory}:1")
    world.registry.mark()
    run(*push, f"docker://{place}")
    assert not world.registry.asked_by("skopeo"), "the client asked the registry itself"
    world.registry.mark()
    back = world.root / "pulled-back"
    run(*SKOPEO, "--src-tls-verify=false", f"docker://{place}", f"dir:{back}")
    told = once(world.registry, image, set(image.sizes))
    same(world.direct("pushed/img"), back)
    run("skopeo", "delete", "--tls-verify=false", f"docker://{place}")
    manifest = f"{node.url}/v2/pushed/img/manifests/1"
    status = httpx.get(manifest, headers={"accept": INDEX}, trust_env=False).status_code
    assert status == 404, f"what was deleted is answered {status}"
    run(*push, f"docker://{place}")
    ranges(node.url, "pushed/ranges")
    return f"pushed and pulled back: {told}; deleted and pushed again; {len(RANGES)} ranges"


def ranges(url: str, repository: str) -> None:
    """The conformance suite's ranges of a blob that was pushed through the mirror."""
    data = random.Random(5).randbytes(BLOB)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        blob = f"/v2/{repository}/blobs/{digest}"
        assert client.head(blob).status_code == 404, "it is there before it was pushed"
        begun = client.post(f"/v2/{repository}/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        place = httpx.URL(url).join(begun.headers["location"])
        assert place.netloc == httpx.URL(url).netloc, f"an upload leads to {place}"
        kind = {"content-type": "application/octet-stream"}
        put = client.put(place.copy_merge_params({"digest": digest}), content=data, headers=kind)
        assert put.status_code == 201, put.text
        for _ in range(2):
            for asked, status, span in RANGES:
                answer = client.get(blob, headers={"range": asked})
                assert answer.status_code == status, f"{asked}: {answer.status_code}, not {status}"
                if span is None:
                    assert answer.headers["content-range"] in (f"bytes */{BLOB}", "bytes */*")
                    assert answer.json()["errors"], f"{asked}: no error is named"
                    continue
                start, stop = span
                assert answer.content == data[start:stop], f"{asked}: other bytes"
                told = answer.headers["content-range"]
                assert told == f"bytes {start}-{stop - 1}/{BLOB}", f"{asked}: {told}"
            assert client.get(blob).content == data


CHECKS: dict[str, Callable[[World], str]] = {
    "skopeo, three nodes at once": three_at_once,
    "buildah, drop-in": storing("buildah"),
    "podman, drop-in": storing("podman"),
    "skopeo, drop-in": skopeo_with_drop_in,
    "skopeo, mirror of its own": beside,
    "ctr, hosts.toml": ctr,
    "ctr, https and token": ctr_behind_tls,
    "skopeo, https and token": skopeo_behind_tls,
    "ctr, mirror killed": ctr_falls_back,
    "skopeo, mirror killed": skopeo_falls_back,
    "buildah, mirror killed": storing_falls_back("buildah"),
    "podman, mirror killed": storing_falls_back("podman"),
    "skopeo, write-through": write_through,
}


def run_all(root: Path, chosen: str) -> int:
    """Run the checks; prints a line for each, and returns how many failed."""
    failed = 0
    with ExitStack() as stack:
        registry = stack.enter_context(docker_registry(root / "registry"))
        ctr = stack.enter_context(containerd(root / "containerd"))
        links = Links()
        stack.callback(links.close)
        slow = links.add(int(registry.place.rpartition(":")[2]))
        cluster = Cluster(root)
        stack.callback(cluster.close)
        world = World(root, registry, slow, ctr, cluster)
        for name, check in CHECKS.items():
            if chosen not in name:
                continue
            began = time.monotonic()
            try:
                told = check(world)
            except (AssertionError, OSError, httpx.HTTPError) as exc:
                told, failed = f"WRONG: {type(exc).__name__}: {exc}", failed + 1
            print(f"{name:<30}{time.monotonic() - began:>6.1f} s  {told}", flush=True)
    return failed


def _too_long(signum: int, frame: object) -> NoReturn:
    raise SystemExit(f"this took longer than {LONGEST} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.outside.registry", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="checks with this in their name")
    arguments = parser.parse_args()
    demand(NEEDED)
    if os.geteuid():
        print("containerd and buildah need root here", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGALRM, _too_long)
    # Ends what it started, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(LONGEST)
    with directory("registry") as root:
        sys.exit(1 if run_all(root, arguments.only) else 0)


if __name__ == "__main__":
    main()
