"""Boxes of voxels.  Plain Python, so that a configuration can be checked where no library is installed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Roi:
    """A box of voxels, ``begin`` inclusive and ``end`` exclusive, z y x order."""

    begin: tuple[int, int, int]
    end: tuple[int, int, int]

    @classmethod
    def of_shape(cls, shape: Sequence[int]) -> Roi:
        """The box from the origin to ``shape``."""
        return cls((0, 0, 0), tuple(int(n) for n in shape))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Edge lengths in voxels."""
        return tuple(e - b for b, e in zip(self.begin, self.end, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels; 0 when the box is empty along any axis."""
        return math.prod(max(n, 0) for n in self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices that cut the box out of an array (append them to an ellipsis for channels)."""
        return tuple(slice(b, e) for b, e in zip(self.begin, self.end, strict=True))

    def shift(self, by: Sequence[int]) -> Roi:
        """The box moved by ``by`` voxels."""
        return Roi(
            tuple(b + d for b, d in zip(self.begin, by, strict=True)),
            tuple(e + d for e, d in zip(self.end, by, strict=True)),
        )

    def grow(self, context: Sequence[int]) -> Roi:
        """The box with ``context`` voxels more on both sides of each axis."""
        return Roi(
            tuple(b - c for b, c in zip(self.begin, context, strict=True)),
            tuple(e + c for e, c in zip(self.end, context, strict=True)),
        )

    def intersect(self, other: Roi) -> Roi:
        """The common box; its ``size`` is 0 when there is none."""
        return Roi(
            tuple(max(a, b) for a, b in zip(self.begin, other.begin, strict=True)),
            tuple(min(a, b) for a, b in zip(self.end, other.end, strict=True)),
        )

    def overlaps(self, other: Roi) -> bool:
        """Whether the two boxes share a voxel."""
        return self.intersect(other).size > 0

    def contains(self, other: Roi) -> bool:
        """Whether ``other`` lies wholly inside."""
        return self.intersect(other) == other

    def __str__(self) -> str:
        return ", ".join(f"{a} {b}–{e}" for a, b, e in zip(AXES, self.begin, self.end, strict=True))


def as_roi(box: list[list[int]]) -> Roi:
    """A box from the ``[begin, end]`` that rules pass."""
    begin, end = box
    return Roi(tuple(begin), tuple(end))
