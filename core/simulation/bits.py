"""Sets of pieces as 64-bit words, and random choices, for loops that are compiled.

Loops over millions of peers are machine code, by numba: as operations on whole arrays they take
four times as long.
"""

from __future__ import annotations

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
_TEN = np.uint64(1023)
# Times a power of two, the upper six bits are different for each one (de Bruijn).
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_TOP = np.uint64(58)
_PLACES = np.zeros(WORD, dtype=np.int8)
_PLACES[[(0x03F79D71B4CB0A89 << place) % (1 << WORD) >> 58 for place in range(WORD)]] = range(WORD)


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
def nth_below(drawn: np.uint64, number: int, limit: int) -> int:
    """The first, second, ... sixth random number from 0 to below a limit of less than 64, all of
    one random word; they are a little less even than those of `below`."""
    return int(((drawn >> np.uint64(10 * number)) & _TEN) * np.uint64(limit) >> np.uint64(10))


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
    lowest = turned & (NONE - turned)
    return int(_PLACES[(lowest * _DE_BRUIJN) >> _TOP] + turn) & (WORD - 1)


def lowest_bits(counts: Words) -> Words:
    """Words with so many bits set, from the lowest one on; 63 at most."""
    return (ONE << counts) - ONE
