"""The phantom of neuropil: exact labels, an image that shows them, and organelles that mislead."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.metrics import variation_of_information

from lsdflow.errors import UserError
from lsdflow.synthetic import _one_component_each, simulate_neuropil

SHAPE = (40, 48, 48)
SEED = 8  # a small volume with axons, a dendrite and mitochondria


@pytest.fixture(scope="module")
def phantom():
    return simulate_neuropil(SHAPE, seed=SEED)


def is_boundary(labels):
    """Voxels with a face neighbour of another id."""
    border = np.zeros(labels.shape, bool)
    for axis in range(3):
        for step in (1, -1):
            differs = labels != np.roll(labels, step, axis)
            ends = [slice(None)] * 3
            ends[axis] = 0 if step == 1 else -1
            differs[tuple(ends)] = False
            border |= differs
    return border


def depth_nm(labels, voxel_size=(10, 10, 10)):
    return ndimage.distance_transform_edt(~is_boundary(labels), voxel_size)


def test_raw_is_uint8_and_labels_are_uint64_of_the_shape_asked_for(phantom):
    raw, labels = phantom
    assert (raw.shape, raw.dtype) == (SHAPE, np.uint8)
    assert (labels.shape, labels.dtype) == (SHAPE, np.uint64)


def test_same_seed_gives_the_same_volume_and_another_seed_another(phantom):
    again = simulate_neuropil(SHAPE, seed=SEED)
    other = simulate_neuropil(SHAPE, seed=SEED + 1)
    for a, b, c in zip(phantom, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_every_voxel_has_an_object_and_ids_have_no_gaps(phantom):
    _, labels = phantom
    ids = np.unique(labels)
    np.testing.assert_array_equal(ids, np.arange(1, len(ids) + 1))
    assert len(ids) >= 8


@pytest.mark.parametrize(
    "options", [{}, {"voxel_size": (40, 10, 10), "section_jitter": 1.5, "min_object_size": 30}, {"min_object_size": 1}]
)
def test_every_object_is_one_component_of_at_least_the_minimum_size(options):
    shape = (12, 48, 48) if "voxel_size" in options else SHAPE
    _, labels = simulate_neuropil(shape, seed=5, **options)
    for i in np.unique(labels):
        _, n = ndimage.label(labels == i)  # the default structure joins faces only
        assert n == 1
    assert np.bincount(labels.ravel().astype(int))[1:].min() >= options.get("min_object_size", 100)


def test_specks_join_the_neighbour_with_the_most_faces_and_pieces_get_their_own_ids():
    # Along x: two pieces of process 1, parted by 2; a speck of process 3 with four faces to 2 and one to the right 1.
    labels = np.ones((3, 3, 9), int)
    labels[:, :, 3:7] = 2
    labels[1, 1, 6] = 3
    cleaned = _one_component_each(labels, 2)
    expected = np.ones((3, 3, 9), int)
    expected[:, :, 3:7] = 2
    expected[:, :, 7:] = 3
    np.testing.assert_array_equal(cleaned, expected)


def test_specks_among_specks_join_an_object_in_the_end():
    labels = np.ones((4, 4, 12), int)
    labels[..., 6:] = np.arange(4 * 4 * 6).reshape(4, 4, 6) + 2
    cleaned = _one_component_each(labels, 5)
    assert connected_components(cleaned, connectivity=1, background=0).max() == cleaned.max()
    assert np.bincount(cleaned.ravel())[1:].min() >= 5


def test_membranes_are_darker_than_cytoplasm(phantom):
    raw, labels = phantom
    depth = depth_nm(labels)
    assert raw[depth == 0].mean() < raw[depth > 30].mean() - 40


def test_some_of_the_membrane_is_missing_when_asked():
    options = {"seed": SEED, "organelle_density": 0, "noise": 0, "blur": 0}
    sound, labels = simulate_neuropil(SHAPE, weak_membranes=0, **options)
    weak, _ = simulate_neuropil(SHAPE, weak_membranes=0.3, **options)
    border = is_boundary(labels)
    assert (sound[border] > 130).mean() < 0.02
    assert 0.1 < (weak[border] > 130).mean() < 0.4


def test_organelles_are_as_dark_as_membranes_and_lie_inside_objects():
    options = {"seed": SEED, "noise": 0, "weak_membranes": 0}
    without, labels = simulate_neuropil(SHAPE, organelle_density=0, **options)
    with_them, same_labels = simulate_neuropil(SHAPE, organelle_density=1, **options)
    np.testing.assert_array_equal(labels, same_labels)
    drawn = with_them.astype(int) < without.astype(int) - 40
    depth = depth_nm(labels)
    assert drawn.mean() > 0.01
    assert np.median(depth[drawn]) > 30
    assert with_them[drawn].min() < with_them[depth == 0].mean()


def test_there_are_thin_and_thick_processes():
    _, labels = simulate_neuropil((48, 64, 64), seed=1)
    ids = np.unique(labels)
    # Radius of the largest ball inside each object; pieces cut off by the faces of the volume are left out.
    radius = ndimage.maximum(depth_nm(labels), labels, ids) + 5
    extent = np.array([max(np.ptp(np.nonzero(labels == i)[axis]) for axis in range(3)) for i in ids])
    radius = radius[extent > 30]
    assert radius.min() < 70
    assert radius.max() > 90


def test_more_objects_are_smaller_ones():
    n_objects = [simulate_neuropil(SHAPE, seed=7, objects_per_um3=n)[1].max() for n in (8, 25, 100)]
    assert n_objects == sorted(n_objects)


def test_coarser_sections_show_the_same_tissue():
    # 400 x 480 x 480 nm both times; the middle of the section of 40 nm is 20 nm deep, between fine sections 1 and 2.
    _, fine = simulate_neuropil(SHAPE, seed=SEED)
    raw, coarse = simulate_neuropil((10, 48, 48), seed=SEED, voxel_size=(40, 10, 10))
    assert raw.shape == coarse.shape == (10, 48, 48)
    split, merge = variation_of_information(fine[2::4].astype(int), coarse.astype(int))
    assert split + merge < 0.6


def test_section_jitter_moves_raw_and_labels_together():
    options = {"seed": 2, "voxel_size": (40, 10, 10), "noise": 0, "organelle_density": 0, "weak_membranes": 0}
    _, still = simulate_neuropil((10, 64, 64), **options)
    raw, moved = simulate_neuropil((10, 64, 64), **options, section_jitter=3)

    shifts = []
    for before, after in zip(still, moved, strict=True):
        # The shift under which membranes coincide best, by trying all of them.
        before, after = is_boundary(before[None])[0], is_boundary(after[None])[0]
        tries = [(dy, dx) for dy in range(-9, 10) for dx in range(-9, 10)]
        inner = after[9:-9, 9:-9]
        match = [(before[9 + y : 55 + y, 9 + x : 55 + x] == inner).mean() for y, x in tries]
        assert max(match) > 0.97
        shifts.append(tries[int(np.argmax(match))])
    assert len(set(shifts)) > 3
    # The image has moved as well: dark where the moved membranes are, section by section.
    for section, labels in zip(raw, moved, strict=True):
        border = is_boundary(labels[None])[0]
        assert section[border].mean() < section[~ndimage.binary_dilation(border, iterations=3)].mean() - 20


def test_section_intensity_jitter_changes_brightness_only(phantom):
    raw, labels = simulate_neuropil(SHAPE, seed=SEED, section_intensity_jitter=12)
    np.testing.assert_array_equal(labels, phantom[1])
    steps = np.diff(raw.mean(axis=(1, 2)))
    assert steps.std() > 2 * np.diff(phantom[0].mean(axis=(1, 2))).std()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shape": (40, 48)}, r"shape .* \(z, y, x\).* not \(40, 48\)"),
        ({"shape": (0, 48, 48)}, "at least 8 voxels"),
        ({"shape": (40, 4, 48)}, "at least 8 voxels"),
        ({"shape": (40, 48.5, 48)}, "whole numbers"),
        ({"voxel_size": (10, 0, 10)}, "voxel_size .* positive"),
        ({"voxel_size": (10, 10)}, "voxel_size .* three"),
        ({"seed": -1}, "seed"),
        ({"noise": -1}, "noise .* at least 0, not -1"),
        ({"blur": -1}, "blur"),
        ({"section_jitter": float("nan")}, "section_jitter"),
        ({"weak_membranes": 1.5}, "weak_membranes .* 0 to 1"),
        ({"objects_per_um3": 0}, "objects_per_um3"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        simulate_neuropil(**{"shape": SHAPE, "seed": 1} | options)
