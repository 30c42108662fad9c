"""Credentials plugins: each credential goes to its own origin, and nothing secret gets out."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from hawker.core.contracts import Credential, Credentials
from hawker.core.errors import ConfigError, HawkerError, OriginRefused, UnknownPlugin
from hawker.core.registry import PluginHost
from hawker.core.settings import PluginSettings, Settings
from hawker.plugins.credentials.environment import EnvironmentCredentials
from hawker.plugins.credentials.exec_helper import ExecCredentials
from hawker.plugins.credentials.file import FileCredentials

SECRET = "s3cr3t-word"


def loaded(name: str, options: dict[str, Any]) -> Credentials:
    """A plugin as a process loads it."""
    host = PluginHost(Settings(plugins=PluginSettings(options={name: options})))
    plugin: Credentials = host.get("hawker.credentials", name)
    return plugin


def find(plugin: Credentials, url: str, tenant: str = "default") -> Credential | None:
    return asyncio.run(_within(plugin.find(url, tenant)))


async def _within(work: Coroutine[Any, Any, Credential | None]) -> Credential | None:
    async with asyncio.timeout(20):
        return await work


def test_a_credential_is_for_exactly_its_origin() -> None:
    origins = {"https://Host.example": {"token": SECRET}, "s3://models": {"access_key": "a"}}
    plugin = loaded("static", {"origins": origins})
    for url in ("https://host.example/a?b", "https://HOST.example:443/", "s3://models/key"):
        assert find(plugin, url) is not None, url
    for url in (
        "http://host.example/",
        "https://host.example:8443/",
        "https://sub.host.example/",
        "https://example/",
        "https://host.example.evil/",
        "https://host.example@evil/",
        "s3://models2/key",
        "file:///host.example",
    ):
        assert find(plugin, url) is None, url


def test_a_credential_is_for_exactly_its_tenant(tmp_path: Path) -> None:
    text = f"""
[origins."https://host"]
token = "ours"
[tenants.acme.origins."https://host"]
token = "theirs"
[tenants.acme.origins."https://other"]
token = "{SECRET}"
"""
    file = tmp_path / "credentials"
    write(file, text)
    for plugin in (FileCredentials(str(file)), loaded("static", tomllib.loads(text))):
        assert find(plugin, "https://host/") == Credential(token="ours")
        assert find(plugin, "https://host/", "acme") == Credential(token="theirs")
        assert find(plugin, "https://other/") is None
        for foreign in ("Acme", "acme ", "", "other", "*"):
            assert find(plugin, "https://host/", foreign) is None, foreign
    named = {"HAWKER_CREDENTIAL_A": f"https://host {SECRET}"}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET}
    plugin = EnvironmentCredentials({**named, **keys})
    for url in ("https://host/", "s3://bucket/key"):
        assert find(plugin, url) is not None
        assert find(plugin, url, "acme") is None


@pytest.mark.parametrize(
    "tenants",
    [
        [SECRET],
        {"acme": SECRET},
        {"acme": {"origin": {"https://h": {"token": SECRET}}}},
        {"acme": {"origins": {"h": {"token": SECRET}}}},
        {"": {"origins": {}}},
        {"default": {"origins": {"https://h": {"token": SECRET}}}},
    ],
)
def test_a_wrong_table_of_tenants_is_refused_without_repeating_it(tenants: Any) -> None:
    with pytest.raises(UnknownPlugin, match=r"plugins\.options\.static\.tenants") as caught:
        loaded("static", {"tenants": tenants})
    assert "ConfigError" in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "origins",
    [
        {f"https://user:{SECRET}@host": {"token": "t"}},
        {f"https://host/{SECRET}": {"token": "t"}},
        {"host": {"token": SECRET}},
        {"https://host:none": {"token": SECRET}},
        {"https://host": {"tokn": SECRET}},
        {"https://host": {"token": [SECRET]}},
        {"https://host": SECRET},
        {"https://host": {"token": SECRET}, "https://host:443": {"token": SECRET}},
        [SECRET],
    ],
)
def test_a_wrong_table_is_refused_without_repeating_it(origins: Any) -> None:
    with pytest.raises(UnknownPlugin) as caught:
        loaded("static", {"origins": origins})
    assert "ConfigError" in str(caught.value) and SECRET not in str(caught.value)


def test_the_environment_names_keys_of_stores_and_tokens_of_origins() -> None:
    plugin = EnvironmentCredentials(
        {
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": "session",
            "HAWKER_CREDENTIAL_MODELS": f"https://a-b.example:8443 {SECRET}",
        }
    )
    store = Credential(access_key="id", secret_key=SECRET, session_token="session")
    assert find(plugin, "s3://any/key") == store
    assert find(plugin, "https://a-b.example:8443/x") == Credential(token=SECRET)
    for url in ("https://a.b.example:8443/x", "https://a-b.example/x", "http://a-b.example:8443/"):
        assert find(plugin, url) is None, url
    assert find(EnvironmentCredentials({}), "s3://any/key") is None


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_SECRET_ACCESS_KEY": SECRET},
        {"HAWKER_CREDENTIAL_X": SECRET},
        {"HAWKER_CREDENTIAL_X": f"host {SECRET}"},
        {"HAWKER_CREDENTIAL_X": f"s3://bucket {SECRET}"},
        {
            "HAWKER_CREDENTIAL_X": f"https://h {SECRET}",
            "HAWKER_CREDENTIAL_Y": f"https://h {SECRET}",
        },
    ],
)
def test_wrong_variables_are_refused_without_repeating_them(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        EnvironmentCredentials(environ)
    assert SECRET not in str(caught.value)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "credentials.toml"
    write(file, '[origins."https://host"]\ntoken = "one"')
    plugin = loaded("file", {"path": str(file)})
    assert find(plugin, "https://host/a") == Credential(token="one")
    replacement = tmp_path / "new"
    write(replacement, '[origins."https://host"]\ntoken = "two"')
    replacement.replace(file)
    assert find(plugin, "https://host/a") == Credential(token="two")
    file.chmod(0o640)
    with pytest.raises(OriginRefused, match="chmod 600"):
        find(plugin, "https://host/a")
    file.unlink()
    with pytest.raises(OriginRefused, match="No such file"):
        find(plugin, "https://host/a")


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "credentials.toml"
    write(file, f'[origins."https://host"]\ntoken = "{SECRET}"', mode)
    with pytest.raises(OriginRefused, match="others than this user"):
        find(FileCredentials(str(file)), "https://host/")


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only the superuser can give a file away")
    file = tmp_path / "credentials.toml"
    write(file, '[origins."https://host"]')
    os.chown(file, 12345, -1)
    with pytest.raises(OriginRefused, match="others than this user"):
        find(FileCredentials(str(file)), "https://host/")


@pytest.mark.parametrize("text", [SECRET, f'[origins."https://h"]\ntokn = "{SECRET}"', "\udcff"])
def test_a_wrong_file_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    file.chmod(0o600)
    with pytest.raises(OriginRefused) as caught:
        find(FileCredentials(str(file)), "https://h/")
    assert SECRET not in str(caught.value)


def helper(tmp_path: Path, body: str, timeout: float = 10.0) -> ExecCredentials:
    """A helper program that notes each question in the file `asked`."""
    program = tmp_path / "helper.py"
    head = "import sys, json, subprocess\nquestion = json.loads(sys.stdin.readline())\n"
    head += f"print(question['origin'], file=open({str(tmp_path / 'asked')!r}, 'a'))\n"
    program.write_text(head + body)
    return ExecCredentials([sys.executable, str(program)], timeout)


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().split()


def test_a_helper_is_asked_once_while_its_answer_holds(tmp_path: Path) -> None:
    plugin = helper(tmp_path, 'print(json.dumps({"token": question["origin"], "expires_in": 600}))')

    async def main() -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(plugin.find(f"https://host/{n}", "default")) for n in range(5)
            ]
        for task in tasks:
            assert task.result() == Credential(token="https://host:443")
        assert await plugin.find("https://host:8443/", "default") == Credential(
            token="https://host:8443"
        )

    asyncio.run(main())
    assert asked(tmp_path) == ["https://host:443", "https://host:8443"]


def test_a_helper_is_asked_again_when_its_answer_is_over(tmp_path: Path) -> None:
    plugin = helper(tmp_path, 'print(\'{"token": "t", "expires_in": 0}\')')
    for _ in range(2):
        assert find(plugin, "https://host/") == Credential(token="t")
    assert len(asked(tmp_path)) == 2


def test_a_helper_that_does_not_look_at_the_tenant_answers_for_one_alone(tmp_path: Path) -> None:
    """Written when there was one tenant, it would give that one's credentials to all."""
    old = helper(tmp_path, 'print(\'{"token": "t"}\')')
    assert find(old, "https://host/") == Credential(token="t")
    assert find(old, "https://host/", "acme") is None
    (tmp_path / "new").mkdir()
    body = 'print(json.dumps({"token": question["tenant"], "tenant": question["tenant"]}))'
    new = helper(tmp_path / "new", body)
    for tenant in ("default", "acme", "Acme"):
        assert find(new, "https://host/", tenant) == Credential(token=tenant)


def test_a_helper_may_have_nothing(tmp_path: Path) -> None:
    assert find(helper(tmp_path, "print('{}')"), "https://host/") is None


@pytest.mark.parametrize(
    "body",
    [
        f"print('{SECRET}')",
        f"print('[\"{SECRET}\"]')",
        f"print(json.dumps({{'tokn': '{SECRET}'}}))",
        f"print(json.dumps({{'token': ['{SECRET}']}}))",
        f"print(json.dumps({{'token': '{SECRET}', 'expires_in': '{SECRET}'}}))",
        f"sys.exit('{SECRET}')",
        f"print('{SECRET}' * 10000)",
    ],
)
def test_a_broken_helper_is_refused_without_repeating_it(
    tmp_path: Path, body: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OriginRefused) as caught:
        find(helper(tmp_path, body), "https://host/")
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(capfd.readouterr())


def test_a_helper_that_is_not_there_is_refused() -> None:
    with pytest.raises(OriginRefused, match="cannot be run"):
        find(ExecCredentials(["/nowhere/helper"]), "https://host/")


def gone(pid: int) -> bool:
    """Whether a process is over; one that nobody has waited for yet is."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip() in ("", "Z", "Zs")


def test_a_helper_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"""
import os
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, file=open({str(pids)!r}, "w"), flush=True)
child.wait()
"""
    since = time.monotonic()
    with pytest.raises(OriginRefused, match="did not answer in 2 s"):
        find(helper(tmp_path, body, timeout=2.0), "https://host/")
    assert time.monotonic() - since < 10
    deadline = time.monotonic() + 10
    for pid in map(int, pids.read_text().split()):
        while not gone(pid):
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("file", {"path": 5}),
        ("exec", {"command": SECRET}),
        ("exec", {"command": ["x"], "timeout": 0}),
        ("exec", {"comand": ["x"]}),
        ("static", {"origin": {"https://h": {"token": SECRET}}}),
    ],
)
def test_wrong_options_are_refused_by_name(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(HawkerError, match=f"plugins.options.{name}") as caught:
        loaded(name, options)
    assert SECRET not in str(caught.value)


def test_a_credential_does_not_show_itself() -> None:
    credential = Credential(token=SECRET, secret_key=SECRET, headers={"x": SECRET})
    assert SECRET not in f"{credential!r} {credential!s} {[credential]}"


@pytest.mark.parametrize("name", ["file", "exec"])
def test_what_is_not_set_up_is_no_broken_plugin_but_signs_nobody_in(name: str) -> None:
    with pytest.raises(OriginRefused, match=f"plugins.options.{name}"):
        find(loaded(name, {}), "https://host/")
