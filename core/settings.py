"""Configuration: one TOML file, `HAWKER_SECTION__KEY` variables and flags, in rising priority.

Every value remembers where it came from. Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hawker.core.errors import ConfigError
from hawker.core.limits import Limits
from hawker.core.priorities import PriorityRule

ENV_PREFIX = "HAWKER_"
CONFIG_VARIABLE = "HAWKER_CONFIG"


def default_data_directory() -> str:
    """The user's own data directory (XDG base directory specification)."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(
        os.environ.get("HOME", "/"), ".local", "share"
    )
    return os.path.join(base, "hawker")


class ClusterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The hosts that work together."""

    key_file: str = ""
    """File with the cluster key; empty: `cluster.key` in the data directory, or the one that this
    host was given as it joined."""
    networks: list[str] = []
    """Networks (CIDR) whose addresses hosts may announce; others must announce the address that
    they call from."""


class ListenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where this process is reached."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 4000
    """TCP port; 0 takes a free one and prints it."""
    unix_socket: str = ""
    """Path of the unix socket; empty: `hawker.sock` in the data directory."""
    http3: bool = False
    """Speak HTTP/3, too, on UDP at the same port; needs `tls.certificate`."""


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS between roles, and towards clients; files are PEM."""

    certificate: str = ""
    """Certificate chain of this process; with it every TCP listener speaks TLS."""
    key: str = ""
    """Private key of the certificate."""
    ca: str = ""
    """Certificates of the authority that the cluster's other processes are verified by."""
    mutual: bool = False
    """Take only TCP clients that show a certificate of `ca`, and show ours to other roles."""


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may use the client-facing sides."""

    mode: str = ""
    """`open` or `required`; empty: open where every listener is loopback or a unix socket."""
    plugins: list[str] = msgspec.field(default_factory=lambda: ["cluster"])
    """Authenticators, asked in this order."""
    token: str = ""
    """Token that the command line sends to a daemon."""


class PeerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The peer role."""

    seed: bool = False
    """Read origins for the cluster."""
    schedulers: list[str] = []
    """Base URLs of schedulers; empty: the one in this process, or none."""
    advertise: str = ""
    """Base URL of this process as others reach it; empty: from the listener."""
    hostname: str = ""
    """Name of this host; empty: the operating system's."""
    idc: str = ""
    """Data centre of this host."""
    location: str = ""
    """Place of this host, general to particular, separated by `|`."""
    upload_slots: int = 8
    """Requests for pieces answered at once; more are told to come back."""
    transports: list[str] = msgspec.field(default_factory=lambda: ["http1"])
    """Transport plugins for pieces, the first that a parent speaks is taken."""
    compression: bool = False
    """Accept coded pieces from parents; pays where links are slower than a core codes."""
    scheduler_wait: float = 10.0
    """Seconds to wait for an absent scheduler before the origin is read without one."""


class SchedulerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The scheduler role."""

    evaluator: str = "default"
    """Evaluator plugin that ranks parents."""
    lease_timeout: float = 2.0
    """Seconds without progress after which a lease on an origin ends."""
    origin_reads: int = 16
    """Leases on one origin (scheme, host and port) at the same time, in the whole cluster."""
    origin_rate: int = 0
    """Bytes per second read from one origin by the whole cluster; 0: no limit."""
    readers: int = 1
    """Most hosts that read disjoint parts of one content at the same time."""
    others: list[str] = []
    """Base URLs of the cluster's other schedulers: their leases count, origins are shared with
    them."""
    priorities: list[PriorityRule] = []
    """Priorities of downloads that name none; the first that fits counts."""


class FileSourceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `file` source."""

    roots: list[str] = []
    """Directories whose files any caller may ask for, and hosts share; others stay on their host,
    for callers on the unix socket."""


class SourcesSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where bytes come from when no peer has them."""

    file: FileSourceSettings = FileSourceSettings()
    credentials: list[str] = []
    """Credentials plugins, asked in this order for what an origin wants to see."""


class RegistrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The registry role: a mirror of other registries."""

    upstreams: dict[str, str] = msgspec.field(
        default_factory=lambda: {
            "docker.io": "https://registry-1.docker.io",
            "gcr.io": "https://gcr.io",
            "ghcr.io": "https://ghcr.io",
            "mcr.microsoft.com": "https://mcr.microsoft.com",
            "public.ecr.aws": "https://public.ecr.aws",
            "quay.io": "https://quay.io",
            "registry.k8s.io": "https://registry.k8s.io",
        }
    )
    """The registries that are mirrored, by the name that images are called by, with their URL."""
    default: str = "docker.io"
    """The upstream of requests that name none."""
    push: bool = False
    """Hand pushes and deletions on to the upstream, with the client's own credentials."""
    peer: str = ""
    """Unix socket or base URL of the peer that brings content; empty: the one in this process."""


class ProxyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done with requests that match; the first rule that does decides."""

    url: str
    """Regular expression that is looked for in the URL."""
    action: str
    """swarm (what may be shared comes out of the swarm), direct, block or redirect."""
    methods: list[str] = []
    """Methods it is for; empty: all."""
    headers: dict[str, str] = {}
    """Header fields that the request must have, with a regular expression for each."""
    to: str = ""
    """Origin (https://host:port) that a redirected request goes to."""
    immutable: bool = False
    """What it brings out of the swarm never changes: its origin is not asked whether it did."""
    fresh: int = -1
    """Seconds for which that is so; -1: as the origin says (RFC 9111)."""


class ProxySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The proxy role: a forward proxy."""

    port: int = -1
    """TCP port of the proxy; -1: the one after `listen.port`, 0: a free one."""
    rules: list[ProxyRule] = []
    """What comes out of the swarm, goes elsewhere, or nowhere; the rest passes untouched."""
    intercept: list[str] = []
    """Hosts, such as example.com or *.example.com, whose https the rules are for, too; tunnels to
    all others are left alone."""
    ca_certificate: str = ""
    """Certificate of the authority that clients take intercepted hosts' certificates from; PEM."""
    ca_key: str = ""
    """Private key of that authority."""
    peer: str = ""
    """Unix socket or base URL of the peer that brings content; empty: the one in this process."""


class ManagerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manager role."""

    database: str = ""
    """`postgres://user:password@host:port/name`; empty: the SQLite file `manager.db` in the data
    directory."""
    key_file: str = ""
    """File with the key that tokens and sessions are hashed with, the same for all managers of one
    database; empty: `manager.key` in the data directory."""
    searcher: str = "default"
    """Plugin that chooses a cluster for a host (group hawker.searchers)."""
    jobs_per_minute: int = 60
    """Most jobs that are taken from one tenant for one cluster within a minute."""
    job_parts: int = 64
    """Most contents of jobs that hosts of one cluster are brought at a time."""
    job_broker: str = ""
    """Plugin that tells managers of one database what may be begun (group hawker.jobs); empty:
    each of them looks into the database."""


class EgressSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which origins this process may read."""

    allow: list[str] = []
    """Networks (CIDR) that may be read; empty: all that are not denied."""
    deny: list[str] = []
    """Networks (CIDR) that may not be read, whatever `allow` says."""
    ports: list[int] = []
    """Ports that may be read; empty: all but those of well-known services that are not HTTP."""
    ca: str = ""
    """Certificates (PEM) that origins may be verified by, besides the system's."""
    proxy: str = ""
    """Upstream proxy, `http://[user:password@]host:port` or `https://`, that origins are read
    through; empty: they are connected to. Roles never go through it."""
    direct: list[str] = []
    """Hosts, such as example.com or *.example.com, and networks (CIDR) of addresses in URLs, that
    are read without `proxy`."""


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this process keeps on disk."""

    data: str = ""
    """Data directory; empty: `hawker` in the user's data directory."""
    quota: int = 0
    """Most bytes of content to keep; 0: nine tenths of the filesystem."""
    max_age: float = 30 * 86400.0
    """Seconds after its last use at which content may be evicted though there is room."""


class PluginSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plugins."""

    disable: list[str] = []
    """`group:name` of plugins not to load."""
    choose: dict[str, str] = {}
    """`group:name` = distribution, where two distributions offer one name."""
    options: dict[str, dict[str, Any]] = {}
    """Options of plugins by plugin name; handed through unread."""


class TelemetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Logs."""

    log_level: str = "info"
    """debug, info, warning or error."""

    log_format: str = "text"
    """text or json, a line an event on standard error."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a process."""

    cluster: ClusterSettings = ClusterSettings()
    listen: ListenSettings = ListenSettings()
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    peer: PeerSettings = PeerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    sources: SourcesSettings = SourcesSettings()
    registry: RegistrySettings = RegistrySettings()
    proxy: ProxySettings = ProxySettings()
    manager: ManagerSettings = ManagerSettings()
    egress: EgressSettings = EgressSettings()
    storage: StorageSettings = StorageSettings()
    plugins: PluginSettings = PluginSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    tenants: dict[str, Limits] = {}
    """Quotas by tenant; those of a cluster hold by its schedulers' settings."""

    @property
    def data(self) -> Path:
        """The data directory."""
        return Path(self.storage.data or default_data_directory()).absolute()

    @property
    def unix_socket(self) -> Path:
        return Path(self.listen.unix_socket or self.data / "hawker.sock")

    @property
    def cluster_key_file(self) -> Path:
        return Path(self.cluster.key_file or self.data / "cluster.key")

    @property
    def membership_folder(self) -> Path:
        """Where a host keeps its membership in a cluster, once it has joined one."""
        return self.data / "membership"

    @property
    def manager_key_file(self) -> Path:
        return Path(self.manager.key_file or self.data / "manager.key")


class Loaded(msgspec.Struct, frozen=True):
    """Settings and, for each dotted key, where its value came from."""

    settings: Settings
    origins: dict[str, str]

    def underlaid(self, values: Mapping[str, Any], origin: str) -> Loaded:
        """The same with these values (`section.name` -> value) where none was given."""
        given = {key: value for key, value in values.items() if key not in self.origins}
        settings = self.settings
        for key, value in given.items():
            section, name = key.split(".")
            changed = msgspec.structs.replace(getattr(settings, section), **{name: value})
            settings = msgspec.structs.replace(settings, **{section: changed})
        return Loaded(settings, {**dict.fromkeys(given, origin), **self.origins})

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, origin) of every setting, in order."""
        for key, _, value in _leaves(self.settings, ""):
            yield key, value, self.origins.get(key, "default")


def _leaves(struct: msgspec.Struct, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, type, value) of every setting below a section."""
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, msgspec.Struct):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.type, value


KNOWN: dict[str, Any] = {key: kind for key, kind, _ in _leaves(Settings(), "")}


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """The settings from file, environment and flags (dotted key -> value; None means not given).

    Raises:
        ConfigError: an unknown key or a wrong value; names the place and the nearest known key.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    file = config_file or environ.get(CONFIG_VARIABLE)
    if file:
        for key, value in _file_values(Path(file)):
            values[key], origins[key] = value, file
    for key, value, variable in _environment_values(environ):
        values[key], origins[key] = value, variable
    for key, value in (flags or {}).items():
        if value is not None:
            known = _known(key, "flag")
            values[known], origins[known] = value, "flag"
    return Loaded(_build(values, origins), origins)


def _file_values(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        document = tomllib.loads(file.read_text())
    except OSError as exc:
        raise ConfigError(f"the configuration file {file} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} is not TOML: {exc}") from exc

    def walk(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in table.items():
            key = f"{prefix}{name}"
            inner = isinstance(value, dict) and key not in KNOWN
            if inner and any(known.startswith(f"{key}.") for known in KNOWN):
                yield from walk(value, f"{key}.")
            else:
                yield _known(key, str(file)), value

    yield from walk(document, "")


def _environment_values(environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or "__" not in variable:
            continue
        key = _known(variable.removeprefix(ENV_PREFIX).lower().replace("__", "."), variable)
        yield key, _from_text(text, KNOWN[key], variable), variable


def _from_text(text: str, kind: Any, where: str) -> Any:
    """A variable's value: lists of words are comma-separated, tables and lists of tables JSON, the
    rest as in TOML."""
    origin = getattr(kind, "__origin__", None)
    if kind == list[str] or kind == list[int]:
        return [part.strip() for part in text.split(",") if part.strip()]
    if origin in (dict, list):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            raise ConfigError(f"{where}: {exc}", hint="write JSON") from exc
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"{where}: {text!r} is not true or false")
        return text.lower() in ("true", "1")
    return text


def _known(key: str, where: str) -> str:
    if key in KNOWN:
        return key
    nearest = difflib.get_close_matches(key, KNOWN, n=1, cutoff=0.5)
    raise ConfigError(
        f"{where}: there is no setting {key!r}",
        hint=f"did you mean {nearest[0]!r}?" if nearest else "see `hawker config show`",
    )


def _check(value: Any, kind: Any, where: str) -> None:
    """Raise ConfigError for a value of another kind; names a table's key and the nearest known."""
    known = getattr(kind, "__struct_fields__", ())
    for name in value if known and isinstance(value, dict) else ():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ConfigError(
                f"{where}: there is no quota {name!r}",
                hint=f"did you mean {nearest[0]!r}?" if nearest else f"it is {', '.join(known)}",
            )
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


def _build(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    for key, value in values.items():
        parts = [(key, value, KNOWN[key])]
        if KNOWN[key] == dict[str, Limits] and isinstance(value, dict):
            parts = [(f"{key}.{name}", quotas, Limits) for name, quotas in value.items()]
        for place, part, kind in parts:
            _check(part, kind, f"{origins[key]}: {place}")
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    settings = msgspec.convert(tree, Settings, strict=False)
    for key, allowed in CHOICES.items():
        section, name = key.split(".")
        value = getattr(getattr(settings, section), name)
        if value not in allowed:
            names = ", ".join(repr(choice) for choice in allowed)
            raise ConfigError(
                f"{origins.get(key, 'default')}: {key} is {value!r}", hint=f"choose one of {names}"
            )
    return settings


CHOICES: dict[str, tuple[str, ...]] = {
    "auth.mode": ("", "open", "required"),
    "telemetry.log_level": ("debug", "info", "warning", "error"),
    "telemetry.log_format": ("text", "json"),
}
