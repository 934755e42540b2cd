"""Every batch is a pure function of seed and iteration, and its raw voxels, targets and weights belong together."""

import numpy as np
import pytest

from lsdflow import sampling
from lsdflow.affinities import affinities, affinity_weights
from lsdflow.errors import UserError
from lsdflow.lsd import local_shape_descriptors
from lsdflow.sampling import Augmentation, CropSampler, TrainingVolume, in_memory
from lsdflow.volumes import Roi, Volume, open_volume, write_volume

NEAREST = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]
LONG = [*NEAREST, (-3, 0, 0), (0, -4, 0), (1, 0, -2)]
ONLY_SYMMETRIES = Augmentation(intensity_scale=0, intensity_shift=0, noise=0)
OFF = Augmentation(flip=False, transpose=False, intensity_scale=0, intensity_shift=0, noise=0)
REGION = Roi((7, 7, 7), (25, 24, 23))
# Labels go up to 90; raw voxels show them, plus this outside the region.
OUTSIDE = 100


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


def tell_tale(voxel_size=(10.0, 10.0, 10.0), region=REGION, probability=1.0):
    """A volume whose grey values are its labels, so that a crop tells from where it was taken."""
    labels = cells((32, 32, 32))
    raw = labels.astype(np.uint8) + OUTSIDE
    raw[region.slices] -= OUTSIDE
    lsds = local_shape_descriptors(labels, sigma_of(voxel_size), voxel_size)
    # What lies outside the region must never be read: as if it were one huge object, and no descriptor.
    poisoned_labels, poisoned_lsds = np.full_like(labels, 10**6), np.full_like(lsds, np.nan)
    poisoned_labels[region.slices] = labels[region.slices]
    poisoned_lsds[(..., *region.slices)] = lsds[(..., *region.slices)]
    own_labels = Volume(poisoned_labels[region.slices], voxel_size)
    own_lsds = Volume(poisoned_lsds[(..., *region.slices)], voxel_size)
    return TrainingVolume(Volume(raw, voxel_size), own_labels, own_labels, own_lsds, region, probability)


def make_sampler(volumes, **options):
    defaults = {
        "outputs": ["affinities", "lsds"],
        "offsets": NEAREST,
        "raw_shape": (16, 18, 20),
        "output_shape": (6, 8, 10),
        "batch_size": 1,
        "seed": 0,
        "augmentation": ONLY_SYMMETRIES,
    }
    return CropSampler(volumes, **{**defaults, **options})


def shown(raw):
    """The grey values behind a batch's raw voxels."""
    return np.rint((raw + 1) / 2 * 255).astype(np.uint64)


def centre(array, shape):
    begin = [(n - m) // 2 for n, m in zip(array.shape[-3:], shape, strict=True)]
    return array[(..., *(slice(b, b + m) for b, m in zip(begin, shape, strict=True)))]


@pytest.mark.parametrize("voxel_size", [(10.0, 10.0, 10.0), (20.0, 10.0, 10.0)])
@pytest.mark.parametrize("raw_shape", [(16, 18, 20), (17, 18, 21)])
def test_raw_affinities_and_lsds_of_a_transformed_crop_are_those_of_its_labels(voxel_size, raw_shape):
    sampler = make_sampler([tell_tale(voxel_size)], offsets=LONG, raw_shape=raw_shape)
    shape = sampler.output_shape
    masked = 0
    for iteration in range(40):
        batch = sampler.batch(iteration)
        grey = shown(batch.raw[0, 0])
        labels, is_inside = grey % OUTSIDE, (grey < OUTSIDE).astype(np.uint8)
        assert centre(is_inside, shape).all()

        target, known = (centre(affinities(part, LONG), shape) for part in (labels, is_inside))
        np.testing.assert_array_equal(batch.targets["affinities"][0] * known, target * known)
        np.testing.assert_array_equal(batch.weights["affinities"][0], affinity_weights(target, known))
        masked += np.count_nonzero(known == 0)

        lsds = centre(local_shape_descriptors(labels, sigma_of(voxel_size), voxel_size), shape)
        np.testing.assert_allclose(batch.targets["lsds"][0], lsds, atol=1e-5)
        has_label = np.broadcast_to(centre(labels, shape) != 0, lsds.shape)
        np.testing.assert_array_equal(batch.weights["lsds"][0], has_label)
    assert masked > 0


def test_crops_are_turned_in_every_allowed_way():
    def ways(voxel_size):
        # The grey values of a crop as large as the region tell how it was turned.
        region = Roi((7, 7, 7), (15, 15, 15))
        options = {"raw_shape": (8, 8, 8), "output_shape": (8, 8, 8)}
        sampler = make_sampler([tell_tale(voxel_size, region)], **options)
        return len({sampler.batch(i).raw.tobytes() for i in range(400)})

    assert ways((10.0, 10.0, 10.0)) == 48
    assert ways((20.0, 10.0, 10.0)) == 16


def test_batch_is_a_pure_function_of_seed_and_iteration():
    volumes = [tell_tale(), tell_tale((10.0, 10.0, 10.0), Roi((8, 8, 8), (20, 20, 20)))]
    options = {"augmentation": Augmentation(), "batch_size": 2, "seed": 3}

    def same(a, b):
        return all(
            np.array_equal(x, y)
            for x, y in [
                (a.raw, b.raw),
                *((a.targets[k], b.targets[k]) for k in a.targets),
                *((a.weights[k], b.weights[k]) for k in a.weights),
            ]
        )

    used, fresh = make_sampler(volumes, **options), make_sampler(volumes, **options)
    forwards = [used.batch(i) for i in range(5)]
    assert all(same(fresh.batch(i), forwards[i]) for i in (4, 2, 2, 0))
    assert not same(used.batch(1), used.batch(2))
    assert not same(make_sampler(volumes, **{**options, "seed": 4}).batch(1), used.batch(1))
    resumed = list(fresh.batches(3, 5))
    assert [i for i, _ in resumed] == [3, 4]
    assert all(same(batch, forwards[i]) for i, batch in resumed)
    assert list(fresh.batches(5, 5)) == []


def test_batch_has_the_shapes_types_and_range_promised():
    batch = make_sampler([tell_tale()], batch_size=2, augmentation=Augmentation(), offsets=LONG).batch(0)
    assert batch.raw.shape == (2, 1, 16, 18, 20)
    assert batch.targets["affinities"].shape == batch.weights["affinities"].shape == (2, 6, 6, 8, 10)
    assert batch.targets["lsds"].shape == batch.weights["lsds"].shape == (2, 10, 6, 8, 10)
    arrays = [batch.raw, *batch.targets.values(), *batch.weights.values()]
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays)
    assert batch.raw.min() >= -1 and batch.raw.max() <= 1


def test_only_the_outputs_asked_for_are_made():
    for output in ("affinities", "lsds"):
        batch = make_sampler([tell_tale()], outputs=[output]).batch(0)
        assert list(batch.targets) == list(batch.weights) == [output]
    assert list(make_sampler([tell_tale()], outputs=["lsds"], offsets=[]).batch(0).targets) == ["lsds"]


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


def test_volumes_on_disk_give_the_same_batches(tmp_path):
    volume = tell_tale()
    parts = []
    for name in ("raw", "labels", "boundaries", "lsds"):
        write_volume(tmp_path / "volume.zarr", name, getattr(volume, name))
        parts.append(open_volume(tmp_path / "volume.zarr", name))
    expected = make_sampler([volume]).batch(0)
    batch = make_sampler([TrainingVolume(*parts, volume.roi)]).batch(0)
    np.testing.assert_array_equal(batch.raw, expected.raw)
    for name in expected.targets:
        np.testing.assert_array_equal(batch.targets[name], expected.targets[name])


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
