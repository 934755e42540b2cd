"""Voxels move where they should, raw and labels alike; damage and grey values stay in range; all is repeatable."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import make_interp_spline
from scipy.ndimage import map_coordinates

from lsdflow.augment import (
    BLUR,
    DARK,
    LARGEST_STEP,
    Augmentation,
    Deformation,
    Symmetry,
    damage_sections,
    random_intensity,
    random_symmetry,
    symmetries,
)
from lsdflow.roi import Roi

SYMMETRIES = st.builds(Symmetry, st.permutations(range(3)).map(tuple), st.tuples(*[st.booleans()] * 3))


def moved_index(symmetry, index, shape):
    """Where `Symmetry` takes the voxel ``index`` of an array of ``shape``: by definition, one axis at a time."""
    result = []
    for source, flip in zip(symmetry.axes, symmetry.flips, strict=True):
        result.append(shape[source] - 1 - index[source] if flip else index[source])
    return tuple(result)


@settings(max_examples=48, deadline=None)
@given(symmetry=SYMMETRIES)
def test_every_voxel_goes_where_axes_and_flips_say(symmetry):
    shape = (2, 3, 4)
    array = np.arange(24).reshape(shape)
    result = symmetry.apply(array)
    assert result.flags.c_contiguous
    for index in np.ndindex(shape):
        assert result[moved_index(symmetry, index, shape)] == array[index]


@settings(max_examples=48, deadline=None)
@given(symmetry=SYMMETRIES)
def test_channels_stay_in_place(symmetry):
    array = np.arange(48).reshape(2, 2, 3, 4)
    for channel, result in zip(array, symmetry.apply(array), strict=True):
        np.testing.assert_array_equal(result, symmetry.apply(channel))


@settings(max_examples=48, deadline=None)
@given(symmetry=SYMMETRIES)
def test_shape_before_becomes_the_shape_afterwards(symmetry):
    assert symmetry.apply(np.zeros(symmetry.shape_before((2, 3, 4)))).shape == (2, 3, 4)


@settings(max_examples=48, deadline=None)
@given(symmetry=SYMMETRIES)
def test_the_inverse_undoes_a_symmetry_and_is_undone_by_it(symmetry):
    array = np.arange(48).reshape(2, 2, 3, 4)
    np.testing.assert_array_equal(symmetry.inverse.apply(symmetry.apply(array)), array)
    assert symmetry.inverse.inverse == symmetry


def drawn(voxel_size, **options):
    rng = np.random.default_rng(0)
    return {random_symmetry(rng, voxel_size, **options) for _ in range(2000)}


@pytest.mark.parametrize(
    ("voxel_size", "options", "count"),
    [
        ((8, 8, 8), {}, 48),
        ((20, 9, 9), {}, 16),
        ((9, 20, 9), {}, 16),
        ((30, 9, 8), {}, 8),
        ((8, 8, 8), {"transpose": False}, 8),
        ((8, 8, 8), {"flip": False}, 6),
        ((20, 9, 9), {"flip": False, "transpose": False}, 1),
    ],
)
def test_all_symmetries_of_the_voxel_are_drawn_and_no_other(voxel_size, options, count):
    found = drawn(voxel_size, **options)
    assert len(found) == count
    for symmetry in found:
        assert [voxel_size[axis] for axis in symmetry.axes] == list(voxel_size)


@pytest.mark.parametrize("voxel_size", [(8, 8, 8), (20, 9, 9), (9, 20, 9), (30, 9, 8)])
def test_the_symmetries_of_a_voxel_are_those_that_are_drawn_each_once_the_identity_first(voxel_size):
    found = symmetries(voxel_size)
    assert found[0] == Symmetry()
    assert len(found) == len(set(found)) and set(found) == drawn(voxel_size)


def test_symmetries_are_drawn_evenly():
    rng = np.random.default_rng(0)
    counts = {}
    for _ in range(48 * 200):
        symmetry = random_symmetry(rng, (8, 8, 8))
        counts[symmetry] = counts.get(symmetry, 0) + 1
    # Each is Poisson with mean 200: within five standard deviations.
    assert set(counts) == {
        Symmetry(axes, flips)
        for axes in itertools.permutations(range(3))
        for flips in itertools.product([False, True], repeat=3)
    }
    assert max(abs(c - 200) for c in counts.values()) < 5 * 200**0.5


CUBE = (20, 20, 20)
# Everything that moves voxels, one by one and all at once.
MOVES = {
    "jitter": Augmentation(elastic=1, control_point_spacing=(6, 7, 9), jitter=(1, 2, 2), rotation=0),
    "rotation": Augmentation(elastic=1, jitter=(0, 0, 0)),
    "shift": Augmentation(shift_probability=0.3, max_misalign=3),
    "slip": Augmentation(slip_probability=0.3, max_misalign=3),
    "all": Augmentation(elastic=1, shift_probability=0.3, slip_probability=0.3, max_misalign=3),
}
moving = pytest.mark.parametrize("augmentation", MOVES.values(), ids=MOVES.keys())


def deformation_of(augmentation, shape=CUBE, seed=0):
    return Deformation.random(np.random.default_rng(seed), shape, augmentation, (1, 1, 1))


def turned(angle, shape=CUBE):
    """A rotation and nothing else."""
    return replace(deformation_of(Augmentation(), shape), angle=angle)


def centred(shape, frame):
    """The box that `lsdflow.networks.crop` leaves of one of shape ``frame``."""
    begin = tuple((n - m) // 2 for n, m in zip(frame, shape, strict=True))
    return Roi(begin, tuple(b + m for b, m in zip(begin, shape, strict=True)))


def positions_of(deformation, box):
    """Where the voxels of ``box`` come from, (3, z, y, x): linear interpolation of an index is a position."""
    origin = deformation.source_box(box)
    ramps = np.indices(origin.shape, dtype=np.float32)
    return np.stack([deformation.image(r, box) + b for r, b in zip(ramps, origin.begin, strict=True)])


def naive_displacements(deformation, indices):
    """The splines through the displacements of the control points, at the voxels ``indices`` along each axis."""
    moved = deformation.displacements
    for axis, (at, spacing) in enumerate(zip(indices, deformation.spacing, strict=True), start=1):
        controls = spacing * np.arange(moved.shape[axis])
        moved = make_interp_spline(controls, moved, k=3, axis=axis, bc_type="natural")(at)
    return moved


def naive_positions(deformation, step):
    """Positions of all voxels, (3, z, y, x), their displacements linear between every ``step``-th voxel."""
    indices = [np.arange(0, n + s, s) for n, s in zip(deformation.shape, step, strict=True)]
    coarse = naive_displacements(deformation, indices)
    voxels = np.indices(deformation.shape, dtype=np.float64)
    at = [v / s for v, s in zip(voxels, step, strict=True)]
    displacements = np.stack([map_coordinates(c, at, order=1) for c in coarse])
    middle_y, middle_x = (np.array(deformation.shape[1:]) - 1) / 2
    # In the complex plane, y upwards, a turn by an angle is a product.
    turn = ((voxels[2] - middle_x) - 1j * (voxels[1] - middle_y)) * np.exp(-1j * np.deg2rad(deformation.angle))
    result = np.stack([voxels[0], middle_y - turn.imag, middle_x + turn.real]) + displacements
    result[1:] += deformation.shifts.T[:, :, None, None]
    return result


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(2, 20)] * 3),
    spacing=st.tuples(*[st.sampled_from([(3, 1), (4, 2), (7, 2), (9.5, 4), (16, 8), (40, 8)])] * 3),
)
def test_deformed_volumes_are_those_of_explicit_coordinates(seed, shape, spacing):
    rng = np.random.default_rng(seed)
    spacing, step = zip(*spacing, strict=True)
    augmentation = replace(MOVES["all"], control_point_spacing=spacing, jitter=(0.5, 1.5, 1), rotation=360)
    deformation = Deformation.random(rng, shape, augmentation, (20, 9, 9))
    # Splines end where nothing is asked for any more.
    last = [(n - 1) * s for n, s in zip(deformation.displacements.shape[1:], spacing, strict=True)]
    assert all(end >= n - 1 + LARGEST_STEP for end, n in zip(last, shape, strict=True))
    box = centred(rng.integers(1, shape, endpoint=True), shape)
    origin = deformation.source_box(box)
    at = naive_positions(deformation, step)[(..., *box.slices)]
    at = at.reshape(3, -1) - np.reshape(origin.begin, (3, 1))
    raw = rng.integers(0, 256, origin.shape, dtype=np.uint8)
    labels = rng.integers(2**60, 2**61, origin.shape, dtype=np.uint64)

    expected = map_coordinates(raw.astype(np.float64), at, order=1, mode="nearest").reshape(box.shape)
    np.testing.assert_allclose(deformation.image(raw, box), expected, atol=1e-3)
    expected = map_coordinates(raw, at, order=0).reshape(box.shape)
    np.testing.assert_array_equal(deformation.labels(raw, box), expected)
    voxel = np.ravel_multi_index(np.rint(at).astype(int), origin.shape)
    np.testing.assert_array_equal(deformation.labels(labels, box), labels.ravel()[voxel].reshape(box.shape))


def test_floats_and_parts_of_larger_arrays_are_deformed_as_other_images():
    deformation, box = deformation_of(MOVES["all"]), Roi.of_shape(CUBE)
    shape = deformation.source_box(box).shape
    large = np.random.default_rng(0).integers(0, 256, [n + 3 for n in shape], dtype=np.uint8)
    part = large[tuple(slice(n) for n in shape)]
    expected = deformation.image(part.copy(), box)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(deformation.image(part, box), expected)
    np.testing.assert_allclose(deformation.image((part / 255).astype(np.float32), box), expected / 255, atol=1e-6)
    np.testing.assert_array_equal(deformation.labels(part, box), deformation.labels(part.copy(), box))


def test_positions_are_near_those_of_the_splines_themselves():
    deformation = deformation_of(Augmentation(elastic=1, rotation=0), shape=(90, 40, 40))
    exact = np.indices(deformation.shape) + naive_displacements(deformation, [np.arange(n) for n in deformation.shape])
    moved = positions_of(deformation, Roi.of_shape(deformation.shape))
    assert np.abs(moved - np.indices(deformation.shape)).max() > 2
    assert np.abs(moved - exact).max() < 0.25


def test_nothing_moves_when_all_is_off():
    deformation = deformation_of(Augmentation())
    assert deformation.is_identity
    raw = np.random.default_rng(0).integers(0, 256, CUBE, dtype=np.uint8)
    for box in (Roi.of_shape(CUBE), Roi((3, 0, 5), (10, 20, 6))):
        assert deformation.source_box(box) == box
        part = raw[box.slices]
        np.testing.assert_array_equal(deformation.image(part, box), part)
        np.testing.assert_array_equal(deformation.labels(part, box), part)


@moving
def test_whatever_moves_voxels_is_not_the_identity(augmentation):
    deformation = deformation_of(augmentation)
    assert not deformation.is_identity
    box = Roi.of_shape(CUBE)
    assert np.abs(positions_of(deformation, box) - np.indices(CUBE)).max() > 0.5


@pytest.mark.parametrize("shape", [(3, 12, 12), (3, 13, 13)])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_those_of_numpy(shape, quarters):
    deformation, box = turned(90.0 * quarters, shape), Roi.of_shape(shape)
    assert deformation.source_box(box) == box
    labels = np.random.default_rng(0).integers(0, 2**60, shape, dtype=np.uint64)
    expected = np.rot90(labels, quarters, axes=(1, 2))
    np.testing.assert_array_equal(deformation.labels(labels, box), expected)
    raw = (labels % 256).astype(np.uint8)
    np.testing.assert_allclose(deformation.image(raw, box), expected % 256, atol=1e-3)


@pytest.mark.parametrize("angle", [1e-9, -1e-9])
def test_rounding_errors_ask_for_no_further_voxel(angle):
    deformation, box = turned(angle), Roi.of_shape(CUBE)
    raw = np.random.default_rng(0).integers(0, 256, CUBE, dtype=np.uint8)
    assert deformation.source_box(box) == box
    np.testing.assert_array_equal(deformation.labels(raw, box), raw)
    np.testing.assert_allclose(deformation.image(raw, box), raw, atol=1e-3)


@moving
def test_raw_and_labels_stay_aligned(augmentation):
    raw_shape, label_shape = (25, 24, 30), (12, 13, 17)
    deformation = deformation_of(augmentation, shape=raw_shape)
    raw_box, label_box = Roi.of_shape(raw_shape), centred(label_shape, raw_shape)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 40, [n + 60 for n in raw_shape], dtype=np.uint64)
    grey_of = rng.permutation(256)[:40].astype(np.uint8)
    grey = grey_of[labels]

    def source_of(box):
        return deformation.source_box(box).shift((30, 30, 30)).slices

    moved_labels = deformation.labels(labels[source_of(label_box)], label_box)
    moved_grey = deformation.labels(grey[source_of(raw_box)], raw_box)
    np.testing.assert_array_equal(moved_grey[label_box.slices], grey_of[moved_labels])
    # So with the image: the voxel whose label is picked is the one nearest to where the grey value comes from.
    begin = np.reshape(deformation.source_box(label_box).begin, (3, 1, 1, 1))
    indices = np.indices(deformation.source_box(label_box).shape, dtype=np.uint64)
    nearest = np.stack([deformation.labels(i, label_box) for i in indices]).astype(int) + begin
    positions = positions_of(deformation, raw_box)[(..., *label_box.slices)]
    assert np.abs(nearest - positions).max() < 0.5 + 1e-4


@moving
def test_a_box_is_deformed_as_the_part_of_a_larger_one(augmentation):
    deformation = deformation_of(augmentation)
    whole = positions_of(deformation, Roi.of_shape(CUBE))
    for shape in [(20, 19, 8), (1, 7, 20), (5, 2, 3)]:
        box = centred(shape, CUBE)
        np.testing.assert_allclose(positions_of(deformation, box), whole[(..., *box.slices)], atol=1e-4)


@moving
def test_no_voxel_outside_the_source_box_is_needed_and_every_face_of_it_is(augmentation):
    deformation, box = deformation_of(augmentation), centred((7, 9, 11), CUBE)
    origin = deformation.source_box(box)
    assert np.isfinite(deformation.image(np.ones(origin.shape, np.float32), box)).all()
    for axis, side in itertools.product(range(3), (0, -1)):
        source = np.ones(origin.shape, np.float32)
        np.moveaxis(source, axis, 0)[side] = np.nan
        assert np.isnan(deformation.image(source, box)).any()


def test_the_section_of_a_shift_and_all_after_it_are_shifted():
    shifts = np.zeros((20, 2))
    shifts[8:] += (2, -3)
    shifts[15:] += (1, 0)
    deformation = replace(deformation_of(Augmentation()), shifts=shifts)
    raw = np.random.default_rng(0).integers(0, 256, CUBE, dtype=np.uint8)
    box = Roi((4, 5, 5), (19, 15, 15))
    moved = deformation.image(raw[deformation.source_box(box).slices], box)
    for z, (y, x) in zip(range(4, 19), [(0, 0)] * 4 + [(2, -3)] * 7 + [(3, -3)] * 4, strict=True):
        np.testing.assert_array_equal(moved[z - 4], raw[z, 5 + y : 15 + y, 5 + x : 15 + x])


def test_shifts_are_drawn_for_a_section_and_all_after_it_slips_for_one_alone():
    n, probability, most = 20_000, 0.1, 2
    options = {"shape": (n, 1, 1), "seed": 3}
    shift = deformation_of(Augmentation(shift_probability=probability, max_misalign=most), **options).shifts
    slip = deformation_of(Augmentation(slip_probability=probability, max_misalign=most), **options).shifts
    for drawn_shifts in (np.diff(shift, axis=0, prepend=0), slip):
        values, counts = np.unique(drawn_shifts[np.any(drawn_shifts != 0, axis=1)], axis=0, return_counts=True)
        # Whole voxels, all as likely; one in 25 moves nothing. Within five standard deviations.
        assert {tuple(v) for v in values} == set(itertools.product(range(-2, 3), repeat=2)) - {(0, 0)}
        expected = n * probability / 25
        assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_no_shift_is_larger_than_allowed():
    for augmentation in (Augmentation(slip_probability=1, max_misalign=m) for m in (0.9, 1.9)):
        assert np.abs(deformation_of(augmentation).shifts).max() == int(augmentation.max_misalign)


def test_crops_are_deformed_as_often_and_as_much_as_asked():
    augmentation = Augmentation(elastic=0.25, jitter=(0, 1, 3), rotation=40)
    rng = np.random.default_rng(0)
    found = [Deformation.random(rng, CUBE, augmentation, (1, 1, 1)) for _ in range(2000)]
    moved = [d for d in found if not d.is_identity]
    assert abs(len(moved) - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    displacements = np.concatenate([d.displacements.reshape(3, -1) for d in moved], axis=1)
    np.testing.assert_allclose(displacements.std(axis=1), (0, 1, 3), rtol=0.05)
    angles = np.array([d.angle for d in moved])
    assert 0 <= angles.min() < 1 and 39 < angles.max() <= 40 and abs(angles.mean() - 20) < 5 * 40 / 12**0.5 / 500**0.5


def test_voxels_that_differ_along_y_and_x_are_not_turned():
    rng, augmentation = np.random.default_rng(0), Augmentation(elastic=0.01)
    with pytest.raises(ValueError, match=r"\(20, 9, 8\) nm \(z y x\) cannot be turned about z: set rotation to 0"):
        Deformation.random(rng, CUBE, augmentation, (20, 9, 8))
    Deformation.random(rng, CUBE, augmentation, (20, 9, 9))
    Deformation.random(rng, CUBE, replace(augmentation, rotation=0), (20, 9, 8))
    assert Deformation.random(rng, CUBE, Augmentation(), (20, 9, 8)).is_identity


def test_boxes_and_sources_that_do_not_fit_are_refused():
    deformation = deformation_of(MOVES["all"])
    for box in (Roi((0, 0, 0), (20, 20, 21)), Roi((-1, 0, 0), (5, 5, 5)), Roi((3, 3, 3), (3, 5, 5))):
        with pytest.raises(ValueError, match=r"within \(20, 20, 20\)"):
            deformation.source_box(box)
    with pytest.raises(ValueError, match=r"not \(20, 20, 20\)"):
        deformation.image(np.zeros(CUBE, np.float32), Roi.of_shape(CUBE))


def sections(n, shape=(1, 1)):
    return np.random.default_rng(9).uniform(0.5, 1, (n, *shape)).astype(np.float32)


def test_undamaged_sections_are_as_they_were():
    raw = sections(5, (4, 4))
    np.testing.assert_array_equal(damage_sections(raw, np.random.default_rng(0), Augmentation()), raw)


def test_missing_sections_are_black_and_as_frequent_as_asked():
    raw = sections(10_000)
    result = damage_sections(raw, np.random.default_rng(0), Augmentation(missing_probability=0.2))
    is_missing = result[:, 0, 0] == 0
    np.testing.assert_array_equal(result[~is_missing], raw[~is_missing])
    assert abs(is_missing.sum() - 2000) < 5 * (10_000 * 0.2 * 0.8) ** 0.5
    assert raw.min() > 0


def test_dark_sections_lose_brightness_and_contrast_alike_as_often_as_asked():
    raw = sections(10_000, (1, 2))
    result = damage_sections(raw, np.random.default_rng(0), Augmentation(dark_probability=0.2))
    factors = result / raw
    np.testing.assert_allclose(factors[..., 0], factors[..., 1], rtol=1e-6)
    is_dark = factors[:, 0, 0] < 1
    np.testing.assert_array_equal(result[~is_dark], raw[~is_dark])
    assert abs(is_dark.sum() - 2000) < 5 * (10_000 * 0.2 * 0.8) ** 0.5
    np.testing.assert_allclose((factors[is_dark].min(), factors[is_dark].max()), DARK, atol=0.01)


def test_sections_out_of_focus_are_blurred_in_the_plane_as_often_as_asked():
    points = np.zeros((1000, 27, 27), np.float32)
    # Each of its own brightness, so that a blur across sections would show.
    points[:, 13, 13] = sections(1000)[:, 0, 0]
    result = damage_sections(points, np.random.default_rng(0), Augmentation(blur_probability=0.2))
    is_blurred = result[:, 13, 13] < points[:, 13, 13]
    np.testing.assert_array_equal(result[~is_blurred], points[~is_blurred])
    assert abs(is_blurred.sum() - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5
    blurred = result[is_blurred].astype(np.float64)
    np.testing.assert_allclose(blurred.sum(axis=(1, 2)), points[is_blurred, 13, 13], rtol=1e-4)
    # Of a Gaussian: the value beside the peak is exp(-1 / 2σ²) of it, along y as along x.
    ratios = blurred[:, 13, 14] / blurred[:, 13, 13]
    np.testing.assert_allclose(blurred[:, 14, 13] / blurred[:, 13, 13], ratios, rtol=1e-4)
    sigma = (-0.5 / np.log(ratios)) ** 0.5
    assert BLUR[0] - 1e-3 <= sigma.min() < BLUR[0] + 0.1 and BLUR[1] - 0.1 < sigma.max() <= BLUR[1] + 1e-3


def test_missing_hides_other_damage_and_the_input_stays():
    raw = sections(6, (8, 8))
    before = raw.copy()
    augmentation = Augmentation(missing_probability=1, dark_probability=1, blur_probability=1)
    assert not damage_sections(raw, np.random.default_rng(0), augmentation).any()
    np.testing.assert_array_equal(raw, before)
    result = damage_sections(raw, np.random.default_rng(0), replace(augmentation, missing_probability=0))
    assert result.dtype == np.float32 and 0 <= result.min() and result.max() <= 1
    assert (result.std(axis=(1, 2)) < DARK[1] * raw.std(axis=(1, 2))).all()
    assert (result.max(axis=(1, 2)) < DARK[1]).all()


def image(seed=0, shape=(3, 16, 16)):
    return np.random.default_rng(seed).uniform(0.3, 0.7, shape).astype(np.float32)


def test_intensity_without_strength_changes_nothing():
    raw = image()
    result = random_intensity(raw, np.random.default_rng(0), scale=0, shift=0, noise=0)
    np.testing.assert_allclose(result, raw, atol=1e-6)
    assert result.dtype == np.float32


def test_intensity_is_one_contrast_and_one_brightness_for_the_crop():
    raw = image()
    result = random_intensity(raw, np.random.default_rng(1), scale=0.1, shift=0.1, noise=0)
    factor, offset = np.polyfit(raw.ravel() - raw.mean(), result.ravel(), 1)
    np.testing.assert_allclose(result, (raw - raw.mean()) * factor + offset, atol=1e-5)
    assert 0.9 <= factor <= 1.1 and abs(offset - raw.mean()) <= 0.1
    assert factor != pytest.approx(1, abs=1e-3)


def test_section_wise_intensity_is_one_contrast_and_one_brightness_per_section():
    raw = image()
    result = random_intensity(raw, np.random.default_rng(1), scale=0.1, shift=0.1, noise=0, section_wise=True)
    factors = []
    for before, after in zip(raw, result, strict=True):
        factor, offset = np.polyfit(before.ravel() - before.mean(), after.ravel(), 1)
        np.testing.assert_allclose(after, (before - before.mean()) * factor + offset, atol=1e-5)
        assert 0.9 <= factor <= 1.1 and abs(offset - before.mean()) <= 0.1
        factors.append(factor)
    assert len({round(f, 4) for f in factors}) == 3


def test_noise_is_independent_of_the_voxel_and_no_stronger_than_asked():
    raw = np.full((16, 32, 32), 0.5, np.float32)
    deviations = [
        random_intensity(raw, np.random.default_rng(seed), scale=0, shift=0, noise=0.05).std() for seed in range(20)
    ]
    assert max(deviations) < 0.051
    assert len({round(float(d), 5) for d in deviations}) == 20


def test_intensity_stays_between_0_and_1_and_leaves_its_input_alone():
    raw = np.random.default_rng(0).uniform(0, 1, (4, 8, 8)).astype(np.float32)
    before = raw.copy()
    result = random_intensity(raw, np.random.default_rng(3), scale=0.5, shift=0.5, noise=0.5)
    assert result.min() >= 0 and result.max() <= 1
    np.testing.assert_array_equal(raw, before)


def test_same_generator_same_augmentation():
    options = {"scale": 0.1, "shift": 0.1, "noise": 0.1}
    first, second = (random_intensity(image(), np.random.default_rng(5), **options) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert random_symmetry(np.random.default_rng(5), (8, 8, 8)) == random_symmetry(np.random.default_rng(5), (8, 8, 8))
    damage = Augmentation(missing_probability=0.3, dark_probability=0.3, blur_probability=0.3)
    first, second = (damage_sections(image(), np.random.default_rng(5), damage) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    box = Roi.of_shape(CUBE)
    first, second, other = (positions_of(deformation_of(MOVES["all"], seed=seed), box) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.5
