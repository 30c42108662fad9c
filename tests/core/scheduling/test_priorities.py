"""A download's priority says who may read the origin for it, with the meaning its clients know."""

from __future__ import annotations

import pytest

from hawker.core.errors import BadRequest, Forbidden, NotFound
from hawker.core.ids import TaskSpec
from hawker.core.messages import Parents, Register, Stop
from hawker.core.priorities import Levels, PriorityRule
from hawker.core.scheduling import Outgoing
from tests.core.scheduling.conftest import GENERATION, World, make, reads, spec

SPEC = spec("x")


def ask(
    world: World, name: str, level: int | None, spec: TaskSpec = SPEC, *, private: bool = False
) -> list[Outgoing]:
    return world.report(
        name, Register(task=spec.task_id, spec=spec, priority=level, private=private)
    )


def stop(world: World, out: list[Outgoing], name: str) -> str:
    [told] = [decision for decision in world.of(out, name) if isinstance(decision, Stop)]
    return told.problem.code


@pytest.mark.parametrize("level", [0, 4, 5, 6, None])
def test_a_seed_reads(level: int | None) -> None:
    world = make()
    [(reader, _)] = reads(ask(world, "one", level))
    assert reader == world.host("seed")


def test_whoever_asks_reads_where_seeds_are_not_to() -> None:
    world = make()
    [(reader, _)] = reads(ask(world, "one", 3))
    assert reader == world.host("one")


def test_a_seed_reads_where_anybody_allows_it() -> None:
    world = make()
    [(_, read)] = reads(ask(world, "one", 3))
    ask(world, "two", 6)
    # Whoever comes after a reader that said nothing more.
    out = [reader for _ in range(20) for reader, _ in reads(world.tick(0.5)) if reader]
    assert out == [world.host("seed")]
    assert read.lease not in world.scheduler._board.tasks[SPEC.task_id].leases


@pytest.mark.parametrize(("level", "code"), [(1, Forbidden.code), (2, NotFound.code)])
def test_the_origin_is_not_read(level: int, code: str) -> None:
    world = make()
    out = ask(world, "one", level)
    assert not reads(out)
    assert stop(world, out, "one") == code


@pytest.mark.parametrize("level", [1, 2])
def test_what_peers_have_is_given_all_the_same(level: int) -> None:
    world = make()
    [(_, read)] = reads(ask(world, "one", 6))
    world.progress("seed", read, done=True)
    out = ask(world, "two", level)
    assert not reads(out)
    assert [d.generation for d in world.of(out, "two") if isinstance(d, Parents)] == [GENERATION]


RULES = Levels(
    [
        PriorityRule(level=1, url=r"\.iso$", application="app"),
        PriorityRule(level=3, tag="nightly"),
        PriorityRule(level=2, tenant="acme", application="app"),
        PriorityRule(level=0, application="app"),
    ]
)


@pytest.mark.parametrize(
    ("spec", "level"),
    [
        (TaskSpec("http://o.test/a.iso", application="app"), 1),
        (TaskSpec("http://o.test/a.iso", application="other"), 6),
        (TaskSpec("http://o.test/a", application="app", tag="nightly"), 3),
        (TaskSpec("http://o.test/a", tenant="acme", application="app"), 2),
        (TaskSpec("http://o.test/a", application="app"), 0),
        (TaskSpec("http://o.test/a"), 6),
    ],
)
def test_the_first_rule_that_fits_counts(spec: TaskSpec, level: int) -> None:
    assert RULES.of(spec) == level


def test_rules_are_for_those_who_name_no_priority() -> None:
    world = make()
    world.scheduler.prioritise(RULES)
    content = TaskSpec("http://o.test/a.iso", application="app")
    assert stop(world, ask(world, "one", None, content), "one") == Forbidden.code
    [(reader, _)] = reads(ask(world, "one", 3, content))
    assert reader == world.host("one")


def test_a_priority_that_there_is_not_is_refused() -> None:
    world = make()
    with pytest.raises(BadRequest, match="priority is 7"):
        ask(world, "one", 7)
    assert not world.scheduler._board.tasks
