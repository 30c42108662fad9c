"""Package clients as they are on people's machines, each with the repository that it needs."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from hawker.core.pieces import MIB
from tests.outside.repositories import Answer, Asked, Repository

PATIENCE = 120.0
SIZE = 6 * MIB
# Loopback to whoever resolves names.
SHORT = "127.1"
WEIGHTS = "model.safetensors"
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
    days = itertools.count(1)

    def release_again() -> bytes:
        date = f"Date: {next(days)} Sep 2020 12:26:40 UTC\n"
        said = f"{release}{date}SHA256:\n{named}".encode()
        repository.page("/dists/stable/Release", said)
        return said

    release_again()

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
        # apt does not say that it wants to know what is new; it must see it all the same.
        newer = release_again()
        visit.command("apt-get", "update", variables=config)
        [held] = (root / "var/lib/apt/lists").glob("*_Release")
        check(held, newer)

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
        trusted = ("--cacert", visit.authority, "-o", "trial.iso", "-w", "%{http_version}")
        command = ("curl", "-sSf", "--http2", "-x", visit.proxy, *trusted)
        spoken = visit.command(*command, f"{repository.url}/trial.iso")
        # In an intercepted tunnel HTTP/2; in the clear a proxy speaks HTTP/1.1.
        assert spoken == ("2" if repository.url.startswith("https:") else "1.1"), spoken
        check(visit.folder / "trial.iso", data)

    return install


CLIENTS = {
    "pip": Client(pip),
    "apt": Client(apt, {"apt-get": "a Debian", "dpkg-deb": "apt-get install dpkg"}),
    "npm": Client(npm, {"npm": "apt-get install npm"}),
    "huggingface": Client(huggingface, modules=("huggingface_hub",), checked=1),
    "git-lfs": Client(git_lfs, {"git-lfs": "apt-get install git-lfs"}, checked=1),
    "maven": Client(maven, {"mvn": "apt-get install maven", "keytool": "apt-get install maven"}),
    "dnf": Client(
        dnf,
        {
            "dnf": "apt-get install dnf",
            "createrepo_c": "apt-get install createrepo-c",
            "rpmbuild": "apt-get install rpm",
        },
    ),
    "curl": Client(curl, {"curl": "apt-get install curl"}),
}
