"""What replies must contain for a fault to act at all, so that a plan that could never act is reported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from worldsim.faults.effects import frames
from worldsim.faults.effects.frame_edits import is_frame
from worldsim.faults.effects.rows import has_rows
from worldsim.faults.parameters import matches
from worldsim.spaces import Leaf


@dataclass(frozen=True)
class Requirement:
    """What a fault needs in replies.

    what: in words, as in "there are no frames". met: whether leaves of a space, those that it may change, have it.
    in_plain: whether plain JSON may have it. aim: what targets must be, where it is a mistake to name others.
    """

    what: str
    met: Callable[[Sequence[Leaf]], bool]
    in_plain: bool = True
    aim: str = ""


def any_leaf(what: str, fits: Callable[[Leaf], bool], in_plain: bool = True, aim: str = "") -> Requirement:
    """One leaf at least that fits."""
    return Requirement(what, lambda leaves: any(map(fits, leaves)), in_plain, aim)


def is_floats(leaf: Leaf) -> bool:
    """Whether a leaf is a float, or a vector or matrix of them."""
    return isinstance(leaf.space, spaces.Box) and leaf.space.dtype.kind == "f"


def _is_text(leaf: Leaf) -> bool:
    return isinstance(leaf.space, spaces.Text)


def _is_number(leaf: Leaf) -> bool:
    """Whether a leaf is a number or class, or a vector of numbers, and no frame."""
    return isinstance(leaf.space, spaces.Box | spaces.Discrete) and not frames.frame_axes(leaf.space)


def _has_two_digits(leaf: Leaf) -> bool:
    """Whether a leaf is a number that may have two digits before its point."""
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return max(abs(int(space.start)), abs(int(space.start + space.n) - 1)) >= 10
    return isinstance(space, spaces.Box) and _is_number(leaf) and np.abs([space.low, space.high]).max() >= 10


def _has_pair(leaves: Sequence[Leaf]) -> bool:
    """Whether two leaves are of one form, so that they could have each other's value."""
    forms = [
        (isinstance(leaf.space, spaces.Box), leaf.space.dtype, leaf.space.shape)
        for leaf in leaves
        if isinstance(leaf.space, _WITH_FORM) and not frames.frame_axes(leaf.space)
    ]
    return len(set(forms)) < len(forms)


def times(names: tuple[str, ...], least: float) -> Requirement:
    """Texts, and numbers with the name of a time. least: by how much at least they are moved."""

    def fits(leaf: Leaf) -> bool:
        if isinstance(leaf.space, spaces.Discrete) and leaf.space.n <= abs(round(least)):
            return False  # it would be a class that does not exist, and those are left alone
        return _is_text(leaf) or (_is_number(leaf) and matches(leaf.name.rsplit("/", 1)[-1], names))

    return any_leaf(f"texts, and no times that could be off by {least:g}", fits)


_CLASSES = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
_NUMBERS = spaces.Box | _CLASSES
_WITH_FORM = _NUMBERS | spaces.Text

FRAMES = any_leaf("frames", is_frame, in_plain=False, aim="a frame")
FRAMES_OR_FLOATS = any_leaf("frames or floats", lambda leaf: is_frame(leaf) or is_floats(leaf), aim="a frame")
ROWS = any_leaf("rows", has_rows)
TEXTS = any_leaf("texts", _is_text)
NUMBERS = any_leaf("numbers", _is_number)
TWO_DIGITS = any_leaf("texts or numbers of two digits", lambda leaf: _is_text(leaf) or _has_two_digits(leaf))
CLASSES = any_leaf("classes", lambda leaf: isinstance(leaf.space, _CLASSES))
BOUNDED = any_leaf("numbers or classes", lambda leaf: isinstance(leaf.space, _NUMBERS))
TYPED = any_leaf("numbers, classes or texts", lambda leaf: isinstance(leaf.space, _WITH_FORM))
NAN = any_leaf(
    "numbers that could be NaN", lambda leaf: isinstance(leaf.space, spaces.Box) and leaf.space.dtype != np.uint8
)
PAIR = Requirement("two fields of one kind", _has_pair)
