"""What clients of registries read to pull through a mirror, as texts; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hawker.core.errors import ConfigError
from hawker.core.upstreams import DOCKER, in_a_path

DOCKER_DAEMON = "/etc/docker/daemon.json"
DROP_INS = "/etc/containers/registries.conf.d"
REGISTRIES = "/etc/containers/registries.conf"
CONTAINERS_CERTIFICATES = "/etc/containers/certs.d"
HOSTS = "hosts.toml"
MIRRORS = "registry-mirrors"

# RFC 6750: what may follow `Bearer`, or nothing.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]*=*")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")


class Mirror(msgspec.Struct, frozen=True):
    """The mirror as its clients reach it, and the registries it has: URLs by name.

    `authority` are the PEM certificates that an https mirror is verified by, empty for the
    system's; `token` is what it asks for, empty where it asks for none.

    Raises:
        ConfigError: a client could not be told this.
    """

    url: str
    upstreams: dict[str, str]
    default: str
    authority: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        plain = f"{parts.scheme}://{parts.netloc}" == self.url and self.url.isprintable()
        odd = parts.username is not None or any(mark in self.url for mark in "\"'\\ ")
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain or odd:
            raise ConfigError(
                f"{self.url!r} is no URL of a mirror", hint="write it as http://host:4000"
            )
        for name in self.upstreams:
            if not _NAME.fullmatch(name) or ".." in name:
                raise ConfigError(
                    f"registry.upstreams: {name!r} is no host's name",
                    hint="write it as host or host:port",
                )
        if not _TOKEN.fullmatch(self.token):
            raise ConfigError("auth.token is no token", hint="see `hawker cluster token`")

    @property
    def place(self) -> str:
        """Its host and port."""
        return urlsplit(self.url).netloc

    @property
    def insecure(self) -> bool:
        return self.url.startswith("http://")


class ClientFile(msgspec.Struct, frozen=True):
    """A file that a client reads; where `merges`, the text is one key of a JSON document, which
    has others that are not ours. One that is `secret` is for its owner alone."""

    path: str
    text: str
    merges: bool = False
    secret: bool = False


class Configuration(msgspec.Struct, frozen=True):
    """All files of a client, and what is left to do by hand."""

    files: list[ClientFile]
    notes: list[str]


def hosts_directory(root: str, name: str, exists: Callable[[str], bool]) -> str:
    """Where a registry's hosts.toml stands: clients look for `host_port_`, then for `host:port`,
    and read nothing but the first that is there."""
    host, colon, port = name.partition(":")
    first = f"{root}/{host}_{port}_"
    return first if colon and exists(first) else f"{root}/{name}"


def containerd(mirror: Mirror, exists: Callable[[str], bool]) -> Configuration:
    root = "/etc/containerd/certs.d"
    return Configuration(
        [
            *_authority(root, "ca.crt", mirror),
            *(
                _hosts_file(root, name, url, mirror, exists)
                for name, url in mirror.upstreams.items()
            ),
        ],
        [
            "containerd reads these files where /etc/containerd/config.toml names their directory;"
            " in containerd 1.x (restart it after a change):",
            '    [plugins."io.containerd.grpc.v1.cri".registry]',
            f'      config_path = "{root}"',
            "in containerd 2.x:",
            '    [plugins."io.containerd.cri.v1.images".registry]',
            f'      config_path = "{root}"',
            f"ctr reads them with: ctr images pull --hosts-dir {root} NAME",
        ],
    )


def docker(mirror: Mirror, exists: Callable[[str], bool]) -> Configuration:
    root, notes = "/etc/docker/certs.d", []
    # Where Docker looks for it itself, too.
    files = _authority(root, "ca.crt", mirror)
    if mirror.token:
        notes.append(
            f"{DOCKER_DAEMON} is left as it is, and Docker Hub without a mirror: Docker shows no"
            " token to one that is named there"
        )
    elif DOCKER in mirror.upstreams and mirror.default == DOCKER:
        files.append(ClientFile(DOCKER_DAEMON, mirror.url, merges=True))
        notes.append(f"{DOCKER_DAEMON} is read again by: systemctl reload docker")
    else:
        notes.append(
            f"{DOCKER_DAEMON} is left as it is: Docker does not say that it means Docker Hub, and"
            f" the mirror's registry.default is {mirror.default}"
        )
    others = {name: url for name, url in mirror.upstreams.items() if name != DOCKER}
    files += [_hosts_file(root, name, url, mirror, exists) for name, url in others.items()]
    if others:
        notes.append(
            f"{HOSTS} is read by engines with the containerd image store (`docker info` shows"
            " driver-type io.containerd.snapshotter.v1); others use a mirror for Docker Hub only"
        )
    return Configuration(files, notes)


def podman(mirror: Mirror, exists: Callable[[str], bool]) -> Configuration:
    return Configuration(
        [
            *_authority(CONTAINERS_CERTIFICATES, "hawker-podman.crt", mirror),
            _drop_in("podman", mirror),
        ],
        [
            "podman, buildah and skopeo read it at each pull; nothing is to be restarted",
            *_login(mirror, ""),
        ],
    )


def crio(mirror: Mirror, exists: Callable[[str], bool]) -> Configuration:
    return Configuration(
        [*_authority(CONTAINERS_CERTIFICATES, "hawker-crio.crt", mirror), _drop_in("crio", mirror)],
        [
            "CRI-O reads it again by: systemctl reload crio",
            *_login(mirror, "--authfile FILE "),
            *(["FILE is what global_auth_file of [crio.image] names"] if mirror.token else []),
        ],
    )


CLIENTS: dict[str, Callable[[Mirror, Callable[[str], bool]], Configuration]] = {
    "containerd": containerd,
    "docker": docker,
    "podman": podman,
    "crio": crio,
}


def written_by(client: str) -> str:
    return f"# Written by `hawker setup {client}`; `hawker setup {client} --undo` takes it back.\n"


def _hosts_file(
    root: str, name: str, url: str, mirror: Mirror, exists: Callable[[str], bool]
) -> ClientFile:
    client = "docker" if "docker" in root else "containerd"
    lines = [
        f'server = "{url}"',
        "",
        f'[host."{mirror.url}"]',
        '  capabilities = ["pull", "resolve"]',
    ]
    if mirror.authority:
        lines.append(f'  ca = "{root}/{mirror.place}/ca.crt"')
    if mirror.token:
        lines += [f'  [host."{mirror.url}".header]', f'    Authorization = "Bearer {mirror.token}"']
    text = written_by(client) + "\n".join(lines) + "\n"
    path = f"{hosts_directory(root, name, exists)}/{HOSTS}"
    return ClientFile(path, text, secret=bool(mirror.token))


def _authority(root: str, name: str, mirror: Mirror) -> list[ClientFile]:
    """The file of certificates in a directory of the mirror's own, as all of these clients have
    them; none where the system's are meant."""
    if not mirror.authority:
        return []
    return [ClientFile(f"{root}/{mirror.place}/{name}", mirror.authority)]


def _login(mirror: Mirror, flags: str) -> list[str]:
    """How clients are given a token that none of their configuration files can have."""
    if not mirror.token:
        return []
    return [
        "the token is given to them, as each user, by:",
        f"    podman login {flags}--username any --password-stdin {mirror.place}",
    ]


def _drop_in(client: str, mirror: Mirror) -> ClientFile:
    tables = "".join(_registry_table(name, url, mirror) for name, url in mirror.upstreams.items())
    return ClientFile(f"{DROP_INS}/50-hawker-{client}.conf", written_by(client) + tables)


def _registry_table(name: str, url: str, mirror: Mirror) -> str:
    """The upstream is where it was; the mirror is asked first."""
    parts = urlsplit(url)
    # Docker Hub goes by its name: its API's host is known to these clients.
    location = name if name == DOCKER else parts.netloc
    lines = ["", "[[registry]]", f'prefix = "{name}"', f'location = "{location}"']
    lines += ["insecure = true"] if parts.scheme == "http" else []
    lines += ["", "[[registry.mirror]]", f'location = "{mirror.place}/{in_a_path(name)}"']
    lines += ["insecure = true"] if mirror.insecure else []
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ Docker's daemon.json


def with_mirror(document: bytes, url: str) -> bytes:
    """Docker's configuration with this mirror before others, all else as it was.

    Raises:
        ConfigError: it is no JSON object, or its mirrors are no list.
    """
    known = _document(document)
    mirrors = _mirrors(known)
    if url in mirrors:
        return document
    return _as_text(known | {MIRRORS: [url, *mirrors]})


def without_mirror(document: bytes, url: str) -> bytes:
    """The same without this mirror, and without the list where it is empty; raises ConfigError."""
    known = _document(document)
    mirrors = _mirrors(known)
    if url not in mirrors:
        return document
    rest = [mirror for mirror in mirrors if mirror != url]
    kept = {name: value for name, value in known.items() if name != MIRRORS or rest}
    return _as_text(kept | ({MIRRORS: rest} if rest else {}))


def is_empty(document: bytes) -> bool:
    """Whether Docker's configuration says nothing; raises ConfigError."""
    return not _document(document)


def _document(text: bytes) -> dict[str, Any]:
    try:
        known = json.loads(text or b"{}")
    except (ValueError, RecursionError) as exc:
        raise ConfigError(
            f"{DOCKER_DAEMON} is not JSON: {exc}", hint="correct it, or move it away"
        ) from exc
    if not isinstance(known, dict):
        raise ConfigError(f"{DOCKER_DAEMON} is no JSON object", hint="correct it, or move it away")
    return known


def _mirrors(known: Mapping[str, Any]) -> list[str]:
    mirrors = known.get(MIRRORS, [])
    if not isinstance(mirrors, list):
        raise ConfigError(f"{DOCKER_DAEMON}: {MIRRORS} is no list", hint="write it as a list")
    return mirrors


def _as_text(known: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(known, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        # Half of a character, which JSON can only escape.
        return (json.dumps(known, indent=2) + "\n").encode()


# ------------------------------------------------------------------ registries.conf


def registries_in(document: Mapping[str, Any]) -> Iterator[str]:
    """The prefixes that a registries.conf says something of."""
    tables = document.get("registry", [])
    for table in tables if isinstance(tables, list) else []:
        if isinstance(table, dict):
            prefix = table.get("prefix") or table.get("location")
            if isinstance(prefix, str):
                yield prefix
