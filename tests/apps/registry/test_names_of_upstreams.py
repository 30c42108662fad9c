"""An upstream named in a repository's first component, where a port cannot follow a colon."""

from __future__ import annotations

import pytest

from hawker.apps.registry.names import Upstreams
from hawker.core.settings import RegistrySettings

UPSTREAMS = {"docker.io": "https://registry-1.docker.io", "127.0.0.1:5001": "http://127.0.0.1:5001"}


@pytest.mark.parametrize("first", ["127.0.0.1_5001", "127.0.0.1:5001"])
def test_an_upstream_with_a_port_can_be_named_in_a_path(first: str) -> None:
    target = Upstreams(RegistrySettings(upstreams=UPSTREAMS)).locate(
        f"{first}/lib/img/manifests/1", ""
    )
    assert (target.upstream, target.repository, target.prefix) == (
        "127.0.0.1:5001",
        "lib/img",
        first,
    )
    assert target.url == "http://127.0.0.1:5001/v2/lib/img/manifests/1"


def test_an_underscore_that_names_no_upstream_is_part_of_the_name() -> None:
    target = Upstreams(RegistrySettings(upstreams=UPSTREAMS)).locate("some_one/img/manifests/1", "")
    assert (target.upstream, target.repository) == ("docker.io", "some_one/img")
