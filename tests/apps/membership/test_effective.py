"""What a cluster sets holds over a host's own settings; what is at odds with it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hawker.apps.membership.effective import check, effective, merged
from hawker.core.errors import ConfigError
from hawker.core.limits import Limits
from hawker.core.membership import Configuration, Kept
from hawker.core.priorities import PriorityRule
from hawker.core.settings import Settings, load
from hawker.core.storage.membership import Membership, save_membership, underlay


def own(data: Path, **flags: Any) -> Settings:
    named = {key.replace("__", "."): value for key, value in flags.items()}
    key = str(data / "membership" / "cluster.key")
    return load({"storage.data": str(data), "cluster.key_file": key, **named}, environ={}).settings


def member(kind: Any = "peer", **more: Any) -> Membership:
    return Membership("http://m:1", "m1", "ab" * 16, "c1", "eu", kind, "hwm_x", **more)


def kept(*schedulers: str, **configuration: Any) -> Kept:
    return Kept(20.0, False, "r", schedulers, Configuration(**configuration))


def test_what_the_cluster_sets_holds_and_the_rest_stays(tmp_path: Path) -> None:
    settings = own(tmp_path, scheduler__origin_reads=3, peer__upload_slots=5)
    found = effective(settings, kept("http://s:1", origin_rate=1000), "")
    assert (found.scheduler.origin_reads, found.scheduler.origin_rate) == (3, 1000)
    assert found.peer.upload_slots == 5 and found.peer.schedulers == ["http://s:1"]
    found = effective(settings, kept("http://s:1", upload_slots=9, origin_reads=1, readers=2), "")
    assert (found.scheduler.origin_reads, found.scheduler.readers) == (1, 2)
    assert found.peer.upload_slots == 9 and found.scheduler.origin_rate == 0


def test_a_limit_of_nothing_is_a_limit_that_is_set(tmp_path: Path) -> None:
    settings = own(tmp_path, scheduler__origin_rate=1000)
    assert effective(settings, kept(origin_rate=0), "").scheduler.origin_rate == 0


def test_a_scheduler_is_none_of_the_others(tmp_path: Path) -> None:
    found = effective(own(tmp_path), kept("http://a:1", "http://b:1"), "http://b:1")
    assert found.scheduler.others == ["http://a:1"]
    assert found.peer.schedulers == ["http://a:1", "http://b:1"]


def test_who_was_told_nothing_goes_by_its_own_settings(tmp_path: Path) -> None:
    assert effective(own(tmp_path), None, "") == own(tmp_path)


def test_a_manager_that_knows_no_schedulers_takes_none_away() -> None:
    before, now = kept("http://a:1"), kept(origin_reads=2)
    assert merged(now, before).schedulers == ("http://a:1",)
    assert merged(now, before).configuration.origin_reads == 2
    assert merged(kept("http://b:1"), before).schedulers == ("http://b:1",)
    assert merged(now, None) == now


@pytest.mark.parametrize(
    ("kind", "roles", "flags", "words"),
    [
        ("peer", ["manager", "peer"], {}, "cannot be its manager"),
        ("peer", ["registry"], {}, "as a peer, and would be none"),
        ("seed", ["scheduler"], {}, "as a seed, and would be none"),
        ("scheduler", ["peer"], {}, "as a scheduler, and would be none"),
        ("peer", ["peer", "scheduler"], {}, "no other would use its scheduler"),
        ("peer", ["peer"], {"peer__seed": True}, "at odds with that this host joined eu as a peer"),
        ("seed", ["peer"], {}, "at odds with that this host joined eu as a seed"),
        ("peer", ["peer"], {"peer__schedulers": ["http://x:1"]}, "peer.schedulers"),
        ("scheduler", ["scheduler"], {"scheduler__others": ["http://x:1"]}, "scheduler.others"),
        ("peer", ["peer"], {"cluster__key_file": "/elsewhere"}, "is not the key of the cluster eu"),
    ],
)
def test_what_is_at_odds_with_the_membership_is_said(
    tmp_path: Path, kind: str, roles: list[str], flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check(own(tmp_path, **flags), member(kind), roles)
    assert words in caught.value.detail and caught.value.hint


@pytest.mark.parametrize(
    ("kind", "roles", "flags"),
    [
        ("peer", ["peer", "registry", "proxy"], {}),
        ("seed", ["peer"], {"peer__seed": True}),
        ("scheduler", ["scheduler", "peer"], {}),
    ],
)
def test_what_fits_may_be_served(
    tmp_path: Path, kind: str, roles: list[str], flags: dict[str, Any]
) -> None:
    check(own(tmp_path, **flags), member(kind), roles)


def test_who_was_removed_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="removed from the cluster eu") as caught:
        check(own(tmp_path), member(removed=True), ["peer"])
    assert caught.value.hint and "hawker leave" in caught.value.hint


def test_who_joined_from_the_network_listens_there_and_is_not_open(tmp_path: Path) -> None:
    def settled(*addresses: str, **flags: Any) -> Settings:
        folder = tmp_path / "membership"
        folder.mkdir(exist_ok=True)
        save_membership(folder, member(addresses=list(addresses)))
        named = {key.replace("__", "."): value for key, value in flags.items()}
        return underlay(load({"storage.data": str(tmp_path), **named}, environ={})).settings

    found = settled("10.0.0.5", "fd00::5")
    assert (found.listen.host, found.auth.mode) == ("10.0.0.5", "required")
    found = settled("10.0.0.5", listen__host="0.0.0.0", peer__advertise="https://h1:4000")
    assert (found.listen.host, found.auth.mode) == ("0.0.0.0", "required")
    found = settled("127.0.0.1")
    assert (found.listen.host, found.auth.mode) == ("127.0.0.1", "")


def test_a_tenant_s_quotas_are_the_manager_s_where_it_has_some() -> None:
    mine, theirs = Limits(bandwidth=1), Limits(bandwidth=2, stored_bytes=3)
    settings = msgspec.structs.replace(Settings(), tenants={"a": mine, "b": mine})
    assert effective(settings, kept(tenants={"b": theirs, "c": theirs}), "").tenants == {
        "a": mine,
        "b": theirs,
        "c": theirs,
    }


def test_priorities_that_a_host_has_itself_come_first() -> None:
    mine = PriorityRule(level=1, application="a")
    theirs = PriorityRule(level=3, tenant="default", application="a")
    scheduler = msgspec.structs.replace(Settings().scheduler, priorities=[mine])
    settings = msgspec.structs.replace(Settings(), scheduler=scheduler)
    found = effective(settings, kept(priorities=[theirs]), "")
    assert found.scheduler.priorities == [mine, theirs]
