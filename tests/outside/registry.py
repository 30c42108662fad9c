"""Clients of registries that everybody has, through a swarm of mirrors.

    python -m tests.outside.registry

An upstream (Debian's docker-registry), a scheduler, a seed and three nodes with a mirror each. What
clients get must be what a direct pull gets, each blob is read from the upstream once, by its own
access log, and a client whose mirror is killed in mid-pull completes from the upstream, at once or
when it pulls again. Needs root, docker-registry, skopeo, buildah and containerd. Exits with 1 where
a check fails, with 2 where a program is missing.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import httpx

from hawker.core.upstreams import in_a_path
from tests.e2e.conftest import Cluster, Daemon, hawker
from tests.faults.proxy import Link, Links
from tests.outside.beginning import demand, directory
from tests.outside.registry_programs import (
    INDEX,
    SKOPEO,
    Containerd,
    Image,
    Registry,
    containerd,
    docker_registry,
    free_port,
    make_image,
    run,
)

NEEDED = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "buildah": "buildah",
    "containerd": "containerd",
    "ctr": "containerd",
}
MB = 1_000_000
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


class World:
    """What the checks work with."""

    def __init__(
        self, root: Path, registry: Registry, slow: Link, ctr: Containerd, cluster: Cluster
    ) -> None:
        self.root = root
        self.registry = registry
        self.slow = slow
        self.ctr = ctr
        self._cluster = cluster
        self._images = 0
        self.config = root / "hawker.toml"
        places = (registry.place, self.slow_place)
        upstreams = "".join(f'"{place}" = "http://{place}"\n' for place in places)
        self.config.write_text(
            f'[registry]\ndefault = "{registry.place}"\n[registry.upstreams]\n{upstreams}'
        )
        cluster.make_key()
        self._scheduler = cluster.scheduler("scheduler")
        seed = cluster.peer("seed", self._scheduler, "--seed", "--config", str(self.config))
        seed.wait_ready()
        self.nodes = [self.node(f"node{number}") for number in range(3)]

    @property
    def slow_place(self) -> str:
        """The same registry, over a link that can be slow."""
        return f"127.0.0.1:{self.slow.port}"

    def node(self, name: str, **environ: str) -> Daemon:
        with variables(environ):
            command = ("serve", "peer", "registry", "--config", str(self.config))
            links = ("--scheduler", self._scheduler.url, "--cluster-key", str(self._cluster.key))
            node = self._cluster.start(name, *command, *links)
        node.wait_ready()
        return node

    def beside_a_peer_for_others(self) -> Daemon:
        """A mirror on loopback, in a process of its own beside a peer that asks for tokens."""
        key = ("--cluster-key", str(self._cluster.key))
        port = str(free_port())
        here = ("--host", "0.0.0.0", "--port", port, "--advertise", f"http://127.0.0.1:{port}")
        # Listening for others, this machine is an origin only where it is said to be.
        required = {"HAWKER_AUTH__MODE": "required", "HAWKER_EGRESS__ALLOW": "127.0.0.0/8"}
        with variables(required):
            peer = self._cluster.peer("behind", self._scheduler, *here)
        peer.wait_ready()
        with variables({"HAWKER_REGISTRY__PEER": peer.socket}):
            command = ("serve", "registry", "--config", str(self.config), *key)
            return self._cluster.start("mirror", *command)

    def image(self, *sizes: int) -> tuple[str, Image]:
        """A new image in the registry: its repository, and what is in it."""
        self._images += 1
        name = f"lib/img{self._images}"
        image = make_image(self.root / f"image{self._images}", self._images, sizes)
        self.registry.push(image, name)
        return name, image

    def direct(self, name: str) -> Path:
        """What a client gets without a mirror."""
        target = self.root / f"direct-{name.replace('/', '-')}"
        pull = (*SKOPEO, "--src-tls-verify=false")
        run(*pull, f"docker://{self.registry.place}/{name}:1", f"dir:{target}")
        return target

    def setup(self, client: str, node: Daemon, name: str) -> Path:
        """The root of what `hawker setup` makes of a client's configuration."""
        root = self.root / f"root-{name}"
        root.mkdir()
        flags = ("--write", "--root", str(root), "--mirror", node.url, "--config", str(self.config))
        done = hawker("setup", client, *flags)
        assert done.returncode == 0, done.stderr.decode()
        return root

    def drop_in(self, node: Daemon, name: str) -> dict[str, str]:
        """An environment whose user has the drop-in of `hawker setup podman`."""
        root = self.setup("podman", node, name)
        containers = root / ".config" / "containers"
        containers.parent.mkdir()
        containers.symlink_to(root / "etc" / "containers")
        return {
            "HOME": str(root),
            "STORAGE_DRIVER": "vfs",
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(_storage(root)),
        }


@contextmanager
def variables(environ: Mapping[str, str]) -> Iterator[None]:
    """Of the processes that are started within."""
    os.environ.update(environ)
    try:
        yield
    finally:
        for name in environ:
            del os.environ[name]


def _storage(root: Path) -> Path:
    file = root / "storage.conf"
    file.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{root}/run"\ngraphroot = "{root}/graph"\n'
    )
    return file


def mirrored(node: Daemon) -> str:
    return node.url.removeprefix("http://")


def same(one: Path, other: Path) -> None:
    """Both directories have the same files with the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir()), "other files"
    _, wrong, odd = filecmp.cmpfiles(one, other, names, shallow=False)
    assert not wrong and not odd, f"other bytes: {wrong or odd}"


def once(registry: Registry, image: Image, wanted: set[str]) -> str:
    """What the registry gave of these blobs, which must be each of them once."""
    sizes: Counter[str] = Counter()
    # A HEAD at a mirror asks for the first byte, whose answer has the length.
    answers = registry.reads()
    lengths = [read for read in answers if (read.status, read.size) == (206, 1)]
    reads = [read for read in answers if (read.status, read.size) != (206, 1)]
    for read in reads:
        sizes[read.digest] += read.size
    expected = {digest: image.sizes[digest] for digest in wanted}
    given = f"{sum(sizes.values())} of {sum(expected.values())} bytes"
    told = f"the registry gave {len(sizes)} of {len(wanted)} blobs in {len(reads)} GETs, {given}"
    assert sizes == expected, f"{told}: {dict(sizes)}, not {expected}"
    assert len(lengths) <= len(wanted), f"{told}; and was asked {len(lengths)} times for a length"
    return f"{told}; {len(lengths)} single bytes for a length"


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


def buildah(world: World) -> str:
    name, image = world.image(6 * MB, 1 * MB)
    environ = world.drop_in(world.nodes[0], "buildah")
    world.registry.mark()
    source = f"{world.registry.place}/{name}:1"
    run("buildah", "pull", "-q", "--policy", "always", source, environ=environ)
    listed = run("buildah", "images", "--digests", "--no-trunc", environ=environ)
    assert image.digest in listed, listed
    assert not world.registry.asked_by("buildah"), "the client asked the registry itself"
    return once(world.registry, image, image.blobs["amd64"])


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


def ctr(world: World) -> str:
    name, image = world.image(6 * MB, 1 * MB)
    hosts = world.setup("containerd", world.nodes[2], "ctr") / "etc/containerd/certs.d"
    world.registry.mark()
    source = f"{world.registry.place}/{name}:1"
    world.ctr.pull(source, hosts, "--all-platforms")
    assert world.ctr.has(source, image), "containerd lacks some of it"
    assert not world.registry.asked_by("containerd"), "the client asked the registry itself"
    return once(world.registry, image, set(image.sizes))


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


def buildah_falls_back(world: World) -> str:
    name, image = world.image(40 * MB, 3 * MB)
    node = world.node("doomed-buildah")
    environ = world.drop_in(node, "buildah-killed")
    world.registry.mark()
    pull = ("buildah", "pull", "-q", "--policy", "always", f"{world.slow_place}/{name}:1")
    with killed_in_mid_pull(world, node, 16 * MB) as passed:
        which = again_if_need_be(lambda: run(*pull, environ=environ))
    listed = run("buildah", "images", "--digests", "--no-trunc", environ=environ)
    assert image.digest in listed, listed
    total = sum(image.sizes[digest] for digest in image.blobs["amd64"])
    return f"{which}: {_fell_back(world, 'buildah', passed, total)}"


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
    "buildah, drop-in": buildah,
    "skopeo, drop-in": skopeo_with_drop_in,
    "skopeo, mirror of its own": beside,
    "ctr, hosts.toml": ctr,
    "ctr, mirror killed": ctr_falls_back,
    "skopeo, mirror killed": skopeo_falls_back,
    "buildah, mirror killed": buildah_falls_back,
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
