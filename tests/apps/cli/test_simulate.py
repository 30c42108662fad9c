"""`hawker simulate` prints what came of it, and says what it cannot do."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from hawker.apps.cli import run
from hawker.apps.cli.curve import WIDTH, chart

SMALL = ["simulate", "--peers", "10", "--pieces", "32"]


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run([*SMALL, *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_figures_are_printed_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    result = printed(capfd, "--churn", "0.2")
    assert set(result["ratio_to_optimum"]) == {"p50", "p99", "last"}
    assert 1.0 <= result["ratio_to_optimum"]["p50"] <= result["ratio_to_optimum"]["last"]
    assert result["origin_ratio"] == pytest.approx(1.0, abs=0.05)
    assert result["duplicate_ratio"] >= 0.0
    assert (result["finished"], result["starved"], result["left"]) == (8, 0, 2)
    assert result["decisions"] > 10
    assert result["curve"][-1][2] == pytest.approx(0.8)


def test_people_see_a_curve(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*SMALL, "--classes", "1,2", "--zones", "2"]) == 0
    text = capfd.readouterr().out
    assert "the last one" in text and "times the optimum" in text
    assert "links of 250 MB/s" in text and "between zones" in text
    assert "100 % |" in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--arrivals", "sometime"], 2),
        (["--peers", "0"], 2),
        (["--size", "many"], 2),
        (["--classes", "fast"], 2),
        (["--churn", "1.5"], 2),
        (["--size", "1G"], 2),
        (["--evaluator", "nobody"], 2),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    arguments: list[str], code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*SMALL, *arguments]) == code
    assert capfd.readouterr().err.startswith("hawker: ")


def test_without_numpy_the_approximate_one_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("approximate", "crowd", "dealing", "overlay"):
        monkeypatch.delitem(sys.modules, f"hawker.core.simulation.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert run([*SMALL, "--approximate"]) == 1
    assert "pip install 'hawker[simulate]'" in capfd.readouterr().err
    assert run([*SMALL, "--exact"]) == 0


def test_a_size_is_cut_as_hawker_cuts_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--peers", "2", "--size", "8M", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["pieces"] == 32


def test_a_chart_rises_to_what_there_is_at_its_end() -> None:
    lines = chart("what", [(0.0, 0.0), (1.0, 0.5), (2.0, 1.0)], 2.0, height=4).splitlines()
    top, bottom = lines[1], lines[4]
    assert top.endswith("\u2588") and top.count("\u2588") == 1
    assert bottom.count("\u2588") == WIDTH - WIDTH // 2 + 1
