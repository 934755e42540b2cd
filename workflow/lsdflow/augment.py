"""Augmentations of a training crop: symmetries of the voxel grid, deformations, damaged sections, grey values, noise.

Whatever moves voxels moves raw and labels alike, so that targets can be computed from the labels, or, where a crop only
underwent a symmetry, transformed exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from lsdflow.roi import Roi

# Splines are evaluated at every eighth voxel (more often where control points are nearer than 16 voxels), and are
# linear in between.
LARGEST_STEP = 8

# Voxels: a position this near to a voxel is taken for it, so that no rounding error asks for one voxel more.
ROUNDING = 1e-6

# A dark section keeps this part of its brightness, and with it of its contrast.
DARK = (0.2, 0.6)

# Voxels: the standard deviation of the Gaussian that blurs a section.
BLUR = (1.0, 3.0)

compiled = njit(cache=True, nogil=True)


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations are on, and how strong; lengths are voxels, triples z y x.

    Attributes
    ----------
    flip, transpose : whether axes are mirrored and, where voxels are as long, exchanged; see `random_symmetry`.
    elastic : probability that a crop is deformed, by displaced control points and a rotation; see `Deformation`.
    control_point_spacing : between control points.
    jitter : standard deviation of the displacement of control points.
    rotation : the largest angle about z, degrees; drawn from 0 to it.
    shift_probability : of each section, that it and all after it are shifted along y and x.
    slip_probability : of each section, that it alone is shifted.
    max_misalign : the largest shift along either axis; shifts are whole numbers of voxels.
    missing_probability, dark_probability, blur_probability : of each section; see `damage_sections`.
    intensity_scale, intensity_shift, noise, section_wise : see `random_intensity`.
    """

    flip: bool = True
    transpose: bool = True
    elastic: float = 0.0
    control_point_spacing: tuple[float, float, float] = (40, 40, 40)
    jitter: tuple[float, float, float] = (2, 2, 2)
    rotation: float = 90.0
    shift_probability: float = 0.0
    slip_probability: float = 0.0
    max_misalign: float = 0.0
    missing_probability: float = 0.0
    dark_probability: float = 0.0
    blur_probability: float = 0.0
    intensity_scale: float = 0.1
    intensity_shift: float = 0.1
    noise: float = 0.05
    section_wise: bool = False


@dataclass(frozen=True)
class Symmetry:
    """A symmetry of the voxel grid: transpose to ``axes``, then flip the axes marked in ``flips``."""

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, array: NDArray) -> NDArray:
        """The transformed ``([channel,] z, y, x)`` array, C-ordered; channels stay in place."""
        lead = array.ndim - 3
        moved = np.transpose(array, (*range(lead), *(a + lead for a in self.axes)))
        return np.ascontiguousarray(np.flip(moved, [lead + axis for axis, flip in enumerate(self.flips) if flip]))

    def shape_before(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The shape that an array must have so that it has ``shape`` afterwards."""
        before = [0, 0, 0]
        for target, source in enumerate(self.axes):
            before[source] = int(shape[target])
        return tuple(before)

    @property
    def inverse(self) -> Symmetry:
        """The symmetry that undoes this one."""
        axes = tuple(self.axes.index(axis) for axis in range(3))
        return Symmetry(axes, tuple(self.flips[axis] for axis in axes))


def symmetries(voxel_size: Sequence[float]) -> list[Symmetry]:
    """All symmetries that leave voxels of ``voxel_size`` as they are, the identity first.

    48 where the three lengths agree, 16 where two do, else 8.
    """
    return [
        Symmetry(axes, flips)
        for axes in itertools.permutations(range(3))
        if all(voxel_size[axis] == size for axis, size in zip(axes, voxel_size, strict=True))
        for flips in itertools.product((False, True), repeat=3)
    ]


def random_symmetry(
    rng: np.random.Generator, voxel_size: Sequence[float], *, flip: bool = True, transpose: bool = True
) -> Symmetry:
    """A random `Symmetry`; only axes of equal voxel size change places (16 symmetries where z differs, else 48)."""
    axes = [0, 1, 2]
    if transpose:
        for size in sorted(set(voxel_size)):
            group = [axis for axis in range(3) if voxel_size[axis] == size]
            for axis, source in zip(group, rng.permutation(group), strict=True):
                axes[axis] = int(source)
    flips = tuple(bool(f) for f in rng.integers(0, 2, 3)) if flip else (False, False, False)
    return Symmetry(tuple(axes), flips)


@dataclass(frozen=True, eq=False)
class Deformation:
    """Maps every voxel of a box to the position in the source volume from where its value comes.

    Both are given in voxels from the first voxel of the box. A voxel's position is its own, turned about the middle of
    the box, plus its displacement, plus the shift of its section. Displacements are given at control points, the first
    one on the first voxel, and go from one to the next in natural cubic splines, one axis after another.

    Volumes of different extent are deformed alike when each is asked for as a box within the same deformation's.

    Attributes
    ----------
    shape : of the box, z y x voxels.
    spacing : between control points, z y x voxels.
    displacements : of the control points, float64 (3, z, y, x), along z y x in voxels; at least two along each axis,
        and so many that they reach `LARGEST_STEP` voxels beyond the box.
    angle : about z, degrees; 90 turns as ``np.rot90(volume, axes=(1, 2))`` does.
    shifts : of the sections, float64 (z, 2), along y x in voxels.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    displacements: NDArray[np.float64]
    angle: float
    shifts: NDArray[np.float64]

    @classmethod
    def random(
        cls, rng: np.random.Generator, shape: Sequence[int], augmentation: Augmentation, voxel_size: Sequence[float]
    ) -> Deformation:
        """A random deformation of a box of ``shape``, such as ``augmentation`` asks for.

        Raises
        ------
        ValueError
            If there are to be rotations, but voxels are not as long along y as along x.
        """
        is_elastic = rng.random() < augmentation.elastic
        if augmentation.elastic > 0 and augmentation.rotation > 0 and voxel_size[1] != voxel_size[2]:
            raise ValueError(f"voxels of {tuple(voxel_size)} nm (z y x) cannot be turned about z: set rotation to 0")
        spacing = tuple(augmentation.control_point_spacing)
        controls = [math.ceil((n + LARGEST_STEP) / s) + 1 for n, s in zip(shape, spacing, strict=True)]
        displacements, angle = np.zeros((3, *controls)), 0.0
        if is_elastic:
            displacements += rng.normal(0, np.reshape(augmentation.jitter, (3, 1, 1, 1)), displacements.shape)
            angle = float(rng.uniform(0, augmentation.rotation))
        n_sections, limit = shape[0], int(augmentation.max_misalign)
        is_shifted = rng.random((n_sections, 1)) < augmentation.shift_probability
        is_slipped = rng.random((n_sections, 1)) < augmentation.slip_probability
        shift, slip = rng.integers(-limit, limit, (2, n_sections, 2), endpoint=True).astype(np.float64)
        shifts = np.cumsum(is_shifted * shift, axis=0) + is_slipped * slip
        return cls(tuple(int(n) for n in shape), spacing, displacements, angle, shifts)

    @property
    def is_identity(self) -> bool:
        """Whether every voxel stays where it is."""
        return self.angle == 0 and not self.displacements.any() and not self.shifts.any()

    def source_box(self, box: Roi) -> Roi:
        """The smallest box of the source that holds all voxels between which those of ``box`` are interpolated.

        Parameters
        ----------
        box : within the deformation's own.

        Returns
        -------
        Roi
            May reach beyond the deformation's own box.

        Raises
        ------
        ValueError
            If ``box`` is empty or reaches beyond the deformation's own.
        """
        if box.size == 0 or not Roi.of_shape(self.shape).contains(box):
            raise ValueError(f"a box of voxels within {self.shape} is needed, not {box}")
        # In the plane positions are linear between grid points: the outermost are at these or at the box's border.
        indices = [np.arange(begin, end) for begin, end in zip(box.begin, box.end, strict=True)]
        for axis in (1, 2):
            is_outermost = indices[axis] % self._steps[axis] == 0
            is_outermost[[0, -1]] = True
            indices[axis] = indices[axis][is_outermost]
        first, last = _extent(self._grid, *self._places(indices), self._moves(box, (0, 0, 0)))
        return Roi(
            tuple(math.floor(p + ROUNDING) for p in first),
            tuple(math.ceil(p - ROUNDING) + 1 for p in last),
        )

    def image(self, source: NDArray, box: Roi) -> NDArray[np.float32]:
        """The deformed image in ``box``, float32, interpolated linearly.

        Parameters
        ----------
        source : uint8 or float32 (z, y, x), the voxels of ``source_box(box)``.
        """
        return self._sampled(_interpolate, source, box, np.float32)

    def labels(self, source: NDArray, box: Roi) -> NDArray:
        """The deformed labels (or mask) in ``box``, of the same dtype, each that of the nearest voxel.

        Parameters
        ----------
        source : integers (z, y, x), the voxels of ``source_box(box)``.
        """
        return self._sampled(_pick, source, box, source.dtype)

    def _sampled(self, fill: Callable, source: NDArray, box: Roi, dtype: np.typing.DTypeLike) -> NDArray:
        origin = self.source_box(box)
        if source.shape != origin.shape:
            raise ValueError(f"the voxels of {origin} are needed, of shape {origin.shape}, not {source.shape}")
        indices = [np.arange(begin, end) for begin, end in zip(box.begin, box.end, strict=True)]
        result = np.empty(box.shape, dtype)
        fill(source, self._grid, *self._places(indices), self._moves(box, origin.begin), result)
        return result

    def _places(self, indices: Sequence[NDArray[np.integer]]) -> tuple[tuple[NDArray, ...], tuple[NDArray, ...]]:
        """Along each axis the grid points before the voxels ``indices``, and the way to the next one, from 0 to 1."""
        cells, rests = zip(*(np.divmod(i, s) for i, s in zip(indices, self._steps, strict=True)), strict=True)
        return cells, tuple(r / s for r, s in zip(rests, self._steps, strict=True))

    def _moves(self, box: Roi, begin: Sequence[int]) -> NDArray[np.float64]:
        """What positions on the grid lack for those in the sections of ``box``, counted from ``begin``: (z, 3)."""
        return np.pad(self.shifts[box.begin[0] : box.end[0]], ((0, 0), (1, 0))) - begin

    @property
    def _steps(self) -> tuple[int, int, int]:
        """Voxels between the points of `_grid`: powers of two, by which whole numbers are divided exactly."""
        return tuple(max((step for step in (2, 4, LARGEST_STEP) if 2 * step <= s), default=1) for s in self.spacing)

    @cached_property
    def _grid(self) -> NDArray[np.float64]:
        """Positions (z, y, x, 3), without shifts, of voxels at regular steps; those between are linear."""
        grid = [s * np.arange((n - 1) // s + 2) for n, s in zip(self.shape, self._steps, strict=True)]
        moved = self.displacements
        for axis, (at, spacing) in enumerate(zip(grid, self.spacing, strict=True), start=1):
            controls = spacing * np.arange(moved.shape[axis])
            moved = CubicSpline(controls, moved, axis=axis, bc_type="natural")(at)
        z, y, x = np.ix_(*grid)
        middle_y, middle_x = ((n - 1) / 2 for n in self.shape[1:])
        sine, cosine = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        turned_y = middle_y + cosine * (y - middle_y) + sine * (x - middle_x)
        turned_x = middle_x - sine * (y - middle_y) + cosine * (x - middle_x)
        return np.stack([z + moved[0], turned_y + moved[1], turned_x + moved[2]], axis=-1)


@compiled
def _fill_lines(grid, z, cells, ways, move, lines):
    """Fill ``lines`` (y, 3, x) with the positions of all voxels along x, on the grid's rows, in section ``z``."""
    below, above = grid[cells[0][z]], grid[cells[0][z] + 1]
    points = np.empty((grid.shape[2], 3))
    for j in range(lines.shape[0]):
        for k in range(points.shape[0]):
            for a in range(3):
                points[k, a] = below[j, k, a] + ways[0][z] * (above[j, k, a] - below[j, k, a])
        for a in range(3):
            for x in range(lines.shape[2]):
                k = cells[2][x]
                lines[j, a, x] = points[k, a] + ways[2][x] * (points[k + 1, a] - points[k, a]) + move[a]


@compiled
def _fill_row(lines, y, cells, ways, positions):
    """Fill ``positions`` (3, x) of row ``y``: with z and x done, all that is left for each voxel, in vectors."""
    before, after = lines[cells[1][y]], lines[cells[1][y] + 1]
    for a in range(3):
        for x in range(positions.shape[1]):
            positions[a, x] = before[a, x] + ways[1][y] * (after[a, x] - before[a, x])


@compiled
def _extent(grid, cells, ways, moves):
    """The least and the largest position along each axis."""
    first, last = np.full(3, np.inf), np.full(3, -np.inf)
    lines, positions = np.empty((grid.shape[1], 3, len(cells[2]))), np.empty((3, len(cells[2])))
    for z in range(len(cells[0])):
        _fill_lines(grid, z, cells, ways, moves[z], lines)
        for y in range(len(cells[1])):
            _fill_row(lines, y, cells, ways, positions)
            for a in range(3):
                first[a], last[a] = min(first[a], positions[a].min()), max(last[a], positions[a].max())
    return first, last


@compiled
def _interpolate(source, grid, cells, ways, moves, result):
    """Fill ``result``, linearly between the eight voxels around each position."""
    n_z, n_y, n_x = result.shape
    lines, positions = np.empty((grid.shape[1], 3, n_x)), np.empty((3, n_x))
    # Unsigned, so that no index is checked for counting from the end.
    here, there = np.empty((3, n_x), np.uint32), np.empty((3, n_x), np.uint32)
    weights, one = np.empty((3, n_x), np.float32), np.float32(1)
    for z in range(n_z):
        _fill_lines(grid, z, cells, ways, moves[z], lines)
        for y in range(n_y):
            _fill_row(lines, y, cells, ways, positions)
            for a in range(3):
                last = np.int32(source.shape[a] - 1)
                for x in range(n_x):
                    # A rounding error before the first voxel becomes the first one, one behind the last the last.
                    i = np.int32(positions[a, x])
                    here[a, x], there[a, x] = i, min(np.int32(i + 1), last)
                    weights[a, x] = positions[a, x] - i
            for x in range(n_x):
                z0, y0, x0 = here[0, x], here[1, x], here[2, x]
                z1, y1, x1 = there[0, x], there[1, x], there[2, x]
                w = weights[2, x]
                u = one - w
                v00 = u * source[z0, y0, x0] + w * source[z0, y0, x1]
                v01 = u * source[z0, y1, x0] + w * source[z0, y1, x1]
                v10 = u * source[z1, y0, x0] + w * source[z1, y0, x1]
                v11 = u * source[z1, y1, x0] + w * source[z1, y1, x1]
                v0, v1 = v00 + weights[1, x] * (v01 - v00), v10 + weights[1, x] * (v11 - v10)
                result[z, y, x] = v0 + weights[0, x] * (v1 - v0)


@compiled
def _pick(source, grid, cells, ways, moves, result):
    """Fill ``result`` with the voxels nearest to the positions."""
    n_z, n_y, n_x = result.shape
    lines, positions = np.empty((grid.shape[1], 3, n_x)), np.empty((3, n_x))
    nearest = np.empty((3, n_x), np.uint32)
    for z in range(n_z):
        _fill_lines(grid, z, cells, ways, moves[z], lines)
        for y in range(n_y):
            _fill_row(lines, y, cells, ways, positions)
            for a in range(3):
                for x in range(n_x):
                    nearest[a, x] = np.int32(positions[a, x] + 0.5)
            for x in range(n_x):
                result[z, y, x] = source[nearest[0, x], nearest[1, x], nearest[2, x]]


def damage_sections(
    raw: NDArray[np.float32], rng: np.random.Generator, augmentation: Augmentation
) -> NDArray[np.float32]:
    """Sections along axis 0 of ``raw`` (z, y, x) in [0, 1] out of focus, dark or missing, each by its own chance.

    Out of focus: blurred in the plane by a Gaussian of a standard deviation drawn from `BLUR`. Dark: all brightness,
    and with it the contrast, times a factor drawn from `DARK`. Missing: 0, whatever else befell the section.

    Returns
    -------
    numpy.ndarray
        A copy, float32; sections that nothing befell are as they were.
    """
    probabilities = (
        augmentation.blur_probability,
        augmentation.dark_probability,
        augmentation.missing_probability,
    )
    is_blurred, is_dark, is_missing = rng.random((3, len(raw))) < np.reshape(probabilities, (3, 1))
    sigma, factor = rng.uniform(*BLUR, len(raw)), rng.uniform(*DARK, len(raw)).astype(np.float32)
    result = raw.copy()
    for z in np.flatnonzero(is_blurred):
        result[z] = gaussian_filter(raw[z], sigma[z])
    result[is_dark] *= factor[is_dark, None, None]
    result[is_missing] = 0
    return result


def random_intensity(
    raw: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    scale: float,
    shift: float,
    noise: float,
    section_wise: bool = False,
) -> NDArray[np.float32]:
    """Random contrast, brightness and Gaussian noise on ``raw`` (z, y, x) in [0, 1].

    ``(raw − mean)·s + mean + d`` with s in 1 ± ``scale`` and d in ± ``shift`` (for each section of its own when
    ``section_wise``), then noise of a standard deviation drawn from [0, ``noise``]; clipped to [0, 1].
    """
    n = len(raw) if section_wise else 1
    mean = raw.mean(axis=(1, 2), keepdims=True) if section_wise else raw.mean()
    factor = rng.uniform(1 - scale, 1 + scale, (n, 1, 1)).astype(np.float32)
    offset = rng.uniform(-shift, shift, (n, 1, 1)).astype(np.float32)
    result = (raw - mean) * factor + mean + offset
    if noise > 0:
        result += rng.standard_normal(raw.shape, dtype=np.float32) * np.float32(rng.uniform(0, noise))
    return np.clip(result, 0, 1, out=result)
