"""Other people's registry, its clients, and images of random bytes for them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import wait_for

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURES = ("amd64", "arm64")
PATIENCE = 180.0
ACCESS = re.compile(
    r'"(?P<method>[A-Z]+) (?P<path>/v2/\S*) HTTP/1\.1" (?P<status>\d+) (?P<size>\d+)'
    r' "[^"]*" "(?P<agent>[^"]*)"'
)


@dataclass
class Image:
    """An OCI image index in a directory, one manifest an architecture."""

    directory: Path
    digest: str
    # Of every blob that is no manifest, by digest; and which each architecture has.
    sizes: dict[str, int]
    blobs: dict[str, set[str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def make_image(directory: Path, seed: int, layer_sizes: tuple[int, ...]) -> Image:
    """Layers of random bytes, others for each architecture."""
    store = directory / "blobs" / "sha256"
    store.mkdir(parents=True)
    chance = random.Random(seed)
    image = Image(directory, "", {})

    def keep(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (store / digest).write_bytes(data)
        if kind in (CONFIG, LAYER):
            image.sizes[f"sha256:{digest}"] = len(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    manifests = []
    for architecture in ARCHITECTURES:
        tars = [_tar(f"data{n}", chance.randbytes(size)) for n, size in enumerate(layer_sizes)]
        ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
        layers = [keep(gzip.compress(tar, compresslevel=1, mtime=0), LAYER) for tar in tars]
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids},
        }
        described = keep(json.dumps(config).encode(), CONFIG)
        image.blobs[architecture] = {blob["digest"] for blob in (described, *layers)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described,
            "layers": layers,
        }
        platform = {"architecture": architecture, "os": "linux"}
        manifests.append(keep(json.dumps(manifest).encode(), MANIFEST) | {"platform": platform})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    described = keep(json.dumps(index).encode(), INDEX)
    named = described | {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    image.digest = described["digest"]
    return image


def _tar(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def run(*words: str, environ: dict[str, str] | None = None) -> str:
    """Run a client's command; what it printed, which must end well."""
    done = subprocess.run(
        words,
        env=os.environ | (environ or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}: exit {done.returncode}: {done.stdout[-800:]}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(*words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of somebody else's, ended with all that it started."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait(timeout=15)


@dataclass
class Read:
    """One request that the registry answered with bytes of a blob."""

    digest: str
    status: int
    size: int
    agent: str


class Registry:
    """Debian's docker-registry, and what its own access log says."""

    def __init__(self, place: str, log: Path) -> None:
        self.place = place
        self._log = log
        self._offset = 0

    def mark(self) -> None:
        """Count from here on."""
        self._lines()
        self._offset = self._log.stat().st_size

    def reads(self) -> list[Read]:
        """The GETs of blobs since the mark that were answered by 200 or 206."""
        found = []
        for match in map(ACCESS.search, self._lines()):
            if match is None or match["method"] != "GET" or match["status"] not in ("200", "206"):
                continue
            _, is_blob, digest = match["path"].partition("/blobs/")
            if is_blob:
                digest = digest.partition("?")[0]
                agent = match["agent"]
                found.append(Read(digest, int(match["status"]), int(match["size"]), agent))
        return found

    def asked_by(self, agent: str) -> int:
        """Requests of any kind since the mark by a client of this name."""
        matches = filter(None, map(ACCESS.search, self._lines()))
        return sum(agent in match["agent"].lower() for match in matches)

    def _lines(self) -> list[str]:
        """The log, once nothing was added to it for a while: a request is logged at its end."""
        size, since = -1, time.monotonic()
        end = since + 20
        while time.monotonic() - since < 0.5 and time.monotonic() < end:
            if (now := self._log.stat().st_size) != size:
                size, since = now, time.monotonic()
            time.sleep(0.05)
        with self._log.open("rb") as file:
            file.seek(self._offset)
            return file.read().decode(errors="replace").splitlines()

    def push(self, image: Image, name: str, tag: str = "1") -> None:
        target = f"docker://{self.place}/{name}:{tag}"
        run(*SKOPEO, "--dest-tls-verify=false", f"oci:{image.directory}:1", target)


SKOPEO = ("skopeo", "copy", "--quiet", "--insecure-policy", "--all", "--preserve-digests")


@contextmanager
def docker_registry(root: Path) -> Iterator[Registry]:
    root.mkdir()
    port = free_port()
    (root / "config.yml").write_text(
        "version: 0.1\n"
        "log: {level: error, accesslog: {disabled: false}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    log = root / "log"
    with process("docker-registry", "serve", str(root / "config.yml"), log=log):
        place = f"127.0.0.1:{port}"
        wait_for(lambda: answers(f"http://{place}/v2/"), f"no registry came: {log.read_text()}", 20)
        yield Registry(place, log)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


class Containerd:
    """A containerd with directories of its own."""

    def __init__(self, socket: Path) -> None:
        self._ctr = ("ctr", "--address", str(socket), "--namespace", "hawker")

    def pull(self, name: str, hosts: Path, *flags: str) -> None:
        """Pull and unpack; containerd itself checks each blob by its digest."""
        self.ctr(
            "images", "pull", "--snapshotter", "native", "--hosts-dir", str(hosts), *flags, name
        )

    def has(self, name: str, image: Image) -> bool:
        """All of it, of every architecture."""
        found = self.ctr("images", "ls", f"name=={name}")
        content = self.ctr("content", "ls", "-q").split()
        return image.digest in found and set(image.sizes) <= set(content)

    def ctr(self, *words: str) -> str:
        return run(*self._ctr, *words)


@contextmanager
def containerd(root: Path) -> Iterator[Containerd]:
    root.mkdir()
    socket = root / "sock"
    (root / "config.toml").write_text(
        "version = 2\n"
        f'root = "{root}/root"\nstate = "{root}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",'
        ' "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",'
        ' "io.containerd.snapshotter.v1.zfs"]\n'
        f'[grpc]\naddress = "{socket}"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\npath = "{root}/opt"\n'
    )
    log = root / "log"
    with process("containerd", "--config", str(root / "config.toml"), log=log):
        made = Containerd(socket)

        def ready() -> bool:
            try:
                return bool(made.ctr("version"))
            except AssertionError:
                return False

        wait_for(ready, f"no containerd came: {log.read_text()}", 30)
        yield made
