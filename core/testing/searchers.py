"""The contract of a searcher as tests: subclass `SearcherContract` in a test module of your own.

from hawker.core.testing.searchers import SearcherContract

class TestMySearcher(SearcherContract):
    def make_searcher(self):
        return MySearcher()
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec
import pytest

from hawker.core.contracts import ClusterMatch, ClusterView, HostView, Searcher

HOST = HostView("node-7.fra.example.com", ["10.1.2.3", "2001:db8::7"], "fra1", "eu|de|fra1|r7")
FITS = ClusterView(
    "fits", False, True, ["fra1"], ["eu|de|fra1|r7"], ["10.1.0.0/16"], ["*.fra.example.com"]
)
ELSEWHERE = ClusterView(
    "elsewhere", False, True, ["nyc"], ["us|ny"], ["192.0.2.0/24"], ["*.nyc.example.com"]
)
# What a host may claim, and an operator may have mistyped.
_ODD = [
    "", " ", "|", "||", "0", "[", "*", "[!", "\0", "ü", "é|", "300.1.1.1", "10.0.0.0/99", "::/0",
    "::ffff:10.1.2.3", "fe80::1%eth0", "(a+)+$", "a" * 3000, "*a" * 40,
]  # fmt: skip
ROUNDS = 200


class SearcherContract:
    """What `hawker.core.contracts.Searcher` promises.

    A searcher with rules of its own gives a host, a cluster meant for it, and one that is not.
    """

    host = HOST
    fits = FITS
    elsewhere = ELSEWHERE

    def make_searcher(self) -> Searcher:
        """A searcher as it is when its plugin has been loaded."""
        raise NotImplementedError

    def test_without_clusters_nothing_is_found(self) -> None:
        assert not list(self.make_searcher().search(self.host, []))

    def test_the_cluster_that_is_meant_for_the_host_comes_first(self) -> None:
        for clusters in ([self.fits], [self.fits, self.elsewhere], [self.elsewhere, self.fits]):
            found = self.make_searcher().search(self.host, clusters)
            assert found and found[0].cluster == self.fits, found

    @pytest.mark.parametrize("default", [False, True])
    def test_one_without_a_scheduler_comes_after_all_that_have_one(self, default: bool) -> None:
        away = msgspec.structs.replace(self.fits, name="away", active=False, default=default)
        for clusters in (
            [away, self.elsewhere, self.fits],
            [self.fits, self.elsewhere, away],
            [self.elsewhere, away],
        ):
            _check_ranked(self.make_searcher().search(self.host, clusters), clusters)

    def test_any_facts_are_ranked(self) -> None:
        searcher = self.make_searcher()
        for seed in range(ROUNDS):
            host, clusters = _any(random.Random(seed))
            _check_ranked(searcher.search(host, clusters), clusters)

    def test_the_same_facts_give_the_same_answer_in_any_order(self) -> None:
        searcher = self.make_searcher()
        for seed in range(ROUNDS):
            chance = random.Random(seed)
            host, clusters = _any(chance)
            first = list(searcher.search(host, clusters))
            chance.shuffle(clusters)
            given = list(clusters)
            assert list(searcher.search(host, clusters)) == first
            assert clusters == given, "what was given is not the searcher's to change"
            assert list(self.make_searcher().search(host, clusters)) == first


def _check_ranked(found: Sequence[ClusterMatch], clusters: Sequence[ClusterView]) -> None:
    """Each cluster once, none that was not given; active ones first, then by score."""
    names = [match.cluster.name for match in found]
    assert len(names) == len(set(names))
    for match in found:
        assert match.cluster in clusters
        assert math.isfinite(match.score) and match.reason.strip()
    keys = [(not match.cluster.active, -match.score) for match in found]
    assert keys == sorted(keys)


def _any(chance: random.Random) -> tuple[HostView, list[ClusterView]]:
    """A host and clusters of known and odd facts, each cluster with a name of its own."""

    def some(*sensible: str) -> list[str]:
        return chance.sample([*sensible, *_ODD], chance.randrange(4))

    def one(*sensible: str) -> str:
        return chance.choice([*sensible * 5, *_ODD])

    host = HostView(
        one(HOST.hostname), some(*HOST.addresses), one("fra1", "FRA1"), one(HOST.location, "eu")
    )
    clusters = [
        ClusterView(
            f"cluster-{number}",
            chance.random() < 0.3,
            chance.random() < 0.7,
            some("fra1", "nyc"),
            some("eu|de", "eu|de|fra1|r7", "us"),
            some("10.0.0.0/8", "2001:db8::/32"),
            some("*.fra.example.com", "node-?.*"),
        )
        for number in range(chance.randrange(7))
    ]
    chance.shuffle(clusters)
    return host, clusters
