"""The values everything stands on: URLs, pieces, ranges, messages, errors, settings, tokens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core import errors, messages, tokens
from hawker.core.errors import BadRequest, ConfigError, Unauthenticated
from hawker.core.ids import TaskSpec, canonical_url, loses_credentials
from hawker.core.pieces import KIB, MAX_PIECES, MIB, Layout, PieceSet, piece_length_for
from hawker.core.ranges import ByteRange, parse_content_range
from hawker.core.settings import load

CODES = (
    "bad-request unauthenticated forbidden not-found generation-gone busy not-here-yet"
    " digest-mismatch origin-failed origin-changed origin-refused quota unknown-plugin unavailable"
).split()

# ---------------------------------------------------------------------------- identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://Example.com", "http://example.com:80/"),
        ("https://example.com:443/a/./b/../c", "https://example.com/a/c"),
        ("http://e.com/%7Euser", "http://e.com/~user"),
        ("http://e.com/%2f", "http://e.com/%2F"),
        ("http://e.com/x#part", "http://e.com/x"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://e.com/k?X-Amz-Signature=1&X-Amz-Date=2&a=1", "http://e.com/k?a=1"),
        ("http://e.com/k?sv=1&sig=2&st=3&a=1", "http://e.com/k?a=1"),
    ],
)
def test_spellings_of_one_url_are_one_task(one: str, other: str) -> None:
    assert canonical_url(one) == canonical_url(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://e.com/?st=1", "http://e.com/?st=2"),
        ("http://e.com/?Expires=1", "http://e.com/?Expires=2"),
        ("http://e.com/?sig=1", "http://e.com/?sig=2"),
        ("http://e.com/?a=1&b=2", "http://e.com/?b=2&a=1"),
        ("http://e.com/a%2Fb", "http://e.com/a/b"),
        ("http://e.com/a", "http://e.com/a/"),
        ("http://e.com/", "https://e.com/"),
        ("http://e.com/?ns=1", "http://e.com/"),
    ],
)
def test_different_urls_stay_different(one: str, other: str) -> None:
    assert canonical_url(one) != canonical_url(other)


@pytest.mark.parametrize(
    "url",
    ["", "no-scheme", "http://", "http://u:p@e.com/", "http://e.com/a b", "http://e.com/\n",
     "http://[::1", "http://e.com:99999/", "://x", "http://e.com/" + "a" * 20000],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        canonical_url(url)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_a_canonical_url_is_its_own_canonical_url(path: str) -> None:
    try:
        once = canonical_url("http://e.com/" + path)
    except BadRequest:
        return
    assert canonical_url(once) == once


@pytest.mark.parametrize(
    ("url", "filtered", "loses"),
    [
        ("http://e.com/k?X-Amz-Signature=1&X-Amz-Date=2&a=1", (), True),
        ("http://e.com/k?x%2Damz%2Dsignature=1", (), True),
        ("http://e.com/k?sv=1&sig=2", (), True),
        ("http://e.com/k?sig=2&st=1&a", (), False),
        ("http://e.com/k?mine=1", ("mine",), True),
        ("http://e.com/k?other=1", ("mine",), False),
        ("http://e.com/v2/a/blobs/b?ns=docker.io", (), False),
        ("http://e.com/v2/a/blobs/b?ns=docker.io&sv=1&sig=2", (), True),
        ("http://e.com/k", ("",), False),
        ("http://e.com/k#X-Amz-Signature=1", (), False),
    ],
)
def test_a_url_may_lose_a_credential(url: str, filtered: tuple[str, ...], loses: bool) -> None:
    assert loses_credentials(url, filtered) == loses


def test_fields_do_not_run_into_each_other() -> None:
    specs = [
        TaskSpec(url="u", tag="ab"), TaskSpec(url="u", tag="a", application="b"),
        TaskSpec(url="u", application="ab"), TaskSpec(url="u", revision="ab"),
        TaskSpec(url="u", tenant="ab"), TaskSpec(url="u", variant="ab"),
    ]  # fmt: skip
    assert len({spec.task_id for spec in specs}) == len(specs)


# ---------------------------------------------------------------------------- pieces, ranges


@pytest.mark.parametrize(
    ("total", "length"),
    [(None, MIB), (0, 256 * KIB), (1, 256 * KIB), (64 * MIB, 256 * KIB),
     (64 * MIB + 1, 512 * KIB), (1024 * MIB, 4 * MIB), (16 * 1024**4, 16 * MIB)],
)  # fmt: skip
def test_piece_lengths_follow_the_content(total: int | None, length: int) -> None:
    assert piece_length_for(total) == length


numbers = st.sets(st.integers(0, 300))


@given(numbers, numbers)
def test_a_piece_set_behaves_as_a_set(one: set[int], other: set[int]) -> None:
    a, b = PieceSet.of(one), PieceSet.of(other)
    assert list(a) == sorted(one) and len(a) == len(one) and bool(a) == bool(one)
    assert set(a | b) == one | other and set(a & b) == one & other and set(a - b) == one - other
    assert (a <= b) == (one <= other) and (a == b) == (one == other)
    assert PieceSet.from_runs(a.runs()) == a
    assert all(piece in a for piece in one)
    assert all(later[0] > run[1] + 1 for run, later in zip(a.runs(), a.runs()[1:], strict=False))


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=150))
def test_runs_may_overlap_and_come_in_any_order(spans: list[tuple[int, int]]) -> None:
    runs = [(first, first + more) for first, more in spans]
    pieces = {piece for first, last in runs for piece in range(first, last + 1)}
    assert PieceSet.from_runs(runs) == PieceSet.of(pieces)


def test_very_many_runs_are_taken_in_linear_time() -> None:
    scattered = PieceSet(int("01" * (MAX_PIECES // 2), 2))
    began = time.process_time()
    assert PieceSet.from_runs(scattered.runs()) == scattered
    assert time.process_time() - began < 10, "one after the other they take minutes"


@pytest.mark.parametrize("run", [(-1, 2), (3, 2), (0, 1 << 20)])
@pytest.mark.parametrize("others", [0, 100])
def test_what_is_no_run_is_refused(run: tuple[int, int], others: int) -> None:
    with pytest.raises(BadRequest):
        PieceSet.from_runs([*([(0, 1)] * others), run])


@given(st.integers(0, 5 * MIB), st.integers(0, 5 * MIB), st.integers(1, 5 * MIB))
def test_the_pieces_of_a_range_are_those_it_touches(total: int, start: int, size: int) -> None:
    layout = Layout(total, 256 * KIB)
    touched = set(layout.touching(ByteRange(start, start + size)))
    for piece in range(layout.count or 0):
        span = layout.span((piece, piece))
        assert span.stop is not None
        overlap = span.start < start + size and start < span.stop
        assert (piece in touched) == overlap
    assert sum(layout.length(piece) for piece in layout.everything()) == total


@pytest.mark.parametrize(
    "header", ["", "bytes */5", "bytes 5-4/10", "bytes 0-10/10", "bytes 0-1", "items 0-1/2"]
)
def test_content_ranges_that_make_no_sense(header: str) -> None:
    assert parse_content_range(header) is None


# ---------------------------------------------------------------------------- errors, messages


@pytest.mark.parametrize("code", CODES)
def test_every_problem_of_the_wire_has_a_class(code: str) -> None:
    cls = errors.BY_CODE[code]
    problem = cls("what", hint="do", retry_after=2.0).problem()
    again = errors.from_problem(problem)
    assert type(again) is cls and problem.code == code
    assert (again.detail, again.hint, again.retry_after) == ("what", "do", 2.0)


def test_unknown_kinds_are_skipped_and_counted_and_unknown_fields_ignored() -> None:
    decode = messages.decision_decoder()
    assert decode(b'{"kind":"dance","task":"t"}') is None
    assert decode(b'{"kind":"done","task":"t","mood":"good"}') == messages.Done(task="t")
    assert decode.skipped == 1
    with pytest.raises(BadRequest, match=r"\$"):
        decode(b'{"kind":"done","task":7}')
    with pytest.raises(BadRequest):
        decode(b"{")


def test_reports_travel_unchanged() -> None:
    decode = messages.report_decoder()
    report = messages.Have(task="t", seq=3, generation="g", pieces=[(0, 4), (7, 7)])
    assert decode(messages.encode(report)) == report


# ---------------------------------------------------------------------------- settings


def test_flags_beat_variables_beat_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hawker.toml"
    file.write_text('[listen]\nport = 1\nhost = "h1"\n[peer]\nidc = "file"\n')
    variables = {
        "HAWKER_LISTEN__PORT": "2",
        "HAWKER_LISTEN__HOST": "h2",
        "HAWKER_CONFIG": str(file),
    }
    loaded = load({"listen.port": 3, "peer.seed": None}, environ=variables)
    settings = loaded.settings
    assert (settings.listen.port, settings.listen.host, settings.peer.idc) == (3, "h2", "file")
    origins = {key: origin for key, _, origin in loaded.rows()}
    assert origins["listen.port"] == "flag"
    assert origins["listen.host"] == "HAWKER_LISTEN__HOST"
    assert origins["peer.idc"] == str(file)
    assert origins["peer.seed"] == "default"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"HAWKER_PEER__SED": "1"}, ["HAWKER_PEER__SED", "peer.seed"]),
        ({"HAWKER_LISTEN__PORT": "many"}, ["HAWKER_LISTEN__PORT", "listen.port"]),
        ({"HAWKER_AUTH__MODE": "maybe"}, ["auth.mode", "required"]),
        ({"HAWKER_PEER__SEED": "perhaps"}, ["perhaps"]),
        ({"HAWKER_PLUGINS__CHOOSE": "{"}, ["HAWKER_PLUGINS__CHOOSE", "JSON"]),
        ({"HAWKER_CONFIG": "/nowhere/x.toml"}, ["/nowhere/x.toml"]),
    ],
)
def test_wrong_settings_say_where_and_what(environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ---------------------------------------------------------------------------- tokens


def test_tokens_are_believed_only_of_the_same_cluster_and_in_time() -> None:
    now = [1000.0]
    ours = tokens.ClusterKey(b"k" * 32, lambda: now[0])
    theirs = tokens.ClusterKey(b"x" * 32, lambda: now[0])
    token = ours.mint("h" * 32, ["pieces"], task="t")
    caller = ours.check(token)
    assert caller.host == "h" * 32
    assert caller.may("pieces", "t") and not caller.may("pieces", "u") and not caller.may("report")
    with pytest.raises(Unauthenticated):
        theirs.check(token)
    head, body, signature = token.split(".")
    for forged in (f"{head}.{body}.", f"{head}.{body}x.{signature}", "a.b.c", ""):
        with pytest.raises(Unauthenticated):
            ours.check(forged)
    unsigned = "eyJhbGciOiJub25lIn0." + body + "."
    with pytest.raises(Unauthenticated):
        ours.check(unsigned)
    assert ours.mint("h" * 32, ["pieces"], task="t") == token
    now[0] += tokens.LIFETIME + tokens.LEEWAY + 1
    with pytest.raises(Unauthenticated):
        ours.check(token)
    assert ours.mint("h" * 32, ["pieces"], task="t") != token


def test_a_cluster_key_is_only_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "key"
    tokens.create_key_file(file)
    assert len(tokens.read_key_file(file)) == 32
    with pytest.raises(ConfigError, match="exists"):
        tokens.create_key_file(file)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod"):
        tokens.read_key_file(file)
    file.chmod(0o600)
    file.write_text("not hex")
    with pytest.raises(ConfigError, match="hex"):
        tokens.read_key_file(file)
    file.write_bytes(b"\xff" * 32)
    with pytest.raises(ConfigError, match="hex"):
        tokens.read_key_file(file)
    with pytest.raises(ConfigError, match="hawker cluster key"):
        tokens.read_key_file(tmp_path / "none")
