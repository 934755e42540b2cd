"""A phantom of neuropil: branching processes that fill space, as seen by electron microscopy, with exact labels.

The tissue is made in nanometres, so that one seed and one physical extent give the same neuropil at every voxel size:

1. Processes are tubes around branching random walks (`_grow_processes`): a few cell bodies, thick dendrites, and many
   thin axons with varicosities, each steering clear of those that are there already.
2. Every voxel goes to the process with the nearest surface, an additively weighted Voronoi diagram of the centre lines
   (`_paint`). The truth is therefore exact, and there is no background.
3. The image is drawn on those labels: cytoplasm, membranes with weak spots, mitochondria, vesicles and endoplasmic
   reticulum that look like membranes, then blur and noise.

Axes that are sampled more coarsely than the finest one are drawn finer and averaged, as a thick section projects what
is in it: a membrane cut tangentially fades, as it does in serial sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.segmentation import find_boundaries

from lsdflow.errors import UserError

MIN_LENGTH = 8  # voxels along each axis; below that no process is more than a speck

# The tissue continues beyond the volume, so that processes enter and leave it everywhere. All lengths in nm.
MARGIN = 150.0
PLANNING_VOXEL = 20.0
REACH = 80.0  # how far from its surface a process claims space; more than the usual half gap between two

BODIES_PER_UM3, BODY_RADIUS = 0.25, (220.0, 320.0)
THICK_SHARE, THICK_RADIUS = 0.1, (100.0, 140.0)
THIN_RADIUS = (32.0, 52.0)

# Grey levels of the image before blur and noise, after FIB-SEM of fly neuropil stained with heavy metals.
CYTOPLASM, DARK_CYTOPLASM, MEMBRANE, MATRIX = 168.0, 122.0, 66.0, 98.0
DARK_SHARE = 0.08

# Most sub-sections drawn per voxel along a coarse axis; odd, so that one of them is the middle.
MAX_SUBSECTIONS = 5


@dataclass(frozen=True)
class _CentreLines:
    """Points along the centre lines of all processes: nm, z y x; `process` counts from 1."""

    points: NDArray  # float32 (n, 3)
    tangents: NDArray  # float32 (n, 3), unit vectors
    radii: NDArray  # float32 (n,)
    process: NDArray  # int32 (n,)


def simulate_neuropil(
    shape: Sequence[int],
    *,
    seed: int,
    voxel_size: Sequence[float] = (10.0, 10.0, 10.0),
    objects_per_um3: float = 25.0,
    membrane_thickness: float = 22.0,
    weak_membranes: float = 0.1,
    organelle_density: float = 1.0,
    blur: float = 9.0,
    noise: float = 8.0,
    section_jitter: float = 0.0,
    section_intensity_jitter: float = 0.0,
    min_object_size: int = 100,
) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Simulate an electron-microscopy volume of dense neuropil and its exact segmentation.

    Parameters
    ----------
    shape : sequence of int
        Voxels, z y x.
    seed : int
        Same seed and arguments, same volume.
    voxel_size : sequence of float
        nm, z y x. The same seed and the same extent in nm show the same tissue at every voxel size.
    objects_per_um3 : float
        Processes per cubic micrometre of tissue. Space is always filled, so fewer are fatter.
    membrane_thickness : float
        nm across the two membranes and the cleft between neighbours.
    weak_membranes : float
        Share of the membrane area that is faint or missing, 0 to 1.
    organelle_density : float
        Multiplies the number of mitochondria, vesicles and cisternae; 0 for none.
    blur : float
        Standard deviation of the Gaussian point-spread function, nm.
    noise : float
        Standard deviation of the shot noise at grey 128; it grows with the square root of the signal.
    section_jitter : float
        Root mean square of a random whole-voxel shift of each z section along y and x, in voxels. The raw image and the
        labels move together, so that the labels stay exact.
    section_intensity_jitter : float
        Root mean square of a random change of brightness from section to section, grey levels; contrast varies too.
    min_object_size : int
        Pieces of fewer voxels are given to the neighbour with which they share the most faces.

    Returns
    -------
    raw : uint8 (z, y, x)
        Membranes dark.
    labels : uint64 (z, y, x)
        Ids 1, 2, ... without gaps; no background. Every object is one 6-connected component: where the volume cuts a
        process into several pieces, each piece has its own id.

    Raises
    ------
    UserError
        For a shape, voxel size or strength that cannot be used.
    """
    shape, voxel_size = _checked(shape, voxel_size, seed)
    _check_strengths(
        objects_per_um3=objects_per_um3,
        membrane_thickness=membrane_thickness,
        weak_membranes=weak_membranes,
        organelle_density=organelle_density,
        blur=blur,
        noise=noise,
        section_jitter=section_jitter,
        section_intensity_jitter=section_intensity_jitter,
        min_object_size=min_object_size,
    )
    # One stream each, so that a change of the imaging leaves the tissue as it is.
    tissue_rng, image_rng, noise_rng, section_rng = np.random.default_rng(seed).spawn(4)

    lines = _grow_processes(np.multiply(shape, voxel_size), objects_per_um3, tissue_rng)

    shifts = np.rint(section_rng.normal(0, section_jitter, (shape[0], 2))).astype(int)
    pad = int(np.abs(shifts).max())
    factors = _subsections(voxel_size)
    fine_voxel = np.divide(voxel_size, factors)
    padded_shape = np.add(shape, (0, 2 * pad, 2 * pad))
    origin = -np.multiply((0, pad, pad), voxel_size)

    fine_labels = _assign(lines, padded_shape * factors, origin, fine_voxel)
    fine_labels = _one_component_each(fine_labels, min_object_size * int(np.prod(factors)))
    tissue = _Tissue(lines, fine_labels, _depth(fine_labels, fine_voxel), origin, fine_voxel)
    image = _draw(tissue, membrane_thickness, weak_membranes, organelle_density, image_rng)
    image = ndimage.gaussian_filter(image, blur / fine_voxel, mode="nearest")

    image = _mean_over_blocks(image, factors)
    labels = fine_labels[tuple(slice(f // 2, None, f) for f in factors)]
    image, labels = (_shift_sections(a, shifts, pad) for a in (image, labels))
    if pad or any(f > 1 for f in factors):
        # Sampling and shifts can cut thin processes.
        labels = _one_component_each(labels, min_object_size)

    image = _vary_sections(image, section_intensity_jitter, section_rng)
    image += noise * np.sqrt(np.maximum(image, 0) / 128) * noise_rng.standard_normal(shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), labels.astype(np.uint64)


def _checked(shape: Sequence[int], voxel_size: Sequence[float], seed: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if len(shape) != 3 or not all(isinstance(n, Integral) and n >= MIN_LENGTH for n in shape):
        raise UserError(
            f"shape of a simulated volume must be three whole numbers (z, y, x) of at least {MIN_LENGTH} voxels, "
            f"not {tuple(shape)}"
        )
    if len(voxel_size) != 3 or not all(np.isfinite(v) and v > 0 for v in voxel_size):
        raise UserError(
            f"voxel_size of a simulated volume must be three positive lengths in nm (z, y, x), not {tuple(voxel_size)}"
        )
    if not isinstance(seed, Integral) or seed < 0:
        raise UserError(f"seed of a simulated volume must be a whole number of at least 0, not {seed!r}")
    return tuple(int(n) for n in shape), tuple(float(v) for v in voxel_size)


def _check_strengths(**strengths: float) -> None:
    for name, value in strengths.items():
        if not np.isfinite(value) or value < 0:
            raise UserError(f"{name} of a simulated volume must be at least 0, not {value}")
    if strengths["objects_per_um3"] == 0:
        raise UserError("objects_per_um3 of a simulated volume must be more than 0; 25 resembles fly neuropil")
    if strengths["weak_membranes"] > 1:
        raise UserError(f"weak_membranes of a simulated volume must be 0 to 1, not {strengths['weak_membranes']}")


def _subsections(voxel_size: Sequence[float]) -> tuple[int, ...]:
    """How many sub-sections to draw per voxel along each axis: an odd number, 1 along the finest axis."""
    ratios = np.divide(voxel_size, min(voxel_size))
    return tuple(int(f) for f in np.minimum(2 * np.rint((ratios - 1) / 2) + 1, MAX_SUBSECTIONS))


# ---- tissue ---------------------------------------------------------------------------------------------------------


def _grow_processes(extent_nm: NDArray, objects_per_um3: float, rng: np.random.Generator) -> _CentreLines:
    """Centre lines of all processes in and around a box of `extent_nm`, thick ones first."""
    origin = np.full(3, -MARGIN)
    grid_shape = np.ceil((extent_nm + 2 * MARGIN) / PLANNING_VOXEL).astype(int)
    # Distance to the nearest surface so far, nm; negative inside.
    clearance = np.full(grid_shape, 4 * REACH, np.float32)
    volume_um3 = float(np.prod(extent_nm + 2 * MARGIN)) / 1e9

    n_objects = max(2, round(objects_per_um3 * volume_um3))
    n_bodies = rng.poisson(BODIES_PER_UM3 * volume_um3)
    n_thick = max(1, round(THICK_SHARE * n_objects))
    ranges = [BODY_RADIUS] * n_bodies + [THICK_RADIUS] * n_thick
    ranges += [THIN_RADIUS] * max(1, n_objects - len(ranges))

    rows, process = [], []
    for i, (low, high) in enumerate(ranges, start=1):
        start = _emptiest_place(clearance, rng)
        grown = _grow(start, rng.uniform(low, high), low == BODY_RADIUS[0], clearance, rng)
        _paint(clearance, grown[:, :3], grown[:, 6], origin, np.full(3, PLANNING_VOXEL))
        rows.append(grown)
        process.append(np.full(len(grown), i, np.int32))
    table = np.concatenate(rows).astype(np.float32)
    return _CentreLines(table[:, :3], table[:, 3:6], table[:, 6], np.concatenate(process))


def _emptiest_place(clearance: NDArray, rng: np.random.Generator, n_candidates: int = 300) -> NDArray:
    """The roomiest of some random places, nm."""
    candidates = rng.integers(0, clearance.shape, (n_candidates, 3))
    # A random fraction settles ties, which are many while space is empty.
    room = clearance[tuple(candidates.T)] + rng.random(n_candidates)
    return (candidates[room.argmax()] + 0.5) * PLANNING_VOXEL - MARGIN


def _grow(start: NDArray, radius: float, is_body: bool, clearance: NDArray, rng: np.random.Generator) -> NDArray:
    """One process from `start` in both directions, with its branches: rows of point, tangent, radius (n, 7)."""
    direction = _unit(rng.standard_normal(3))
    rows = []
    if is_body:
        # A body is one ball with two or three dendrites growing out of it.
        rows.append(np.concatenate([start, direction, [radius]])[None])
        arms = [_unit(rng.standard_normal(3)) for _ in range(rng.integers(2, 4))]
        tips = [(start + 0.8 * radius * d, d, rng.uniform(*THICK_RADIUS) * 0.8, np.inf) for d in arms]
    else:
        tips = [(start, direction, radius, np.inf), (start, -direction, radius, np.inf)]
    while tips:
        points, branches = _walk(*tips.pop(), clearance, rng)
        rows.append(points)
        if len(rows) < 12:
            tips.extend(branches)
    return np.concatenate(rows)


def _walk(
    position: NDArray, direction: NDArray, radius: float, length: float, clearance: NDArray, rng: np.random.Generator
) -> tuple[NDArray, list[tuple]]:
    """A random walk that prefers straight on and room, to the edge of the tissue, a dead end, or `length` nm.

    Returns rows of point, tangent, radius (n, 7), and the branches (position, direction, radius, length) to follow.
    """
    step = max(12.0, radius / 2)
    far_corner = np.multiply(clearance.shape, PLANNING_VOXEL) - MARGIN
    n_steps = int(min(length, 3 * np.linalg.norm(far_corner + MARGIN)) / step) + 1
    wiggles = rng.normal(0, 0.35, (n_steps, 12, 3))
    chances = rng.random((n_steps, 2))
    swelling, bouton = 0.0, 0.0
    rows, branches = [], []
    for wiggle, (branch_chance, bouton_chance) in zip(wiggles, chances, strict=True):
        # The calibre wanders; thin axons have varicosities some 150 nm long.
        swelling += 0.15 * wiggle[0, 0] * 3 - 0.05 * swelling
        bouton = 1.0 if radius < 60 and bouton_chance < step / 900 else bouton * np.exp(-step / 70)
        r = radius * np.exp(np.clip(swelling, -0.5, 0.5)) * (1 + bouton)
        rows.append(np.concatenate([position, direction, [r]]))

        options = direction + wiggle
        options /= np.linalg.norm(options, axis=1, keepdims=True)
        ahead = position + options * (step + radius)
        index = ((ahead + MARGIN) / PLANNING_VOXEL).astype(int)
        room = clearance[tuple(np.clip(index, 0, np.subtract(clearance.shape, 1)).T)]
        best = (np.minimum(room / radius, 1.5) + 1.5 * options @ direction).argmax()
        direction = options[best]
        position = position + direction * step
        # A dead end is a place where another process would swallow this one.
        if (position < -MARGIN).any() or (position >= far_corner).any() or room[best] < -0.6 * radius:
            break
        if branch_chance < step / 900:
            # Thick processes bear thinner branches and spines; a thin axon splits in two like itself.
            side = _unit(direction + _unit(wiggle[1]))
            child = radius * (0.3 + 0.5 * chances[0, 0]) if radius > 60 else radius
            branches.append((position, side, child, np.inf if chances[0, 1] < 0.5 else 10 * child))
    return np.array(rows), branches


def _unit(vector: NDArray) -> NDArray:
    return vector / np.linalg.norm(vector)


def _paint(
    distance: NDArray, points: NDArray, radii: NDArray, origin: NDArray, voxel_size: NDArray, owner=None, ids=None
) -> None:
    """Lower `distance` (nm to the nearest surface) to that of a ball around each point; note whose it is in `owner`."""
    for i, (point, radius) in enumerate(zip(points, radii, strict=True)):
        window, offsets = _window(distance.shape, point, radius + REACH, origin, voxel_size)
        here = np.sqrt(sum(o * o for o in offsets)) - np.float32(radius)
        is_nearer = here < distance[window]
        distance[window][is_nearer] = here[is_nearer]
        if owner is not None:
            owner[window][is_nearer] = ids[i]


def _window(
    shape: Sequence[int], centre: NDArray, reach: float, origin: NDArray, voxel_size: NDArray
) -> tuple[tuple[slice, ...], tuple[NDArray, ...]]:
    """The voxels within `reach` of `centre` along each axis: slices, and broadcastable offsets in nm."""
    slices, offsets = [], []
    for axis in range(3):
        begin, end = ((centre[axis] + s * reach - origin[axis]) / voxel_size[axis] for s in (-1, 1))
        begin, end = (min(max(int(n), 0), shape[axis]) for n in (begin, end + 1))
        offset = origin[axis] + (np.arange(begin, end) + 0.5) * voxel_size[axis] - centre[axis]
        slices.append(slice(begin, end))
        offsets.append(offset.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)]))
    return tuple(slices), tuple(offsets)


def _assign(lines: _CentreLines, shape: Sequence[int], origin: NDArray, voxel_size: NDArray) -> NDArray[np.int32]:
    """The process with the nearest surface, for every voxel."""
    distance = np.full(shape, np.inf, np.float32)
    owner = np.zeros(shape, np.int32)
    _paint(distance, lines.points, lines.radii, origin, voxel_size, owner, lines.process)
    if not owner.all():  # a gap wider than twice the reach
        nearest = ndimage.distance_transform_edt(owner == 0, voxel_size, return_distances=False, return_indices=True)
        owner = owner[tuple(nearest)]
    return owner


def _one_component_each(labels: NDArray, min_size: int) -> NDArray[np.int32]:
    """Give every 6-connected component its own id, 1, 2, ..., and specks to the neighbour they touch most."""
    components = connected_components(labels, connectivity=1, background=0).astype(np.int32)
    while True:
        sizes = np.bincount(components.ravel())
        is_speck = (sizes < min_size) & (sizes > 0)
        is_speck[sizes.argmax()] = False
        if not is_speck.any():
            break
        pairs = np.concatenate([_touching(components, axis) for axis in range(3)])
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        # Specks among specks wait until a neighbour has joined an object.
        pairs = pairs[is_speck[pairs[:, 0]] & ~is_speck[pairs[:, 1]]]
        pairs, n_faces = np.unique(pairs, axis=0, return_counts=True)
        pairs = pairs[np.argsort(n_faces, kind="stable")]
        target = np.arange(len(sizes), dtype=np.int32)
        target[pairs[:, 0]] = pairs[:, 1]  # the last assignment, with the most faces, stays
        components = target[components]
    rank = np.cumsum(sizes > 0, dtype=np.int32)
    return rank[components]


def _touching(components: NDArray, axis: int) -> NDArray:
    """Ids on both sides of every face between two components along `axis`, (n, 2)."""
    along = np.moveaxis(components, axis, 0)
    lower, upper = along[:-1], along[1:]
    is_face = lower != upper
    return np.stack([lower[is_face], upper[is_face]], axis=1)


# ---- image ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tissue:
    """What the organelles need to know of the tissue: all arrays (z, y, x) on the grid that is drawn on."""

    lines: _CentreLines
    labels: NDArray
    depth: NDArray  # nm from the boundary of the object
    origin: NDArray  # nm, corner of the first voxel
    voxel_size: NDArray  # nm

    def index(self, places: NDArray) -> NDArray:
        """Voxels of places in nm, inside the volume or not."""
        return np.floor((places - self.origin) / self.voxel_size).astype(int)


def _draw(
    tissue: _Tissue,
    membrane_thickness: float,
    weak_membranes: float,
    organelle_density: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """The sharp, noiseless image of the tissue."""
    labels, voxel_size = tissue.labels, tissue.voxel_size
    n_ids = int(labels.max()) + 1
    grey = rng.normal(CYTOPLASM, 9, n_ids) - (CYTOPLASM - DARK_CYTOPLASM) * (rng.random(n_ids) < DARK_SHARE)
    image = grey.astype(np.float32)[labels]
    image += 10 * _smooth_noise(labels.shape, 14.0, voxel_size, rng)

    if organelle_density > 0:
        _draw_reticulum(image, tissue, organelle_density, rng)
        _draw_vesicles(image, tissue, organelle_density, rng)
        _draw_mitochondria(image, tissue, organelle_density, rng)

    # 1 on the boundary, a half at half the thickness.
    darkness = 1 / (1 + (tissue.depth / max(membrane_thickness / 2, 1e-3)) ** 4)
    if weak_membranes > 0:
        strength = _smooth_noise(labels.shape, 32.0, voxel_size, rng)
        faint = np.quantile(strength, weak_membranes)
        darkness *= 0.1 + 0.9 / (1 + np.exp(-6 * (strength - faint)))
    _blend(image, MEMBRANE, darkness)
    return image


def _depth(labels: NDArray, voxel_size: NDArray) -> NDArray[np.float32]:
    """Distance of voxel centres from the boundary of their object, nm; half a voxel beside it."""
    is_border = find_boundaries(labels, connectivity=1, mode="thick")
    if not is_border.any():
        return np.full(labels.shape, 1e4, np.float32)
    return ndimage.distance_transform_edt(~is_border, voxel_size).astype(np.float32) + np.float32(min(voxel_size) / 2)


def _smooth_noise(
    shape: Sequence[int], scale_nm: float, voxel_size: NDArray, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gaussian noise of mean 0 and variance 1, smooth over `scale_nm`."""
    field = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(field, scale_nm / voxel_size, mode="wrap", truncate=3)
    return field / field.std()


def _blend(image: NDArray, grey: float | NDArray, opacity: NDArray) -> None:
    image += opacity * (grey - image)


def _draw_reticulum(image: NDArray, tissue: _Tissue, density: float, rng: np.random.Generator) -> None:
    """Endoplasmic reticulum: curved dark sheets, here and there inside the thicker processes."""
    sheet = np.abs(_smooth_noise(image.shape, 45.0, tissue.voxel_size, rng))
    where = _smooth_noise(image.shape, 60.0, tissue.voxel_size, rng)
    share = min(0.2 * density, 1.0)
    is_there = (where > np.quantile(where, 1 - share)) & (tissue.depth > 35)
    _blend(image, MEMBRANE + 12, 0.75 * is_there * np.exp(-((sheet / 0.16) ** 2)))


def _draw_vesicles(image: NDArray, tissue: _Tissue, density: float, rng: np.random.Generator) -> None:
    """Vesicles: dark dots of some 40 nm, in clusters around the centre lines."""
    lines = tissue.lines
    n_clusters = rng.poisson(0.05 * density * len(lines.points))
    centre = np.repeat(rng.integers(0, len(lines.points), n_clusters), 10)
    places = lines.points[centre] + 0.6 * lines.radii[centre, None] * rng.standard_normal((len(centre), 3))
    index = tissue.index(places)
    index = index[((index >= 0) & (index < image.shape)).all(axis=1)]
    index = index[tissue.depth[tuple(index.T)] > 22]
    dots = np.zeros(image.shape, np.float32)
    dots[tuple(index.T)] = 1
    sigma = 11.0 / tissue.voxel_size
    # The filter conserves the sum; a dot should have a peak of 1.
    dots = ndimage.gaussian_filter(dots, sigma, truncate=3) * np.prod(np.maximum(sigma, 0.4) * np.sqrt(2 * np.pi))
    _blend(image, MEMBRANE + 15, np.minimum(0.75 * dots, 0.8))


def _draw_mitochondria(image: NDArray, tissue: _Tissue, density: float, rng: np.random.Generator) -> None:
    """Mitochondria: grey ellipsoids along the process, with an outline and inner cristae as dark as a membrane."""
    lines, labels = tissue.lines, tissue.labels
    hosts = np.flatnonzero(lines.radii > 55)
    # Points stand about half a radius apart: a mitochondrion every micrometre or so of a thick process.
    chosen = hosts[rng.random(len(hosts)) < density * lines.radii[hosts] / 2 / 800]
    for i in chosen:
        room = float(lines.radii[i])
        width = min(room * rng.uniform(0.5, 0.75), 110.0)
        half_length = width * rng.uniform(1.2, 3.0)
        centre = lines.points[i] + _unit(rng.standard_normal(3)) * max(room - width - 40, 0) * rng.random()
        phase, spacing = rng.uniform(0, 2 * np.pi), rng.uniform(38, 55)
        home = tissue.index(centre)
        if (home < 0).any() or (home >= labels.shape).any():
            continue
        window, offsets = _window(labels.shape, centre, half_length, tissue.origin, tissue.voxel_size)
        along = sum(o * t for o, t in zip(offsets, lines.tangents[i], strict=True))
        across = np.sqrt(np.maximum(sum(o * o for o in offsets) - along**2, 0))
        inward = (1 - np.sqrt((along / half_length) ** 2 + (across / width) ** 2)) * width
        inward = np.minimum(inward, tissue.depth[window] - 24)  # never nearer to the membrane of its host
        is_inside = (inward > 0) & (labels[window] == labels[tuple(home)])
        crista = 0.6 * np.clip(2 * np.sin(2 * np.pi * along / spacing + phase + across / 25) - 0.8, 0, 1)
        outline = np.exp(-((inward / 14) ** 2))
        grey = MATRIX + (MEMBRANE - MATRIX) * np.maximum(crista, outline)
        image[window] = np.where(is_inside, grey, image[window])


# ---- sections -------------------------------------------------------------------------------------------------------


def _mean_over_blocks(image: NDArray, factors: Sequence[int]) -> NDArray[np.float32]:
    blocks = image.reshape([n for size, f in zip(image.shape, factors, strict=True) for n in (size // f, f)])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _shift_sections(array: NDArray, shifts: NDArray, pad: int) -> NDArray:
    """Cut the unpadded y x window out of each section, moved by its shift."""
    _, ny, nx = np.subtract(array.shape, (0, 2 * pad, 2 * pad))
    corners = shifts + pad
    return np.stack([section[y : y + ny, x : x + nx] for section, (y, x) in zip(array, corners, strict=True)])


def _vary_sections(image: NDArray, jitter: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Change brightness by `jitter` grey levels and contrast by as much at the extremes, at random per section."""
    brightness, contrast = (rng.standard_normal((2, len(image), 1, 1)) * jitter).astype(np.float32)
    return 128 + (image - 128) * np.maximum(1 + contrast / 128, 0.1) + brightness
