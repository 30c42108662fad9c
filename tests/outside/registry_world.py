"""What the checks of a mirror work with: a swarm of mirrors before somebody else's registry."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.conftest import Cluster, Daemon, hawker
from tests.faults.proxy import Link
from tests.outside.registry_programs import (
    SKOPEO,
    Containerd,
    Image,
    Registry,
    free_port,
    make_image,
    run,
)

MB = 1_000_000


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
        self._images = self._closed = 0
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

    def behind_tls(self) -> tuple[Daemon, str, str]:
        """A mirror, beside the first node's peer, that speaks TLS and asks for tokens; its
        authority's file, and a token."""
        authority, issued = self.root / "ca", self.root / "issued"
        key = ("--cluster-key", str(self._cluster.key))
        hawker("ca", "create", str(authority))
        hawker("ca", "issue", "--ca", str(authority), "-O", str(issued), "127.0.0.1")
        files = {
            "HAWKER_TLS__CERTIFICATE": str(issued / "127.0.0.1.crt"),
            "HAWKER_TLS__KEY": str(issued / "127.0.0.1.key"),
        }
        which = {"HAWKER_AUTH__MODE": "required", "HAWKER_REGISTRY__PEER": self.nodes[0].socket}
        self._closed += 1
        with variables(files | which):
            command = ("serve", "registry", "--config", str(self.config), *key)
            mirror = self._cluster.start(f"closed{self._closed}", *command)
        token = hawker("cluster", "token", *key, "--name", "test").stdout.decode().strip()
        return mirror, str(authority / "ca.crt"), token

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

    def setup(self, client: str, node: Daemon, name: str, *more: str) -> Path:
        """The root of what `hawker setup` makes of a client's configuration."""
        root = self.root / f"root-{name}"
        root.mkdir()
        flags = ("--write", "--root", str(root), "--mirror", node.url, "--config", str(self.config))
        done = hawker("setup", client, *flags, *more)
        assert done.returncode == 0, done.stderr.decode()
        return root

    def drop_in(self, node: Daemon, name: str, *more: str) -> dict[str, str]:
        """An environment whose user has the drop-in of `hawker setup podman`."""
        root = self.setup("podman", node, name, *more)
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
    return node.url.partition("://")[2]


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
