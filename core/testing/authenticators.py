"""The contract of an authenticator as tests: subclass `AuthenticatorContract` in a test module of
your own.

    from hawker.core.testing.authenticators import AuthenticatorContract

    class TestMyAuthenticator(AuthenticatorContract):
        def make_authenticator(self):
            return MyAuthenticator()

        def good(self):
            return "Bearer secret-word", Caller("somebody", verbs=frozenset({"content"}))

        def wrong(self):
            return {"another's": "Bearer secret-world"}

Fixtures work as in any test class. Each test makes authenticators on its own event loop, and closes
them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from hawker.core.contracts import Authenticator, Caller
from hawker.core.errors import Unauthenticated

DEADLINE = 30.0
ROUNDS = 200
AT_ONCE = 50

Check = Callable[[Authenticator], Awaitable[None]]


def _part(fields: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


# Of no authenticator that is tested here; the last is a JWT that another issuer signed.
FOREIGN = (
    "",
    "Bearer",
    "Bearer ",
    "Negotiate YII=",
    'Digest username="somebody"',
    f"Bearer {_part({'alg': 'RS256'})}.{_part({'iss': 'https://elsewhere.example'})}.AAAA",
)


class AuthenticatorContract:
    """What `hawker.core.contracts.Authenticator` promises."""

    foreign: Sequence[str] = FOREIGN

    def make_authenticator(self) -> Authenticator:
        """One as it is when its plugin has been loaded; called on the test's event loop."""
        raise NotImplementedError

    def good(self) -> tuple[str, Caller]:
        """A value of `Authorization` that is right, and who shows it."""
        raise NotImplementedError

    def wrong(self) -> Mapping[str, str]:
        """Values of `Authorization` that are of this kind and let nobody in, by what is wrong."""
        raise NotImplementedError

    # ------------------------------------------------------------------ who is who

    def test_who_shows_something_right_is_known_each_time(self) -> None:
        shown, expected = self.good()
        assert expected.subject and expected.tenant

        async def check(authenticator: Authenticator) -> None:
            for _ in range(3):
                assert await authenticator.authenticate({"authorization": shown}) == expected

        self._run(check)

    def test_the_scheme_is_written_in_any_case(self) -> None:
        shown, expected = self.good()
        scheme, _, rest = shown.partition(" ")

        async def check(authenticator: Authenticator) -> None:
            for written in (scheme.lower(), scheme.upper()):
                fields = {"authorization": f"{written} {rest}"}
                assert await authenticator.authenticate(fields) == expected

        self._run(check)

    def test_many_at_the_same_time(self) -> None:
        shown, expected = self.good()

        async def check(authenticator: Authenticator) -> None:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(authenticator.authenticate({"authorization": shown}))
                    for _ in range(AT_ONCE)
                ]
            assert [task.result() for task in tasks] == [expected] * AT_ONCE

        self._run(check)

    def test_whoever_leaves_while_it_is_looked_at_takes_nothing_along(self) -> None:
        shown, expected = self.good()

        async def check(authenticator: Authenticator) -> None:
            for turns in range(10):
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(authenticator.authenticate({"authorization": shown}))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
            assert await authenticator.authenticate({"authorization": shown}) == expected

        self._run(check)

    # ------------------------------------------------------------------ who is not

    def test_what_others_understand_is_left_to_them(self) -> None:
        async def check(authenticator: Authenticator) -> None:
            assert await authenticator.authenticate({}) is None
            for shown in self.foreign:
                assert await authenticator.authenticate({"authorization": shown}) is None, shown

        self._run(check)

    def test_what_is_wrong_is_refused_without_repeating_it(self) -> None:
        wrong = self.wrong()
        assert wrong, "something must be wrong"

        async def check(authenticator: Authenticator) -> None:
            for what, shown in wrong.items():
                with pytest.raises(Unauthenticated) as caught:
                    await authenticator.authenticate({"authorization": shown})
                    pytest.fail(f"{what} is let in")
                _check_silent(caught.value, shown)

        self._run(check)

    def test_what_was_changed_by_one_letter_is_nobody_s(self) -> None:
        shown, _ = self.good()
        scheme, _, secret = shown.partition(" ")
        # The last character of a part may stand for bits that mean nothing (RFC 4648 section 3.5).
        spots = [at for at in range(len(secret) - 1) if "." not in secret[at : at + 2]]

        async def check(authenticator: Authenticator) -> None:
            chance = random.Random(1)
            for at in chance.sample(spots, min(ROUNDS, len(spots))):
                other = "A" if secret[at] != "A" else "B"
                changed = f"{scheme} {secret[:at]}{other}{secret[at + 1 :]}"
                assert await _nobody(authenticator, changed), at

        self._run(check)

    def test_anything_at_all_is_nobody_s(self) -> None:
        shown, _ = self.good()
        scheme, _, secret = shown.partition(" ")

        async def check(authenticator: Authenticator) -> None:
            for seed in range(ROUNDS):
                chance = random.Random(seed)
                letters = "".join(chr(chance.randrange(33, 256)) for _ in range(seed))
                first = chance.randrange(len(secret))
                for text in (letters, f"{letters}.{letters}.{letters}", secret[:first], "..", "."):
                    assert await _nobody(authenticator, f"{scheme} {text}"), text
            for text in ("{" * 3000, "[" * 9000, "A" * 200_000):
                deep = base64.urlsafe_b64encode(text.encode()).decode()
                assert await _nobody(authenticator, f"{scheme} {deep}.{deep}.{deep}")

        self._run(check)

    # ------------------------------------------------------------------ own

    def _run(self, check: Check) -> None:
        """Run a check; then no task is left of what it did."""

        async def main() -> None:
            async with asyncio.timeout(DEADLINE):
                authenticator = self.make_authenticator()
                try:
                    await check(authenticator)
                finally:
                    await authenticator.close()
                assert len(asyncio.all_tasks()) == 1

        asyncio.run(main())


async def _nobody(authenticator: Authenticator, shown: str) -> bool:
    """It is refused, or left to others."""
    try:
        return await authenticator.authenticate({"authorization": shown}) is None
    except Unauthenticated as exc:
        _check_silent(exc, shown)
        return True


def _check_silent(error: Unauthenticated, shown: str) -> None:
    """The error repeats nothing of what was shown; nor do those that it came from."""
    secret = shown.partition(" ")[2]
    parts = [part for part in secret.split(".") if len(part) > 8]
    cause: BaseException | None = error
    while cause is not None:
        said = f"{cause!r} {cause}"
        assert not any(part in said for part in parts), "the error shows the token"
        cause = cause.__cause__
    assert not any(part in repr(error.problem()) for part in parts)
