"""What a task on this host tells whoever decides for it: what is wanted and stored, and its end."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from hawker.core.contracts import SourceRequest
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport, Finished, Left, Register
from hawker.core.priorities import freest
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry
from hawker.core.telemetry import REQUEST
from hawker.core.transfer.port import SchedulerPort
from hawker.core.transfer.users import User


class Registration:
    """Of one task; the port is looked for when there is something to tell.

    Attributes:
        port: who decides; None as long as nobody was asked.
        failover: it is not the scheduler that should.
    """

    def __init__(
        self, spec: TaskSpec, origin: SourceRequest, find_port: Callable[[], SchedulerPort]
    ) -> None:
        self.port: SchedulerPort | None = None
        self.failover = False
        self._spec = spec
        self._origin = origin
        self._find_port = find_port
        self._told: Register | None = None
        self._finished = ""

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        self._found().report(report, urgent=urgent)

    def _found(self) -> SchedulerPort:
        if self.port is None:
            self.port = self._find_port()
        return self.port

    def forget(self) -> None:
        """What was told is not known any more."""
        self._told = None

    def want(self, users: Collection[User], entry: Entry | None) -> None:
        """Say what these users want, where that is not known."""
        # Whether it is the one that should decide is known once it was found.
        port = self._found()
        register = self._wishes(users, entry)
        if self._told is not None and _same_wish(self._told, register):
            return
        self._told = register
        port.report(register, urgent=True)

    def want_nothing(self, entry: Entry | None) -> None:
        """Say that nothing is wanted any more, where something was."""
        if self._told is not None and self._told.want != []:
            self._told = self._offer(entry)
            self.report(self._told, urgent=True)

    def finished(self, entry: Entry) -> bool:
        """Nobody is to be told (any more) that all of it is here."""
        return self.port is None or self._finished == entry.generation

    def finish(self, entry: Entry) -> None:
        """Say that all of it is here."""
        self._finished = entry.generation
        self.report(Finished(task=entry.task, generation=entry.generation), urgent=True)

    def leave(self, entry: Entry | None) -> None:
        """Nobody here wants the task any more; what is stored is still offered."""
        if self.port is None or (entry is not None and entry.complete):
            return
        if entry is None or entry.windowed or entry.gone or not entry.valid:
            self.report(Left(task=self._spec.task_id), urgent=True)
        else:
            self.report(self._offer(entry), urgent=True)

    @property
    def _only_here(self) -> bool:
        """Nobody who did not ask can read the origin: it wants to see something, or it is a file,
        and which hosts have the same one is known to those who ask."""
        asked = SourceRequest(self._spec.url, tenant=self._spec.tenant)
        return self._origin != asked or self._spec.url.startswith("file:")

    def _offer(self, entry: Entry | None) -> Register:
        """Nothing is wanted here, and what is stored is given to others."""
        register = Register(task=self._spec.task_id, spec=self._spec, want=[])
        return with_stored(register, entry)

    def _wishes(self, users: Collection[User], entry: Entry | None) -> Register:
        wants: list[ByteRange] | None = []
        for user in users:
            if user.ranges is None:
                wants = None
                break
            assert wants is not None
            wants.extend(user.ranges)
        register = Register(
            task=self._spec.task_id,
            spec=self._spec,
            want=wants,
            private=self._only_here,
            readable=any(user.readable for user in users),
            priority=freest(user.priority for user in users),
            failover=self.failover,
            request=REQUEST.get(),
        )
        return with_stored(register, entry)


def with_stored(register: Register, entry: Entry | None) -> Register:
    """The message with what this host stores of the task."""
    if entry is None or entry.windowed or not entry.valid:
        return register
    return msgspec.structs.replace(
        register,
        generation=entry.generation,
        layout=entry.layout,
        have=entry.valid.runs(),
        readers=entry.readers,
    )


def _same_wish(old: Register, new: Register) -> bool:
    return (old.want, old.readable, old.private, old.priority) == (
        new.want,
        new.readable,
        new.private,
        new.priority,
    )
