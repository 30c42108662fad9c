"""The first rule that matches decides; heads go on without what is about one connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.apps.proxy.messages import HOP_BY_HOP, as_mapping, came_through, end_to_end, upgrade_in
from hawker.apps.proxy.rules import Decision, Rules
from hawker.core.errors import ConfigError
from hawker.core.settings import ProxyRule

RULES = Rules(
    [
        ProxyRule("^https?://blocked[.]test[:/]", "block"),
        ProxyRule("[.]whl$", "direct", headers={"X-Fresh": "^yes$"}),
        ProxyRule("[.]whl$", "swarm"),
        ProxyRule("^http://old[.]test/", "redirect", to="https://new.test:8443"),
        ProxyRule("/write", "block", methods=["put", "POST"]),
    ]
)


@pytest.mark.parametrize(
    "method, url, headers, action, target",
    [
        ("GET", "http://x.test/a.whl", {}, "swarm", "http://x.test/a.whl"),
        ("HEAD", "http://x.test/a.whl", {}, "direct", "http://x.test/a.whl"),
        ("PUT", "http://x.test/a.whl", {}, "direct", "http://x.test/a.whl"),
        ("GET", "http://x.test/a.whl", {"x-fresh": "yes"}, "direct", "http://x.test/a.whl"),
        ("GET", "http://x.test/a.whl", {"x-fresh": "no"}, "swarm", "http://x.test/a.whl"),
        ("GET", "http://x.test/a.whl.asc", {}, "direct", "http://x.test/a.whl.asc"),
        ("GET", "http://blocked.test/a.whl", {}, "block", "http://blocked.test/a.whl"),
        ("GET", "http://old.test/p?q=1", {}, "direct", "https://new.test:8443/p?q=1"),
        ("PUT", "http://x.test/write", {}, "block", "http://x.test/write"),
        ("GET", "http://x.test/write", {}, "direct", "http://x.test/write"),
    ],
)
def test_what_rules_decide(
    method: str, url: str, headers: dict[str, str], action: str, target: str
) -> None:
    assert RULES.decide(method, url, headers) == Decision(action, target)


def test_how_long_something_is_fresh_goes_along() -> None:
    rules = Rules(
        [
            ProxyRule("a", "swarm", immutable=True),
            ProxyRule("b", "swarm", fresh=60),
            ProxyRule("c", "swarm"),
        ]
    )
    assert rules.decide("GET", "http://x/a", {}) == Decision("swarm", "http://x/a", immutable=True)
    assert rules.decide("GET", "http://x/b", {}) == Decision("swarm", "http://x/b", fresh=60.0)
    assert rules.decide("GET", "http://x/c", {}) == Decision("swarm", "http://x/c")


@pytest.mark.parametrize(
    "url",
    [
        "HTTP://Blocked.Test/x",
        "http://blocked.test./x",
        "http://user:word@blocked.test/x",
        "http://blocked.test:80/x",
        "http://blocked.test#x",
        "http://other.test/%77rite",
        "http://other.test/a/../write",
    ],
)
def test_no_spelling_of_a_url_gets_around_a_rule(url: str) -> None:
    assert RULES.decide("PUT", url, {}) == Decision("block", url)


def test_a_fragment_makes_nothing_immutable() -> None:
    assert RULES.decide("GET", "http://x.test/index#x.whl", {}).action == "direct"


def test_tunnels_to_blocked_hosts_are_blocked() -> None:
    assert RULES.blocks("BLOCKED.test.", 443)
    assert RULES.blocks("blocked.test", 443) and RULES.blocks("blocked.test", 8443)
    assert not RULES.blocks("open.test", 443)


@pytest.mark.parametrize(
    "rule, words",
    [
        (ProxyRule("(", "swarm"), "regular expression"),
        (ProxyRule("x", "block", headers={"a": "["}), "regular expression"),
        (ProxyRule("x", "cache"), "action"),
        (ProxyRule("x", "redirect"), "`to`"),
        (ProxyRule("x", "swarm", to="https://y"), "`to`"),
        (ProxyRule("x", "redirect", to="https://y/path"), "leads to"),
        (ProxyRule("x", "block", immutable=True), "how long"),
        (ProxyRule("x", "swarm", immutable=True, fresh=5), "always fresh"),
    ],
)
def test_rules_that_make_no_sense_are_named(rule: ProxyRule, words: str) -> None:
    with pytest.raises(ConfigError, match=f"rule 2.*{words}"):
        Rules([ProxyRule("x", "block"), rule])


names = st.sampled_from([b"A", b"Connection", b"X-One", b"X-Two", b"Host", *HOP_BY_HOP])
values = st.sampled_from([b"close", b"x-one", b"x-one, X-Two", b"host", b"upgrade", b""])


@given(st.lists(st.tuples(names, values), max_size=8))
def test_no_field_about_one_connection_goes_on(fields: list[tuple[bytes, bytes]]) -> None:
    passed = end_to_end(fields)
    listed = {
        token.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    left = {name.lower() for name, _ in passed}
    assert not left & HOP_BY_HOP
    assert left & listed <= {b"host"}
    # All others go on, in their order.
    kept = [f for f in fields if f[0].lower() not in HOP_BY_HOP | (listed - {b"host"})]
    assert passed == kept


def test_an_upgrade_is_asked_for_by_two_fields() -> None:
    asked = [(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"websocket")]
    assert upgrade_in(asked) == b"websocket"
    assert upgrade_in(asked[1:]) == upgrade_in(asked[:1]) == b""
    onward = end_to_end(asked, upgrade=b"websocket")
    assert as_mapping(onward) == {"connection": "upgrade", "upgrade": "websocket"}


def test_a_proxy_knows_itself() -> None:
    assert came_through({"via": "1.0 other, 1.1 hawker-1 (comment)"}, "hawker-1")
    assert not came_through({"via": "1.1 hawker-12"}, "hawker-1")
    assert not came_through({}, "hawker-1")
