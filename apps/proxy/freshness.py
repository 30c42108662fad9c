"""What a shared cache may keep, for how long, and for whom (RFC 9111); pure.

Times are seconds since 1970. What is kept is a version of an URL's content: its validator, its
length and its fields. The bytes are the swarm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hawker.core.ids import generation_of
from hawker.core.validators import seconds_of, settled, strong_validator

# RFC 9111 section 4.2.2: a tenth of the time since the last change, where nothing is said.
HEURISTIC = 0.1
MOST_HEURISTIC = 86400.0
# No age is longer: what is forgotten costs a HEAD.
LONGEST = 30 * 86400.0
# Fields about a connection, a coding, one answer or its length; all others are kept (RFC 9111
# section 3.1).
NOT_KEPT = frozenset(
    {
        "accept-ranges", "connection", "content-encoding", "content-length", "content-range",
        "keep-alive", "proxy-authenticate", "proxy-connection", "set-cookie", "trailer",
        "transfer-encoding", "upgrade", "via",
    }
)  # fmt: skip
# What a request may vary on: nothing but identity coding is ever asked for.
INDIFFERENT = frozenset({"accept-encoding"})


@dataclass(frozen=True)
class Version:
    """A version of a URL's content, as its origin described it at `asked_at`.

    `validator` is a strong entity tag, or a date of last change; `fresh_until` says how long nobody
    needs to be asked.
    """

    validator: str
    length: int
    fields: Mapping[str, str]
    modified: int | None
    asked_at: float
    fresh_until: float

    @property
    def generation(self) -> str:
        """What the swarm calls it."""
        return generation_of(self.validator, self.length)

    def age(self, now: float) -> int:
        """Seconds since its origin vouched for it (RFC 9111 section 4.2.3)."""
        return int(max(0.0, now - self.asked_at)) + (_seconds(self.fields.get("age", "")) or 0)


@dataclass(frozen=True)
class Wish:
    """What a request says about freshness (RFC 9111 section 5.2.1)."""

    validate: bool = False
    only_cached: bool = False
    unstored: bool = False
    oldest: float | None = None


def wish_of(fields: Mapping[str, str]) -> Wish:
    """The wishes in a request's fields, by lower-case name."""
    directives = parse_directives(fields.get("cache-control", ""))
    pragma = "cache-control" not in fields and "no-cache" in fields.get("pragma", "").lower()
    oldest = _given_seconds(directives, "max-age")
    return Wish(
        validate=pragma or "no-cache" in directives,
        only_cached="only-if-cached" in directives,
        unstored="no-store" in directives,
        oldest=oldest,
    )


def usable(version: Version, wish: Wish, now: float) -> bool:
    """Whether the version may be given without asking its origin."""
    if wish.validate or now >= version.fresh_until:
        return False
    return wish.oldest is None or version.age(now) <= wish.oldest


def version_of(
    status: int, fields: Mapping[str, str], now: float, fixed: float | None = None
) -> Version | None:
    """The version that an answer to a HEAD describes; None for what is not shared.

    `fixed` is how many seconds a rule lets it be fresh, whatever the origin says of that. Shared is
    a 200 for anybody, in one coding, of known length and with a strong validator.
    """
    directives = parse_directives(fields.get("cache-control", ""))
    length = fields.get("content-length", "")
    validator = strong_validator(fields)
    if status != 200 or not validator or not length.isdecimal() or len(length) > 18:
        return None
    if {"no-store", "private"} & set(directives) or "set-cookie" in fields:
        return None
    if fields.get("content-encoding", "identity").lower() not in ("", "identity"):
        return None
    varied = {name.strip().lower() for name in fields.get("vary", "").split(",")} - {""}
    if varied - INDIFFERENT:
        return None
    kept = {name: value for name, value in fields.items() if name not in NOT_KEPT}
    life = _life(fields, directives) if fixed is None else fixed
    until = now + min(life, LONGEST)
    return Version(validator, int(length), kept, settled(fields), now, until)


def parse_directives(text: str) -> dict[str, str]:
    """`Cache-Control` as a mapping; the first of a name counts, arguments lose their quotes."""
    found: dict[str, str] = {}
    for part in _split(text):
        name, _, value = part.partition("=")
        if name.strip():
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def _split(text: str) -> list[str]:
    """Parts between commas that are in no quoted string."""
    parts, quoted = [""], False
    for char in text:
        if char == '"':
            quoted = not quoted
        if char == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _life(fields: Mapping[str, str], directives: Mapping[str, str]) -> float:
    """Seconds that an answer stays fresh (RFC 9111 section 4.2.1), less what it is old already."""
    if "no-cache" in directives:
        return 0.0
    date = seconds_of(fields.get("date", ""))
    life = _given_seconds(directives, "s-maxage")
    if life is None:
        life = _given_seconds(directives, "max-age")
    if life is None and "expires" in fields:
        # A date that is none, such as 0, is in the past.
        end = seconds_of(fields["expires"])
        life = 0.0 if end is None or date is None else end - date
    if life is None:
        changed = seconds_of(fields.get("last-modified", ""))
        life = 0.0
        if changed is not None and date is not None:
            life = min(MOST_HEURISTIC, HEURISTIC * (date - changed))
    return max(0.0, life - (_seconds(fields.get("age", "")) or 0))


def _given_seconds(directives: Mapping[str, str], name: str) -> float | None:
    """An argument in seconds; what is none counts as 0, so that the origin is asked."""
    if name not in directives:
        return None
    return float(_seconds(directives[name]) or 0)


def _seconds(text: str) -> int | None:
    return min(int(text), 2**31) if text.isdecimal() and len(text) < 20 else None


@dataclass
class Versions:
    """The newest version of each URL as each tenant knows it, for the latest `limit` of them: what
    is known here tells that it was asked for."""

    limit: int = 16384
    _known: dict[tuple[str, str], Version] = field(default_factory=dict)

    def get(self, tenant: str, url: str) -> Version | None:
        """What a tenant knows of a URL."""
        version = self._known.pop((tenant, url), None)
        if version is not None:
            self._known[tenant, url] = version
        return version

    def put(self, tenant: str, url: str, version: Version) -> None:
        """This is what its origin has now."""
        self._known.pop((tenant, url), None)
        self._known[tenant, url] = version
        while len(self._known) > self.limit:
            del self._known[next(iter(self._known))]

    def forget(self, tenant: str, url: str) -> None:
        """Somebody wrote to it (RFC 9111 section 4.4)."""
        self._known.pop((tenant, url), None)
