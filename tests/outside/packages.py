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
import base64
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import textwrap
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import trustme

from hawker.core.pieces import MIB
from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, hawker
from tests.outside.beginning import directory
from tests.outside.repositories import Answer, Asked, Repository

DOCS = Path(__file__).parents[2] / "docs" / "clients"
PATIENCE = 120.0
SIZE = 6 * MIB
# What an origin may send of its content to the first: single bytes for its length.
ONCE = 1.02
# Loopback to whoever resolves names.
SHORT = "127.1"
SPEC = """Name: trial
Version: 1.0
Release: 1
Summary: A trial
License: MIT
BuildArch: noarch
%description
A trial.
%install
install -D {folder}/blob.bin %{{buildroot}}/opt/blob.bin
%files
/opt/blob.bin
"""
WEIGHTS = "model.safetensors"


@dataclass
class Visit:
    """Where a client works: an empty folder, through this proxy, whose authority it trusts."""

    proxy: str
    folder: Path
    authority: Path = Path()

    @property
    def port(self) -> str:
        return self.proxy.rpartition(":")[2]

    def command(
        self, *words: str | Path, code: int = 0, variables: Mapping[str, str] | None = None
    ) -> str:
        """Run a client's command; what it printed, which must end with this exit code.

        It knows nothing of this machine's configuration but where programs are.
        """
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
        with subprocess.Popen(
            [str(word) for word in words],
            cwd=self.folder,
            env=environment | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=PATIENCE)
            except BaseException:
                # It leads its own group, in which all are that it started.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode == code, f"exit {process.returncode}, not {code}: {said[-1500:]}"
        return said


Install = Callable[[Visit], None]


@dataclass(frozen=True)
class Client:
    """A package client; `offer` builds its repository in a folder, and says how it installs.

    `needed` are its programs, with what installs each; `checked` is how many bytes its repository
    sends to show that a signature is good.
    """

    offer: Callable[[Repository, Path], Install]
    needed: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    checked: int = 0

    def missing(self) -> list[str]:
        """Commands that install what is not here."""
        programs = [how for program, how in self.needed.items() if shutil.which(program) is None]
        modules = [f"{sys.executable} -m pip install {m}" for m in self.modules if not find_spec(m)]
        return [*programs, *modules]


def payload(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def check(file: Path, data: bytes) -> None:
    assert file.is_file(), f"{file.name} was not installed"
    assert file.read_bytes() == data, f"{file.name} is not what was offered"


def digest(data: bytes, name: str = "sha256") -> str:
    return hashlib.new(name, data).hexdigest()


# ------------------------------------------------------------------ the clients


def pip(repository: Repository, folder: Path) -> Install:
    data, name = payload(1), "trial-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        info = "trial-1.0.dist-info"
        wheel.writestr("trial/blob.bin", data)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: trial\nVersion: 1.0\n")
        tags = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\n{tags}")
        files = ("trial/blob.bin", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in files))
    content = (folder / name).read_bytes()
    repository.package(f"/packages/{name}", content)
    link = f'<a href="/packages/{name}#sha256={digest(content)}">{name}</a>'
    repository.page("/simple/trial/", f"<!DOCTYPE html><html><body>{link}</body></html>")

    def install(visit: Visit) -> None:
        command = (sys.executable, "-m", "pip", "--isolated", "install", "--no-cache-dir")
        index = ("--index-url", f"{repository.url}/simple/", "--proxy", visit.proxy)
        trusted = ("--cert", visit.authority)
        visit.command(*command, *index, *trusted, "--target", visit.folder / "site", "trial")
        check(visit.folder / "site" / "trial" / "blob.bin", data)

    return install


def apt(repository: Repository, folder: Path) -> Install:
    data = payload(2)
    tree = folder / "deb"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "opt").mkdir()
    (tree / "opt" / "blob.bin").write_bytes(data)
    control = "Package: trial\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.com>\n"
    (tree / "DEBIAN" / "control").write_text(f"{control}Description: a trial\n")
    built = folder / "trial.deb"
    command = ("dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(built))
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    content = built.read_bytes()
    repository.package("/pool/trial_1.0_all.deb", content)
    where = f"Filename: pool/trial_1.0_all.deb\nSize: {len(content)}\nSHA256: {digest(content)}\n"
    index = f"{control}{where}Description: a trial\n\n".encode()
    repository.page("/dists/stable/main/binary-all/Packages", index)
    named = f" {digest(index)} {len(index)} main/binary-all/Packages\n"
    release = "Suite: stable\nCodename: stable\nComponents: main\nArchitectures: all\n"
    date = "Date: Sun, 13 Sep 2020 12:26:40 UTC\n"
    repository.page("/dists/stable/Release", f"{release}{date}SHA256:\n{named}")

    def install(visit: Visit) -> None:
        root = visit.folder / "root"
        for path in (
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "var/lib/dpkg/info",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/log/apt",
        ):
            (root / path).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        source = f"deb [trusted=yes arch=all] {repository.url} stable main\n"
        (root / "etc/apt/sources.list").write_text(source)
        settings = {
            "Dir": root,
            "Dir::State::status": root / "var/lib/dpkg/status",
            "APT::Sandbox::User": "root",
            "Acquire::http::Proxy": visit.proxy,
            "Acquire::https::CAInfo": visit.authority,
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        lines += [f'DPkg::Options {{ "--root={root}"; "--log=/dev/null"; }};']
        (visit.folder / "apt.conf").write_text("\n".join(lines))
        config = {"APT_CONFIG": str(visit.folder / "apt.conf")}
        visit.command("apt-get", "update", variables=config)
        visit.command("apt-get", "install", "-y", "trial", variables=config)
        check(root / "opt" / "blob.bin", data)

    return install


def npm(repository: Repository, folder: Path) -> Install:
    data, name = payload(3), "/trial/-/trial-1.0.0.tgz"
    described = {"name": "trial", "version": "1.0.0"}
    (folder / "package").mkdir()
    (folder / "package" / "package.json").write_text(json.dumps(described))
    (folder / "package" / "blob.bin").write_bytes(data)
    with tarfile.open(folder / "trial.tgz", "w:gz", compresslevel=1) as archive:
        archive.add(folder / "package", "package")
    content = (folder / "trial.tgz").read_bytes()
    repository.package(name, content)
    integrity = base64.b64encode(hashlib.sha512(content).digest()).decode()
    # Within a tunnel npm holds an address's certificate against a name.
    url = repository.url.replace("127.0.0.1", "localhost")
    dist = {"tarball": url + name, "integrity": f"sha512-{integrity}"}
    versions = {"1.0.0": {**described, "dist": {**dist, "shasum": digest(content, "sha1")}}}
    document = {"name": "trial", "dist-tags": {"latest": "1.0.0"}, "versions": versions}
    repository.page("/trial", json.dumps(document))

    def install(visit: Visit) -> None:
        where = ("--prefix", visit.folder, "--cache", visit.folder / "cache", "--no-audit")
        sources = ("--registry", f"{url}/", "--cafile", visit.authority)
        proxies = ("--proxy", visit.proxy, "--https-proxy", visit.proxy)
        visit.command("npm", "install", *where, *sources, *proxies, "--no-fund", "trial")
        check(visit.folder / "node_modules" / "trial" / "blob.bin", data)

    return install


def huggingface(repository: Repository, folder: Path) -> Install:
    """The hub redirects to a store that wants a signature, another one each time."""
    data, commit = payload(4), "0123456789" * 4
    name = digest(data)
    store = f"/models/{name}"
    repository.package(store, data)
    signatures: set[str] = set()
    resolve = f"/of/trial/resolve/main/{WEIGHTS}"
    hub = repository.beside()

    def hand_on(asked: Asked) -> Answer:
        signature = f"signed-{len(signatures)}"
        signatures.add(signature)
        # As CloudFront has it, which the hub's content comes from.
        shown = {"Expires": str(2_000_000_000 + len(signatures)), "Policy": "P"}
        signed = urlencode({**shown, "Signature": signature, "Key-Pair-Id": "K"})
        fields = {
            "location": f"{repository.url}{store}?{signed}",
            "x-repo-commit": commit,
            "x-linked-etag": f'"{name}"',
            "x-linked-size": str(len(data)),
        }
        return Answer(302, b"", fields)

    def signed_only(asked: Asked) -> Answer:
        shown = parse_qs(urlsplit(asked.target).query).get("Signature", [""])[0]
        return repository.file(asked) if shown in signatures else Answer(403)

    hub.route(resolve, hand_on)
    repository.route(store, signed_only)

    def install(visit: Visit) -> None:
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HTTP_PROXY": visit.proxy,
            "HTTPS_PROXY": visit.proxy,
            "SSL_CERT_FILE": str(visit.authority),
        }
        hf = Path(sys.executable).with_name("hf")
        command = (hf, "download", "of/trial", WEIGHTS, "--local-dir", visit.folder / "here")
        visit.command(*command, variables=variables)
        check(visit.folder / "here" / WEIGHTS, data)

    return install


def git_lfs(repository: Repository, folder: Path) -> Install:
    data = payload(5)
    name = digest(data)
    repository.package(f"/objects/{name}", data)
    # Go uses no proxy for loopback, where the URL says that it is.
    url = repository.url.replace("127.0.0.1", SHORT)

    def batch(asked: Asked) -> Answer:
        shown = {"Authorization": "RemoteAuth trial"}
        download = {"href": f"{url}/objects/{name}", "header": shown, "expires_in": 3600}
        found = {"oid": name, "size": len(data), "actions": {"download": download}}
        said = json.dumps({"transfer": "basic", "objects": [found]}).encode()
        return Answer(200, said, {"content-type": "application/vnd.git-lfs+json"})

    def authorized_only(asked: Asked) -> Answer:
        shown = asked.fields.get("authorization", "")
        return repository.file(asked) if shown == "RemoteAuth trial" else Answer(403)

    repository.route("/trial.git/info/lfs/objects/batch", batch)
    repository.route(f"/objects/{name}", authorized_only)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {len(data)}\n"
    origin = folder / "origin"
    origin.mkdir()
    (origin / ".gitattributes").write_text("*.bin filter=lfs -text\n")
    (origin / "blob.bin").write_text(pointer)
    (origin / ".lfsconfig").write_text(f"[lfs]\nurl = {url}/trial.git/info/lfs\n")
    who = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    at_home = Visit("", origin)
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "A trial")):
        at_home.command("git", *words)

    def install(visit: Visit) -> None:
        visit.command("git", "clone", "-q", origin, "here", variables={"GIT_LFS_SKIP_SMUDGE": "1"})
        visit.command("git", "-C", "here", "lfs", "install", "--local")
        proxied = ("-c", f"http.proxy={visit.proxy}", "-c", f"http.sslCAInfo={visit.authority}")
        visit.command("git", "-C", "here", *proxied, "lfs", "pull")
        check(visit.folder / "here" / "blob.bin", data)

    return install


def maven(repository: Repository, folder: Path) -> Install:
    """A jar, as an extension of a build, is what Maven gets without any plugin."""
    data = payload(6)
    place = "com/example/trial/1.0/trial-1.0"
    with zipfile.ZipFile(folder / "trial.jar", "w") as jar:
        jar.writestr("blob.bin", data)
    content = (folder / "trial.jar").read_bytes()
    names = "<groupId>com.example</groupId><artifactId>trial</artifactId><version>1.0</version>"
    pom = f"<project><modelVersion>4.0.0</modelVersion>{names}</project>".encode()
    repository.package(f"/{place}.jar", content)
    repository.page(f"/{place}.pom", pom)
    for kind, what in (("jar", content), ("pom", pom)):
        repository.page(f"/{place}.{kind}.sha1", digest(what, "sha1"))
    # Every extension has it, whether it wants it or not.
    plexus = "/org/codehaus/plexus/plexus-utils/1.1/plexus-utils-1.1"
    names_it = pom.replace(b"com.example", b"org.codehaus.plexus").replace(
        b"trial", b"plexus-utils"
    )
    repository.page(f"{plexus}.pom", names_it.replace(b"1.0<", b"1.1<"))
    with zipfile.ZipFile(folder / "empty.jar", "w"):
        pass
    repository.page(f"{plexus}.jar", (folder / "empty.jar").read_bytes())
    project = names.replace("trial", "app")
    extension = f"<build><extensions><extension>{names}</extension></extensions></build>"
    head = f"<modelVersion>4.0.0</modelVersion>{project}<packaging>pom</packaging>"

    def install(visit: Visit) -> None:
        (visit.folder / "pom.xml").write_text(f"<project>{head}{extension}</project>")
        proxy = f"<host>127.0.0.1</host><port>{visit.port}</port>"
        proxies = f"<proxy><active>true</active><protocol>http</protocol>{proxy}</proxy>"
        mirror = f"<id>trial</id><url>{repository.url}</url><mirrorOf>*</mirrorOf>"
        settings = f"<proxies>{proxies}</proxies><mirrors><mirror>{mirror}</mirror></mirrors>"
        (visit.folder / "settings.xml").write_text(f"<settings>{settings}</settings>")
        local = visit.folder / "repository"
        store = ("-keystore", "trust.p12", "-storepass", "changeit", "-noprompt")
        visit.command("keytool", "-importcert", "-file", visit.authority, *store)
        command = ("mvn", "-B", "-s", "settings.xml", f"-Dmaven.repo.local={local}", "validate")
        trusted = f"-Djavax.net.ssl.trustStore={visit.folder}/trust.p12"
        opened = f"{trusted} -Djavax.net.ssl.trustStorePassword=changeit"
        visit.command(*command, variables={"MAVEN_OPTS": opened})
        check(local / f"{place}.jar", content)

    return install


def dnf(repository: Repository, folder: Path) -> Install:
    data = payload(7)
    (folder / "blob.bin").write_bytes(data)
    (folder / "trial.spec").write_text(SPEC.format(folder=folder))
    top = ("--define", f"_topdir {folder}/build", "--define", f"_rpmdir {folder}/repo")
    at_home = Visit("", folder)
    at_home.command("rpmbuild", "-bb", *top, "trial.spec")
    at_home.command("createrepo_c", "--general-compress-type=gz", "repo")
    for file in (folder / "repo").rglob("*.*"):
        offer = repository.package if file.suffix == ".rpm" else repository.page
        offer(f"/{file.relative_to(folder / 'repo')}", file.read_bytes())

    def install(visit: Visit) -> None:
        root = visit.folder / "root"
        settings = {"proxy": visit.proxy, "reposdir": visit.folder, "cachedir": visit.folder / "c"}
        settings |= {"sslcacert": visit.authority}
        settings |= {"varsdir": visit.folder, "pluginpath": visit.folder, "gpgcheck": "0"}
        options = [f"--setopt={name}={value}" for name, value in settings.items()]
        (visit.folder / "dnf.conf").write_text("[main]\n")
        where = ("-c", visit.folder / "dnf.conf", f"--installroot={root}", "--releasever=1")
        source = f"--repofrompath=trial,{repository.url}/"
        visit.command("dnf", "-y", *where, *options, source, "install", "trial")
        check(root / "opt" / "blob.bin", data)

    return install


def curl(repository: Repository, folder: Path) -> Install:
    data = payload(8)
    repository.package("/trial.iso", data)

    def install(visit: Visit) -> None:
        trusted = ("--cacert", visit.authority, "-o", "trial.iso")
        visit.command("curl", "-sSf", "-x", visit.proxy, *trusted, f"{repository.url}/trial.iso")
        check(visit.folder / "trial.iso", data)

    return install


CLIENTS = {
    "pip": Client(pip),
    "apt": Client(apt, {"apt-get": "a Debian", "dpkg-deb": "apt-get install dpkg"}),
    "npm": Client(npm, {"npm": "apt-get install npm"}),
    "huggingface": Client(huggingface, modules=("huggingface_hub",), checked=1),
    "git-lfs": Client(git_lfs, {"git-lfs": "apt-get install git-lfs"}, checked=1),
    "maven": Client(maven, {"mvn": "apt-get install maven", "keytool": "apt-get install maven"}),
    "curl": Client(curl, {"curl": "apt-get install curl"}),
    "dnf": Client(
        dnf,
        {
            "dnf": "apt-get install dnf",
            "createrepo_c": "apt-get install createrepo-c",
            "rpmbuild": "apt-get install rpm",
        },
    ),
}


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
            assert out_of_swarm(node) > swarm, "nothing came out of the swarm"
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
