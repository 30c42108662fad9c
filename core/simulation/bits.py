"""Sets of pieces as 64-bit words, and random choices, for loops that are compiled.

Loops over millions of peers are machine code, by numba: as operations on whole arrays they take
four times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Some = TypeVar("Some", bound=Callable[..., object])

# A word has so many bits, 2 ** SHIFT.
WORD = 64
SHIFT = 6
ONE = np.uint64(1)
NONE = np.uint64(0)
_LAST = np.uint64(WORD - 1)
# Of the xorshift generator with 64 bits (Marsaglia 2003).
_LEFT, _RIGHT, _AGAIN = np.uint64(13), np.uint64(7), np.uint64(17)
_HALF = np.uint64(32)


def compiled(function: Some) -> Some:
    """The function as machine code; made anew in each process, as what would be kept on disk knows
    nothing of a constant that was changed in another module. Threads run it at once."""
    return cast(Some, njit(nogil=True)(function))


def inlined(function: Some) -> Some:
    """The same for a small one, which becomes part of those that call it: to hand over as many
    arrays as peers have takes longer than what is done with them."""
    return cast(Some, njit(inline="always")(function))


@compiled
def draw(state: Words) -> np.uint64:
    """A random word; `state` is one that is not 0."""
    word: np.uint64 = state[0]
    word ^= word << _LEFT
    word ^= word >> _RIGHT
    word ^= word << _AGAIN
    state[0] = word
    return word


@compiled
def below(limit: int, state: Words) -> int:
    """A random number from 0 to below a limit of less than 2 ** 31."""
    return int(((draw(state) >> _HALF) * np.uint64(limit)) >> _HALF)


@inlined
def bit_of(place: int) -> np.uint64:
    """The word with one bit set."""
    return ONE << np.uint64(place)


@compiled
def place_of(word: np.uint64, turn: int) -> int:
    """The place of the first set bit of a word (not 0) from the place `turn` (0 to 63) on, or else
    of the lowest one."""
    by = np.uint64(turn)
    turned = (word >> by) | (word << ((NONE - by) & _LAST))
    # A power of two is exact as a double, whose exponent it is then.
    place = math.frexp(float(turned & (NONE - turned)))[1] - 1
    return (place + turn) & (WORD - 1)


def lowest_bits(counts: Words) -> Words:
    """Words with so many bits set, from the lowest one on; 63 at most."""
    return (ONE << counts) - ONE
