"""Blocks fit together without a seam, lie where they belong, and see what the network saw in training."""

import numpy as np
import pytest
import torch
from torch import nn

from lsdflow import prediction
from lsdflow.blocks import BlockGrid, DoneBlocks
from lsdflow.networks import NetworkSettings, crop
from lsdflow.prediction import BlockPredictor, predict_blocks
from lsdflow.setups import Pipeline, Setup, SetupNetwork, quantise
from lsdflow.volumes import Roi, Volume, create_volume

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
VALID = NetworkSettings("unet", 3, 2, ((2, 2, 2),))
PADDED = NetworkSettings("residual_unet", 2, 2, ((2, 2, 2),))
CPU = torch.device("cpu")


def image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def volume_of(data):
    return Volume(data, (10.0, 10.0, 10.0))


def random_network(setup, channels, seed=0):
    torch.manual_seed(seed)
    network = SetupNetwork(setup, channels).eval().requires_grad_(False)
    # Fresh weights predict about 0.5 everywhere; these use the whole range.
    for head in network.heads.values():
        head.weight *= 40
    return network


BASELINE = Setup("baseline", ("raw",), ("affinities",), VALID, NEAREST)
MTLSD = Setup("mtlsd", ("raw",), ("affinities", "lsds"), VALID, NEAREST)


def assemble(predictor, roi, block_shape, dtype=np.uint8):
    """All predictions on ``roi``, block by block."""
    results = {}
    for block in BlockGrid(roi, block_shape):
        for name, values in predictor.predict(block).items():
            assert values.shape[1:] == block.shape
            whole = results.setdefault(name, np.zeros((len(values), *roi.shape), dtype))
            whole[(..., *block.shift([-b for b in roi.begin]).slices)] = values
    return results


def in_one_pass(network, raw):
    """Predictions of a whole mirrored volume; the network loses eight voxels on each side."""
    padded = np.pad(raw, 8, mode="reflect").astype(np.float32) / 255 * 2 - 1
    with torch.no_grad():
        return {name: value[0] for name, value in network(torch.from_numpy(padded)[None, None]).items()}


def make_predictor(network, settings, inputs, block_shape, context=(0, 0, 0)):
    return BlockPredictor(network, settings, inputs, block_shape=block_shape, context=context, device=CPU)


def test_blocks_equal_one_pass_before_they_are_quantised(monkeypatch):
    monkeypatch.setattr(prediction, "quantise", lambda value: value)
    raw, block_shape = image((10, 14, 18)), (4, 6, 8)
    network = random_network(MTLSD, 1)
    predictor = make_predictor(network, VALID, [(volume_of(raw), (0, 0, 0), True)], block_shape)
    # The last blocks of every axis are cut short.
    blockwise = assemble(predictor, Roi.of_shape(raw.shape), block_shape, np.float32)
    expected = in_one_pass(network, raw)
    assert set(blockwise) == {"affinities", "lsds"}
    for name, values in expected.items():
        assert float(values.std()) > 0.01
        np.testing.assert_allclose(blockwise[name], values.numpy(), rtol=0, atol=1e-6)


def test_blocks_equal_one_pass_as_stored_within_one_grey_value():
    raw, block_shape = image((12, 10, 22)), (6, 4, 8)
    network = random_network(BASELINE, 1)
    predictor = make_predictor(network, VALID, [(volume_of(raw), (0, 0, 0), True)], block_shape)
    blockwise = assemble(predictor, Roi.of_shape(raw.shape), block_shape)["affinities"]
    assert blockwise.dtype == np.uint8
    expected = quantise(in_one_pass(network, raw)["affinities"]).numpy()
    assert np.abs(blockwise.astype(int) - expected).max() <= 1


class Echo(nn.Module):
    """Predicts its input, scaled so that stored values come back as they were."""

    def __init__(self, settings, has_raw):
        super().__init__()
        self.settings, self.has_raw = settings, has_raw

    def forward(self, x):
        values = crop(x, self.settings.output_shape(x.shape[2:])).clone()
        if self.has_raw:
            values[:, 0] = (values[:, 0] + 1) / 2
        return {"lsds": values + 0.5 / 255}


NETWORKS_AND_CONTEXT = [(VALID, (0, 0, 0)), (VALID, (5, 5, 5)), (PADDED, (1, 2, 4)), (PADDED, (0, 0, 0))]


@pytest.mark.parametrize(("settings", "context"), NETWORKS_AND_CONTEXT)
def test_every_voxel_of_a_block_lies_where_it_belongs(settings, context):
    # Region inside the volume, its last blocks cut, its context mirrored at some faces.
    raw, roi, block_shape = image((16, 20, 24)), Roi((0, 4, 2), (16, 18, 19)), (6, 8, 8)
    predictor = make_predictor(
        Echo(settings, True), settings, [(volume_of(raw), (0, 0, 0), True)], block_shape, context
    )
    np.testing.assert_array_equal(assemble(predictor, roi, block_shape)["lsds"][0], raw[roi.slices])


@pytest.mark.parametrize(("settings", "context"), NETWORKS_AND_CONTEXT)
def test_inputs_stored_elsewhere_are_read_from_their_own_origin(settings, context):
    raw, lsds, block = image((16, 20, 24)), image((10, 12, 15, 18), 1), Roi((4, 6, 8), (10, 14, 16))
    # The predictions cover a part of the raw volume only, which begins at this voxel of it.
    origin = (2, 3, 4)
    inputs = [(volume_of(raw), (0, 0, 0), True), (volume_of(lsds), origin, False)]
    predictor = make_predictor(Echo(settings, True), settings, inputs, block.shape, context)
    result = predictor.predict(block)["lsds"]
    np.testing.assert_array_equal(result[0], raw[block.slices])
    np.testing.assert_array_equal(result[1:], lsds[(..., *block.shift([-o for o in origin]).slices)])


def test_inputs_keep_the_order_of_the_setup():
    raw, lsds, block = image((8, 8, 8)), image((10, 8, 8, 8), 1), Roi.of_shape((8, 8, 8))
    inputs = [(volume_of(lsds), (0, 0, 0), False), (volume_of(raw), (0, 0, 0), True)]
    seen = make_predictor(Echo(PADDED, False), PADDED, inputs, block.shape).predict(block)["lsds"]
    np.testing.assert_array_equal(seen[:10], lsds)


def test_raw_is_mirrored_beyond_the_volume_and_not_black():
    # A constant image stays constant to its border: predictions there repeat those two voxels (one pool) further in.
    raw = np.full((8, 8, 8), 200, np.uint8)
    predictor = make_predictor(random_network(BASELINE, 1), VALID, [(volume_of(raw), (0, 0, 0), True)], (8, 8, 8))
    values = predictor.predict(Roi.of_shape((8, 8, 8)))["affinities"].astype(int)
    for axis in (1, 2, 3):
        assert np.abs(values.take(range(6), axis) - values.take(range(2, 8), axis)).max() <= 1


def test_context_of_a_padded_network_is_thrown_away():
    raw, block = image((24, 24, 24)), Roi((8, 8, 8), (16, 16, 16))
    setup = Setup("padded", ("raw",), ("affinities",), PADDED, NEAREST)
    network = random_network(setup, 1)
    predictor = make_predictor(network, PADDED, [(volume_of(raw), (0, 0, 0), True)], block.shape, (4, 4, 4))
    scaled = torch.from_numpy(raw[block.grow((4, 4, 4)).slices].astype(np.float32) / 255 * 2 - 1)
    with torch.no_grad():
        expected = quantise(network(scaled[None, None])["affinities"][0, :, 4:-4, 4:-4, 4:-4]).numpy()
    assert np.abs(predictor.predict(block)["affinities"].astype(int) - expected).max() <= 1


def test_auto_context_predicts_from_stored_inputs_what_it_saw_in_training():
    raw, whole = image((48, 48, 48)), Roi.of_shape((48, 48, 48))
    lsd = Setup("lsd", ("raw",), ("lsds",), VALID, NEAREST)
    acrlsd = Setup("acrlsd", ("raw", "lsd.lsds"), ("affinities",), VALID, NEAREST)
    first, second = random_network(lsd, 1), random_network(acrlsd, 11, seed=1)

    stored = assemble(make_predictor(first, VALID, [(volume_of(raw), (0, 0, 0), True)], (24,) * 3), whole, (24,) * 3)
    block = Roi((20, 18, 22), (28, 26, 30))
    inputs = [(volume_of(raw), (0, 0, 0), True), (volume_of(stored["lsds"]), (0, 0, 0), False)]
    predicted = make_predictor(second, VALID, inputs, block.shape).predict(block)["affinities"]

    pipeline = Pipeline(acrlsd, second, {"lsd": Pipeline(lsd, first, {})})
    input_shape = VALID.input_shape(block.shape)
    margin = [(r - b) // 2 for r, b in zip(pipeline.raw_shape(input_shape), block.shape, strict=True)]
    crop_of_training = raw[block.grow(margin).slices].astype(np.float32) / 255 * 2 - 1
    with torch.no_grad():
        seen = second(pipeline.inputs(torch.from_numpy(crop_of_training)[None, None], input_shape))["affinities"]
    assert predicted.std() > 1
    # One grey value of an input may fall the other way, and the steep random head makes more of it.
    assert np.abs(predicted.astype(int) - quantise(seen)[0].numpy()).mean() < 0.1


def test_padded_frozen_networks_get_the_context_in_training_that_they_get_in_prediction():
    raw, whole, context = image((40, 40, 40)), Roi.of_shape((40, 40, 40)), (4, 4, 4)
    lsd = Setup("lsd", ("raw",), ("lsds",), PADDED, NEAREST)
    acrlsd = Setup("acrlsd", ("raw", "lsd.lsds"), ("affinities",), PADDED, NEAREST)
    first, second = random_network(lsd, 1), random_network(acrlsd, 11, seed=1)
    inputs = [(volume_of(raw), (0, 0, 0), True)]
    crop = Roi((12, 8, 16), (28, 24, 32))
    predictor = BlockPredictor(
        first, PADDED, inputs, block_shape=crop.shape, context=context, device=torch.device("cpu")
    )
    assert whole.contains(crop.grow(context))
    stored = predictor.predict(crop)["lsds"]

    pipeline = Pipeline(acrlsd, second, {"lsd": Pipeline(lsd, first, {})}, context)
    assert pipeline.raw_shape(crop.shape) == (24, 24, 24)
    crop_of_training = raw[crop.grow(context).slices].astype(np.float32) / 255 * 2 - 1
    seen = pipeline.inputs(torch.from_numpy(crop_of_training)[None, None], crop.shape)[0, 1:]
    assert np.abs((seen.numpy() * 255).round() - stored).max() <= 1


def test_predicted_blocks_fill_the_volume_and_only_missing_ones_are_computed(tmp_path):
    setup = Setup("s", ("raw",), ("affinities", "lsds"), PADDED, NEAREST)
    raw, region = image((24, 20, 28)), Roi((2, 3, 4), (22, 17, 28))
    predictor = BlockPredictor(
        random_network(setup, 1),
        PADDED,
        [(volume_of(raw), (0, 0, 0), True)],
        block_shape=(8, 8, 16),
        context=(4, 4, 4),
        device=torch.device("cpu"),
    )
    volumes = {
        name: create_volume(tmp_path / "p.zarr", name, shape=(n, *region.shape), dtype="uint8", voxel_size=(1, 1, 1))
        for name, n in (("affinities", 3), ("lsds", 10))
    }
    grid, done = BlockGrid(region, (8, 8, 16)), DoneBlocks(tmp_path / "done", "f")
    run = {"name": "predict", "batch_size": 2}
    assert predict_blocks(predictor, volumes, grid, range(3), done, **run) == 3
    before = volumes["affinities"].read()
    assert predict_blocks(predictor, volumes, grid, range(len(grid)), done, **run) == len(grid) - 3
    for index in range(len(grid)):
        inside = grid[index].shift([-b for b in region.begin]).slices
        for name, expected in predictor.predict(grid[index]).items():
            # In another batch a value may be rounded the other way.
            assert np.abs(volumes[name].read()[(..., *inside)].astype(int) - expected).max() <= 1
        if index < 3:
            np.testing.assert_array_equal(volumes["affinities"].read()[(..., *inside)], before[(..., *inside)])
