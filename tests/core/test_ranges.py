"""Sets of ranges against a model that knows bytes by their numbers."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.ranges import (
    BEYOND,
    GAP,
    MAX_RANGES,
    ByteRange,
    RangeSpec,
    Unsatisfiable,
    parse_ranges,
    satisfy,
)

# RFC 9110 sections 14.1.1, 14.1.2 and 5.6.1.2, with blanks where somebody may have put them.
GRAMMAR = re.compile(
    r"[ \t]*bytes[ \t]*=(?:[ \t]*(?:[0-9]+-[0-9]*|-[0-9]+)?[ \t]*(?:,|$))*", re.IGNORECASE
)
BLANK = st.sampled_from(["", " ", "\t", "  "])
NUMBERS = st.one_of(st.integers(0, 600), st.integers(0, 10**40))


def asked_of(specs: list[tuple[int | None, int | None]], total: int) -> set[int]:
    """The numbers of the bytes that pairs of first and last mean."""
    asked: set[int] = set()
    for first, last in specs:
        for number in range(total):
            if first is None:
                wanted = number >= total - (last or 0)
            else:
                wanted = first <= number and (last is None or number <= last)
            if wanted:
                asked.add(number)
    return asked


def sent_of(spans: list[ByteRange]) -> list[int]:
    """The numbers of the bytes that spans mean, one after the other."""
    numbers: list[int] = []
    for span in spans:
        assert span.stop is not None and span.start < span.stop
        numbers += range(span.start, span.stop)
    return numbers


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int | None, int | None]:
    kind = draw(st.sampled_from(["closed", "open", "suffix"]))
    number = draw(NUMBERS)
    if kind == "open":
        return number, None
    if kind == "suffix":
        return None, number
    return number, number + draw(NUMBERS)


@st.composite
def fields(draw: st.DrawFn, specs: list[tuple[int | None, int | None]]) -> str:
    """One way to write a set of ranges."""

    def digits(number: int | None) -> str:
        return "" if number is None else "0" * draw(st.integers(0, 2)) + str(number)

    elements = [f"{digits(first)}-{digits(last)}" for first, last in specs]
    for _ in range(draw(st.integers(0, 2))):
        elements.insert(draw(st.integers(0, len(elements))), "")
    listed = ",".join(draw(BLANK) + element + draw(BLANK) for element in elements)
    return f"{draw(BLANK)}{draw(st.sampled_from(['bytes', 'Bytes', 'BYTES']))}={listed}"


@given(st.data(), st.lists(pairs(), min_size=1, max_size=8), st.integers(0, 500))
def test_what_is_sent_is_what_was_asked_for(
    data: st.DataObject, specs: list[tuple[int | None, int | None]], total: int
) -> None:
    parsed = parse_ranges(data.draw(fields(specs)))
    assert parsed is not None and len(parsed) == len(specs)
    asked = asked_of(specs, total)
    if not asked:
        with pytest.raises(Unsatisfiable):
            satisfy(parsed, total)
        return
    spans = satisfy(parsed, total)
    sent = sent_of(spans)
    assert len(sent) == len(set(sent)) and set(sent) >= asked
    # More is sent only where it lies between what was asked for, and is not much.
    assert all({span.start, (span.stop or 0) - 1} <= asked for span in spans)
    for number, following in pairwise(sorted(asked)):
        assert following == number + 1 or following - number <= GAP or number + 1 not in sent
    for before, after in pairwise(sorted(spans)):
        assert before.stop is not None and after.start - before.stop >= GAP
    # The order is that of the first range of each.
    places = []
    for span in spans:
        own = set(sent_of([span]))
        places.append(min(n for n, spec in enumerate(specs) if asked_of([spec], total) & own))
    assert places == sorted(places)


@given(st.one_of(st.text(alphabet="bytes=0129-, \tx"), st.text(),
                 st.text(alphabet="0123-, \t").map("bytes=".__add__)))  # fmt: skip
def test_any_text_is_ignored_or_a_set_or_wrong(text: str) -> None:
    found = parse_ranges(text)
    if not GRAMMAR.fullmatch(text):
        assert not found
        is_bytes = "=" in text and text.partition("=")[0].strip(" \t").lower() == "bytes"
        assert (found is not None) is is_bytes
        return
    numbers = re.findall(r"([0-9]*)-([0-9]*)", text.partition("=")[2])
    if any(first and last and int(last) < int(first) for first, last in numbers):
        assert found == []
        return
    assert found is not None and len(found) == len(numbers)
    for spec, (first, last) in zip(found, numbers, strict=True):
        for value, digits in ((spec.first, first), (spec.last, last)):
            assert value == (min(int(digits), BEYOND) if digits else None)


@pytest.mark.parametrize(
    ("field", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=5-", [(5, 1000)]),
        ("bytes=-3", [(997, 1000)]),
        ("bytes=-3000", [(0, 1000)]),
        ("bytes=990-9999", [(990, 1000)]),
        (" bytes = 1-2 ", [(1, 3)]),
        ("bytes=0-0,500-500", [(0, 1), (500, 501)]),
        ("bytes=500-500,0-0", [(500, 501), (0, 1)]),
        ("bytes=0-99,100-199", [(0, 200)]),
        ("bytes=0-99,179-199", [(0, 200)]),
        ("bytes=0-99,180-199", [(0, 100), (180, 200)]),
        ("bytes=900-,0-0,-500", [(500, 1000), (0, 1)]),
        ("bytes=0-0,5000-", [(0, 1)]),
        (f"bytes=7-{'9' * 9000}", [(7, 1000)]),
        (f"bytes=-{'9' * 9000}", [(0, 1000)]),
    ],
)
def test_ranges_of_a_thousand_bytes(field: str, spans: list[tuple[int, int]]) -> None:
    specs = parse_ranges(field)
    assert specs is not None
    assert satisfy(specs, 1000) == [ByteRange(*span) for span in spans]


@pytest.mark.parametrize("field", [None, "", "bytes", "lines=1-2", "0-1", "by tes=0-1", "=0-1"])
def test_what_is_no_range_of_bytes_is_ignored(field: str | None) -> None:
    assert parse_ranges(field) is None


@pytest.mark.parametrize(
    "field",
    ["bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=2-1", "bytes=0-0,2-1", "bytes=+1-2",
     "bytes=1 - 2", "bytes=1--2", "bytes=0x1-2", "bytes=0-0, bytes=5-5", "bytes=²-3",
     f"bytes={'9' * 31}-{'9' * 30}", "bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1))],
)  # fmt: skip
def test_a_wrong_set_cannot_be_satisfied(field: str) -> None:
    assert parse_ranges(field) == []
    with pytest.raises(Unsatisfiable):
        satisfy([], 1000)


@pytest.mark.parametrize("field", ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=-0,1000-"])
def test_ranges_beyond_the_end(field: str) -> None:
    specs = parse_ranges(field)
    assert specs
    with pytest.raises(Unsatisfiable):
        satisfy(specs, 1000)


def test_as_many_ranges_as_clients_send_are_taken() -> None:
    field = "bytes=" + ",".join(f"{n * 1000}-{n * 1000 + 9}" for n in range(MAX_RANGES))
    specs = parse_ranges(field)
    assert specs is not None and len(satisfy(specs, 10**6)) == MAX_RANGES
    assert specs[1] == RangeSpec(1000, 1009)
