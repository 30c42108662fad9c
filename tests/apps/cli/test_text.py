"""How values look to people."""

from __future__ import annotations

import pytest

from hawker.apps.cli.text import age, printable, size, table


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (999_949, "999.9 KB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (10**16, "10.0 PB"),
        (10**19, "10000.0 PB"),
    ],
)
def test_size_has_a_decimal_unit(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3.0, "0 s"), (59.9, "59 s"), (60.0, "1 min"), (7200.0, "2 h"), (200_000.0, "2 d")],
)
def test_age_has_its_largest_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_table_aligns_columns_and_disarms_cells() -> None:
    assert table(("A", "BB"), [("xxx", "1"), ("\x1b", "2")]) == "A    BB\nxxx  1\n\ufffd    2"
    assert printable("ü €\t\n") == "ü €\ufffd\ufffd"
