"""The page to browse the API by; `python -m tests.outside.docs_page` tries it in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.apps.manager.running import Manager


@pytest.fixture(scope="module")
def client(manager: Manager) -> Iterator[httpx.Client]:
    with manager.client() as made:
        yield made


def test_nothing_inline_and_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert sorted(loaded) == ["docs.css", "docs.js", "openapi.json"]
    assert "<style" not in page.text and not re.search(r"\s(?:on\w+|style)=", page.text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page.text))
    for name in ("docs.js", "docs.css"):
        text = client.get(f"/{name}").text
        assert not re.search(r"https?://|@import|\surl\(|innerHTML|\beval\(", text)


@pytest.mark.parametrize("name", ["docs", "docs.js", "docs.css"])
def test_the_policy_lets_only_its_own_files_run(client: httpx.Client, name: str) -> None:
    headers = client.get(f"/{name}").headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    sources = {kind: taken for kind, taken in policy.items() if kind.endswith("-src")}
    assert set(sources.values()) <= {"'none'", "'self'"}
    for kind in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[kind] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
