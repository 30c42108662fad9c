"""A path names one object of one upstream that is mirrored, or nothing."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.apps.registry.errors import RegistryError
from hawker.apps.registry.names import Target, Upstreams
from hawker.apps.registry.upstream import challenge_of, through_here
from hawker.core.errors import ConfigError
from hawker.core.settings import RegistrySettings

DIGEST = "sha256:" + hashlib.sha256(b"").hexdigest()
UPSTREAMS = Upstreams(RegistrySettings())


def located(path: str, ns: str = "") -> Target:
    return UPSTREAMS.locate(path, ns)


@pytest.mark.parametrize(
    "path, ns, url",
    [
        ("alpine/manifests/3", "", "https://registry-1.docker.io/v2/library/alpine/manifests/3"),
        ("org/app/manifests/3", "", "https://registry-1.docker.io/v2/org/app/manifests/3"),
        (
            "alpine/manifests/3",
            "docker.io",
            "https://registry-1.docker.io/v2/library/alpine/manifests/3",
        ),
        ("org/app/tags/list", "quay.io", "https://quay.io/v2/org/app/tags/list"),
        ("app/tags/list", "QUAY.io", "https://quay.io/v2/app/tags/list"),
        (f"quay.io/org/app/blobs/{DIGEST}", "", f"https://quay.io/v2/org/app/blobs/{DIGEST}"),
        (f"ghcr.io/a/b/c/referrers/{DIGEST}", "", f"https://ghcr.io/v2/a/b/c/referrers/{DIGEST}"),
        ("a/blobs/manifests/x", "quay.io", "https://quay.io/v2/a/blobs/manifests/x"),
        ("app/blobs/uploads/1-2", "quay.io", "https://quay.io/v2/app/blobs/uploads/1-2"),
    ],
)
def test_what_paths_name(path: str, ns: str, url: str) -> None:
    assert located(path, ns).url == url


@pytest.mark.parametrize(
    "path, ns, status",
    [
        ("org/app/manifests/3", "evil.test", 403),
        ("org/app/manifests/3", "169.254.169.254", 403),
        ("org/../app/manifests/3", "", 400),
        ("org//app/manifests/3", "", 400),
        ("ORG/app/manifests/3", "", 400),
        ("org/app/manifests/-x", "", 400),
        ("org/app/manifests/" + "x" * 129, "", 400),
        ("org/app/manifests/" + DIGEST[:-1], "", 400),
        ("org/app/blobs/latest", "", 400),
        ("org/app", "", 404),
        ("_catalog", "", 404),
        ("x" * 256 + "/manifests/1", "", 400),
    ],
)
def test_what_names_nothing(path: str, ns: str, status: int) -> None:
    with pytest.raises(RegistryError) as caught:
        located(path, ns)
    assert caught.value.answer_status == status


@given(st.text(max_size=80), st.sampled_from(["", "quay.io", "x"]))
def test_whatever_is_asked_stays_within_the_upstreams(path: str, ns: str) -> None:
    try:
        target = located(path, ns)
    except RegistryError:
        return
    assert target.url.startswith(tuple(f"{base}/v2/" for base in UPSTREAMS.bases))
    assert ".." not in target.repository and "?" not in target.url and "#" not in target.url


@pytest.mark.parametrize(
    "settings, words",
    [
        (RegistrySettings(default="quay.example"), "registry.default"),
        (RegistrySettings(upstreams={"docker.io": "ftp://x"}), "registry.upstreams"),
        (RegistrySettings(upstreams={"docker.io": "https://x/path"}), "registry.upstreams"),
    ],
)
def test_settings_that_make_no_sense(settings: RegistrySettings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Upstreams(settings)


@pytest.mark.parametrize(
    "location, prefix, ns, here",
    [
        ("/v2/a/blobs/uploads/1?s=2", "", "", "/v2/a/blobs/uploads/1?s=2"),
        ("https://quay.io/v2/a/tags/list?n=1", "quay.io", "", "/v2/quay.io/a/tags/list?n=1"),
        ("/v2/a/tags/list", "", "quay.io", "/v2/a/tags/list?ns=quay.io"),
        ("https://elsewhere.test/v2/a", "quay.io", "", "https://elsewhere.test/v2/a"),
        ("http://quay.io/v2/a", "quay.io", "", "http://quay.io/v2/a"),
    ],
)
def test_links_lead_through_the_mirror(location: str, prefix: str, ns: str, here: str) -> None:
    target = Target("quay.io", "https://quay.io", "a", "tags", "", prefix, ns)
    assert through_here(location, target) == here


@pytest.mark.parametrize(
    "challenge, told",
    [
        ('Bearer realm="https://quay.io/v2/auth",service="quay.io"', True),
        ('Bearer realm="https://evil.test/token",service="quay.io"', False),
        ('Basic realm="x"', True),
        ("Negotiate", False),
        ("", False),
    ],
)
def test_clients_are_told_no_challenge_that_leads_elsewhere(challenge: str, told: bool) -> None:
    target = Target("quay.io", "https://quay.io", "a", "blobs", DIGEST)
    answer = httpx.Response(401, headers={"www-authenticate": challenge})
    assert challenge_of(answer, target) == ({"www-authenticate": challenge} if told else {})


@pytest.mark.parametrize(
    "challenge",
    [
        'Basic realm="x", Bearer realm="https://evil.test/token"',
        'Bearer realm="https://quay.io/t",realm="https://evil.test/t"',
        'Bearer realm="https://quay.io/t", Bearer realm="https://evil.test/t"',
    ],
)
def test_no_second_challenge_goes_along(challenge: str) -> None:
    target = Target("quay.io", "https://quay.io", "a", "blobs", DIGEST)
    answer = httpx.Response(401, headers={"www-authenticate": challenge})
    assert "evil" not in challenge_of(answer, target).get("www-authenticate", "")
