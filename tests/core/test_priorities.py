"""Priorities: what is refused as settings, and what one host asks for all its users."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.errors import ConfigError
from hawker.core.ids import TaskSpec
from hawker.core.priorities import LAST, Levels, PriorityRule, freest


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
        Levels([rule])


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


names = st.sampled_from(["", "a", "b"])
URLS = ["", "x$", "^http"]


@given(
    st.lists(
        st.builds(
            PriorityRule,
            level=st.integers(0, 6),
            tenant=names,
            application=names,
            tag=names,
            url=st.sampled_from(URLS),
        ).filter(lambda rule: rule.application or rule.tag or rule.url or rule.tenant)
    ),
    st.builds(
        TaskSpec,
        url=st.sampled_from(["http://o/x", "http://o/y"]),
        tenant=st.sampled_from(["a", "b", "c"]),
        application=names,
        tag=names,
    ),
)
def test_the_first_of_all_rules_that_fits_counts(rules: list[PriorityRule], spec: TaskSpec) -> None:
    fits = [
        rule.level
        for rule in rules
        if all(
            getattr(rule, of) in ("", getattr(spec, of)) for of in ("tenant", "application", "tag")
        )
        and re.search(rule.url, spec.url)
    ]
    assert Levels(rules).of(spec) == (fits[0] if fits else LAST)


def test_rules_of_other_applications_cost_nothing() -> None:
    """A manager has one for each of its applications."""
    looked_at = []

    class Told(PriorityRule, frozen=True):
        def __getattribute__(self, name: str) -> object:
            looked_at.append(name)
            return super().__getattribute__(name)

    levels = Levels([Told(level=3, tenant="a", application=f"{n}") for n in range(1000)])
    looked_at.clear()
    spec = TaskSpec(url="http://o/x", tenant="a", application="999")
    assert levels.of(spec) == 3 and len(looked_at) < 10
    assert levels.of(TaskSpec(url="http://o/x", tenant="b", application="999")) == LAST
