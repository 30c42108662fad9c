"""The `default` evaluator: rules, no training.

score = 0.35 free + 0.25 rate + 0.15 health + 0.10 idc + 0.10 location + 0.05 kind

free      (slots - uploads) / slots, not below 0
rate      measured serving rate / 125 MB/s (a gigabit link), at most 1; 0.5 while unmeasured
health    served / (served + 4 failed), 1 while nothing was asked
idc       1 for the same data centre, else 0
location  equal leading elements of both locations / 5; 1 for equal ones
kind      1 for a peer, 0 for a seed, so that seeds are left to those who need them
"""

from __future__ import annotations

from hawker.core.contracts import Candidate, Child, Evaluator
from hawker.pluggy_specs import hookimpl
from hawker.plugins.locations import closeness

FULL_RATE = 125e6


class DefaultEvaluator:
    """See the module for the formula; every part lies between 0 and 1."""

    def score(self, child: Child, candidate: Candidate) -> float:
        if candidate.upload_slots <= 0:
            return -1.0
        free = max(0.0, 1.0 - candidate.uploads / candidate.upload_slots)
        rate = min(1.0, candidate.serving_rate / FULL_RATE) if candidate.serving_rate else 0.5
        asked = candidate.served + 4 * candidate.failed
        health = candidate.served / asked if asked else 1.0
        idc = float(bool(child.idc) and child.idc.lower() == candidate.idc.lower())
        return (
            0.35 * free
            + 0.25 * rate
            + 0.15 * health
            + 0.10 * idc
            + 0.10 * closeness(child.location, candidate.location)
            + 0.05 * (not candidate.seed)
        )


@hookimpl
def hawker_evaluator(name: str) -> Evaluator:
    return DefaultEvaluator()
