"""Coarser levels: which there are, and that each holds what its definition says, whatever block wrote it."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lsdflow.pyramids import level_factors, majority, mean
from lsdflow.roi import Roi
from lsdflow.volumes import Volume, create_volume, open_volume, write_volume

RNG = np.random.default_rng(0)
SHAPES = st.tuples(*[st.integers(1, 5)] * 3)
STEPS = st.tuples(*[st.sampled_from([1, 2])] * 3)


def naive(values, steps, summarise):
    """Each coarse voxel from the list of the voxels that it spans, which are in C order."""
    coarse = np.empty([-(-n // s) for n, s in zip(values.shape, steps, strict=True)], values.dtype)
    for index in np.ndindex(coarse.shape):
        box = tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, steps, strict=True))
        coarse[index] = summarise(values[box].ravel().tolist())
    return coarse


def most_frequent(labels):
    """`Counter` keeps the order in which labels come and its `most_common` is stable."""
    return Counter(labels).most_common(1)[0][0]


@settings(deadline=None, max_examples=50)
@given(labels=arrays.arrays(np.uint64, SHAPES, elements=st.sampled_from([0, 1, 7, 2**64 - 1])), steps=STEPS)
def test_a_coarse_label_is_the_most_frequent_one(labels, steps):
    found = majority(labels, steps)
    assert found.dtype == np.uint64
    assert (found == naive(labels, steps, most_frequent)).all()


@settings(deadline=None, max_examples=50)
@given(values=arrays.arrays(np.uint8, SHAPES), steps=STEPS)
def test_a_coarse_grey_value_is_the_rounded_mean(values, steps):
    found = mean(values, steps)
    assert found.dtype == np.uint8
    assert (found == naive(values, steps, lambda voxels: np.rint(np.mean(voxels)))).all()


def test_means_of_fractions_stay_fractions():
    values = RNG.random((4, 4, 4), dtype=np.float32)
    np.testing.assert_allclose(mean(values, (2, 2, 2)), naive(values, (2, 2, 2), np.mean), rtol=1e-6)


def test_channels_are_reduced_one_by_one():
    values = RNG.integers(0, 255, (3, 4, 5, 6), dtype=np.uint8)
    assert (mean(values, (1, 2, 2)) == np.stack([mean(channel, (1, 2, 2)) for channel in values])).all()


# --- which levels there are -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "voxel_size", "shard", "expected"),
    [
        # The last level is the first that is 64 voxels long at most.
        ((64, 64, 64), (8, 8, 8), None, []),
        ((65, 20, 20), (8, 8, 8), None, [2]),
        ((250, 250, 250), (8, 8, 8), None, [2, 4]),
        ((1024, 1024, 1024), (8, 8, 8), (256, 256, 256), [2, 4, 8, 16]),
        # Blocks limit it: a shard is halved while that gives whole voxels, of 16 at least.
        ((10**6,) * 3, (8, 8, 8), (256, 256, 256), [2, 4, 8, 16]),
        ((500, 500, 500), (8, 8, 8), (100, 100, 100), [2, 4]),
        ((500, 500, 500), (8, 8, 8), (125, 100, 100), []),
        ((500, 500, 500), (8, 8, 8), (16, 128, 128), []),
        # Sections 10 times as thick as a voxel is wide: 4, 8, 16, 32, and then 32 is near enough to 40.
        ((250, 2000, 2000), (40, 4, 4), None, [(1, 2, 2), (1, 4, 4), (1, 8, 8), (2, 16, 16), (4, 32, 32)]),
        ((500, 2000, 2000), (40, 4, 4), (16, 128, 128), [(1, 2, 2), (1, 4, 4), (1, 8, 8)]),
        # The other way round, and one axis unlike both others.
        ((1000, 100, 100), (10, 20, 20), None, [(2, 1, 1), (4, 2, 2), (8, 4, 4), (16, 8, 8)]),
        # A single section has nothing to be halved along z, thin as it may be.
        ((1, 200, 200), (1, 8, 8), None, [(1, 2, 2), (1, 4, 4)]),
    ],
)
def test_levels(shape, voxel_size, shard, expected):
    expected = [(f, f, f) if isinstance(f, int) else f for f in expected]
    assert level_factors(shape, voxel_size, shard) == expected


@settings(deadline=None, max_examples=50)
@given(voxel_size=st.tuples(*[st.floats(1, 100)] * 3))
def test_voxels_get_ever_closer_to_cubes(voxel_size):
    def elongation(factors):
        edges = np.multiply(voxel_size, factors)
        return edges.max() / edges.min()

    found = [elongation(factors) for factors in [(1, 1, 1), *level_factors((10**4,) * 3, voxel_size)]]
    # An axis is halved or not: cubes can be missed by a factor of √2 on both sides.
    assert all(later <= max(earlier, 2.0001) for earlier, later in zip(found, found[1:], strict=False))


# --- as stored ------------------------------------------------------------------------------------------------


def levels(volume):
    """Every level in memory, the finest first."""
    return [np.asarray(array) for array in (volume.data, *volume.pyramid.arrays)]


@pytest.mark.parametrize(("method", "reduce"), [("mean", mean), ("majority", majority)])
@pytest.mark.parametrize(
    ("shape", "voxel_size", "shard"),
    [((70, 75, 64), (8, 8, 8), (32, 64, 32)), ((20, 130, 101), (40, 10, 10), (8, 64, 64))],
)
def test_blocks_written_in_any_order_make_the_levels_of_the_whole(tmp_path, method, reduce, shape, voxel_size, shard):
    data = RNG.integers(0, 3, shape).astype(np.uint64)
    place = {"shape": shape, "dtype": "uint64", "voxel_size": voxel_size, "offset": (40, 0, -8)}
    create_volume(tmp_path, "a", **place, shard_zyx=shard, pyramid=method)
    volume = open_volume(tmp_path, "a", mode="r+")
    begins = list(product(*(range(0, n, s) for n, s in zip(shape, shard, strict=True))))
    for index in RNG.permutation(len(begins)):
        end = tuple(min(b + s, n) for b, s, n in zip(begins[index], shard, shape, strict=True))
        roi = Roi(begins[index], end)
        volume.write(roi, data[roi.slices])
    expected, below = [data], (1, 1, 1)
    for factors in level_factors(shape, voxel_size, shard):
        expected.append(reduce(expected[-1], [f // b for f, b in zip(factors, below, strict=True)]))
        below = factors
    found = levels(open_volume(tmp_path, "a"))
    assert len(found) == len(expected) > 1
    assert all((a == b).all() and a.shape == b.shape for a, b in zip(found, expected, strict=True))


def test_a_block_is_a_file_of_its_own_at_every_level(tmp_path):
    volume = create_volume(
        tmp_path, "a", shape=(256,) * 3, dtype="uint8", voxel_size=(8, 8, 8), shard_zyx=(64, 64, 64), pyramid="mean"
    )
    roi = Roi((64, 128, 192), (128, 192, 256))
    volume.write(roi, np.ones(roi.shape, np.uint8))
    files = sorted(str(file.relative_to(tmp_path / "a")) for file in tmp_path.rglob("c/**/*") if file.is_file())
    assert files == [f"{level}/c/1/2/3" for level in range(3)]


def test_a_whole_volume_is_written_with_its_levels(tmp_path):
    data = RNG.integers(0, 255, (2, 40, 70, 66), dtype=np.uint8)
    write_volume(tmp_path, "a", Volume(data, (8, 8, 8)), pyramid="mean")
    found = levels(open_volume(tmp_path, "a"))
    assert [level.shape for level in found] == [(2, 40, 70, 66), (2, 20, 35, 33)]
    assert (found[1] == mean(data, (2, 2, 2))).all()


def test_a_box_that_is_not_whole_coarse_voxels_is_an_error(tmp_path):
    volume = create_volume(tmp_path, "a", shape=(101,) * 3, dtype="uint8", voxel_size=(8, 8, 8), pyramid="mean")
    volume.write(Roi((0, 0, 98), (2, 2, 101)), np.ones((2, 2, 3), np.uint8))
    for roi in (Roi((0, 0, 1), (2, 2, 4)), Roi((0, 0, 0), (2, 2, 3))):
        with pytest.raises(ValueError, match="x .* is not whole voxels of the coarsest level"):
            volume.write(roi, np.ones(roi.shape, np.uint8))


def test_a_method_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="one of mean, majority, not by 'median'"):
        create_volume(tmp_path, "a", shape=(8, 8, 8), dtype="uint8", voxel_size=(1, 1, 1), pyramid="median")
