"""Plugins of another distribution: built as a wheel, installed with pip, used for real."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import textwrap
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GOOD = {
    "nearest.py": """
        from hawker.pluggy_specs import hookimpl

        class Nearest:
            def score(self, child, candidate):
                return 1.0 if candidate.location == child.location else 0.5

        @hookimpl
        def hawker_evaluator(name, settings):
            return Nearest()
    """,
    "flipped.py": """
        from hawker.pluggy_specs import hookimpl

        class Decoder:
            finished = True

            def feed(self, data):
                return bytes(byte ^ 0xFF for byte in data)

        class Codec:
            def worthwhile(self, sample):
                return True

            def encode(self, data):
                return bytes(byte ^ 0xFF for byte in data)

            def decoder(self):
                return Decoder()

        @hookimpl
        def hawker_codec(coding):
            return Codec()
    """,
    "greeter.py": """
        import contextlib
        from hawker.pluggy_specs import hookimpl

        class Greeter:
            name = "greeter"

            @contextlib.asynccontextmanager
            async def lifespan(self, app=None):
                self.word = "hello"
                yield

            async def __call__(self, scope, receive, send):
                headers = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": self.word.encode()})

        @hookimpl
        def hawker_role(name, context):
            return Greeter()
    """,
}
GOOD_ENTRIES = {
    "hawker.sources": {"memo": "memo"},
    "hawker.evaluators": {"nearest": "nearest"},
    "hawker.compression": {"flipped": "flipped"},
    "hawker.roles": {"greeter": "greeter"},
}

BROKEN = {
    "needs_more.py": "import a_module_nobody_has",
    "explodes.py": "raise SystemExit('stop everything')",
    "wrong_hook.py": """
        from hawker.pluggy_specs import hookimpl

        @hookimpl
        def hawker_sauce(scheme):
            return object()
    """,
    "other_hook.py": """
        from hawker.pluggy_specs import hookimpl

        @hookimpl
        def hawker_evaluator(name):
            return object()
    """,
    "future.py": """
        from hawker.pluggy_specs import hookimpl

        HAWKER_API = 99

        @hookimpl
        def hawker_source(scheme):
            return object()
    """,
    "raises.py": """
        from hawker.pluggy_specs import hookimpl

        @hookimpl
        def hawker_source(scheme):
            raise RuntimeError("no luck today")
    """,
    "nothing.py": """
        from hawker.pluggy_specs import hookimpl

        @hookimpl
        def hawker_source(scheme):
            return None
    """,
    "rival.py": """
        from hawker.pluggy_specs import hookimpl

        @hookimpl
        def hawker_source(scheme):
            return object()
    """,
}
BROKEN_ENTRIES = {
    "hawker.sources": {
        "needs-more": "needs_more",
        "explodes": "explodes",
        "wrong-hook": "wrong_hook",
        "other-hook": "other_hook",
        "future": "future",
        "raises": "raises",
        "nothing": "nothing",
        "http": "rival",
    }
}
REASONS = {
    "needs-more": "a_module_nobody_has",
    "explodes": "SystemExit",
    "wrong-hook": "hawker_sauce",
    "other-hook": "hawker_evaluator",
    "future": "99",
    "raises": "no luck today",
    "nothing": "None",
}


def example_of_the_documentation() -> str:
    page = (ROOT / "docs" / "plugins.md").read_text()
    found = re.search(r"```python\n# memo\.py.*?```", page, re.DOTALL)
    assert found is not None
    return found[0].removeprefix("```python\n").removesuffix("```")


@dataclass
class Environment:
    """A Python environment of its own, with Hawker installed from its wheel."""

    directory: Path

    @property
    def python(self) -> str:
        return str(self.directory / "bin" / "python")

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.directory), **environ},
        )

    def hawker(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "hawker", *arguments, **environ)

    def plugins(self, **environ: str) -> dict[tuple[str, str, str], dict[str, str]]:
        """Reports by (kind, name, distribution)."""
        done = self.hawker("plugins", "--json", **environ)
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)
        return {(row["kind"], row["name"], row["distribution"]): row for row in rows}


def wheel(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(target), str(source)], check=True, timeout=120)


def distribution(
    root: Path, name: str, modules: dict[str, str], entries: dict[str, dict[str, str]]
) -> Path:
    """The source of a distribution with these modules and entry points."""
    source = root / name
    source.mkdir()
    lines = [
        "[build-system]", 'requires = ["hatchling"]', 'build-backend = "hatchling.build"',
        "[project]", f'name = "{name}"', 'version = "2.5"',
        "[tool.hatch.build.targets.wheel]", f"only-include = {sorted(modules)}",
    ]  # fmt: skip
    for group, names in entries.items():
        lines.append(f'[project.entry-points."{group}"]')
        lines.extend(f'{entry} = "{module}"' for entry, module in names.items())
    (source / "pyproject.toml").write_text("\n".join(lines))
    for file, text in modules.items():
        (source / file).write_text(textwrap.dedent(text))
    return source


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    root = tmp_path_factory.mktemp("third-party")
    wheels = root / "wheels"
    good = {**GOOD, "memo.py": example_of_the_documentation()}
    for source in (
        ROOT,
        distribution(root, "acme-plugins", good, GOOD_ENTRIES),
        distribution(root, "acme-broken", BROKEN, BROKEN_ENTRIES),
    ):
        wheel(source, wheels)
    made = Environment(root / "venv")
    subprocess.run([sys.executable, "-m", "venv", str(made.directory)], check=True, timeout=120)
    site = next((made.directory / "lib").glob("python3*")) / "site-packages"
    # The dependencies are those of the running environment; what pip installs here comes first.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--force-reinstall")
    done = made.run(*install, *map(str, wheels.glob("*.whl")))
    assert done.returncode == 0, done.stderr
    where = made.run("-c", "import hawker; print(hawker.__file__)").stdout
    assert str(made.directory) in where, where
    return made


def test_every_plugin_of_another_distribution_is_reported(environment: Environment) -> None:
    reports = environment.plugins()
    for group, names in GOOD_ENTRIES.items():
        for name in names:
            report = reports[group, name, "acme-plugins"]
            assert (report["state"], report["version"]) == ("ok", "2.5"), report
    for name, reason in REASONS.items():
        report = reports["hawker.sources", name, "acme-broken"]
        assert report["state"] == "failed" and reason in report["reason"], report
    assert reports["hawker.sources", "https", "hawker"]["state"] == "ok"


def test_two_distributions_with_one_name_are_an_error_until_one_is_chosen(
    environment: Environment,
) -> None:
    reports = environment.plugins()
    for owner in ("hawker", "acme-broken"):
        report = reports["hawker.sources", "http", owner]
        assert report["state"] == "duplicate"
        assert "acme-broken" in report["reason"] and "hawker" in report["reason"]
    refused = environment.hawker("get", "http://127.0.0.1:9/x", "-O", "-")
    assert "acme-broken" in refused.stderr and "Traceback" not in refused.stderr
    chosen = {"HAWKER_PLUGINS__CHOOSE": '{"hawker.sources:http": "hawker"}'}
    reports = environment.plugins(**chosen)
    assert reports["hawker.sources", "http", "hawker"]["state"] == "ok"
    assert reports["hawker.sources", "http", "acme-broken"]["state"] == "duplicate"


def test_a_disabled_plugin_is_left_out(environment: Environment) -> None:
    off = {"HAWKER_PLUGINS__DISABLE": "hawker.sources:memo"}
    assert (
        environment.plugins(**off)["hawker.sources", "memo", "acme-plugins"]["state"] == "disabled"
    )
    assert "disabled" in environment.hawker("get", "memo:hello", "-O", "-", **off).stderr


def test_the_documented_source_is_read_as_the_page_says(environment: Environment) -> None:
    done = environment.hawker("get", "memo:hello", "-O", "-")
    assert (done.returncode, done.stdout) == (0, "hello"), done.stderr


def test_a_third_partys_evaluator_ranks_and_its_codec_codes(environment: Environment) -> None:
    script = """
        from hawker.core.contracts import Candidate, Child
        from hawker.core.registry import PluginHost
        from hawker.core.settings import load
        plugins = PluginHost(load(environ={}).settings)
        evaluator = plugins.get("hawker.evaluators", "nearest")
        far = Candidate("a", False, 1, 1, 4, 0, 0, 0, 0.0, "", "moon", False, 1)
        near = Candidate("b", False, 1, 1, 4, 0, 0, 0, 0.0, "", "here", False, 1)
        child = Child("c", "", "here")
        assert evaluator.score(child, near) > evaluator.score(child, far)
        codec = plugins.get("hawker.compression", "flipped")
        assert codec.decoder().feed(codec.encode(b"abc")) == b"abc"
        print("both work")
    """
    assert environment.run("-c", textwrap.dedent(script)).stdout == "both work\n"


def test_a_third_partys_role_and_evaluator_run_in_a_real_process(environment: Environment) -> None:
    key = environment.directory / "cluster.key"
    assert environment.hawker("cluster", "key", str(key)).returncode == 0
    command = ["-m", "hawker", "serve", "greeter", "scheduler", "--port", "0", "--json"]
    with subprocess.Popen(
        [environment.python, *command, "--cluster-key", str(key), "--data", "data"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=environment.directory,
        env={"PATH": "/usr/bin:/bin", "HOME": "/", "HAWKER_SCHEDULER__EVALUATOR": "nearest"},
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            with urllib.request.urlopen(ready["url"] + "/greeter", timeout=10) as answer:
                assert answer.read() == b"hello"
            with urllib.request.urlopen(ready["url"] + "/healthy", timeout=10) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
            process.wait(timeout=20)
