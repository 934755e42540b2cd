"""A picture of every local shape descriptor in one section, beside the image and the labels that it describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.patheffects import withStroke

from lsdflow.figures import style
from lsdflow.figures.panels import as_rgb, label_colours, overlay, scale_bar

# Arrows along x: as many as stay apart at half size.
N_ARROWS = 16

# How far the Gaussian window reaches, in sigma; see `lsdflow.lsd_filters.window_radius`.
REACH = 3

_OUTLINE = [withStroke(linewidth=2.5, foreground="black")]


def descriptor_panel(
    raw: npt.ArrayLike,
    labels: npt.ArrayLike,
    lsds: npt.ArrayLike,
    voxel_size: Sequence[float],
    *,
    sigma: float | Sequence[float],
    section: int | None = None,
) -> Figure:
    """One section (x y) of a volume: image, labels and window above, the ten descriptors below.

    Descriptors are shown as they are, without any stretch, and are black where the label is 0.  Arrows are means of
    the offset over the object at the arrow's foot (`mean_offsets`).  One window is shown enlarged: the object at the
    cross in its colour, as strong as it weighs, and an arrow to its centre of mass.

    Parameters
    ----------
    raw : (z, y, x), any number type; shown between its 0.5 and 99.5 percentile.
    labels : integers (z, y, x), their boundaries grown so that objects stand apart; 0 is background.
    lsds : floats in 0–1 (10, z, y, x), as of `lsdflow.lsd.local_shape_descriptors`.  Objects seem to end at the border
        of the labels that these were made from: better leave `lsdflow.lsd.context` out of all three volumes there.
    voxel_size : nm, z y x order.
    sigma : of the Gaussian window, nm; one number or z y x.
    section : voxels along z; the middle by default.

    Raises
    ------
    ValueError
        If the volumes' shapes do not fit, or ``lsds`` are not floats.
    """
    raw, labels, lsds = np.asarray(raw), np.asarray(labels), np.asarray(lsds)
    if raw.ndim != 3 or labels.shape != raw.shape:
        raise ValueError(f"raw and labels must be volumes of one shape, not {raw.shape} and {labels.shape}")
    if lsds.shape != (10, *raw.shape) or not np.issubdtype(lsds.dtype, np.floating):
        raise ValueError(f"lsds must be floats of shape {(10, *raw.shape)}, not {lsds.dtype} of {lsds.shape}")
    z = raw.shape[0] // 2 if section is None else section
    raw, labels = raw[z], labels[z]
    # Predicted descriptors go on where there is no object.
    lsds = np.where(labels == 0, 0, lsds[:, z])
    low, high = np.percentile(raw, [0.5, 99.5])
    grey = np.clip((raw.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1)
    grey = np.repeat(grey[..., None], 3, axis=-1)
    dark = np.where(labels[..., None] == 0, 0, 0.15 + 0.4 * grey)
    ids = np.unique(labels)

    sigma_yx = np.broadcast_to(np.asarray(sigma, dtype=np.float64), 3)[1:]
    # Background is 0 in the descriptors, which would be an offset of minus sigma.
    offsets = np.where(labels == 0, 0, (lsds[1:3] - 0.5) * 2 * sigma_yx[:, None, None])
    cut = _Section(labels, offsets, np.asarray(voxel_size[1:], dtype=np.float64), sigma_yx)
    voxel = _example(cut)
    spacing = cut.size[1] / N_ARROWS
    cell = np.clip(np.round(spacing / cut.voxel_size).astype(int), 1, labels.shape)
    arrows = mean_offsets(labels, offsets, cell)
    longest = np.max(np.hypot(*arrows[2:]), initial=0)
    pictures = {
        "raw\n(frame: one window, circle: σ)": grey,
        "labels\n(over raw)": overlay(grey, labels, ids, label_colours(ids)),
        f"one window\n(Gaussian, σ = {_in_nm(sigma)})": _under_window(dark, cut, voxel),
        f"offset in the plane\n(longest arrow: {longest:.0f} nm)": dark,
        "offset to centre of mass\n(z y x as RGB, grey: none)": as_rgb(lsds[:3]),
        "variance\n(zz yy xx as RGB, white: σ²)": as_rgb(lsds[3:6]),
        "Pearson correlation\n(zy zx yx as RGB, grey: none)": as_rgb(lsds[6:9]),
        "size\n(share of the window filled)": np.ma.masked_where(labels == 0, lsds[9]),
    }
    with style.context():
        inches = 2.5
        height, width = cut.size
        figure = style.new_figure(0.55 + 4 * inches, 2 * (0.55 + inches * height / width))
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0.0, hspace=0.0)
        grid = figure.subplots(2, 4)
        colours = matplotlib.colormaps["viridis"].with_extremes(bad="black")
        for axes, (title, picture) in zip(grid.flat, pictures.items(), strict=True):
            axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest", cmap=colours, vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=11)
            axes.spines[:].set_visible(False)
        scale_bar(grid[0, 0], width, height)
        _draw_window(grid[0, 0], grid[0, 2], cut, voxel)
        # An offset of sigma reaches beyond the next arrow's foot, but few are half as long.
        _draw_arrows(grid[0, 3], arrows, cut, 1.6 * spacing / max(sigma_yx))
        size = grid[1, 3]
        bar = figure.colorbar(size.images[0], cax=size.inset_axes([1.03, 0, 0.05, 1]), ticks=[0, 0.5, 1])
        bar.ax.yaxis.set_major_formatter(style.plain_numbers())
        bar.outline.set_visible(False)
    return figure


def mean_offsets(
    labels: npt.NDArray[np.integer], offsets: npt.NDArray[np.floating], cell: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean offset of every cell of a coarse grid, over the voxels of the object in the cell's middle.

    Parameters
    ----------
    labels : integers (y, x).
    offsets : floats (2, y, x), any unit.
    cell : voxels along y and x.

    Returns
    -------
    y, x : integers (n,), the voxels in the middle of the cells; without cells of background and those that the
        border cuts.
    mean_y, mean_x : floats (n,), the means.
    """
    n_y, n_x = labels.shape[0] // cell[0], labels.shape[1] // cell[1]
    whole, shape = (slice(n_y * cell[0]), slice(n_x * cell[1])), (n_y, cell[0], n_x, cell[1])
    labels, offsets = labels[whole].reshape(shape), offsets[:, *whole].reshape(2, *shape)
    middle = labels[:, cell[0] // 2, :, cell[1] // 2]
    mean_y, mean_x = offsets.mean(axis=(2, 4), where=labels == middle[:, None, :, None])
    row, column = np.nonzero(middle)
    y, x = row * cell[0] + cell[0] // 2, column * cell[1] + cell[1] // 2
    return y, x, mean_y[row, column], mean_x[row, column]


@dataclass(frozen=True)
class _Section:
    """What there is to draw on the pictures.

    Attributes
    ----------
    labels : integers (y, x).
    offsets : floats (2, y, x), from each voxel to the centre of mass along y and x, nm.
    voxel_size, sigma : (2,) floats, nm, y x order.
    """

    labels: np.ndarray
    offsets: np.ndarray
    voxel_size: np.ndarray
    sigma: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Height and width, nm."""
        return np.array(self.labels.shape) * self.voxel_size

    def centre(self, voxel: tuple[int, int]) -> np.ndarray:
        """The middle of ``voxel`` (y, x), nm."""
        return (np.array(voxel) + 0.5) * self.voxel_size


def _in_nm(sigma: float | Sequence[float]) -> str:
    """``80 nm``, or ``120, 80, 80 nm`` where the axes differ."""
    values = np.atleast_1d(sigma)
    return ", ".join(f"{value:g}" for value in (values[:1] if np.ptp(values) == 0 else values)) + " nm"


def _example(cut: _Section) -> tuple[int, int]:
    """The voxel next to the middle that shows an offset well, or an object, or else the very middle."""
    offset = np.hypot(*(cut.offsets / cut.sigma[:, None, None]))
    from_middle = [(np.arange(n) + 0.5) * v - n * v / 2 for n, v in zip(offset.shape, cut.voxel_size, strict=True)]
    distance = np.hypot(from_middle[0][:, None], from_middle[1])
    # Less than 0.6 sigma makes a short arrow; the ends of objects have more, their sides seldom.
    candidates = next((c for c in (offset >= 0.6, cut.labels != 0) if c.any()), np.ones(offset.shape, dtype=bool))
    y, x = np.unravel_index(np.argmin(np.where(candidates, distance, np.inf)), offset.shape)
    return int(y), int(x)


def _under_window(image: np.ndarray, cut: _Section, voxel: tuple[int, int]) -> np.ndarray:
    """The object at ``voxel`` in its colour over the image, fading as the window does."""
    y, x = (
        (np.arange(n) - v) * size / sigma
        for n, v, size, sigma in zip(cut.labels.shape, voxel, cut.voxel_size, cut.sigma, strict=True)
    )
    weight = np.exp(-(y[:, None] ** 2 + x**2) / 2) * (cut.labels == cut.labels[voxel])
    return image + weight[..., None] * (label_colours(cut.labels[voxel]) - image)


def _draw_window(image: Axes, close_up: Axes, cut: _Section, voxel: tuple[int, int]) -> None:
    """Frame and ellipse of sigma in the whole image; in the close-up also a cross and the way to the centre of mass."""
    centre = cut.centre(voxel)
    # In the proportions of the other pictures, and inside the image.
    extent = cut.size * min(1, max(2 * REACH * cut.sigma / cut.size))
    corner = np.clip(centre - extent / 2, 0, cut.size - extent)
    close_up.set(xlim=(corner[1], corner[1] + extent[1]), ylim=(corner[0] + extent[0], corner[0]))
    line = {"fill": False, "edgecolor": "white", "path_effects": _OUTLINE}
    image.add_patch(Rectangle(corner[::-1], *extent[::-1], **line))
    for axes in (image, close_up):
        axes.add_patch(Ellipse(centre[::-1], *(2 * cut.sigma[::-1]), **line))
    close_up.plot(*centre[::-1], marker="+", markersize=9, markeredgewidth=1.5, color="white", path_effects=_OUTLINE)
    tip = centre + cut.offsets[:, *voxel]
    arrow = {"arrowstyle": "-|>", "color": "white", "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    close_up.annotate("", tip[::-1], centre[::-1], arrowprops=arrow)


def _draw_arrows(axes: Axes, arrows: tuple[np.ndarray, ...], cut: _Section, stretch: float) -> None:
    """White arrows, ``stretch`` times as long as the means of `mean_offsets`; a dot is next to none."""
    y, x, mean_y, mean_x = arrows
    axes.quiver(
        (x + 0.5) * cut.voxel_size[1],
        (y + 0.5) * cut.voxel_size[0],
        stretch * mean_x,
        stretch * mean_y,
        color="white",
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.006,
        headwidth=3.5,
        headlength=4,
        headaxislength=4,
        minlength=0.5,
    )
