"""Files of other programs, written so that all can be taken back: a record beside them keeps what
was there before, and which directories are ours."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hawker.apps.cli.client_texts import HOSTS, ClientFile, is_empty, with_mirror, without_mirror
from hawker.core.errors import ConfigError, NotFound, OutputFailed

# Not in a data directory, which may belong to the user that a daemon runs as: what this file says
# is done with the rights of whoever runs the command.
RECORD = "/etc/hawker/setup.json"
# Of a certs.d directory that is read without a hosts.toml.
CERTIFICATES = (".crt", ".cert", ".key")


class Placed(msgspec.Struct, frozen=True):
    """A file that we wrote: what it was before, and the SHA-256 of all that we made of it.

    `mirror` is what we put into a document that is not ours; empty for files that are.
    """

    path: str
    ours: list[str]
    before: bytes | None = None
    mirror: str = ""


class Record(msgspec.Struct):
    """What was set up below one root: files by client, and directories made for them."""

    clients: dict[str, list[Placed]] = {}
    directories: list[str] = []


class _Step(msgspec.Struct, frozen=True):
    """What is to become of one file; no data: it goes."""

    path: str
    verb: str
    data: bytes | None = None
    secret: bool = False


class Setups:
    """What is set up below a root directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _telling():
            self._record = self._load()

    def exists(self, directory: str) -> bool:
        return self._place(f"{directory}/x").parent.is_dir()

    def read(self, path: str) -> bytes | None:
        """A file below the root, None where there is none.

        Raises:
            OutputFailed: it is no regular file, or cannot be read.
        """
        place = self._place(path)
        with _telling():
            if place.is_dir():
                raise OutputFailed(f"{place} is a directory", hint="move it away")
            return place.read_bytes() if place.exists() else None

    def shown(self, client: str, file: ClientFile) -> bytes:
        """What a file would have; raises ConfigError where it cannot be merged."""
        known = {placed.path: placed for placed in self._record.clients.get(client, [])}
        return self._wanted(file, known.get(file.path))[1]

    def write(self, client: str, files: Sequence[ClientFile]) -> list[tuple[str, str]]:
        """Write a client's files and no others: (what was done, path) of each.

        Everything is looked at before anything is written, and the record stands before the first
        file does.

        Raises:
            OutputFailed: a file is not ours, or cannot be written.
            ConfigError: a document cannot be merged.
        """
        known = {placed.path: placed for placed in self._record.clients.get(client, [])}
        steps: list[_Step] = []
        placed: dict[str, Placed] = {}
        done = []
        for file in files:
            mine = known.pop(file.path, None)
            step, new = self._to_write(file, mine)
            steps += [step] if step else []
            placed |= {file.path: new} if new else {}
            done.append((step.verb if step else "unchanged", file.path))
        # A registry that is mirrored no longer.
        stale = [step for old in known.values() if (step := self._to_take_back(old))]
        if steps or known:
            with _telling(f"`hawker setup {client} --undo` takes back what was written"):
                both = [*placed.values(), *known.values()]
                self._prepare(client, both, [step.path for step in steps])
                for step in (*steps, *stale):
                    self._take(step)
                if known:
                    self._keep(client, list(placed.values()))
        return done + [(step.verb, step.path) for step in stale]

    def undo(self, client: str) -> list[tuple[str, str]]:
        """Take back what `write` did: (what was done, path) of each file.

        Raises:
            NotFound: nothing was set up.
            OutputFailed: a file was changed since, or cannot be written.
        """
        mine = self._record.clients.get(client)
        if mine is None:
            raise NotFound(
                f"{client} is not set up below {self._root}: {RECORD} does not name it",
                hint=f"nothing is to be taken back; `hawker setup {client} --write` sets it up",
            )
        steps = [step for placed in mine if (step := self._to_take_back(placed))]
        with _telling():
            for step in steps:
                self._take(step)
            self._keep(client, [])
        return [(step.verb, step.path) for step in steps]

    # ------------------------------------------------------------------ what is to be done

    def _to_write(
        self, file: ClientFile, mine: Placed | None
    ) -> tuple[_Step | None, Placed | None]:
        """What makes a file as it should be, None where it is; and what is to be recorded."""
        current = self.read(file.path)
        before, wanted = self._wanted(file, mine)
        if current == wanted:
            return None, mine
        if not file.merges and current is not None and not _is_ours(current, mine):
            if mine is not None:
                raise _changed(self._place(file.path))
            raise OutputFailed(
                f"{self._place(file.path)} exists already, and not by `hawker setup`",
                hint="move it away, or add to it by hand what the command prints without --write",
            )
        if current is None:
            self._check_neighbours(file.path)
        # Where others have changed it, there is another state to go back to.
        former = mine.ours if mine and (current is None or _is_ours(current, mine)) else []
        digests = [*former, _digest(wanted)]
        placed = Placed(file.path, digests, before, file.text if file.merges else "")
        return _Step(file.path, "written", wanted, file.secret), placed

    def _wanted(self, file: ClientFile, mine: Placed | None) -> tuple[bytes | None, bytes]:
        """A file as it would be without us, and as it should be."""
        if not file.merges:
            return None, file.text.encode()
        current = before = self.read(file.path)
        if mine is not None and current is not None:
            if mine.mirror == file.text and with_mirror(current, file.text) == current:
                # Whatever else has been changed since.
                return mine.before, current
            ours = _is_ours(current, mine)
            before = mine.before if ours else without_mirror(current, mine.mirror)
        return before, with_mirror(before or b"", file.text)

    def _to_take_back(self, placed: Placed) -> _Step | None:
        current = self.read(placed.path)
        if current is None or current == placed.before:
            return None
        back = placed.before
        if not _is_ours(current, placed):
            if not placed.mirror:
                raise _changed(self._place(placed.path))
            # Others have changed it since, and what they changed stays.
            back = without_mirror(current, placed.mirror)
            if back == current:
                return None
            if placed.before is None and is_empty(back):
                back = None
        return _Step(placed.path, "removed" if back is None else "restored", back)

    def _check_neighbours(self, path: str) -> None:
        """Raise OutputFailed where certificates would be read no longer."""
        place = self._place(path)
        if place.name != HOSTS or not place.parent.is_dir():
            return
        found = sorted(name for name in os.listdir(place.parent) if name.endswith(CERTIFICATES))
        if found:
            raise OutputFailed(
                f"{place.parent} has {found[0]}, which is not read beside a {HOSTS}",
                hint=f"write {HOSTS} by hand as printed without --write, and name the certificates"
                " in it (`ca`, `client`)",
            )

    # ------------------------------------------------------------------ doing it

    def _place(self, path: str) -> Path:
        """A path below the root; raises OutputFailed where a link leads out of it."""
        if not path.startswith("/") or ".." in Path(path).parts:
            raise ConfigError(f"{self._root}{RECORD} names {path!r}", hint="remove it")
        place, root = self._root / path.lstrip("/"), os.path.realpath(self._root)
        if os.path.commonpath([os.path.realpath(place.parent), root]) != root:
            raise OutputFailed(f"{place.parent} leads out of {self._root}")
        if place.is_symlink():
            raise OutputFailed(f"{place} is a symbolic link", hint="put a file in its place")
        return place

    def _take(self, step: _Step) -> None:
        place = self._place(step.path)
        if step.data is None:
            place.unlink()
            return
        _make(place.parent)
        _replace(place, step.data, 0o644, secret=step.secret)

    def _prepare(self, client: str, placed: list[Placed], paths: list[str]) -> None:
        made = [
            f"/{directory.relative_to(self._root)}"
            for path in (*paths, RECORD)
            for directory in _missing(self._place(path).parent)
        ]
        known = self._record.directories
        self._record.directories = known + [path for path in dict.fromkeys(made)
                                            if path not in known]  # fmt: skip
        self._record.clients[client] = placed
        self._store()

    def _keep(self, client: str, placed: list[Placed]) -> None:
        """Remember only these, and remove directories that are of no use any more."""
        self._record.clients.pop(client, None)
        if placed:
            self._record.clients[client] = placed
        if self._record.clients:
            self._store()
        else:
            self._place(RECORD).unlink()
        for path in sorted(self._record.directories, key=len, reverse=True):
            # What has something in it is somebody's.
            with contextlib.suppress(OSError):
                self._place(f"{path}/x").parent.rmdir()

    def _load(self) -> Record:
        place = self._place(RECORD)
        if not place.exists():
            return Record()
        if place.stat().st_uid not in (0, os.geteuid()):
            raise ConfigError(
                f"{place} belongs to another user, whom it would let write elsewhere",
                hint="see who wrote it, and remove it",
            )
        try:
            return msgspec.json.decode(place.read_bytes(), type=Record)
        except msgspec.DecodeError as exc:
            raise ConfigError(
                f"{place} is not as `hawker setup` writes it: {exc}",
                hint="restore it, or remove it and take back by hand what was set up",
            ) from exc

    def _store(self) -> None:
        place = self._place(RECORD)
        _make(place.parent)
        # Docker's configuration may hold passwords of proxies.
        _replace(place, msgspec.json.format(msgspec.json.encode(self._record)) + b"\n", 0o600)


def _make(directory: Path) -> None:
    for missing in _missing(directory):
        missing.mkdir()
        # Whatever the umask is: these files are for all programs of the machine.
        missing.chmod(0o755)


def _missing(directory: Path) -> list[Path]:
    """The directories that are to be made for this one, outer ones first."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    return missing[::-1]


def _replace(place: Path, data: bytes, mode: int, *, secret: bool = False) -> None:
    """Put a file in place whole, with the rights and the owner of the one that was there; one that
    is secret is not for others, whatever the one before was."""
    partial = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        old = place.stat() if place.exists() else None
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if old is not None and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, old.st_uid, old.st_gid)
            mode = old.st_mode & 0o7777 if old is not None else mode
            os.fchmod(descriptor, mode & 0o7700 if secret else mode)
            os.fsync(descriptor)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _telling(hint: str = "") -> Iterator[None]:
    """What the filesystem refuses, as OutputFailed."""
    try:
        yield
    except OSError as exc:
        hint = "run it as root" if isinstance(exc, PermissionError) else hint
        raise OutputFailed(f"{exc.filename} cannot be used: {exc.strerror}", hint=hint) from exc


def _changed(place: Path) -> OutputFailed:
    return OutputFailed(
        f"{place} was changed since `hawker setup` wrote it",
        hint="remove it, keeping what you need of it, and run this again",
    )


def _is_ours(data: bytes, mine: Placed | None) -> bool:
    return mine is not None and _digest(data) in mine.ours


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
