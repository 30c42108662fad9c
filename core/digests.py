"""Digests and signed digest runs: how bytes are known to be right without trusting their sender.

A run says "pieces first … first + n - 1 of this generation have these SHA-256 digests"; the reader
that took the bytes from the origin signs it (Ed25519). Peers hand runs on unchanged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hawker.core.errors import BadRequest, DigestMismatch
from hawker.core.ids import digest_of_fields, host_id
from hawker.core.pieces import MAX_PIECES, Layout, Run

PIECE_DIGEST_BYTES = 32
UNKNOWN_TOTAL = -1
MAX_RUN_PIECES = 4096
# So begin the leases that a host gave itself because nobody was there to grant one; no other host
# goes by them.
ALONE = "solo-"

# Hex digits by algorithm. MD5 and SHA-1 can be forged and are not taken.
ALGORITHMS = {"sha256": 64, "sha512": 128}


class Hash(Protocol):
    """What Hawker uses of a hashlib object."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class Digest(msgspec.Struct, frozen=True):
    """A digest over whole content, written `sha256:<hex>`."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raises BadRequest where `text` is not `sha256:` or `sha512:` and lower-case hex."""
        algorithm, colon, value = text.partition(":")
        digits = ALGORITHMS.get(algorithm)
        if not colon or digits is None:
            raise BadRequest(
                f"{text!r} is not a digest", hint=f"write one of {', '.join(ALGORITHMS)}, then :hex"
            )
        if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
            raise BadRequest(f"{text!r}: {algorithm} takes {digits} lower-case hex digits")
        return cls(algorithm, value)

    def hasher(self) -> Hash:
        return hashlib.new(self.algorithm)

    def check(self, hasher: Hash, what: str) -> None:
        """Raises DigestMismatch where what was hashed is not what this digest names."""
        if hasher.hexdigest() != self.hex:
            raise DigestMismatch(f"{what} has {self.algorithm}:{hasher.hexdigest()}, not {self}")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class DigestRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """Signed digests of consecutive pieces.

    `digests` holds 32 bytes a piece; `total` is the length of the content in bytes as the reader
    knew it (-1 while unknown; a run without digests may be signed to say the total alone). `host`
    and `lease` name the reader and the lease under which it read.
    """

    task: str
    generation: str
    first: int
    digests: bytes
    piece_length: int
    total: int
    host: str
    lease: str
    signature: bytes = b""

    @property
    def count(self) -> int:
        return len(self.digests) // PIECE_DIGEST_BYTES

    @property
    def run(self) -> Run:
        return self.first, self.first + self.count - 1

    @property
    def alone(self) -> bool:
        """Whether it was read without anybody who could grant a lease."""
        return self.lease.startswith(ALONE)

    @property
    def layout(self) -> Layout:
        return Layout(None if self.total == UNKNOWN_TOTAL else self.total, self.piece_length)

    def digest(self, piece: int) -> bytes:
        at = (piece - self.first) * PIECE_DIGEST_BYTES
        return self.digests[at : at + PIECE_DIGEST_BYTES]

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return bytes.fromhex(
            digest_of_fields(
                "hawker-run-1",
                self.task,
                self.generation,
                str(self.first),
                self.digests.hex(),
                str(self.piece_length),
                str(self.total),
                self.host,
                self.lease,
            )
        )


class Reader(msgspec.Struct, frozen=True):
    """A reader as the scheduler names it: whose signed runs count for a generation.

    `key` is the raw Ed25519 public key (32 bytes).
    """

    host: str
    key: bytes
    lease: str


class HostKey:
    """A host's Ed25519 key pair."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self.host = host_id(self.public)

    @classmethod
    def generate(cls) -> HostKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, raw: bytes) -> HostKey:
        """Raises BadRequest where `raw` is not 32 bytes."""
        if len(raw) != 32:
            raise BadRequest(f"a host key is 32 bytes, not {len(raw)}")
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    def to_bytes(self) -> bytes:
        return self._private.private_bytes_raw()

    def sign_bytes(self, message: bytes) -> bytes:
        """The signature (64 bytes) of a message."""
        return self._private.sign(message)

    def sign(self, run: DigestRun) -> DigestRun:
        """The run signed by this host; its `host` becomes this host."""
        unsigned = msgspec.structs.replace(run, host=self.host, signature=b"")
        return msgspec.structs.replace(unsigned, signature=self._private.sign(unsigned.payload()))


def signed_by(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of this public key (32 bytes) signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def check_run(run: DigestRun, layout: Layout | None, readers: Sequence[Reader]) -> None:
    """Accept a run or say why not.

    A run counts only with a valid signature of a reader who held the lease it names, with one
    digest of 32 bytes a piece, inside the generation's layout.

    Raises:
        DigestMismatch: the run must not be used.
    """
    what = f"digest run {run.run} of task {run.task[:12]} from host {run.host[:12]}"
    if len(run.digests) % PIECE_DIGEST_BYTES or run.count > MAX_RUN_PIECES:
        raise DigestMismatch(f"{what}: {len(run.digests)} bytes are not whole digests")
    if not 0 <= run.first <= MAX_PIECES - run.count:
        raise DigestMismatch(f"{what}: its pieces are out of bounds")
    try:
        own = run.layout.check()
    except BadRequest as exc:
        raise DigestMismatch(f"{what}: {exc.detail}") from exc
    if layout is not None:
        if own.piece_length != layout.piece_length:
            raise DigestMismatch(
                f"{what}: piece length {own.piece_length}, not {layout.piece_length}"
            )
        if None not in (own.total, layout.total) and own.total != layout.total:
            raise DigestMismatch(f"{what}: total {own.total}, not {layout.total}")
    for count in (own.count, layout.count if layout else None):
        if count is not None and run.first + run.count > count:
            raise DigestMismatch(f"{what}: beyond the last of {count} pieces")
    reader = next((r for r in readers if r.host == run.host and r.lease == run.lease), None)
    if reader is None:
        raise DigestMismatch(f"{what}: lease {run.lease!r} was not held by that host")
    if host_id(reader.key) != reader.host:
        raise DigestMismatch(f"{what}: the key named for the host is not the host's")
    unsigned = msgspec.structs.replace(run, signature=b"")
    if not signed_by(reader.key, run.signature, unsigned.payload()):
        raise DigestMismatch(f"{what}: its signature is not the reader's")
