"""What waits for a host: the newest of each record, and nothing hidden by another's."""

from __future__ import annotations

from hawker.apps.scheduler.mailbox import Mailbox
from hawker.core.ids import TaskSpec
from hawker.core.messages import Parents, Read

SPEC = TaskSpec(url="http://origin.test/x")


def read(lease: str, revision: int, *, over: bool = False) -> Read:
    return Read(
        task=SPEC.task_id, revision=revision, lease=lease, spec=SPEC, ranges=[] if over else None
    )


def test_the_newest_record_of_a_task_replaces_older_ones() -> None:
    mailbox = Mailbox()
    mailbox.put([Parents(task=SPEC.task_id, revision=number) for number in range(1, 100)])
    assert [decision.revision for decision in mailbox.take()] == [99]


def test_that_one_lease_is_over_does_not_hide_that_another_was_granted() -> None:
    mailbox = Mailbox()
    mailbox.put([read("first", 1), read("second", 2), read("first", 3, over=True)])
    assert [(d.lease, d.ranges) for d in mailbox.take() if isinstance(d, Read)] == [
        ("second", None),
        ("first", []),
    ]
