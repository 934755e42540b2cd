"""The picture of skeletons over the truth."""

import numpy as np
from matplotlib.collections import LineCollection

from lsdflow.figures import style
from lsdflow.figures.skeletons import skeleton_panel
from lsdflow.metrics.skeletons import SkeletonArrays


def skeletons():
    """A rod along x in the middle section, and one along y near the top."""
    return SkeletonArrays(
        positions=np.array([[100, 55, 20], [100, 55, 80], [10, 15, 30], [10, 95, 30]], float) + 1000,
        components=np.array([1, 1, 2, 2]),
        labels=np.array([3, 3, 2**40, 2**40], np.uint64),
        edges=np.array([[0, 1], [2, 3]]),
        lengths=np.array([60.0, 80.0]),
    )


def truth():
    labels = np.zeros((10, 10, 10), np.uint64)
    labels[5, 5] = 3
    labels[0, :, 3] = 2**40
    return labels


def lines_of(axes):
    return next(c for c in axes.collections if isinstance(c, LineCollection)).get_segments()


def test_all_skeletons_are_on_the_right_and_those_near_the_middle_on_the_left():
    figure = skeleton_panel(skeletons(), truth(), (20, 10, 10), (1000, 1000, 1000))
    near, everything = lines_of(figure.axes[0]), lines_of(figure.axes[1])
    assert len(near) == 1 and len(everything) == 2
    # x, then y, in nm from the corner of the truth
    np.testing.assert_allclose(near[0], [[20, 55], [80, 55]])
    np.testing.assert_allclose(lines_of(figure.axes[3])[1], [[30, 10], [30, 10]])


def test_equal_input_gives_equal_bytes_and_none_gives_a_picture(tmp_path):
    empty = SkeletonArrays(
        np.empty((0, 3)), np.empty(0, int), np.empty(0, np.uint64), np.empty((0, 2), int), np.empty(0)
    )
    for number, arrays in enumerate((skeletons(), skeletons(), empty)):
        style.save(skeleton_panel(arrays, truth(), (20, 10, 10), (1000, 1000, 1000)), tmp_path / str(number))
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    assert (tmp_path / "2.png").exists()
