"""Every crop is a pure function of seed, iteration and place; its raw voxels, targets and weights belong together."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from lsdflow import sampling
from lsdflow.affinities import affinities, affinity_weights, grow_boundary
from lsdflow.augment import Augmentation, Deformation
from lsdflow.errors import UserError
from lsdflow.lsd import context, local_shape_descriptors
from lsdflow.sampling import Batch, CropSampler, TargetSettings, TrainingVolume, in_memory
from lsdflow.targets import BlockTargets
from lsdflow.volumes import Roi, Volume, open_volume, write_volume

NEAREST = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]
LONG = [*NEAREST, (-3, 0, 0), (0, -4, 0), (1, 0, -2)]
ONLY_SYMMETRIES = Augmentation(intensity_scale=0, intensity_shift=0, noise=0)
OFF = replace(ONLY_SYMMETRIES, flip=False, transpose=False)
DEFORMED = replace(
    ONLY_SYMMETRIES,
    elastic=1.0,
    control_point_spacing=(8, 9, 10),
    jitter=(1, 1, 1),
    shift_probability=0.05,
    slip_probability=0.1,
    max_misalign=2,
)
# All that moves voxels is on, but moves them nowhere.
UNMOVED = replace(DEFORMED, jitter=(0, 0, 0), rotation=0, shift_probability=0, slip_probability=0)
EVERYTHING = replace(Augmentation(), elastic=0.5, jitter=(1, 1, 1), missing_probability=0.05, blur_probability=0.05)
REGION = Roi((7, 7, 7), (25, 24, 23))
# Labels go up to 90; raw voxels show them, but this where the mask is 0, and this more outside the region.
MASKED, OUTSIDE = 99, 100


def cells(shape, n=12, seed=0):
    """Random convex cells 1, 2, ... with a background of one voxel here and there between them."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, 1, (n, 3)) * shape
    voxels = np.stack(np.indices(shape), -1)[..., None, :]
    distances = np.sort(((voxels - seeds) ** 2).sum(-1) ** 0.5, axis=-1)
    nearest = ((voxels - seeds) ** 2).sum(-1).argmin(-1) + 1
    return np.where(distances[..., 1] - distances[..., 0] < 0.7, 0, nearest).astype(np.uint64)


def sigma_of(voxel_size):
    # A window that reaches at most 5 voxels.
    return 1.5 * min(voxel_size)


def settings_of(voxel_size, **options):
    return TargetSettings(sigma_of(voxel_size), **options)


def tell_tale(voxel_size=(10.0, 10.0, 10.0), region=REGION, probability=1.0, shape=(32, 32, 32), mask=None):
    """A volume whose grey values are its labels, so that a crop tells from where it was taken."""
    labels = cells(shape)
    if mask is not None:
        labels[mask == 0] = 0
    raw = labels.astype(np.uint8)
    if mask is not None:
        raw[mask == 0] = MASKED
        mask = Volume(mask[region.slices], voxel_size)
    raw += OUTSIDE
    raw[region.slices] -= OUTSIDE
    lsds = local_shape_descriptors(labels, sigma_of(voxel_size), voxel_size)
    own_labels, own_lsds = Volume(labels[region.slices], voxel_size), Volume(lsds[(..., *region.slices)], voxel_size)
    return TrainingVolume(Volume(raw, voxel_size), own_labels, own_labels, own_lsds, region, probability, mask)


def make_sampler(volumes, **options):
    defaults = {
        "outputs": ["affinities", "lsds"],
        "offsets": NEAREST,
        "raw_shape": (16, 18, 20),
        "output_shape": (6, 8, 10),
        "batch_size": 1,
        "seed": 0,
        "augmentation": ONLY_SYMMETRIES,
        "targets": settings_of(volumes[0].raw.voxel_size),
    }
    return CropSampler(volumes, **{**defaults, **options})


def same(a, b):
    arrays = a.arrays(), b.arrays()
    return arrays[0].keys() == arrays[1].keys() and all(np.array_equal(arrays[0][k], arrays[1][k]) for k in arrays[0])


def shown(raw):
    """The grey values behind a batch's raw voxels."""
    return np.rint((raw + 1) / 2 * 255).astype(np.uint64)


def centre(array, shape):
    begin = [(n - m) // 2 for n, m in zip(array.shape[-3:], shape, strict=True)]
    return array[(..., *(slice(b, b + m) for b, m in zip(begin, shape, strict=True)))]


def half_masked(shape):
    mask = np.ones(shape, np.uint8)
    mask[:, : shape[1] // 2] = 0
    return mask


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize(
    "voxel_size, raw_shape", [((10.0, 10.0, 10.0), (16, 18, 20)), ((20.0, 10.0, 10.0), (17, 18, 21))]
)
def test_raw_affinities_and_lsds_of_a_transformed_crop_are_those_of_its_labels(voxel_size, raw_shape, has_mask):
    volume = tell_tale(voxel_size, mask=half_masked((32, 32, 32)) if has_mask else None)
    sampler = make_sampler([volume], offsets=LONG, raw_shape=raw_shape)
    shape = sampler.output_shape
    n_outside = n_masked = 0
    for iteration in range(25):
        batch = sampler.batch(iteration)
        grey = shown(batch.raw[0, 0])
        is_inside, is_masked = grey < OUTSIDE, grey % OUTSIDE == MASKED
        labels, is_known = np.where(is_masked, 0, grey % OUTSIDE), (is_inside & ~is_masked).astype(np.uint8)
        assert centre(is_inside, shape).all()

        target, known = (centre(affinities(part, LONG), shape) for part in (labels, is_known))
        np.testing.assert_array_equal(batch.targets["affinities"][0] * known, target * known)
        np.testing.assert_array_equal(batch.weights["affinities"][0], affinity_weights(target, known))

        lsds = centre(local_shape_descriptors(labels, sigma_of(voxel_size), voxel_size), shape)
        np.testing.assert_allclose(batch.targets["lsds"][0], lsds, atol=1e-5)
        is_learned = centre((labels != 0) | is_masked, shape)
        np.testing.assert_array_equal(batch.weights["lsds"][0, 0], is_learned)
        np.testing.assert_array_equal(batch.labels[0], centre(labels, shape))
        n_outside += np.count_nonzero(known == 0)
        n_masked += np.count_nonzero(centre(is_masked, shape))
    assert n_outside > 0 and (n_masked > 0) == has_mask


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize(
    "voxel_size, options",
    [
        ((10.0, 10.0, 10.0), {"steps": 2}),
        ((10.0, 10.0, 10.0), {"downsample": 2}),
        ((20.0, 10.0, 10.0), {"only_xy": True}),
    ],
)
def test_targets_of_a_deformed_crop_are_those_of_the_deformed_labels_around_it(
    voxel_size, options, has_mask, monkeypatch
):
    # Raw voxels deformed as labels are: what a crop shows are the labels of the crop and of much around it.
    monkeypatch.setattr(Deformation, "image", lambda self, source, box: self.labels(source, box).astype(np.float32))
    settings, volume_shape, shape, margin = settings_of(voxel_size, **options), (44, 44, 44), (6, 8, 10), 8
    sight = context(settings.sigma, voxel_size, downsample=settings.downsample)
    assert max(max(sight), 4) + settings.steps <= margin and margin % settings.downsample == 0
    # So far inside that a turned crop sees no mirror image of the region.
    region = Roi((12, 12, 12), (32, 31, 30))
    volume = tell_tale(voxel_size, region, shape=volume_shape, mask=half_masked(volume_shape) if has_mask else None)
    sampler = make_sampler(
        [volume],
        offsets=LONG,
        raw_shape=[n + 2 * margin for n in shape],
        output_shape=shape,
        targets=settings,
        augmentation=DEFORMED,
    )
    growth = {"steps": settings.steps, "only_xy": settings.only_xy}
    n_outside = n_masked = 0
    for iteration in range(12):
        batch = sampler.batch(iteration)
        grey = shown(batch.raw[0, 0])
        is_masked, is_known = grey == MASKED, grey < MASKED
        labels = grow_boundary(np.where(is_known, grey, 0), **growth)
        is_sure = grow_boundary(is_known.astype(np.uint8), **growth)
        np.testing.assert_array_equal(batch.labels[0], centre(labels, shape))

        target, sure = (centre(affinities(part, LONG), shape) for part in (labels, is_sure))
        np.testing.assert_array_equal(batch.targets["affinities"][0], target)
        np.testing.assert_array_equal(batch.weights["affinities"][0], affinity_weights(target, sure))

        lsds = local_shape_descriptors(labels, settings.sigma, voxel_size, downsample=settings.downsample)
        np.testing.assert_allclose(batch.targets["lsds"][0], centre(lsds, shape), atol=1e-5)
        # Beyond the region nothing is learned; where the mask is 0, that there is nothing.
        weights, is_masked, is_outside = (
            batch.weights["lsds"][0, 0],
            *(centre(part, shape) for part in (is_masked, grey >= OUTSIDE)),
        )
        np.testing.assert_array_equal(weights, (centre(labels, shape) != 0) | is_masked)
        assert not weights[is_outside].any() and not batch.weights["affinities"][0][:, is_outside].any()
        assert not batch.targets["lsds"][0][:, is_masked].any()
        assert not batch.weights["affinities"][0][:, is_masked].any()
        n_outside += np.count_nonzero(is_outside)
        n_masked += np.count_nonzero(is_masked)
    assert n_outside > 0 and (n_masked > 0) == has_mask


def ramp(axis, size=30):
    """A volume in which label and grey value tell the place along an axis."""
    place = np.indices((size, size, size))[axis]
    volume = with_labels(place + 1)
    volume.raw.data[...] = 8 * place
    return volume


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_raw_and_labels_of_a_deformed_crop_stay_aligned(axis):
    whole = {"raw_shape": (10, 12, 14), "output_shape": (10, 12, 14), "outputs": ["affinities"]}
    settings = TargetSettings(15.0, steps=0)
    sampler = make_sampler([ramp(axis)], augmentation=DEFORMED, targets=settings, **whole)
    n_between = 0
    for iteration in range(20):
        batch = sampler.batch(iteration)
        place, labels = (batch.raw[0, 0] + 1) / 2 * 255 / 8, batch.labels[0]
        # A grey value is that of the very place, the label that of the nearest voxel.
        is_known = labels > 0
        distance = np.abs(place - (labels - 1))[is_known]
        assert distance.max() < 0.5 + 1e-4
        n_between += np.count_nonzero(distance > 0.01)
    assert n_between > 10_000


@pytest.mark.parametrize(
    "settings",
    [
        TargetSettings(15.0),
        # What singles out an axis is turned with the crop, as in targets made beforehand.
        TargetSettings((10.0, 15.0, 12.0)),
        TargetSettings(15.0, only_xy=True),
    ],
)
def test_deformation_that_moves_nothing_leaves_raw_and_targets_as_they_are(settings):
    voxel_size, region, shape, margin = (10.0, 10.0, 10.0), Roi((2, 2, 2), (30, 30, 30)), (6, 8, 10), 6
    volume = tell_tale(voxel_size, region)
    labels = Volume(np.pad(volume.labels.data, 2), voxel_size)
    made = BlockTargets(labels, region, settings.sigma, steps=settings.steps, only_xy=settings.only_xy)
    boundaries, lsds = (Volume(part, voxel_size) for part in made.compute(region))
    volume = replace(volume, boundaries=boundaries, lsds=lsds)
    options = {"raw_shape": [n + 2 * margin for n in shape], "output_shape": shape, "targets": settings}
    annotated = make_sampler([volume], **options)
    unmoved = make_sampler([volume], augmentation=UNMOVED, **options)
    n_within = 0
    for iteration in range(30):
        one, other = annotated.batch(iteration), unmoved.batch(iteration)
        np.testing.assert_array_equal(other.raw, one.raw)
        # Beside the region's border boundaries grow or do not: nobody knows.
        is_known = other.weights["affinities"] > 0
        np.testing.assert_array_equal(other.targets["affinities"][is_known], one.targets["affinities"][is_known])
        if (shown(one.raw) >= OUTSIDE).any():
            continue
        n_within += 1
        for name in ("affinities", "lsds"):
            np.testing.assert_array_equal(other.weights[name], one.weights[name])
            np.testing.assert_allclose(other.targets[name], one.targets[name], atol=1e-5)
        np.testing.assert_array_equal(other.labels, one.labels)
    assert 0 < n_within < 30


def test_as_many_crops_are_deformed_as_asked():
    options = {"raw_shape": (4, 4, 4), "output_shape": (4, 4, 4), "outputs": ["affinities"]}
    sometimes = replace(DEFORMED, elastic=0.3, shift_probability=0, slip_probability=0)
    sampler = make_sampler([ramp(0)], augmentation=sometimes, **options)
    places = (np.float64((sampler.batch(i).raw + 1) / 2 * 255 / 8) for i in range(400))
    n_deformed = sum(np.abs(place - place.round()).max() > 1e-3 for place in places)
    # Binomial with mean 120 and standard deviation 9.2.
    assert abs(n_deformed - 120) < 5 * 9.2


class OnlyWithin:
    """An array that refuses to be read beyond its first and last voxel, where numpy would count from the end."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, key):
        for box, n in zip(key[-3:], self.shape[-3:], strict=True):
            assert 0 <= box.start <= box.stop <= n
        return self.array[key]


@pytest.mark.parametrize("augmentation", [ONLY_SYMMETRIES, DEFORMED])
def test_nothing_is_read_beyond_the_region_but_raw_voxels(augmentation):
    volume = tell_tale(mask=half_masked((32, 32, 32)))
    # As large as the region, so that all that lies around it would be of use.
    sampler = make_sampler([volume], output_shape=REGION.shape, raw_shape=(24, 24, 24), augmentation=augmentation)
    expected = sampler.batch(0)
    names = ("labels", "boundaries", "lsds", "mask")
    guarded = {name: Volume(OnlyWithin(getattr(volume, name).data), volume.raw.voxel_size) for name in names}
    sampler.volumes = [replace(volume, **guarded)]
    assert same(sampler.batch(0), expected)


def test_crops_are_turned_in_every_allowed_way():
    def ways(voxel_size):
        # The grey values of a crop as large as the region tell how it was turned.
        region = Roi((7, 7, 7), (15, 15, 15))
        options = {"raw_shape": (8, 8, 8), "output_shape": (8, 8, 8)}
        sampler = make_sampler([tell_tale(voxel_size, region)], **options)
        return len({sampler.batch(i).raw.tobytes() for i in range(400)})

    assert ways((10.0, 10.0, 10.0)) == 48
    assert ways((20.0, 10.0, 10.0)) == 16


def two_volumes():
    return [tell_tale(), tell_tale(region=Roi((8, 8, 8), (20, 20, 20)))]


def test_batch_is_a_pure_function_of_seed_and_iteration():
    volumes, options = two_volumes(), {"augmentation": EVERYTHING, "batch_size": 2, "seed": 3}
    used, fresh = make_sampler(volumes, **options), make_sampler(volumes, **options)
    forwards = [used.batch(i) for i in range(5)]
    assert all(same(fresh.batch(i), forwards[i]) for i in (4, 2, 2, 0))
    assert not same(used.batch(1), used.batch(2))
    assert not same(make_sampler(volumes, **{**options, "seed": 4}).batch(1), used.batch(1))
    resumed = list(fresh.batches(3, 5))
    assert [i for i, _ in resumed] == [3, 4]
    assert all(same(batch, forwards[i]) for i, batch in resumed)
    assert list(fresh.batches(5, 5)) == []


def test_crops_of_a_batch_differ_and_do_not_depend_on_how_many_there_are():
    volumes = two_volumes()
    three = make_sampler(volumes, batch_size=3, augmentation=EVERYTHING).batch(1)
    assert len(three) == 3
    assert not same(three[:1], three[1:2])
    assert same(three[:2], make_sampler(volumes, batch_size=2, augmentation=EVERYTHING).batch(1))
    assert same(three[2:], make_sampler(volumes, augmentation=EVERYTHING).crop(1, 2))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_very_same_batches(workers):
    sampler = make_sampler(two_volumes(), batch_size=3, augmentation=EVERYTHING)
    stream = list(sampler.batches(2, 8, workers=workers))
    assert [iteration for iteration, _ in stream] == list(range(2, 8))
    assert all(same(batch, sampler.batch(iteration)) for iteration, batch in stream)


def test_two_processes_that_share_a_batch_make_it_whole():
    sampler = make_sampler(two_volumes(), batch_size=5, augmentation=EVERYTHING)
    shares = [sampler.batches(0, 3, workers=2, places=places) for places in (range(2), range(2, 5))]
    for iteration, parts in enumerate(zip(*shares, strict=True)):
        assert [i for i, _ in parts] == [iteration, iteration]
        assert [len(part) for _, part in parts] == [2, 3]
        assert same(Batch.stack([part for _, part in parts]), sampler.batch(iteration))


@pytest.mark.parametrize("workers", [1, 3])
def test_error_of_a_worker_is_raised_where_its_batch_is_asked_for(workers, monkeypatch):
    sampler = make_sampler([tell_tale()], batch_size=2)
    make = sampler.crop

    def fail_once(iteration, place):
        if (iteration, place) == (2, 1):
            raise UserError("the disk is gone")
        return make(iteration, place)

    monkeypatch.setattr(sampler, "crop", fail_once)
    stream = sampler.batches(0, 10, workers=workers)
    assert [next(stream)[0], next(stream)[0]] == [0, 1]
    with pytest.raises(UserError, match="the disk is gone"):
        next(stream)


@pytest.mark.parametrize("workers", [1, 3])
def test_consumer_that_stops_early_leaves_no_thread_and_few_crops(workers, monkeypatch):
    sampler = make_sampler([tell_tale()], batch_size=2)
    make, asked = sampler.crop, []

    def count(iteration, place):
        asked.append((iteration, place))
        return make(iteration, place)

    monkeypatch.setattr(sampler, "crop", count)
    before = threading.active_count()
    stream = sampler.batches(0, 10**9, workers=workers)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before
    # The batch that was taken, two more, and a crop for every worker.
    assert len(asked) <= 3 * 2 + workers


@pytest.mark.parametrize("augmentation", [Augmentation(), replace(DEFORMED, noise=0.05)])
def test_batch_has_the_shapes_types_and_range_promised(augmentation):
    batch = make_sampler([tell_tale()], batch_size=2, augmentation=augmentation, offsets=LONG).batch(0)
    assert batch.raw.shape == (2, 1, 16, 18, 20)
    assert batch.targets["affinities"].shape == batch.weights["affinities"].shape == (2, 6, 6, 8, 10)
    assert batch.targets["lsds"].shape == (2, 10, 6, 8, 10)
    assert batch.weights["lsds"].shape == (2, 1, 6, 8, 10)
    assert batch.labels.shape == (2, 6, 8, 10) and batch.labels.dtype == np.int64
    arrays = [batch.raw, *batch.targets.values(), *batch.weights.values()]
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays)
    assert batch.raw.min() >= -1 and batch.raw.max() <= 1


@pytest.mark.parametrize("augmentation", [ONLY_SYMMETRIES, DEFORMED])
def test_only_the_outputs_asked_for_are_made(augmentation):
    for output in ("affinities", "lsds"):
        batch = make_sampler([tell_tale()], outputs=[output], augmentation=augmentation).batch(0)
        assert list(batch.targets) == list(batch.weights) == [output]
    alone = make_sampler([tell_tale()], outputs=["lsds"], offsets=[], augmentation=augmentation)
    assert list(alone.batch(0).targets) == ["lsds"]


def filled(shape, label=1):
    """A region that is one object, in a raw volume of the same shape."""
    labels = Volume(np.full(shape, label, np.uint64), (10.0,) * 3)
    raw = np.arange(np.prod(shape)).reshape(shape) % 251
    lsds = np.full((10, *shape), 0.25, np.float32)
    return TrainingVolume(
        Volume(raw.astype(np.uint8), (10.0,) * 3), labels, labels, Volume(lsds, (10.0,) * 3), Roi.of_shape(shape)
    )


def test_affinities_across_the_border_of_the_region_are_masked_and_not_background():
    whole = {"raw_shape": (6, 6, 6), "output_shape": (6, 6, 6), "offsets": [(-1, 0, 0), (0, 0, 2)]}
    sampler = make_sampler([filled((6, 6, 6))], **whole)
    for iteration in range(5):
        batch = sampler.batch(iteration)
        weights, target = batch.weights["affinities"][0], batch.targets["affinities"][0]
        known = np.ones((2, 6, 6, 6), bool)
        known[0, 0] = known[1, ..., -2:] = False
        np.testing.assert_array_equal(weights != 0, known)
        assert (target[known] == 1).all()
        # All known affinities are 1, of which the share is clipped to 0.95.
        np.testing.assert_allclose(weights[known], 1 / (2 * 0.95), rtol=1e-6)


def test_affinities_longer_than_the_region_are_masked():
    options = {"raw_shape": (6, 6, 6), "output_shape": (6, 6, 6), "offsets": [(-9, 0, 0)]}
    batch = make_sampler([filled((6, 6, 6))], **options).batch(0)
    assert not batch.weights["affinities"].any()


def test_without_augmentation_a_crop_is_a_piece_of_the_volume_with_its_mirrored_surroundings():
    volume = filled((6, 6, 6))
    options = {"raw_shape": (12, 8, 6), "output_shape": (6, 6, 6), "augmentation": OFF}
    raw = make_sampler([volume], **options).batch(0).raw[0, 0]
    np.testing.assert_array_equal(shown(raw), np.pad(volume.raw.data, [(3, 3), (1, 1), (0, 0)], mode="reflect"))


def test_context_beyond_the_region_is_taken_from_the_raw_volume():
    volume = tell_tale()
    options = {"raw_shape": (24, 23, 22), "output_shape": REGION.shape, "augmentation": OFF}
    raw = make_sampler([volume], **options).batch(0).raw[0, 0]
    np.testing.assert_array_equal(shown(raw), volume.raw.read(REGION.grow((3, 3, 3))))


def test_crops_come_from_everywhere_in_the_region():
    volume = filled((8, 8, 8))
    volume.raw.data[...] = np.indices((8, 8, 8))[0] * 8 + np.indices((8, 8, 8))[2]
    options = {"raw_shape": (6, 6, 6), "output_shape": (6, 6, 6), "augmentation": OFF}
    sampler = make_sampler([volume], **options)
    corners = {int(shown(sampler.batch(i).raw[0, 0])[0, 0, 0]) for i in range(200)}
    assert corners == {z * 8 + x for z in range(3) for x in range(3)}


def test_volumes_are_drawn_by_their_probabilities():
    volumes = [tell_tale(probability=p) for p in (1.0, 0.0, 3.0)]
    for value, volume in enumerate(volumes):
        volume.raw.data[...] = 10 * value
    sampler = make_sampler(volumes, outputs=["affinities"])
    drawn = [int(shown(sampler.batch(i).raw).flat[0]) for i in range(400)]
    assert drawn.count(10) == 0
    # Binomial with mean 100 and standard deviation 8.7.
    assert abs(drawn.count(0) - 100) < 5 * 8.7


def with_labels(labels):
    volume = Volume(labels.astype(np.uint64), (10.0,) * 3)
    blank = Volume(np.zeros((10, *labels.shape), np.float32), (10.0,) * 3)
    raw = Volume(np.where(labels, 255, 0).astype(np.uint8), (10.0,) * 3)
    return TrainingVolume(raw, volume, volume, blank, Roi.of_shape(labels.shape))


def test_crops_hold_as_many_labelled_voxels_as_asked():
    labels = np.zeros((24, 8, 8), int)
    labels[-6:] = 1
    options = {"raw_shape": (8, 8, 8), "output_shape": (8, 8, 8), "outputs": ["affinities"], "min_labelled": 0.5}
    sampler = make_sampler([with_labels(labels)], **options)
    assert all((sampler.batch(i).raw > 0).mean() >= 0.5 for i in range(30))


def test_where_no_crop_holds_enough_labelled_voxels_the_best_is_taken():
    labels = np.zeros((24, 8, 8), int)
    labels[-1:] = 1
    options = {"raw_shape": (8, 8, 8), "output_shape": (8, 8, 8), "outputs": ["affinities"], "min_labelled": 0.5}
    sampler = make_sampler([with_labels(labels)], **options)
    assert all((sampler.batch(i).raw > 0).mean() == 0.125 for i in range(10))


def test_long_crop_from_a_flat_region_is_turned_only_where_it_fits():
    volume = filled((6, 12, 20))
    options = {"raw_shape": (6, 8, 16), "output_shape": (6, 8, 16), "augmentation": ONLY_SYMMETRIES}
    sampler = make_sampler([volume], **options)
    assert len({sampler.batch(i).raw.shape for i in range(50)}) == 1


def test_crop_larger_than_the_region_is_refused():
    with pytest.raises(UserError, match=r"training.crop_shape \[6, 8, 19\] is larger than .* \[18, 17, 16\]"):
        make_sampler([tell_tale()], output_shape=(6, 8, 19))


def test_region_without_labels_is_refused():
    with pytest.raises(UserError, match="no labelled voxel in the training region"):
        make_sampler([filled((6, 8, 10)), filled((6, 8, 10), label=0)])


def test_last_voxel_suffices_as_label():
    labels = np.zeros((130, 8, 10), int)
    labels[-1, -1, -1] = 1
    make_sampler([with_labels(labels)], min_labelled=0)


def test_labels_that_reach_beyond_the_region_are_refused():
    volume = tell_tale()
    larger = Volume(np.ones((32, 32, 32), np.uint64), (10.0,) * 3)
    with pytest.raises(ValueError, match="must be those of the region"):
        make_sampler([TrainingVolume(volume.raw, larger, larger, volume.lsds, REGION)])
    with pytest.raises(ValueError, match="must be those of the region"):
        make_sampler([replace(volume, mask=larger)])


def test_deformed_crops_without_target_settings_are_refused():
    with pytest.raises(ValueError, match="need target settings"):
        make_sampler([tell_tale()], targets=None, augmentation=DEFORMED)


@pytest.mark.parametrize("augmentation", [ONLY_SYMMETRIES, DEFORMED])
def test_volumes_on_disk_give_the_same_batches(tmp_path, augmentation):
    volume = tell_tale(mask=half_masked((32, 32, 32)))
    parts = {}
    for name in ("raw", "labels", "boundaries", "lsds", "mask"):
        write_volume(tmp_path / "volume.zarr", name, getattr(volume, name))
        parts[name] = open_volume(tmp_path / "volume.zarr", name)
    options = {"batch_size": 3, "augmentation": augmentation}
    on_disk = TrainingVolume(**parts, roi=volume.roi)
    assert same(make_sampler([on_disk], **options).batch(0), make_sampler([volume], **options).batch(0))


def test_small_volumes_are_kept_in_memory_and_large_ones_are_not(tmp_path, monkeypatch):
    write_volume(
        tmp_path / "volume.zarr", "raw", Volume(np.ones((4, 4, 4), np.uint8), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    )
    volume = open_volume(tmp_path / "volume.zarr", "raw")
    kept = in_memory(volume)
    assert isinstance(kept.data, np.ndarray) and kept.data.all()
    assert (kept.voxel_size, kept.offset) == (volume.voxel_size, volume.offset)
    monkeypatch.setattr(sampling, "IN_MEMORY_BYTES", 63)
    assert in_memory(volume) is volume
