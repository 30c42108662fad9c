"""Passwords, tokens, and how often they may be guessed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hawker.apps.manager.secret import KeyedHash, Passwords, new_token
from hawker.core.errors import ConfigError, StorageFailed


def test_passwords_are_argon2id_and_checked() -> None:
    async def check() -> None:
        passwords = Passwords()
        known = await passwords.hash("a secret")
        assert known.startswith("$argon2id$") and "a secret" not in known
        assert await passwords.check(known, "a secret")
        assert not await passwords.check(known, "another")
        assert not await passwords.check("", "a secret")
        assert not await passwords.check("no hash at all", "a secret")

    asyncio.run(check())


def test_the_same_work_is_done_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        passwords = Passwords()
        asked: list[str] = []
        work = passwords._check

        def counting(known: str, password: str) -> bool:
            asked.append(known)
            return work(known, password)

        monkeypatch.setattr(passwords, "_check", counting)
        known = await passwords.hash("a secret")
        await passwords.check(known, "wrong")
        await passwords.check("", "wrong")
        # The parameters in front of the salt say how much work a hash is.
        assert [a.rsplit("$", 2)[0] for a in asked] == [known.rsplit("$", 2)[0]] * 2

    asyncio.run(check())


def test_hashes_depend_on_key_purpose_and_each_part() -> None:
    one = KeyedHash(b"k" * 32)
    digests = {
        one.digest("token", "ab", "c"),
        one.digest("token", "a", "bc"),
        one.digest("session", "ab", "c"),
        KeyedHash(b"l" * 32).digest("token", "ab", "c"),
        one.fingerprint,
    }
    assert len(digests) == 5


def test_a_key_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "manager.key"
    KeyedHash.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyedHash.read(path).fingerprint == KeyedHash.read(path).fingerprint
    with pytest.raises(ConfigError, match="exists already"):
        KeyedHash.create(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        KeyedHash.read(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(ConfigError, match="64 hex digits"):
        KeyedHash.read(path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyedHash.read(path)


def test_tokens_are_unlike_each_other() -> None:
    values = {new_token() for _ in range(1000)}
    assert len(values) == 1000
    assert all(value.startswith("hwk_") and len(value) >= 47 for value in values)


def test_what_is_sealed_is_opened_by_the_same_key_as_the_same_thing() -> None:
    seal = KeyedHash(b"k" * 32).seal
    closed = seal.close(b"a secret", "provider", "1")
    assert b"a secret" not in bytes.fromhex(closed)
    assert seal.open(closed, "provider", "1") == b"a secret"
    assert closed != seal.close(b"a secret", "provider", "1")
    last = f"{int(closed[-1], 16) ^ 1:x}"
    for other, text, place in (
        (seal, closed, ("provider", "2")),
        (seal, closed, ("provider1",)),
        (seal, closed[:-1] + last, ("provider", "1")),
        (KeyedHash(b"l" * 32).seal, closed, ("provider", "1")),
    ):
        with pytest.raises(StorageFailed, match="cannot be opened"):
            other.open(text, *place)
