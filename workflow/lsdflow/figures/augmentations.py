"""What each augmentation makes of a training crop: the image and the labels on it, which must stay aligned."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lsdflow.affinities import grow_boundary
from lsdflow.augment import Augmentation, Deformation, Symmetry, damage_sections, random_intensity, symmetries
from lsdflow.figures import style
from lsdflow.figures.panels import label_colours, scale_bar
from lsdflow.volumes import Roi, Volume

# Panels side by side, at most: a page is that wide.
COLUMNS = 7

# Characters of a title's line: more do not fit above a panel.
TITLE_WIDTH = 15

# How much of a label's colour is laid over the image: enough to tell labels, too little to hide noise.
TINT = 0.25

# Voxels: a crop is at most so long; where its voxels are longer along an axis, fewer make a cube, but no fewer than
# show something.
LONGEST, FEWEST = 96, 16

# Degrees about z, the standard deviation of grey values in [0, 1], and a seed that strikes the middle section hard.
ANGLE, NOISE, SEED = 35.0, 0.06, 242

# A crop under a title: raw (z, y, x) in [0, 1] and labels of the same shape.
Panel = tuple[str, npt.NDArray[np.floating], npt.NDArray[np.integer]]


def example_panels(raw: Volume, labels: Volume, roi: Roi) -> list[Panel]:
    """What each augmentation by itself makes of the centre of a region, at strengths that can be seen.

    Displacements and shifts are parts of the crop's edges, so that they can be seen in small regions too. The middle
    section, which figures show, is always among those that are shifted or damaged. Voxels of different length along y
    and x are not turned, and without two axes of equal voxels none change places.

    Parameters
    ----------
    raw, labels : uint8 and integers (z, y, x), of the same voxels; read also beyond the region, from where some moves
        fetch theirs.
    roi : the region, in voxels of ``raw``.
    """
    voxel_size = raw.voxel_size
    box, exchange = _example(roi, voxel_size)
    shape, is_thick = box.shape, voxel_size[0] >= 2 * max(voxel_size[1:])

    def moved(deformation: Deformation) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer]]:
        whole = Roi.of_shape(shape)
        source = deformation.source_box(whole).shift(box.begin)
        image = deformation.image(raw.read_padded(source), whole) / 255
        return image, deformation.labels(labels.read_padded(source, mode="constant"), whole)

    def damaged(**probability: float) -> npt.NDArray[np.float32]:
        result = image.copy()
        result[struck] = damage_sections(image[struck], chance(), Augmentation(**probability))
        return result

    # Each panel has its own numbers, so that strengths are the same for crops of any shape.
    chance = partial(np.random.default_rng, SEED)
    edges = np.array(shape)
    bent = Augmentation(elastic=1, rotation=0, control_point_spacing=tuple(edges / 3), jitter=tuple(edges / 24))
    still = Deformation.random(chance(), shape, Augmentation(), voxel_size)
    turned = [("rotation", *moved(replace(still, angle=ANGLE)))] if voxel_size[1] == voxel_size[2] else []
    struck = np.unique([part * shape[0] // 12 for part in (2, 6, 8, 10)])
    step = np.maximum(1, np.rint(edges[1:] / 12))
    shifts, slips = np.zeros((2, shape[0], 2))
    shifts[struck[0] :] = step
    shifts[struck[-1] :] = step * (-1, 2)
    slips[struck] = step * [(1, 1), (1, -1), (-1, -1), (-1, 1)][: len(struck)]
    image, truth = moved(still)
    contrasts = partial(random_intensity, image, scale=0.5, shift=0.2, noise=0)
    noise = np.float32(NOISE) * chance().standard_normal(shape, dtype=np.float32)
    return [
        ("original", image, truth),
        ("flip and transpose" if exchange.axes != (0, 1, 2) else "flip", exchange.apply(image), exchange.apply(truth)),
        ("elastic", *moved(Deformation.random(chance(), shape, bent, voxel_size))),
        *turned,
        ("shift", *moved(replace(still, shifts=shifts))),
        ("slip", *moved(replace(still, shifts=slips))),
        ("missing", damaged(missing_probability=1), truth),
        ("dark", damaged(dark_probability=1), truth),
        ("out of focus", damaged(blur_probability=1), truth),
        ("intensity", contrasts(chance()), truth),
        ("intensity per section", contrasts(chance(), section_wise=True), truth),
        ("noise", np.clip(image + noise, 0, 1), truth),
        ("grown boundaries", image, grow_boundary(truth, 2, only_xy=is_thick)),
    ]


def _example(roi: Roi, voxel_size: Sequence[float]) -> tuple[Roi, Symmetry]:
    """A crop at the centre of a region, and a symmetry that exchanges two of its axes, where any may, and flips."""
    length = LONGEST * min(voxel_size)
    shape = [min(n, LONGEST, max(FEWEST, round(length / v))) for n, v in zip(roi.shape, voxel_size, strict=True)]
    possible = {symmetry.axes for symmetry in symmetries(voxel_size)}
    # Rather in the plane of the sections.
    axes = next(axes for axes in ((0, 2, 1), (1, 0, 2), (2, 1, 0), (0, 1, 2)) if axes in possible)
    # What changes places must be as long.
    shape = [min(n, shape[axis]) for n, axis in zip(shape, axes, strict=True)]
    begin = [b + (n - m) // 2 for b, n, m in zip(roi.begin, roi.shape, shape, strict=True)]
    return Roi.of_shape(shape).shift(begin), Symmetry(axes, (True, False, True))


def plot_augmentations(
    panels: Sequence[Panel], path: str | os.PathLike, voxel_size: Sequence[float] | None = None
) -> tuple[Path, Path]:
    """Draw `augmentation_panels` to ``path``, given without ending, and return the PNG and the SVG."""
    return style.save(augmentation_panels(panels, voxel_size), path)


def augmentation_panels(panels: Sequence[Panel], voxel_size: Sequence[float] | None = None) -> Figure:
    """Crops side by side, of each its middle section (x y) and below it the cut through its middle row (x z).

    Grey values mean the same in all panels: black to white are the 0.5 to 99.5 percentile of the middle sections.

    Parameters
    ----------
    panels : title, raw and labels of each crop, all of one shape.
    voxel_size : nm, z y x order, for the proportions and a scale bar; by default cubes and no bar.

    Raises
    ------
    ValueError
        If there is no panel, or the shapes differ.
    """
    if not panels:
        raise ValueError("no panel to draw")
    shape = panels[0][1].shape
    for title, raw, labels in panels:
        if len(shape) != 3 or raw.shape != shape or labels.shape != shape:
            raise ValueError(
                f"raw and labels of all panels must be volumes of one shape, {shape}, not {raw.shape} and "
                f"{labels.shape} of {title!r}"
            )
    # Lines of equal length rather than a full one and a rest.
    n_lines = math.ceil(len(panels) / COLUMNS)
    n_columns = math.ceil(len(panels) / n_lines)
    lengths = shape if voxel_size is None else [n * v for n, v in zip(shape, voxel_size, strict=True)]
    depth, height, width = lengths
    section, row = np.s_[shape[0] // 2], np.s_[:, shape[1] // 2]
    low, high = np.percentile([raw[section] for _, raw, _ in panels], [0.5, 99.5])
    with style.context():
        inches = 1.45
        figure = style.new_figure(0.35 + inches * n_columns, n_lines * (0.5 + inches * (height + depth) / width))
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.0, hspace=0.0)
        grid = figure.add_gridspec(2 * n_lines, n_columns, height_ratios=[height, depth] * n_lines)
        for place, (title, raw, labels) in enumerate(panels):
            line, column = divmod(place, n_columns)
            for below, (cut, extent, name) in enumerate(((section, height, "x y"), (row, depth, "x z"))):
                axes = figure.add_subplot(grid[2 * line + below, column])
                grey = np.clip((raw[cut] - low) / max(high - low, 1e-9), 0, 1)
                axes.imshow(outlined(grey, labels[cut]), extent=(0, width, extent, 0), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if column == 0:
                    axes.set_ylabel(name)
                if below == 0:
                    axes.set_title(textwrap.fill(title, TITLE_WIDTH), fontsize=11)
        if voxel_size is not None:
            scale_bar(figure.axes[0], width, height)
            # Above the middle of the bar the text would begin outside of so small a panel.
            figure.axes[0].texts[0].set(x=0.05 * width, ha="left")
    return figure


def outlined(grey: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """An image faintly in the colours of the labels on it, and strongly where one meets the next; label 0 stays grey.

    Parameters
    ----------
    grey : (y, x) in [0, 1].
    labels : (y, x).

    Returns
    -------
    numpy.ndarray
        RGB in [0, 1], (y, x, 3).
    """
    is_border = np.zeros(labels.shape, dtype=bool)
    is_border[1:] |= labels[1:] != labels[:-1]
    is_border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    share = np.where(labels == 0, 0, np.where(is_border, 1, TINT))[..., None]
    return (1 - share) * grey[..., None] + share * label_colours(labels)
