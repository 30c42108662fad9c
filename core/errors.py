"""Every failure Hawker names, in one tree; the first floor: everything may import it.

    HawkerError
    ├── BadRequest            400  what was asked cannot be understood
    │   ├── TooLarge          413  the request's body is larger than is taken
    │   ├── Conflict          409  it is at odds with what there is
    │   ├── Changed           412  somebody else changed it meanwhile
    │   ├── Unconditional     428  a change must say of which version it is
    │   ├── ConfigError            a setting is unknown or has a wrong value
    │   └── OutputFailed           the user's output exists or cannot be written
    ├── Unauthenticated       401  no or an unusable token
    │   └── Removed                the host is a member of its cluster no more
    ├── Forbidden             403  understood, and not allowed
    ├── NotFound              404  no such task, route or origin object
    ├── GenerationGone        410  this generation was withdrawn or evicted
    ├── Busy                  503  no free upload slot; ask again after `retry_after`
    │   └── TooMany           429  asked too often; ask again after `retry_after`
    ├── NotHereYet            503  a deadline passed before the bytes were here
    ├── DigestMismatch        502  bytes did not have the digest they should have
    ├── OriginFailed          502  the origin could not be read
    │   └── RangeIgnored           it gave something else than the range that was asked for
    ├── OriginChanged         502  the origin changed in mid-download
    ├── OriginRefused         403  the origin refused us (401, 403)
    ├── QuotaExceeded         507  the store has no room within its quota
    ├── OverQuota             429  the tenant has used up its quota; ask again after `retry_after`
    ├── UnknownPlugin         501  no plugin of that name, or it cannot be loaded
    ├── Unavailable           503  a part that is needed is not there
    │   └── StorageFailed          the data directory cannot be used
    └── IllegalTransition     500  an event that its state machine does not allow

`code` is the suffix of the RFC 9457 problem type, `status` the HTTP status, `exit_code` what the
command line returns.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from hawker.core.masking import mask

PROBLEM_TYPE_PREFIX = "urn:hawker:problem:"


class Problem(msgspec.Struct, omit_defaults=True):
    """An RFC 9457 problem document, `application/problem+json` on the wire.

    `instance` names the request that ended so, as the logs of whoever answered it do.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    hint: str = ""
    retry_after: float | None = None
    instance: str = ""

    @property
    def code(self) -> str:
        return self.type.removeprefix(PROBLEM_TYPE_PREFIX)


class HawkerError(Exception):
    """Something went wrong that has a name.

    Args:
        detail: what was wrong and where, in one sentence.
        hint: what to do about it, in one sentence; may be empty.
        retry_after: seconds after which asking again makes sense.
    """

    code: ClassVar[str] = "unavailable"
    title: ClassVar[str] = "failed"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str, *, hint: str = "", retry_after: float | None = None) -> None:
        detail = mask(detail)
        super().__init__(detail)
        self.detail = detail
        self.hint = mask(hint)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.detail} ({self.hint})" if self.hint else self.detail

    def problem(self) -> Problem:
        """This error as it travels over HTTP."""
        return Problem(
            type=PROBLEM_TYPE_PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            hint=self.hint,
            retry_after=self.retry_after,
        )


class BadRequest(HawkerError):
    """What was asked cannot be understood."""

    code, title, status, exit_code = "bad-request", "bad request", 400, 2


class TooLarge(BadRequest):
    """The request's body is larger than this role takes."""

    title, status = "body too large", 413


class Conflict(BadRequest):
    """At odds with what there is: a name that is taken, something that is in use."""

    title, status, exit_code = "conflict", 409, 1


class Changed(BadRequest):
    """It is not the version any more that the request was made for (RFC 9110 section 13.1.1)."""

    title, status, exit_code = "changed meanwhile", 412, 1


class Unconditional(BadRequest):
    """The request must say which version it is made for (RFC 6585 section 3)."""

    title, status = "If-Match is needed", 428


class ConfigError(BadRequest):
    """A setting is unknown or has a wrong value."""


class OutputFailed(BadRequest):
    """The user's output exists already or cannot be written."""

    exit_code = 8


class Unauthenticated(HawkerError):
    """No token, or one that cannot be trusted."""

    code, title, status, exit_code = "unauthenticated", "not authenticated", 401, 4


class Removed(Unauthenticated):
    """The host whose token this was is a member of its cluster no more."""

    code, title = "removed", "removed from the cluster"


class Forbidden(HawkerError):
    """Understood, and not allowed."""

    code, title, status, exit_code = "forbidden", "forbidden", 403, 4


class NotFound(HawkerError):
    """No such task, route or object at the origin."""

    code, title, status, exit_code = "not-found", "not found", 404, 3


class GenerationGone(HawkerError):
    """This generation of the content was withdrawn or evicted."""

    code, title, status = "generation-gone", "generation gone", 410


class Busy(HawkerError):
    """No free upload slot now."""

    code, title, status = "busy", "busy", 503


class TooMany(Busy):
    """Asked too often (RFC 6585 section 4)."""

    title, status = "too many attempts", 429


class NotHereYet(HawkerError):
    """The deadline passed before the wanted bytes were here."""

    code, title, status, exit_code = "not-here-yet", "not here yet", 503, 7


class DigestMismatch(HawkerError):
    """Bytes did not have the digest they should have."""

    code, title, status, exit_code = "digest-mismatch", "wrong digest", 502, 5


class OriginFailed(HawkerError):
    """The origin could not be read."""

    code, title, status, exit_code = "origin-failed", "origin failed", 502, 6


class RangeIgnored(OriginFailed):
    """The origin gave something else than the range it was asked for."""


class OriginChanged(HawkerError):
    """The origin's content changed while it was being read."""

    code, title, status, exit_code = "origin-changed", "origin changed", 502, 6


class OriginRefused(HawkerError):
    """The origin refused to give this content to us."""

    code, title, status, exit_code = "origin-refused", "origin refused", 403, 4


class QuotaExceeded(HawkerError):
    """No room within the quota, and nothing that may be evicted."""

    code, title, status = "quota", "quota exceeded", 507


class OverQuota(HawkerError):
    """The tenant has used up what it may; it shares the type of QuotaExceeded, told by status."""

    code, title, status, exit_code = "quota", "tenant's quota used up", 429, 4

    @classmethod
    def means(cls, problem: Problem) -> bool:
        """Whether it is what this problem tells of."""
        return (problem.code, problem.status) == (cls.code, cls.status)


class UnknownPlugin(HawkerError):
    """No plugin of that kind and name, or it cannot be loaded."""

    code, title, status, exit_code = "unknown-plugin", "unknown plugin", 501, 2


class Unavailable(HawkerError):
    """A part that is needed cannot be used now."""

    code, title, status = "unavailable", "unavailable", 503


class Stalled(Unavailable):
    """Nothing came for too long over a connection that is open."""

    code, title = "stalled", "stalled"


class StorageFailed(Unavailable):
    """The data directory cannot be used."""

    code, title = "storage-failed", "storage failed"


class IllegalTransition(HawkerError):
    """An event that the state machine does not allow in its state; names both."""

    title = "illegal transition"

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: event {event!r} is not allowed in state {state!r}")
        self.machine, self.state, self.event = machine, state, event


# The one table from the wire back to classes; codes without an entry become HawkerError.
BY_CODE: dict[str, type[HawkerError]] = {
    cls.code: cls
    for cls in (
        BadRequest,
        Unauthenticated,
        Removed,
        Forbidden,
        NotFound,
        GenerationGone,
        Busy,
        NotHereYet,
        DigestMismatch,
        OriginFailed,
        OriginChanged,
        OriginRefused,
        QuotaExceeded,
        UnknownPlugin,
        Unavailable,
        StorageFailed,
    )
}


def from_problem(problem: Problem) -> HawkerError:
    """The error a problem document stands for."""
    cls = BY_CODE.get(problem.code, HawkerError)
    if OverQuota.means(problem):
        cls = OverQuota
    return cls(problem.detail or problem.title, hint=problem.hint, retry_after=problem.retry_after)


def from_peer(problem: Problem) -> HawkerError:
    """The error that a peer answers with, Unavailable where its own disk refuses: whoever asked
    must not take that for a failure of theirs."""
    error = from_problem(problem)
    if isinstance(error, StorageFailed | QuotaExceeded):
        return Unavailable(error.detail, hint=error.hint, retry_after=error.retry_after)
    return error


def first_of(errors: BaseExceptionGroup[HawkerError]) -> HawkerError:
    """The first error in a group, however deep."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, HawkerError)
    return error
