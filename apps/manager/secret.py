"""What proves who somebody is: passwords, tokens and session cookies, none of them kept as such.

Passwords are argon2id hashes (RFC 9106's second recommendation, 64 MiB), made in threads, two at a
time. Tokens and cookies are 256 random bits, of which the database has an HMAC-SHA-256 with a key
that it does not have: looking one up takes the same time whatever of it is right.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hawker.core.errors import StorageFailed
from hawker.core.files import create_key, read_key
from hawker.core.ids import digest_of_fields

TOKEN_PREFIX = "hwk_"
AT_ONCE = 2
_WHAT = "the manager's key"


class KeyedHash:
    """HMAC-SHA-256 with the manager's key, as 64 hex digits."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.seal = Seal(key)
        """Of what is kept in the open nowhere, under a key of the same file."""

    @staticmethod
    def create(path: Path) -> None:
        """Write a new key for its owner only; raises ConfigError where the file exists."""
        create_key(path, _WHAT, hint="every token and session is hashed with it")

    @classmethod
    def read(cls, path: Path) -> KeyedHash:
        """The key of a file; raises ConfigError where it is missing, bad or readable by others."""
        hint = "copy it from another manager of this database, or from a backup"
        return cls(read_key(path, _WHAT, hint=hint))

    def digest(self, purpose: str, *parts: str | bytes) -> str:
        """Of length-prefixed parts, so that no two lists of them are one."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (purpose, *parts):
            data = part.encode() if isinstance(part, str) else part
            mac.update(len(data).to_bytes(8, "big") + data)
        return mac.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Names the key without telling it."""
        return self.digest("fingerprint")


class Seal:
    """Closes what the database keeps and must not tell: AES-256-GCM, with a key that is derived
    from the manager's (HKDF, RFC 5869)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, b"hawker-manager-seal-1").derive(key))

    def close(self, data: bytes, *place: str) -> str:
        """In hex; `place` says what it is, and of what: it can be opened as nothing else."""
        nonce = secrets.token_bytes(12)
        return (nonce + self._cipher.encrypt(nonce, data, _place(place))).hex()

    def open(self, sealed: str, *place: str) -> bytes:
        """Raises StorageFailed where it was changed, or closed with another key."""
        raw = bytes.fromhex(sealed)
        try:
            return self._cipher.decrypt(raw[:12], raw[12:], _place(place))
        except InvalidTag as exc:
            raise StorageFailed(
                f"what the database has as {' of '.join(reversed(place))} cannot be opened",
                hint="it was changed, or closed with another manager's key",
            ) from exc


def _place(parts: Sequence[str]) -> bytes:
    return digest_of_fields("hawker-manager-seal-1", *parts).encode()


def new_token(prefix: str = TOKEN_PREFIX) -> str:
    """A token of 256 random bits after its prefix."""
    return prefix + secrets.token_urlsafe(32)


class Passwords:
    """Hashes passwords and checks them, beside the event loop."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._nobody = ""

    async def hash(self, password: str) -> str:
        async with self._room:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def check(self, known: str, password: str) -> bool:
        """Whether `known` is the password's hash; where there is none (empty), no, after the same
        work."""
        if not self._nobody:
            self._nobody = await self.hash(secrets.token_hex())
        async with self._room:
            return await asyncio.to_thread(self._check, known or self._nobody, password)

    def _check(self, known: str, password: str) -> bool:
        try:
            return self._hasher.verify(known, password) and known != self._nobody
        except (VerificationError, InvalidHashError):
            return False
