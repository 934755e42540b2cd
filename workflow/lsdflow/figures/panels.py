"""Pictures of one test volume: raw, truth, predictions and segmentation side by side, in two cuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from lsdflow.figures import style


def label_colours(ids: npt.NDArray[np.integer], salt: int = 0) -> npt.NDArray[np.float64]:
    """A colour for every id: random-looking, yet the same for the same id in every figure.

    Parameters
    ----------
    ids : integers of any shape.
    salt : another number gives the same ids other colours.

    Returns
    -------
    numpy.ndarray
        RGB in 0–1, shape ``ids.shape + (3,)``; id 0 is black.
    """
    # The finaliser of splitmix64 (Steele, Lea & Flood, OOPSLA 2014): neighbouring ids become unlike numbers.
    with np.errstate(over="ignore"):
        x = np.asarray(ids).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(salt + 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    hue, saturation, value = ((x >> np.uint64(shift) & np.uint64(0xFFFF)) / 0xFFFF for shift in (0, 16, 32))
    rgb = hsv_to_rgb(np.stack([hue, 0.55 + 0.45 * saturation, 0.7 + 0.3 * value], axis=-1))
    return np.where(np.asarray(ids)[..., None] == 0, 0.0, rgb)


def segment_colours(
    segmentation: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float64]]:
    """Colours of segments such that errors show: a segment wears the colour of its object in the truth.

    A segment and an object belong together when each is the other's largest overlap. A merger then spreads one
    object's colour over others, and a split-off piece has a colour of its own.

    Parameters
    ----------
    segmentation, truth : same shape; truth 0 is ignored.

    Returns
    -------
    ids : sorted ids of ``segmentation``.
    colours : float (n, 3), the RGB of each; id 0 is black.
    """
    ids, segment = np.unique(segmentation, return_inverse=True)
    objects, truth_object = np.unique(truth, return_inverse=True)
    pairs, overlap = np.unique(segment.ravel() * len(objects) + truth_object.ravel(), return_counts=True)
    segment, truth_object = pairs // len(objects), pairs % len(objects)
    counts = (ids[segment] != 0) & (objects[truth_object] != 0)
    segment, truth_object, overlap = segment[counts], truth_object[counts], overlap[counts]
    by_size = np.argsort(overlap, kind="stable")
    # Later assignments win: the largest overlap is assigned last.
    object_of = np.full(len(ids), -1)
    object_of[segment[by_size]] = truth_object[by_size]
    segment_of = np.full(len(objects), -1)
    segment_of[truth_object[by_size]] = segment[by_size]
    colours = label_colours(ids, salt=1)
    matched = np.flatnonzero((object_of >= 0) & (segment_of[object_of] == np.arange(len(ids))))
    colours[matched] = label_colours(objects[object_of[matched]])
    return ids, colours


def panel(
    raw: npt.ArrayLike,
    truth: npt.ArrayLike | None = None,
    affinities: npt.ArrayLike | None = None,
    lsds: npt.ArrayLike | None = None,
    fragments: npt.ArrayLike | None = None,
    segmentation: npt.ArrayLike | None = None,
    title: str = "",
    voxel_size: Sequence[float] = (1, 1, 1),
    *,
    section: int | None = None,
    row: int | None = None,
) -> Figure:
    """Pictures of a volume side by side: above the section at ``section`` (x y), below the cut at ``row`` (x z).

    Labels are laid over the raw image, borders of segments drawn; the same id has the same colour everywhere, and
    segments wear the colours of the truth (`segment_colours`). What is None is left out.

    Parameters
    ----------
    raw : (z, y, x), any number type; shown between its 0.5 and 99.5 percentile.
    truth, fragments, segmentation : integers (z, y, x).
    affinities : (≥3, z, y, x), uint8 (×255) or 0–1; the first three channels (z, y, x) are red, green, blue.
    lsds : (≥3, z, y, x), uint8 (×255) or 0–1; channels 0–2 (offset z, y, x) are red, green, blue.
    title : above the pictures.
    voxel_size : nm, z y x order.
    section, row : voxels along z and y; the middle by default.

    Raises
    ------
    ValueError
        If the volumes' shapes differ.
    """
    raw = np.asarray(raw)
    labels = {"truth": truth, "fragments": fragments, "segmentation": segmentation}
    labels = {name: np.asarray(a) for name, a in labels.items() if a is not None}
    channels = {"affinities": affinities, "LSDs": lsds}
    channels = {name: np.asarray(a)[:3] for name, a in channels.items() if a is not None}
    for name, array in {**labels, **channels}.items():
        if array.shape[-3:] != raw.shape or array.ndim != (3 if name in labels else 4):
            raise ValueError(f"{name} must be a volume of raw's shape {raw.shape}, not {array.shape}")
    cuts: list[Callable] = [
        lambda a: a[..., raw.shape[0] // 2 if section is None else section, :, :],
        lambda a: a[..., :, raw.shape[1] // 2 if row is None else row, :],
    ]
    heights = [raw.shape[1] * voxel_size[1], raw.shape[0] * voxel_size[0]]
    width = raw.shape[2] * voxel_size[2]
    columns = [
        "raw",
        *(n for n in ("truth", "affinities", "LSDs", "fragments", "segmentation") if n in labels | channels),
    ]
    lookups = {name: _lookup(name, labels) for name in labels}
    low, high = np.percentile(np.concatenate([cut(raw).ravel() for cut in cuts]), [0.5, 99.5])
    with style.context():
        inches = 2.3
        figure = style.new_figure(0.35 + inches * len(columns), 0.75 + inches * sum(heights) / width)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05, wspace=0.0, hspace=0.0)
        grid = figure.subplots(2, len(columns), squeeze=False, height_ratios=heights)
        for line, cut, height in zip(grid, cuts, heights, strict=True):
            grey = np.clip((cut(raw).astype(np.float64) - low) / max(high - low, 1e-9), 0, 1)
            grey = np.repeat(grey[..., None], 3, axis=-1)
            for axes, name in zip(line, columns, strict=True):
                if name in labels:
                    image = overlay(grey, cut(labels[name]), *lookups[name])
                else:
                    image = grey if name == "raw" else as_rgb(cut(channels[name]))
                axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
        for axes, name in zip(grid[0], columns, strict=True):
            axes.set_title(_TITLES.get(name, name), fontsize=11)
        grid[0, 0].set_ylabel("x y")
        grid[1, 0].set_ylabel("x z")
        scale_bar(grid[0, 0], width, heights[0])
        figure.suptitle(title, fontsize=13)
    return figure


_TITLES = {"affinities": "affinities\n(z y x as RGB)", "LSDs": "LSDs\n(offset z y x as RGB)"}


def _lookup(name: str, labels: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted ids of the labels called ``name``, and their colours."""
    if name == "segmentation" and "truth" in labels:
        return segment_colours(labels[name], labels["truth"])
    ids = np.unique(labels[name])
    return ids, label_colours(ids)


def as_rgb(channels: np.ndarray) -> np.ndarray:
    """Three channels, 0–1 or integers to 255, as a picture ``(..., 3)`` of floats in 0–1."""
    values = channels / 255 if np.issubdtype(channels.dtype, np.integer) else channels
    return np.clip(np.moveaxis(values, 0, -1), 0, 1).astype(np.float64)


def overlay(grey: np.ndarray, labels: np.ndarray, ids: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Labels over the raw image, their borders darker where they are thin; label 0 leaves the image as it is."""
    colour = colours[np.searchsorted(ids, labels)]
    image = np.where(labels[..., None] == 0, grey, 0.45 * grey + 0.55 * colour)
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    # Fragments of single sections, cut across, are all border: drawn, it would hide them.
    if border.mean() < 1 / 3:
        image[border] *= 0.35
    return image


def scale_bar_length(width: float) -> float:
    """The length among 1, 2, 5 × 10ⁿ that is at most a third of ``width`` (any unit)."""
    power = 10.0 ** np.floor(np.log10(width / 3))
    return float(max(m * power for m in (1, 2, 5) if m * power <= width / 3))


def scale_bar(axes: Axes, width: float, height: float) -> None:
    """A white bar in the lower left corner with its length; ``width`` and ``height`` of the image in nm."""
    length = scale_bar_length(width)
    text = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    x, y = 0.05 * width, height - 0.05 * width
    outline = [withStroke(linewidth=2.5, foreground="black")]
    axes.add_patch(
        Rectangle((x, y - 0.02 * width), length, 0.02 * width, facecolor="white", edgecolor="black", linewidth=0.6)
    )
    middle, above = x + length / 2, y - 0.04 * width
    axes.text(middle, above, text, color="white", ha="center", va="bottom", fontsize=10, path_effects=outline)
