"""Priorities: what is refused as settings, and what one host asks for all its users."""

from __future__ import annotations

import pytest

from hawker.core.errors import ConfigError
from hawker.core.priorities import LAST, PriorityRule, RuledLevels, freest


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (PriorityRule(level=7, application="a"), "rule 1 has the level 7"),
        (PriorityRule(level=-1, application="a"), "rule 1 has the level -1"),
        (PriorityRule(level=3), "rule 1 is for everything"),
        (PriorityRule(level=3, url="("), "no regular expression"),
    ],
)
def test_rules_that_make_no_sense_are_refused_by_their_number(
    rule: PriorityRule, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        RuledLevels([rule])


@pytest.mark.parametrize(
    ("levels", "all_of_them"),
    [
        ([1, 2], 2),
        ([3, 1], 3),
        ([2, 0], LAST),
        ([None, 5], LAST),
        ([None, 2], None),
        ([None], None),
        ([], None),
    ],
)
def test_one_host_asks_for_what_the_freest_of_its_users_may(
    levels: list[int | None], all_of_them: int | None
) -> None:
    assert freest(levels) == all_of_them
