"""What a task tells its scheduler of itself."""

from __future__ import annotations

from typing import Any

from hawker.core.contracts import SourceRequest
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport, Register
from hawker.core.ranges import ByteRange
from hawker.core.transfer.registration import Registration
from hawker.core.transfer.users import User

SPEC = TaskSpec(url="http://origin.test/x")


class Port:
    """A scheduler that notes what it hears; it stands in for another one."""

    def __init__(self) -> None:
        self.heard: list[AnyReport] = []
        self.registration = Registration(SPEC, SourceRequest(SPEC.url), self._found)

    def _found(self) -> Any:
        self.registration.failover = True
        return self

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        self.heard.append(report)


def test_a_scheduler_that_stands_in_for_another_is_told_so_at_once() -> None:
    port = Port()
    port.registration.want([User()], None)
    [register] = port.heard
    # It asks the other hosts what they have of it.
    assert isinstance(register, Register) and register.failover


def test_what_is_known_is_not_told_again() -> None:
    port = Port()
    users = [User([ByteRange(0, 5)])]
    port.registration.want(users, None)
    port.registration.want(users, None)
    port.registration.want([*users, User([ByteRange(5, 9)])], None)
    port.registration.want_nothing(None)
    port.registration.want_nothing(None)
    wants = [report.want for report in port.heard if isinstance(report, Register)]
    assert wants == [[ByteRange(0, 5)], [ByteRange(0, 5), ByteRange(5, 9)], []]
