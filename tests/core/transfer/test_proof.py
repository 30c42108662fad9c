"""Which pieces are believed: those that the signed digests of a named reader vouch for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from hawker.core.digests import MAX_RUN_PIECES, HostKey
from hawker.core.errors import DigestMismatch
from hawker.core.pieces import PieceSet
from hawker.core.storage import Store
from hawker.core.transfer.proof import MAX_PENDING, Proof
from tests.core.storage.conftest import PIECE, Sample

SAMPLE = Sample("proof", os.urandom(4 * PIECE + 7), HostKey.generate(), "0123456789abcdef")


def with_proof(directory: Path, check: Callable[[Proof], Awaitable[None]]) -> None:
    """Run a check on the proof of an empty entry."""

    async def main() -> None:
        store = Store.open(directory / "data")
        await store.start()
        try:
            entry = await SAMPLE.create(store)
            with entry.using():
                await check(Proof(entry))
        finally:
            await store.close()

    asyncio.run(main())


def test_a_piece_waits_for_its_digest_and_is_judged_by_it(tmp_path: Path) -> None:
    async def check(proof: Proof) -> None:
        early = {0: SAMPLE.digests[0], 1: b"x" * 32}
        assert proof.judge("parent", early).held == [0, 1]
        assert proof.judge_held() == {}
        proof.name_readers([SAMPLE.reader])
        await proof.learn([SAMPLE.run(0, 2)], "parent")
        verdict = proof.judge_held()["parent"]
        assert (verdict.good, verdict.bad) == ({0: SAMPLE.digests[0]}, [1])
        assert proof.judge("parent", {2: SAMPLE.digests[2]}).good == {2: SAMPLE.digests[2]}
        assert proof.judge("parent", {2: SAMPLE.digests[1]}).bad == [2]
        assert proof.judge_held() == {}, "each is judged once"

    with_proof(tmp_path, check)


def test_runs_wait_until_their_reader_is_named(tmp_path: Path) -> None:
    async def check(proof: Proof) -> None:
        await proof.learn([SAMPLE.run(0, 4)])
        assert proof.judge("parent", {0: SAMPLE.digests[0]}).held == [0]
        proof.name_readers([SAMPLE.reader])
        await proof.learn([])
        assert proof.judge_held()["parent"].good == {0: SAMPLE.digests[0]}

    with_proof(tmp_path, check)


def test_pieces_that_were_given_up_are_judged_no_more(tmp_path: Path) -> None:
    async def check(proof: Proof) -> None:
        proof.judge("parent", {0: SAMPLE.digests[0], 1: SAMPLE.digests[1]})
        proof.drop(PieceSet.of([0, 3]))
        proof.name_readers([SAMPLE.reader])
        await proof.learn([SAMPLE.run(0, 4)])
        assert proof.judge_held()["parent"].good == {1: SAMPLE.digests[1]}

    with_proof(tmp_path, check)


def test_a_forged_run_is_told_where_its_reader_is_known_and_dropped_where_it_comes_to_be(
    tmp_path: Path,
) -> None:
    forged = msgspec.structs.replace(SAMPLE.run(0, 4), digests=b"y" * 5 * 32)

    async def check(proof: Proof) -> None:
        await proof.learn([forged])
        proof.name_readers([SAMPLE.reader])
        await proof.learn([])
        assert proof.judge("parent", {0: b"y" * 32}).held == [0], "it was never believed"
        with pytest.raises(DigestMismatch, match="signature"):
            await proof.learn([forged])
        other = msgspec.structs.replace(SAMPLE.run(0, 4), generation="f" * 16)
        with pytest.raises(DigestMismatch, match="another task or generation"):
            await proof.learn([SAMPLE.key.sign(other)])

    with_proof(tmp_path, check)


def test_a_parent_that_floods_with_unknown_digests_is_refused_and_harms_no_other(
    tmp_path: Path,
) -> None:
    stranger = HostKey.generate()
    flood = b"z" * 32 * MAX_RUN_PIECES

    async def check(proof: Proof) -> None:
        await proof.learn([SAMPLE.run(0, 4)], "honest")
        with pytest.raises(DigestMismatch, match="nobody named"):
            for number in range(MAX_PENDING // MAX_RUN_PIECES + 1):
                run = msgspec.structs.replace(SAMPLE.run(0, 0), lease=f"{number}", digests=flood)
                await proof.learn([stranger.sign(run)], "liar")
        proof.forget("liar")
        proof.name_readers([SAMPLE.reader])
        await proof.learn([])
        assert proof.judge("honest", {0: SAMPLE.digests[0]}).good

    with_proof(tmp_path, check)


def test_the_same_digests_again_take_no_more_room(tmp_path: Path) -> None:
    async def check(proof: Proof) -> None:
        for _ in range(MAX_PENDING // 5 + 1):
            await proof.learn([run], "parent")

    run = SAMPLE.run(0, 4)
    with_proof(tmp_path, check)
