"""Places of hosts: elements from general to particular, separated by `|`, such as `eu|de|fra1`."""

from __future__ import annotations

LEVELS = 5


def closeness(one: str, other: str) -> float:
    """How many leading elements two locations share, of at most five; 1 for equal ones."""
    if not one or not other:
        return 0.0
    if one.lower() == other.lower():
        return 1.0
    shared = 0
    for a, b in zip(one.lower().split("|"), other.lower().split("|"), strict=False):
        if a != b:
            break
        shared += 1
    return min(shared, LEVELS) / LEVELS
