"""The scheduler's decisions, pure: time and randomness are passed in, decisions come out.

states.py     what may happen to a host, task, generation and peer, as tables
entities.py   what is known of them
graph.py      the spine and the neighbours of a generation
origin.py     who reads the origin: leases and their ledger
registrations.py  what hosts want and have
recorder.py   what happened to tasks, for observers (track.py: one task's record)
machine.py    events in, decisions out
"""

from hawker.core.scheduling.entities import LeaseRecord, Outgoing
from hawker.core.scheduling.leasebook import OriginLimits
from hawker.core.scheduling.machine import TICK, Scheduler
from hawker.core.scheduling.origin import MAX_RECORDS
from hawker.core.scheduling.recall import GRACE
from hawker.core.scheduling.recorder import Recorder
from hawker.core.scheduling.track import frames_of

__all__ = [
    "GRACE",
    "MAX_RECORDS",
    "TICK",
    "LeaseRecord",
    "OriginLimits",
    "Outgoing",
    "Recorder",
    "Scheduler",
    "frames_of",
]
