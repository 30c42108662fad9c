"""What a download's priority allows for content that no peer of its cluster has yet.

The levels are those of Dragonfly, whose clients send them (its API's `Priority`, and what its
scheduler does with them):

    1        it is refused
    2        it gets what peers have, and the origin is not read
    3        the peer that asks reads the origin, and no seed peer
    the rest a seed peer reads the origin

A level of a request counts before one of its application, tag or URL. Levels order nothing: all
downloads that go on share what there is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from hawker.core.errors import ConfigError, Forbidden, HawkerError, NotFound
from hawker.core.ids import TaskSpec

REFUSED: Final = 1
FROM_PEERS: Final = 2
BY_PEERS: Final = 3
LAST: Final = 6
LEVELS: Final = range(LAST + 1)
NOT_BY_SEEDS: Final = (REFUSED, FROM_PEERS, BY_PEERS)


class PriorityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The priority of downloads that name none: of a tenant, an application, a tag, of URLs in
    which a regular expression is found. What is left out fits all."""

    level: int
    tenant: str = ""
    application: str = ""
    tag: str = ""
    url: str = ""


@dataclass(frozen=True)
class _Rule:
    told: PriorityRule
    url: re.Pattern[str]


class Levels:
    """Levels of requests that name none: that of the first rule that fits.

    Raises:
        ConfigError: a rule has another level, names nothing, or its URL is no regular expression.
    """

    def __init__(self, rules: Sequence[PriorityRule] = ()) -> None:
        # There may be one for each of many applications: only those that may fit are looked at.
        self._rules: defaultdict[tuple[str, str], list[tuple[int, _Rule]]] = defaultdict(list)
        for number, rule in enumerate(rules, 1):
            of = rule.tenant, rule.application
            self._rules[of].append((number, _compiled(rule, number)))

    def of(self, spec: TaskSpec) -> int:
        """The level of this content; the last one where no rule is for it."""
        found = (0, LAST)
        for tenant in {"", spec.tenant}:
            for application in {"", spec.application}:
                for number, rule in self._rules.get((tenant, application), ()):
                    if 0 < found[0] < number:
                        break
                    if rule.told.tag in ("", spec.tag) and rule.url.search(spec.url):
                        found = number, rule.told.level
                        break
        return found[1]


def reads_origin(level: int) -> bool:
    """Whether the origin may be read for such a request."""
    return level not in (REFUSED, FROM_PEERS)


def by_seeds(level: int) -> bool:
    """Whether seed peers may read for such a request."""
    return level not in NOT_BY_SEEDS


def freest(levels: Iterable[int | None]) -> int | None:
    """One level for all who ask on one host: the one that allows most. None, of one who named
    none, gives way only to a level at which seeds read."""
    levels = list(levels)
    named = [level or LAST for level in levels if level is not None]
    if any(level > BY_PEERS for level in named):
        return LAST
    return None if len(named) < len(levels) else max(named, default=None)


def refusal(level: int, spec: TaskSpec) -> HawkerError:
    """Why whoever asked at this level gets nothing.

    A priority at which the origin may not be read is the reason, where it is one.
    """
    if level == REFUSED:
        return Forbidden(
            f"{spec.url} is asked for at priority {REFUSED}, at which only what peers have is given"
        )
    return NotFound(f"no peer has {spec.url}, and the origin may not be read")


def _compiled(rule: PriorityRule, number: int) -> _Rule:
    where = f"scheduler.priorities, rule {number}"
    if rule.level not in LEVELS:
        raise ConfigError(f"{where} has the level {rule.level}", hint=f"it is 0 to {LAST}")
    if not (rule.application or rule.tag or rule.url or rule.tenant):
        raise ConfigError(
            f"{where} is for everything", hint="give it a tenant, an application, a tag or a url"
        )
    try:
        return _Rule(rule, re.compile(rule.url))
    except re.error as exc:
        raise ConfigError(f"{where}: {rule.url!r} is no regular expression: {exc}") from exc
