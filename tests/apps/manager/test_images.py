"""What an image consists of, by registries on loopback that list, hide and lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from hawker.apps.manager.jobs.contents import Content
from hawker.apps.manager.jobs.images import Image, Images
from hawker.core.errors import BadRequest, HawkerError, NotFound, OriginFailed, OriginRefused
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from tests.e2e.upstream import IMAGE, INDEX, Registry, digest_of


@pytest.fixture
def registry() -> Iterator[Registry]:
    running = Registry()
    yield running
    running.close()


def contents(
    registry: Registry, reference: str, *platforms: str, referrers: bool = False, **headers: str
) -> list[Content]:
    async def ask() -> list[Content]:
        origins = OriginClient(PluginHost(Settings()).services, origin_tls(""))
        try:
            image = Image(registry.url, "lib/img", reference)
            images = Images(origins)
            return await images.contents(
                image, platforms, headers, tenant="default", referrers=referrers
            )
        finally:
            await origins.close()

    return asyncio.run(ask())


def digests(found: list[Content]) -> set[str]:
    return {content.url.rpartition("/")[2] for content in found}


def put_index(registry: Registry, tag: str, *inner: tuple[str, str]) -> str:
    """An index of manifests by their digests and platforms; its digest."""
    listed = []
    for digest, platform in inner:
        os, architecture, *variant = platform.split("/")
        said = {
            "os": os,
            "architecture": architecture,
            **({"variant": variant[0]} if variant else {}),
        }
        body, media_type = registry.manifests["lib/img", digest]
        listed.append(
            {"mediaType": media_type, "digest": digest, "size": len(body), "platform": said}
        )
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
    registry.put_manifest("lib/img", tag, body, INDEX)
    return digest_of(body)


def config_of(registry: Registry, digest: str) -> str:
    document = json.loads(registry.manifests["lib/img", digest][0])
    config: str = document["config"]["digest"]
    return config


def test_an_image_is_its_manifest_configuration_and_layers(registry: Registry) -> None:
    manifest, one, two = registry.put_image("lib/img", "1", 10, 20)
    found = contents(registry, "1")
    place = f"{registry.url}/v2/lib/img"
    assert [content.url for content in found] == [
        f"{place}/manifests/{manifest}",
        f"{place}/blobs/{config_of(registry, manifest)}",
        f"{place}/blobs/{one}",
        f"{place}/blobs/{two}",
    ]
    assert [content.size for content in found][2:] == [10, 20]
    assert contents(registry, manifest) == found
    # No blob is asked for.
    assert set(registry.asked) == {"GET manifests"}


def test_of_an_index_all_or_the_chosen_platforms(registry: Registry) -> None:
    amd, amd_layer = registry.put_image("lib/img", "amd", 10)
    arm, arm_layer = registry.put_image("lib/img", "arm", 20)
    old, old_layer = registry.put_image("lib/img", "old", 30)
    index = put_index(
        registry, "1", (amd, "linux/amd64"), (arm, "linux/arm64/v8"), (old, "linux/arm/v6")
    )
    everything = digests(contents(registry, "1"))
    assert {index, amd, arm, old, amd_layer, arm_layer, old_layer} < everything
    one = digests(contents(registry, "1", "linux/arm64"))
    assert one == {index, arm, arm_layer, config_of(registry, arm)}
    two = digests(contents(registry, "1", "linux/amd64", "linux/arm/v6"))
    assert {amd_layer, old_layer} < two and arm_layer not in two
    with pytest.raises(NotFound, match="nothing for windows/amd64") as caught:
        contents(registry, "1", "linux/amd64", "windows/amd64")
    assert "linux/arm/v6" in caught.value.hint


def test_names_are_fit_for_a_database_whatever_a_registry_calls_its_platforms(
    registry: Registry,
) -> None:
    manifest, *_ = registry.put_image("lib/img", "one", 10)
    put_index(registry, "1", (manifest, "a\0b/" + "x" * 1000))
    names = [content.name for content in contents(registry, "1")]
    assert any(name.startswith("manifest ab/xxx") for name in names)
    assert max(map(len, names)) <= 200 and all(name.isprintable() for name in names)


@pytest.mark.parametrize("listed", [True, False])
def test_what_refers_to_it_comes_along(registry: Registry, listed: bool) -> None:
    manifest, layer = registry.put_image("lib/img", "1", 10)
    signature, signed = registry.put_image("lib/img", "signature", 5)
    body, media_type = registry.manifests["lib/img", signature]
    one: dict[str, Any] = {"mediaType": media_type, "digest": signature, "size": len(body)}
    if listed:
        registry.referrers = {manifest: [one]}
    else:
        # A registry without such lists keeps them as an index under a tag.
        registry.referrers = None
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [one]}).encode()
        registry.put_manifest("lib/img", manifest.replace(":", "-"), index, INDEX)
    assert {signature, signed, manifest, layer} < digests(contents(registry, "1", referrers=True))
    assert signature not in digests(contents(registry, "1"))


def test_a_private_image_needs_what_its_registry_wants_to_see(registry: Registry) -> None:
    registry.put_image("lib/img", "1", 10)
    registry.open = {"lib/img"}
    assert contents(registry, "1"), "a token that anybody gets"
    registry.open = set()
    with pytest.raises(OriginRefused, match="not given"):
        contents(registry, "1")
    assert contents(registry, "1", authorization="Bearer user-lib/img")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"schemaVersion":1}',
        b'{"layers":[{"digest":"sha256:zz","size":1}]}',
        b'{"layers":[{"digest":5,"size":1}]}',
        b'{"layers":[{"size":1}]}',
        b'{"layers":["x"]}',
        b'{"layers":[{"digest":"sha256:%s","size":-1}]}' % (b"ab" * 32),
        b'{"layers":[{"digest":"sha256:%s","size":9223372036854775808}]}' % (b"ab" * 32),
        b'{"layers":7}',
        b'{"manifests":[null]}',
        b"[" * 100_000,
        b" " * (4 * 1024 * 1024 + 1),
    ],
)
def test_what_is_no_manifest_is_refused(registry: Registry, body: bytes) -> None:
    registry.put_manifest("lib/img", "1", body, IMAGE)
    with pytest.raises(OriginFailed):
        contents(registry, "1")


def test_a_registry_that_lies_is_found_out(registry: Registry) -> None:
    manifest, *_ = registry.put_image("lib/img", "1", 10)
    registry.lies[manifest] = b'{"layers":[]}'
    for reference in ("1", manifest):
        with pytest.raises(HawkerError, match="sha256:"):
            contents(registry, reference)


def test_what_is_not_there_is_said(registry: Registry) -> None:
    with pytest.raises(NotFound, match="lib/img/manifests/7"):
        contents(registry, "7")


@pytest.mark.parametrize(
    ("text", "base", "repository", "reference"),
    [
        ("nginx", "https://registry-1.docker.io", "library/nginx", "latest"),
        ("org/app:1.2", "https://registry-1.docker.io", "org/app", "1.2"),
        ("docker.io/library/nginx:1", "https://registry-1.docker.io", "library/nginx", "1"),
        ("quay.io/a/b/c:x", "https://quay.io", "a/b/c", "x"),
        ("localhost:5000/img", "https://localhost:5000", "img", "latest"),
        ("mine/img:1", "https://registry-1.docker.io", "mine/img", "1"),
        (f"quay.io/a@sha256:{'a' * 64}", "https://quay.io", "a", f"sha256:{'a' * 64}"),
        (f"quay.io/a:t@sha256:{'a' * 64}", "https://quay.io", "a", f"sha256:{'a' * 64}"),
        ("http://h:5/v2/a/b/manifests/t", "http://h:5", "a/b", "t"),
        ("mirror.example/img", "http://10.0.0.1:5000", "img", "latest"),
    ],
)
def test_images_are_named_as_people_do(
    text: str, base: str, repository: str, reference: str
) -> None:
    bases = {"docker.io": "https://registry-1.docker.io", "mirror.example": "http://10.0.0.1:5000"}
    assert Image.parse(text, bases) == Image(base, repository, reference)


@pytest.mark.parametrize(
    "text", ["", "A", "a b", "http://h/v2/a/b", "quay.io/", "a:b:c", "http://u@h/v2/a/manifests/1"]
)
def test_what_is_no_image_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="image"):
        Image.parse(text, {})
