"""What is kept, for how long, and who is given it without asking (RFC 9111)."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.apps.proxy.freshness import (
    LONGEST,
    Versions,
    Wish,
    parse_directives,
    usable,
    version_of,
    wish_of,
)
from hawker.core.ids import generation_of

NOW = 1_800_000_000.0
DATE = formatdate(NOW, usegmt=True)
GOOD = {"etag": '"v1"', "content-length": "7", "date": DATE}


def life(**fields: str) -> float | None:
    """Seconds for which an answer with these fields is fresh; None where it is not kept."""
    given_fields = GOOD | {name.replace("_", "-"): value for name, value in fields.items()}
    version = version_of(200, {n: v for n, v in given_fields.items() if v != "-"}, NOW)
    return None if version is None else version.fresh_until - NOW


@pytest.mark.parametrize(
    "fields, seconds",
    [
        ({"cache_control": "max-age=60"}, 60),
        ({"cache_control": "public, MAX-AGE=60"}, 60),
        ({"cache_control": 'max-age="60"'}, 60),
        ({"cache_control": "max-age=60, s-maxage=5"}, 5),
        ({"cache_control": "max-age=60", "age": "20"}, 40),
        ({"cache_control": "max-age=60", "age": "100"}, 0),
        ({"cache_control": "max-age=soon"}, 0),
        ({"cache_control": "max-age=60, no-cache"}, 0),
        ({"cache_control": "max-age=99999999999999999"}, LONGEST),
        ({"expires": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"expires": formatdate(NOW + 30, usegmt=True), "cache_control": "max-age=1"}, 1),
        ({"expires": "0"}, 0),
        ({"last_modified": formatdate(NOW - 1000, usegmt=True)}, 100),
        ({"last_modified": formatdate(NOW - 1e8, usegmt=True)}, 86400),
        ({}, 0),
        ({"cache_control": "no-store"}, None),
        ({"cache_control": "private, max-age=60"}, None),
        ({"cache_control": 'private="x", max-age=60'}, None),
        ({"set_cookie": "a=b"}, None),
        ({"vary": "Accept-Encoding"}, 0),
        ({"vary": "Accept-Encoding, User-Agent"}, None),
        ({"vary": "*"}, None),
        ({"content_encoding": "gzip"}, None),
        ({"content_length": "-"}, None),
        ({"content_length": "x"}, None),
        ({"etag": 'W/"v1"'}, None),
        ({"etag": "-"}, None),
        ({"etag": "-", "last_modified": formatdate(NOW - 1000, usegmt=True)}, 100),
        ({"etag": "-", "last_modified": DATE}, None),
    ],
)
def test_how_long_answers_are_fresh(fields: dict[str, str], seconds: float | None) -> None:
    assert life(**fields) == seconds


@pytest.mark.parametrize("status", [204, 206, 301, 304, 404, 410, 500])
def test_nothing_but_a_200_is_kept(status: int) -> None:
    assert version_of(status, GOOD | {"cache-control": "max-age=60"}, NOW) is None


def test_a_rule_says_how_long_in_place_of_the_origin() -> None:
    version = version_of(200, GOOD | {"cache-control": "no-cache"}, NOW, fixed=5.0)
    assert version is not None and version.fresh_until == NOW + 5
    assert version_of(200, GOOD | {"cache-control": "private"}, NOW, fixed=5.0) is None


def test_a_version_is_named_as_the_swarm_names_it() -> None:
    version = version_of(200, GOOD, NOW)
    assert version is not None and version.generation == generation_of('"v1"', 7)


@pytest.mark.parametrize(
    "fields, wish",
    [
        ({}, Wish()),
        ({"cache-control": "no-cache"}, Wish(validate=True)),
        ({"pragma": "no-cache"}, Wish(validate=True)),
        ({"pragma": "no-cache", "cache-control": "max-age=9"}, Wish(oldest=9.0)),
        ({"cache-control": "max-age=0"}, Wish(oldest=0.0)),
        ({"cache-control": "only-if-cached, no-store"}, Wish(only_cached=True, unstored=True)),
    ],
)
def test_what_requests_wish(fields: dict[str, str], wish: Wish) -> None:
    assert wish_of(fields) == wish


def test_who_may_be_given_what_is_here() -> None:
    version = version_of(200, GOOD | {"cache-control": "max-age=60", "age": "10"}, NOW)
    assert version is not None
    assert version.age(NOW) == 10 and version.age(NOW + 5.5) == 15
    assert usable(version, Wish(), NOW + 49) and not usable(version, Wish(), NOW + 50)
    assert usable(version, Wish(oldest=15.0), NOW + 5)
    assert not usable(version, Wish(oldest=14.0), NOW + 5)
    assert not usable(version, Wish(validate=True), NOW)


@given(st.text(max_size=60))
def test_no_field_breaks_its_reader(text: str) -> None:
    parse_directives(text)
    names = ("cache-control", "age", "expires", "date", "last-modified", "vary", "etag")
    for name in names:
        version = version_of(200, GOOD | {name: text}, NOW)
        assert version is None or NOW <= version.fresh_until <= NOW + LONGEST
    oldest = wish_of({"cache-control": text, "pragma": text}).oldest
    assert oldest is None or oldest >= 0


def test_the_oldest_of_many_are_forgotten() -> None:
    version = version_of(200, GOOD, NOW)
    assert version is not None
    versions = Versions(limit=3)
    for url in "abc":
        versions.put("one", url, version)
    assert versions.get("one", "a") is version
    assert versions.get("two", "a") is None, "what one tenant asked for tells nothing to another"
    versions.put("one", "d", version)
    assert versions.get("one", "b") is None
    assert all(versions.get("one", url) for url in "acd")
    versions.forget("one", "a")
    assert versions.get("one", "a") is None
