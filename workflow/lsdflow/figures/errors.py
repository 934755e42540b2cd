"""Pictures of single splits and merges: the image, the truth and the segmentation around each, in two cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from lsdflow.figures import style
from lsdflow.figures.panels import label_colours, scale_bar, segment_colours
from lsdflow.roi import AXES, Roi

# Okabe and Ito's orange and blue, which colour-blind readers tell apart, too.
PART, MAIN = "#E69F00", "#0072B2"

# How much of a colour is laid over the image: in what the error is about, where that goes on, and elsewhere.
_STRONG, _WEAK, _FAINT = 0.6, 0.35, 0.2

# Inches.
_PICTURE, _GAP, _GROUP_GAP, _ROW_TITLE, _TOP = 1.75, 0.06, 0.25, 0.32, 1.05

_OUTLINE = [withStroke(linewidth=2.5, foreground="black")]


@dataclass(frozen=True)
class Surroundings:
    """What there is to see around an error.

    Attributes
    ----------
    raw : (z, y, x), any number type.
    truth, segmentation : integers (z, y, x).
    begin : where the first voxel lies, in the voxels that positions of errors are given in.
    """

    raw: npt.NDArray
    truth: npt.NDArray[np.integer]
    segmentation: npt.NDArray[np.integer]
    begin: tuple[int, int, int]


def surrounding_box(position: Sequence[int], region: Roi, voxel_size: Sequence[float], *, length: int = 112) -> Roi:
    """A box with ``position`` in its middle, or as near to it as the ``region`` allows.

    Parameters
    ----------
    position : voxel, z y x; inside the region.
    voxel_size : nm, z y x order.
    length : voxels along the axis of the smallest voxels; equal in nm along the others, or all that the region has.
    """
    begin, end = [], []
    for at, first, last, size in zip(position, region.begin, region.end, voxel_size, strict=True):
        n = min(max(round(length * min(voxel_size) / size), 1), last - first)
        begin.append(min(max(at - n // 2, first), last - n))
        end.append(begin[-1] + n)
    return Roi(tuple(begin), tuple(end))


def error_panel(
    errors: Iterable[Mapping], surroundings: Iterable[Surroundings], voxel_size: Sequence[float], *, title: str = ""
) -> Figure:
    """A row of pictures per error: raw, truth and segmentation in the section (x y) and the cut (x z) through it.

    Two colours mean the same in all rows: the part that is wrong, and the main part that it was cut off from or joined
    to. So a split is one object in the truth and two segments, a merge two objects and one segment; a line draws that
    one object or segment into the other picture, where what the two colours have outside of it is weaker. All else is
    faint, in the colours of `lsdflow.figures.panels.panel`. A ring marks the position.

    Parameters
    ----------
    errors : rows of the table that `lsdflow.metrics.errors.error_rows` makes, in the order to be shown; may be none.
    surroundings : of each.
    voxel_size : nm, z y x order.
    title : above the pictures.

    Raises
    ------
    ValueError
        If the volumes around an error differ in shape, or its position is not in them.
    """
    rows = list(zip(errors, surroundings, strict=True))
    for error, around in rows:
        _check(error, around)
    width = 7 * _GAP + _GROUP_GAP + 6 * _PICTURE
    height = _TOP + max(len(rows), 1) * (_ROW_TITLE + _PICTURE + _GAP)
    with style.context():
        figure = style.new_figure(width, height)
        # All pictures have one scale and stand in line, whatever is written above them.
        figure.set_layout_engine("none")
        figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=13)
        if not rows:
            figure.text(0.5, 0.5, "no object is split and no segment holds two", ha="center", fontsize=11)
            return figure
        figure.legend(handles=_legend(), loc="center", bbox_to_anchor=(0.5, 1 - 0.5 / height), ncols=3)
        extent = max(n * v for _, around in rows for n, v in zip(around.raw.shape, voxel_size, strict=True))
        for line, (error, around) in enumerate(rows):
            top = height - _TOP - line * (_ROW_TITLE + _PICTURE + _GAP)
            figure.text(_GAP / width, (top - _ROW_TITLE + 0.1) / height, describe(error), fontsize=11)
            bottom = top - _ROW_TITLE - _PICTURE
            for column, picture in enumerate(_pictures(error, around, voxel_size)):
                left = _GAP + column * (_PICTURE + _GAP) + (column >= 3) * _GROUP_GAP
                axes = figure.add_axes((left / width, bottom / height, _PICTURE / width, _PICTURE / height))
                _draw(axes, picture, extent)
                if line == 0:
                    middle = (left + _PICTURE / 2) / width
                    figure.text(middle, 1 - (_TOP - 0.1) / height, picture.name, ha="center", fontsize=11)
        _scale_bar(figure.axes[0])
    return figure


def describe(error: Mapping) -> str:
    """One line about an error: what went wrong, how much it is and where; the wrong part is named first."""
    segment, other = (f"segment {name}" if name else "no segment" for name in (error["segment"], error["other"]))
    if error["kind"] == "merge":
        text = f"merge: objects {error['truth']} and {error['other']} in {segment}"
    else:
        text = f"split: object {error['truth']} in {segment} and {other}"
    voxels = f"{error['voxels']:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    place = " ".join(f"{axis} {error[axis]}" for axis in AXES)
    return f"{text}, {voxels} voxels, {error['bits']:#.2g} bits, at {place}"


@dataclass(frozen=True)
class _Picture:
    """What one of the pictures shows.

    Attributes
    ----------
    name : of the picture.
    image : RGB in 0–1, (rows, columns, 3).
    outlined : bool (rows, columns), what a line is drawn around; None for no line.
    size, ring : height and width, and the position of the error, nm.
    """

    name: str
    image: npt.NDArray[np.float64]
    outlined: npt.NDArray[np.bool_] | None
    size: tuple[float, float]
    ring: tuple[float, float]


@dataclass(frozen=True)
class _Colours:
    """The look of labels: sorted ids, the colour (n, 3) and the strength (n,) of each, both in 0–1."""

    ids: npt.NDArray[np.integer]
    colours: npt.NDArray[np.float64]
    strengths: npt.NDArray[np.float64]

    @classmethod
    def of(cls, ids: npt.NDArray[np.integer], colours: npt.NDArray[np.float64], strong: Mapping[int, str]) -> _Colours:
        """Faint ``colours`` (label 0: none) but for the ``strong`` ones, by id."""
        colours, strengths = colours.copy(), np.where(ids == 0, 0, _FAINT)
        for name, colour in strong.items():
            colours[ids == name], strengths[ids == name] = to_rgb(colour), _STRONG
        return cls(ids, colours, strengths)


def _check(error: Mapping, around: Surroundings) -> None:
    shape = around.raw.shape
    if len(shape) != 3 or around.truth.shape != shape or around.segmentation.shape != shape:
        raise ValueError(
            "raw, truth and segmentation must be volumes of one shape, not "
            f"{shape}, {around.truth.shape} and {around.segmentation.shape}"
        )
    if not all(0 <= error[a] - b < n for a, b, n in zip(AXES, around.begin, shape, strict=True)):
        place = tuple(error[a] for a in AXES)
        raise ValueError(f"the error at {place} is not in the {shape} voxels from {around.begin} on")


def _pictures(error: Mapping, around: Surroundings, voxel_size: Sequence[float]) -> Iterator[_Picture]:
    """Raw, truth and segmentation in the section (x y), then in the cut (x z)."""
    if error["kind"] == "split":
        strong = {"truth": {error["truth"]: MAIN}, "segmentation": {error["other"]: MAIN, error["segment"]: PART}}
        outlined = {"segmentation": around.truth == error["truth"]}
    else:
        strong = {"truth": {error["other"]: MAIN, error["truth"]: PART}, "segmentation": {error["segment"]: MAIN}}
        outlined = {"truth": around.segmentation == error["segment"]}
    objects = np.unique(around.truth)
    colours = {
        "truth": _Colours.of(objects, label_colours(objects), strong["truth"]),
        "segmentation": _Colours.of(*segment_colours(around.segmentation, around.truth), strong["segmentation"]),
    }
    low, high = np.percentile(around.raw, [0.5, 99.5])
    at = [error[axis] - begin for axis, begin in zip(AXES, around.begin, strict=True)]
    for axis, cut in ((0, "x y"), (1, "x z")):
        grey = np.clip((around.raw.take(at[axis], axis).astype(np.float64) - low) / max(high - low, 1e-9), 0, 1)
        kept = [other for other in range(3) if other != axis]
        size = tuple(around.raw.shape[k] * voxel_size[k] for k in kept)
        ring = tuple((at[k] + 0.5) * voxel_size[k] for k in kept)
        grey = np.repeat(grey[..., None], 3, axis=-1)
        yield _Picture(f"raw ({cut})", grey, None, size, ring)
        for name in ("truth", "segmentation"):
            line = outlined[name].take(at[axis], axis) if name in outlined else None
            image = _overlay(grey, getattr(around, name).take(at[axis], axis), colours[name], line)
            yield _Picture(f"{name} ({cut})", image, line, size, ring)


def _overlay(grey: np.ndarray, labels: np.ndarray, look: _Colours, outlined: np.ndarray | None) -> np.ndarray:
    """Labels over the raw image, borders darker; strong colours are weaker outside of what is outlined."""
    index = np.searchsorted(look.ids, labels)
    strength = look.strengths[index]
    if outlined is not None:
        strength = np.where(outlined, strength, np.minimum(strength, _WEAK))
    strength = strength[..., None]
    image = (1 - strength) * grey + strength * look.colours[index]
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    image[border] *= 0.35
    return image


def _draw(axes: Axes, picture: _Picture, extent: float) -> None:
    """A picture in the upper left corner of ``axes``, which show ``extent`` nm both ways."""
    height, width = picture.size
    axes.imshow(picture.image, extent=(0, width, height, 0), interpolation="nearest")
    axes.set(xlim=(0, extent), ylim=(extent, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    # A contour needs something on both sides, and two voxels along each axis.
    if picture.outlined is not None and min(picture.outlined.shape) > 1 and len(np.unique(picture.outlined)) > 1:
        y, x = ((np.arange(n) + 0.5) * s / n for n, s in zip(picture.outlined.shape, picture.size, strict=True))
        axes.contour(x, y, picture.outlined, levels=[0.5], colors="white", linewidths=1.2)
    y, x = picture.ring
    axes.plot(x, y, marker="o", markersize=11, fillstyle="none", color="white", path_effects=_OUTLINE)


def _scale_bar(axes: Axes) -> None:
    _, width, height, _ = axes.images[0].get_extent()
    scale_bar(axes, width, height)
    # In so small a picture the bar is shorter than its text.
    axes.texts[-1].set(x=axes.patches[-1].get_x(), horizontalalignment="left")


def _legend() -> list[Artist]:
    line = Line2D([], [], color="white", linewidth=1.5, path_effects=_OUTLINE)
    line.set_label("outline of the segment (merge) or object (split)")
    return [Patch(color=PART, label="the wrong part (named first)"), Patch(color=MAIN, label="the main part"), line]
