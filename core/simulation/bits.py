"""Sets of pieces as 64-bit words, for many peers at once."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Indices = NDArray[np.intp]
# A word has so many bits, 2 ** SHIFT.
WORD = 64
SHIFT = 6

ONE = np.uint64(1)
_LAST = np.uint64(WORD - 1)
_MANTISSA = np.uint64(52)
_BIAS = np.uint64(1023)
# Random bits used for one choice; a word has four times as many.
_DRAW = np.uint64(16)
_DRAWN = np.uint64((1 << 16) - 1)


# Members of an array at indices that are known to be right, which are then not checked.
take = functools.partial(np.take, mode="clip")


def any_bit(words: Words, turn: Words) -> tuple[Words, Words]:
    """Of each word (none is 0) the first set bit from the place `turn` (0 to 63) on, or else from
    the lowest one on: that bit alone, and its place."""
    turned = (words >> turn) | (words << (-turn & _LAST))
    lowest = turned & -turned
    # A power of two is exact as a double, whose exponent it is then.
    place = (lowest.astype(np.float64).view(np.uint64) >> _MANTISSA) - _BIAS
    place = (place + turn) & _LAST
    return ONE << place, place


def below(limits: Words | np.uint64, draw: Words) -> Words:
    """A random number from 0 to below each of these limits (1 to 64), by the lowest sixteen bits
    of `draw`, which are gone afterwards."""
    some = ((draw & _DRAWN) * limits) >> _DRAW
    draw >>= _DRAW
    return some


def lowest_bits(counts: Words) -> Words:
    """Words with so many bits set, from the lowest one on; 63 at most."""
    return (ONE << counts) - ONE
