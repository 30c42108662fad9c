"""Signed digest runs: what is taken, and everything that is not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.digests import Digest, DigestRun, HostKey, Reader, check_run
from hawker.core.errors import BadRequest, DigestMismatch
from hawker.core.pieces import KIB, Layout

LENGTH = 256 * KIB
LAYOUT = Layout(10 * LENGTH - 1, LENGTH)
KEY = HostKey.from_bytes(b"reader key for the tests, 32 b.!")
OTHER = HostKey.generate()
READER = Reader(KEY.host, KEY.public, "lease-1")
RUN = KEY.sign(
    DigestRun(
        task="t" * 64,
        generation="g" * 16,
        first=2,
        digests=bytes(range(96)),
        piece_length=LENGTH,
        total=10 * LENGTH - 1,
        host="",
        lease="lease-1",
    )
)


def changed(**fields: object) -> DigestRun:
    return msgspec.structs.replace(RUN, **fields)


def test_a_readers_run_is_taken() -> None:
    check_run(RUN, LAYOUT, [Reader(OTHER.host, OTHER.public, "x"), READER])
    check_run(RUN, None, [READER])
    assert RUN.run == (2, 4) and RUN.digest(3) == bytes(range(32, 64))


def test_a_run_that_says_the_total_alone_is_taken() -> None:
    run = KEY.sign(changed(digests=b"", first=10))
    check_run(run, Layout(None, LENGTH), [READER])
    assert run.count == 0 and run.layout == LAYOUT


@given(
    st.sampled_from(
        ["task", "generation", "first", "digests", "piece_length", "total", "lease", "signature"]
    )
)
def test_a_run_of_which_anything_was_altered_is_refused(field: str) -> None:
    value = getattr(RUN, field)
    if isinstance(value, bytes):
        altered: object = bytes([value[0] ^ 1]) + value[1:]
    elif isinstance(value, int):
        altered = value * 2 if field == "piece_length" else value - 1
    else:
        altered = "x" + value[1:]
    run = changed(**{field: altered})
    readers = [READER, Reader(KEY.host, KEY.public, run.lease)]
    with pytest.raises(DigestMismatch):
        check_run(run, None, readers)


def test_another_hosts_signature_is_refused() -> None:
    forged = changed(signature=OTHER.sign(RUN).signature)
    with pytest.raises(DigestMismatch, match="signature"):
        check_run(forged, LAYOUT, [READER])


@pytest.mark.parametrize(
    "readers",
    [
        [],
        [Reader(KEY.host, KEY.public, "lease-2")],
        [Reader(OTHER.host, OTHER.public, "lease-1")],
    ],
)
def test_a_lease_that_was_not_held_is_refused(readers: list[Reader]) -> None:
    with pytest.raises(DigestMismatch, match="lease"):
        check_run(RUN, LAYOUT, readers)


def test_a_key_that_is_not_the_hosts_is_refused() -> None:
    with pytest.raises(DigestMismatch, match="key"):
        check_run(RUN, LAYOUT, [Reader(KEY.host, OTHER.public, "lease-1")])


@pytest.mark.parametrize(
    ("fields", "layout"),
    [
        ({"digests": bytes(95)}, LAYOUT),
        ({"digests": bytes(32 * 9)}, LAYOUT),
        ({"first": -1}, LAYOUT),
        ({"first": 1 << 40}, None),
        ({"piece_length": LENGTH + 1}, None),
        ({"piece_length": 2 * LENGTH}, LAYOUT),
        ({"total": 3 * LENGTH}, None),
        ({"total": 9 * LENGTH}, LAYOUT),
        ({"total": -2}, None),
    ],
)
def test_a_run_of_the_wrong_length_is_refused_though_it_is_signed(
    fields: dict[str, object], layout: Layout | None
) -> None:
    with pytest.raises(DigestMismatch):
        check_run(KEY.sign(changed(**fields)), layout, [READER])


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "md5:" + "0" * 32, "sha256:" + "0" * 63, "sha256:" + "0" * 65,
     "sha256:" + "A" * 64, "sha256:" + "g" * 64, "SHA256:" + "0" * 64, "x sha256:" + "0" * 64,
     "sha512:" + "0" * 64, "sha256:" + "0" * 64 + "\n"],
)  # fmt: skip
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Digest.parse(text)


def test_content_is_checked_against_its_digest() -> None:
    digest = Digest.parse(f"sha512:{'0' * 128}")
    hasher = digest.hasher()
    hasher.update(b"content")
    with pytest.raises(DigestMismatch, match="sha512"):
        digest.check(hasher, "it")
    right = Digest("sha512", hasher.hexdigest())
    right.check(hasher, "it")
    assert Digest.parse(str(right)) == right
