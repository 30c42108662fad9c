"""What the log says of decisions."""

from __future__ import annotations

import logging

from hawker.core.messages import AnyDecision, Read, Stop, Withdrawn

log = logging.getLogger(__name__)


def log_decision(host: str, decision: AnyDecision) -> None:
    """Log who reads what, and what was ended."""
    match decision:
        case Read() if decision.ranges != []:
            text = f"host {host[:12]} may read {decision.spec.url} under lease {decision.lease}"
            log.info(text, extra={"task": decision.task, "request": decision.request})
        case Stop():
            problem = decision.problem
            text = f"host {host[:12]} cannot have it: {problem.code}: {problem.detail}"
            log.info(text, extra={"task": decision.task})
        case Withdrawn():
            text = f"host {host[:12]} drops {decision.generation}: {decision.reason}"
            log.info(text, extra={"task": decision.task})
        case _:
            log.debug("host %s: %s", host[:12], decision, extra={"task": decision.task})
