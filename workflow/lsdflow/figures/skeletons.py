"""A picture of skeletons over the objects that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from lsdflow.figures import style
from lsdflow.figures.panels import label_colours, scale_bar


class Skeletons(Protocol):
    """Positions (n, 3) nm, labels (n,) and edges (m, 2), as of `lsdflow.metrics.skeletons.SkeletonArrays`."""

    positions: npt.NDArray[np.float64]
    labels: npt.NDArray[np.uint64]
    edges: npt.NDArray[np.int64]


def skeleton_panel(
    skeletons: Skeletons,
    truth: npt.NDArray[np.integer],
    voxel_size: Sequence[float],
    offset: Sequence[float],
) -> Figure:
    """Skeletons over the truth: on the left near the middle section and cut, on the right all of them.

    Parameters
    ----------
    skeletons : in nm.
    truth : integers (z, y, x); its objects are drawn pale, in the colours of their skeletons.
    voxel_size, offset : of the truth, nm, z y x order.
    """
    size = np.array(truth.shape) * voxel_size
    positions = skeletons.positions - np.asarray(offset)
    segments = positions[skeletons.edges]
    colours = 0.85 * label_colours(skeletons.labels[skeletons.edges[:, 0]]) if len(skeletons.edges) else None
    # Above x y, below x z; each looks along the axis that is left.
    views = [(0, 1), (1, 0)]
    with style.context():
        width = 4.6
        figure = style.new_figure(2 * width, 0.8 + width * (size[1] + size[0]) / size[2])
        grid = figure.subplots(2, 2, height_ratios=[size[1], size[0]])
        for line, (along, down) in zip(grid, views, strict=True):
            middle = truth.shape[along] // 2
            pale = 0.45 + 0.55 * label_colours(np.take(truth, middle, axis=along))
            pale[np.take(truth, middle, axis=along) == 0] = 0.2
            height = (middle + 0.5) * voxel_size[along]
            # An edge is shown where it crosses the section, or has an end within a twentieth of the whole from it.
            from_section = segments[..., along] - height
            near = (np.abs(from_section) <= size[along] / 20).any(axis=1) | (np.prod(from_section, axis=1) < 0)
            for axes, picture, shown in ((line[0], pale, near), (line[1], None, slice(None))):
                if picture is not None:
                    axes.imshow(picture, extent=(0, size[2], size[down], 0), interpolation="nearest")
                else:
                    axes.set_facecolor("black")
                if len(segments):
                    paths = segments[shown][..., [2, down]]
                    axes.add_collection(LineCollection(paths, colors="black", linewidths=2.6))
                    colour = colours[shown] if picture is None else "white"
                    axes.add_collection(LineCollection(paths, colors=colour, linewidths=1.3))
                axes.set(xlim=(0, size[2]), ylim=(size[down], 0), xticks=[], yticks=[], aspect="equal")
                axes.spines[:].set_visible(False)
        grid[0, 0].set_title("truth and the skeletons near\nthe section (x y) and the cut (x z)", fontsize=11)
        objects = len(np.unique(skeletons.labels))
        grid[0, 1].set_title(f"all skeletons of {objects} objects,\n{len(positions)} nodes", fontsize=11)
        scale_bar(grid[0, 0], size[2], size[1])
    return figure
