"""Conditional requests, as RFC 9110 section 13 evaluates them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.conditions import Conditions, PreconditionFailed, Validators

ETAG = '"0123456789abcdef"'
NOON = "Sun, 06 Nov 1994 12:00:00 GMT"
BEFORE = "Sun, 06 Nov 1994 11:59:59 GMT"
AFTER = "Sun, 06 Nov 1994 12:00:01 GMT"
DATED = Validators(ETAG, 784_123_200)
UNDATED = Validators(ETAG)


def status(current: Validators, **fields: str) -> int:
    try:
        return 304 if Conditions(**fields).not_modified(current) else 200
    except PreconditionFailed as exc:
        return exc.status


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 200),
        ({"match": ETAG}, 200),
        ({"match": "*"}, 200),
        ({"match": f'"a,b", ,{ETAG}'}, 200),
        ({"match": '"other"'}, 412),
        ({"match": f"W/{ETAG}"}, 412),
        ({"match": ETAG.strip('"')}, 412),
        ({"match": f"what {ETAG}"}, 412),
        ({"match": ""}, 412),
        ({"none_match": ETAG}, 304),
        ({"none_match": f"W/{ETAG}"}, 304),
        ({"none_match": " * "}, 304),
        ({"none_match": f'"x","y" , W/{ETAG}'}, 304),
        ({"none_match": '"other"'}, 200),
        ({"none_match": ETAG.upper()}, 200),
        ({"none_match": ""}, 200),
        ({"match": '"other"', "none_match": ETAG}, 412),
        ({"match": ETAG, "none_match": ETAG}, 304),
    ],
)
def test_conditions_on_entity_tags(fields: dict[str, str], expected: int) -> None:
    assert status(UNDATED, **fields) == expected
    # Where there are tags nobody looks at dates.
    if "match" in fields:
        fields = fields | {"unmodified_since": BEFORE}
    if "none_match" in fields:
        fields = fields | {"modified_since": AFTER}
    assert status(DATED, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"modified_since": BEFORE}, 200),
        ({"modified_since": NOON}, 304),
        ({"modified_since": AFTER}, 304),
        ({"modified_since": "Sunday, 06-Nov-94 12:00:00 GMT"}, 304),
        ({"modified_since": "Sun Nov  6 12:00:00 1994"}, 304),
        ({"modified_since": "yesterday"}, 200),
        ({"unmodified_since": BEFORE}, 412),
        ({"unmodified_since": NOON}, 200),
        ({"unmodified_since": AFTER}, 200),
        ({"unmodified_since": "Sun, 99 Nov 99999 12:00:00 GMT"}, 200),
        ({"unmodified_since": BEFORE, "modified_since": AFTER}, 412),
    ],
)
def test_conditions_on_dates_count_where_there_is_one(
    fields: dict[str, str], expected: int
) -> None:
    assert status(DATED, **fields) == expected
    assert status(UNDATED, **fields) == 200


@pytest.mark.parametrize(
    ("condition", "undated", "dated"),
    [
        (None, True, True),
        (ETAG, True, True),
        (f" {ETAG}\t", True, True),
        (f"W/{ETAG}", False, False),
        ('"other"', False, False),
        (f"{ETAG}, {ETAG}", False, False),
        ("*", False, False),
        ("", False, False),
        (NOON, False, True),
        (BEFORE, False, False),
        (AFTER, False, False),
        ("Sunday, 06-Nov-94 12:00:00 GMT", False, False),
    ],
)
def test_a_range_counts_for_who_has_the_beginning_of_the_same(
    condition: str | None, undated: bool, dated: bool
) -> None:
    assert Conditions(range=condition).allow_range(UNDATED) is undated
    assert Conditions(range=condition).allow_range(DATED) is dated


FIELD = st.one_of(
    st.none(), st.text(), st.text(alphabet=f'W/{ETAG}, *'), st.sampled_from([NOON, BEFORE, AFTER])
)  # fmt: skip


@given(st.fixed_dictionaries({name: FIELD for name in Conditions.__struct_fields__}))
def test_no_text_breaks_a_condition(fields: dict[str, Any]) -> None:
    for current in (UNDATED, DATED):
        assert status(current, **fields) in (200, 304, 412)
        Conditions(**fields).allow_range(current)
