"""`hawker config show` and `hawker cluster key`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from hawker.apps.cli import run
from hawker.core.tokens import read_key_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def shown(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[Any, str]]:
    assert run(["config", "show", "--json", *arguments]) == 0
    rows = json.loads(capfd.readouterr().out)
    return {row["key"]: (row["value"], row["origin"]) for row in rows}


def test_every_value_comes_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hawker.toml"
    file.write_text('[listen]\nport = 1\nhost = "127.0.0.2"\n[peer]\nidc = "file"\n')
    monkeypatch.setenv("HAWKER_PEER__IDC", "variable")
    monkeypatch.setenv("HAWKER_PEER__LOCATION", "eu|de")
    rows = shown(capfd, "--config", str(file), "--port", "2", "--seed")
    assert rows["listen.host"] == ("127.0.0.2", str(file))
    assert rows["listen.port"] == (2, "flag")
    assert rows["peer.idc"] == ("variable", "HAWKER_PEER__IDC")
    assert rows["peer.location"] == ("eu|de", "HAWKER_PEER__LOCATION")
    assert rows["peer.seed"] == (True, "flag")
    assert rows["storage.quota"] == (0, "default")


def test_flags_name_their_settings(capfd: pytest.CaptureFixture[str]) -> None:
    rows = shown(
        capfd,
        *("--host", "::1", "--data", "/d", "--cluster-key", "/k", "--no-seed", "--idc", "a"),
        *("--location", "b", "--advertise", "http://me:1"),
        *("--scheduler", "http://s:4000/", "--scheduler", "https://t/scheduler"),
    )
    given = {key: value for key, (value, origin) in rows.items() if origin == "flag"}
    assert given == {
        "listen.host": "::1",
        "storage.data": "/d",
        "cluster.key_file": "/k",
        "peer.seed": False,
        "peer.idc": "a",
        "peer.location": "b",
        "peer.advertise": "http://me:1",
        "peer.schedulers": ["http://s:4000", "https://t"],
    }


def test_human_table_has_key_value_and_origin(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--port", "7"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["KEY", "VALUE", "ORIGIN"]
    assert ["listen.port", "7", "flag"] in [line.split() for line in lines]


def test_secrets_are_masked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hawker.toml"
    file.write_text(
        '[plugins.options.s3]\nsecret_key = "hidden"\nregion = "eu"\n'
        '[plugins.options.static.origins."https://o.test".headers]\n'
        'authorization = "Basic hidden"\n'
    )
    assert run(["config", "show", "--config", str(file), "--token", "hidden"]) == 0
    out = capfd.readouterr().out
    assert "hidden" not in out and "********" in out and '"region":"eu"' in out


@pytest.mark.parametrize("where", ["file", "variable"])
def test_unknown_key_names_the_nearest(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hawker.toml"
    file.write_text("[listen]\nprot = 1\n" if where == "file" else "")
    if where == "variable":
        monkeypatch.setenv("HAWKER_LISTEN__PROT", "1")
    assert run(["config", "show", "--config", str(file)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "did you mean 'listen.port'" in err and err.count("\n") == 1


def test_cluster_key_is_for_its_owner_only_and_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "cluster.key"
    assert run(["cluster", "key", str(path)]) == 0
    assert capfd.readouterr().out == f"{path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(read_key_file(path)) == 32


def test_cluster_key_goes_where_the_settings_say(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["cluster", "key"]) == 0
    assert run(["cluster", "key", "--data", "other"]) == 0
    printed = capfd.readouterr().out.split()
    places = ("share/hawker/cluster.key", "other/cluster.key")
    assert printed == [str(tmp_path / place) for place in places]


def test_existing_cluster_key_is_never_replaced(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.key"
    path.write_text("precious")
    assert run(["cluster", "key", str(path)]) == 2
    assert "exists already" in capfd.readouterr().err
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bandwith = 1", "tenants.acme: there is no quota 'bandwith' (did you mean 'bandwidth'?)"),
        ("bandwidth = 0", "tenants.acme: Expected `int` >= 1 - at `$.bandwidth`"),
        ("colour = 1", "it is stored_bytes, bandwidth, concurrent_downloads, origin_bytes"),
    ],
)
def test_a_wrong_quota_is_named_with_its_tenant(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "hawker.toml"
    file.write_text(f"[tenants.acme]\n{text}\n")
    assert run(["config", "show", "--config", str(file)]) == 2
    assert said in capfd.readouterr().err


def test_quotas_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hawker.toml"
    file.write_text('[tenants."team b"]\norigin_bytes = 1000\norigin_period = 60\n')
    rows = shown(capfd, "--config", str(file))
    quotas = {"origin_bytes": 1000, "origin_period": 60}
    assert rows["tenants"] == ({"team b": quotas}, str(file))
