"""Which requests come out of the swarm, go elsewhere, or nowhere; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from hawker.core.errors import BadRequest, ConfigError
from hawker.core.ids import canonical_url
from hawker.core.settings import ProxyRule

ACTIONS = ("swarm", "direct", "block", "redirect")
# Of these a body can come out of the swarm.
READING = frozenset({"GET"})


@dataclass(frozen=True)
class Decision:
    """What is done with a request; `url` is where it goes. What comes out of the swarm is either
    `immutable`, or fresh for so many seconds; None for as long as its origin says."""

    action: str
    url: str
    immutable: bool = False
    fresh: float | None = None

    def wished(self, method: str, swarm: bool | None) -> Decision:
        """The same, but for what the client says of the swarm; what is blocked stays so."""
        if swarm and self.action == "direct" and method in READING:
            return Decision("swarm", self.url)
        if swarm is False and self.action == "swarm":
            return Decision("direct", self.url)
        return self


@dataclass(frozen=True)
class _Rule:
    url: re.Pattern[str]
    action: str
    to: str
    methods: frozenset[str]
    headers: Mapping[str, re.Pattern[str]]
    immutable: bool
    fresh: float | None

    def matches(self, method: str, url: str, headers: Mapping[str, str]) -> bool:
        if self.methods and method not in self.methods:
            return False
        if self.url.search(url) is None:
            return False
        return all(
            name in headers and pattern.search(headers[name]) is not None
            for name, pattern in self.headers.items()
        )


class Rules:
    """The rules of `proxy.rules`, of which the first that matches decides; without one a request
    passes untouched.

    Raises:
        ConfigError: a rule makes no sense; it is named by its number.
    """

    def __init__(self, rules: Sequence[ProxyRule]) -> None:
        self._rules = [_compiled(rule, number) for number, rule in enumerate(rules, 1)]

    def decide(self, method: str, url: str, headers: Mapping[str, str]) -> Decision:
        """What is done with a request for an absolute URL; `headers` by lower-case names.

        Rules see one spelling of a URL, that of its task (`ids.canonical_url`).

        Raises:
            BadRequest: it is no URL.
        """
        seen = _one_spelling(url)
        for rule in self._rules:
            if not rule.matches(method, seen, headers):
                continue
            if rule.action == "swarm":
                if method not in READING:
                    return Decision("direct", url)
                return Decision("swarm", url, rule.immutable, rule.fresh)
            if rule.action == "redirect":
                return Decision("direct", _moved(url, rule.to))
            return Decision(rule.action, url)
        return Decision("direct", url)

    def blocks(self, host: str, port: int) -> bool:
        """Whether no tunnel leads there: a rule blocks `https://host:port/` as a whole."""
        shown = f"https://{host}/" if port == 443 else f"https://{host}:{port}/"
        return self.decide("CONNECT", shown, {}).action == "block"


def _one_spelling(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        authority = f"[{host}]" if ":" in host else host
        if parts.port is not None:
            authority += f":{parts.port}"
    except ValueError as exc:
        raise BadRequest(f"{url[:200]!r} is no URL: {exc}") from exc
    return canonical_url(parts._replace(netloc=authority).geturl())


def _compiled(rule: ProxyRule, number: int) -> _Rule:
    where = f"proxy.rules, rule {number}"
    if rule.action not in ACTIONS:
        raise ConfigError(
            f"{where} has the action {rule.action!r}", hint=f"choose one of {', '.join(ACTIONS)}"
        )
    if bool(rule.to) != (rule.action == "redirect"):
        raise ConfigError(f"{where}: a redirect, and nothing else, has a `to`")
    if rule.to:
        parts = urlsplit(rule.to)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.path not in ("", "/")
        ):
            raise ConfigError(f"{where} leads to {rule.to!r}", hint="write it as https://host:port")
    try:
        headers = {name.lower(): re.compile(text) for name, text in rule.headers.items()}
        url = re.compile(rule.url)
    except re.error as exc:
        raise ConfigError(f"{where}: {exc.pattern!r} is no regular expression: {exc}") from exc
    methods = frozenset(method.upper() for method in rule.methods)
    if (rule.immutable or rule.fresh >= 0) and rule.action != "swarm":
        raise ConfigError(f"{where} says how long something is fresh that is not kept")
    if rule.immutable and rule.fresh >= 0:
        raise ConfigError(f"{where}: what is immutable is always fresh")
    fresh = None if rule.fresh < 0 else float(rule.fresh)
    return _Rule(url, rule.action, rule.to, methods, headers, rule.immutable, fresh)


def _moved(url: str, to: str) -> str:
    """The same path and query at another origin."""
    target = urlsplit(to)
    return urlsplit(url)._replace(scheme=target.scheme, netloc=target.netloc).geturl()
