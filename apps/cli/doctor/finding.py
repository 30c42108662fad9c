"""What a check found."""

from __future__ import annotations

import msgspec

from hawker.core.errors import HawkerError

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


class Finding(msgspec.Struct, frozen=True):
    """`state` is ok, warning, failed or skipped; `hint` says what to do where it is not ok."""

    name: str
    state: str
    found: str
    hint: str = ""


def failure(name: str, exc: HawkerError) -> Finding:
    """A check that ended with an error."""
    return Finding(name, FAILED, exc.detail, exc.hint)
