"""Blocks fit together without a seam, lie where they belong, and see what the network saw in training."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from lsdflow.blocks import BlockGrid, DoneBlocks
from lsdflow.errors import UserError
from lsdflow.network_inputs import NetworkInput, read_mirrored
from lsdflow.network_shapes import NetworkSettings
from lsdflow.networks import crop
from lsdflow.prediction import (
    BlockPredictor,
    best_batch,
    inputs_seen,
    predict_blocks,
    predict_whole,
    predicted_blocks,
)
from lsdflow.setups import Pipeline, Setup, SetupNetwork, quantise
from lsdflow.volumes import Roi, Volume, create_volume, open_volume

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
VALID = NetworkSettings("unet", 3, 2, ((2, 2, 2),))
PADDED = NetworkSettings("residual_unet", 2, 2, ((2, 2, 2),))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Such small networks are fastest so, and do not wait for others that keep the second core busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
PLAIN = Setup("plain", ("raw",), ("affinities",), PADDED, NEAREST)


def make_predictor(network, settings, inputs, block_shape, context=(0, 0, 0), **options):
    return BlockPredictor(network, settings, inputs, block_shape=block_shape, context=context, device=CPU, **options)


def stored(predictor, roi):
    """All predictions on ``roi`` as they are stored."""
    grid, whole = BlockGrid(roi, predictor.block_shape), {}
    for index, finish in predicted_blocks(predictor, grid, range(len(grid)), pending_mb=1000):
        for name, values in finish().items():
            assert values.dtype == np.uint8 and values.shape[1:] == grid[index].shape
            target = whole.setdefault(name, np.zeros((len(values), *roi.shape), np.uint8))
            target[(..., *grid[index].shift([-b for b in roi.begin]).slices)] = values
    return whole


def in_one_pass(network, settings, raw, roi):
    """Predictions of a region from one input that is as large as the network needs, mirrored at the border."""
    input_shape = settings.covering_input_shape(roi.shape)
    lost = [(i - o) // 2 for i, o in zip(input_shape, settings.output_shape(input_shape), strict=True)]
    wide = np.pad(raw, 64, mode="reflect")
    begin = [b - n + 64 for b, n in zip(roi.begin, lost, strict=True)]
    box = tuple(slice(b, b + n) for b, n in zip(begin, input_shape, strict=True))
    scaled = torch.from_numpy(wide[box].astype(np.float32) / 255 * 2 - 1)
    kept = (0, slice(None), *(slice(0, n) for n in roi.shape))
    with torch.no_grad():
        return {name: value[kept].numpy() for name, value in network(scaled[None, None]).items()}


DEEP = NetworkSettings("unet", 3, 2, ((1, 2, 2), (2, 2, 2)))


@pytest.mark.parametrize(
    ("settings", "block_shape"),
    [(VALID, (4, 6, 8)), (VALID, (10, 14, 2)), (DEEP, (4, 8, 4)), (DEEP, (2, 4, 12))],
)
def test_blocks_equal_one_pass_before_they_are_quantised(settings, block_shape):
    # The region begins anywhere; the last blocks of every axis are cut short.
    raw, roi = image((30, 33, 37)), Roi((3, 5, 0), (22, 24, 21))
    network = random_network(Setup("mtlsd", ("raw",), ("affinities", "lsds"), settings, NEAREST), 1)
    blockwise = predict_whole(make_predictor(network, settings, [NetworkInput(volume_of(raw))], block_shape), roi)
    expected = in_one_pass(network, settings, raw, roi)
    assert set(blockwise) == {"affinities", "lsds"}
    for name, values in expected.items():
        assert float(values.std()) > 0.01
        np.testing.assert_allclose(blockwise[name], values, rtol=0, atol=1e-6)


def test_blocks_out_of_step_with_pooling_are_refused():
    network = random_network(BASELINE, 1)
    with pytest.raises(UserError, match="would not fit seamlessly"):
        make_predictor(network, VALID, [NetworkInput(volume_of(image((9, 9, 9))))], (4, 5, 8))


def test_blocks_equal_one_pass_as_stored_within_one_grey_value():
    raw, roi = image((12, 10, 22)), Roi.of_shape((12, 10, 22))
    network = random_network(BASELINE, 1)
    blockwise = stored(make_predictor(network, VALID, [NetworkInput(volume_of(raw))], (6, 4, 8)), roi)["affinities"]
    expected = quantise(torch.from_numpy(in_one_pass(network, VALID, raw, roi)["affinities"])).numpy()
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
    raw, roi = image((16, 20, 24)), Roi((0, 4, 2), (16, 18, 19))
    predictor = make_predictor(Echo(settings, True), settings, [NetworkInput(volume_of(raw))], (6, 8, 8), context)
    np.testing.assert_array_equal(stored(predictor, roi)["lsds"][0], raw[roi.slices])


@pytest.mark.parametrize(("settings", "context"), NETWORKS_AND_CONTEXT)
def test_inputs_stored_elsewhere_are_read_from_their_own_origin(settings, context):
    raw, lsds, block = image((16, 20, 24)), image((10, 12, 15, 18), 1), Roi((4, 6, 8), (10, 14, 16))
    # The predictions cover a part of the raw volume only, which begins at this voxel of it.
    origin = (2, 3, 4)
    inputs = [NetworkInput(volume_of(raw)), NetworkInput(volume_of(lsds), origin, "lsds")]
    result = stored(make_predictor(Echo(settings, True), settings, inputs, block.shape, context), block)["lsds"]
    np.testing.assert_array_equal(result[0], raw[block.slices])
    np.testing.assert_array_equal(result[1:], lsds[(..., *block.shift([-o for o in origin]).slices)])


def test_inputs_keep_the_order_of_the_setup():
    raw, lsds, block = image((8, 8, 8)), image((10, 8, 8, 8), 1), Roi.of_shape((8, 8, 8))
    inputs = [NetworkInput(volume_of(lsds), output="lsds"), NetworkInput(volume_of(raw))]
    seen = stored(make_predictor(Echo(PADDED, False), PADDED, inputs, block.shape), block)["lsds"]
    np.testing.assert_array_equal(seen[:10], lsds)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_volume_goes_on_mirrored_whatever_the_box(length):
    data = image((2, length, 4, 6))
    everything = np.pad(data, ((0, 0), (9, 9), (9, 9), (9, 9)), mode="reflect")
    for begin, end in (
        ((-9, 0, 5), (length + 9, 4, 6)),
        ((-7, -2, -9), (-5, 3, -2)),
        ((length, 3, 1), (length + 4, 9, 3)),
    ):
        box = Roi(begin, end)
        np.testing.assert_array_equal(
            read_mirrored(volume_of(data), box), everything[(..., *box.shift((9, 9, 9)).slices)]
        )


def test_raw_is_mirrored_beyond_the_volume_and_not_black():
    # A constant image stays constant to its border: predictions there repeat those two voxels (one pool) further in.
    raw, whole = np.full((8, 8, 8), 200, np.uint8), Roi.of_shape((8, 8, 8))
    predictor = make_predictor(random_network(BASELINE, 1), VALID, [NetworkInput(volume_of(raw))], (8, 8, 8))
    values = stored(predictor, whole)["affinities"].astype(int)
    for axis in (1, 2, 3):
        assert np.abs(values.take(range(6), axis) - values.take(range(2, 8), axis)).max() <= 1


# --- padded networks ------------------------------------------------------------------------------------------


def test_a_block_alone_is_the_middle_of_its_window():
    raw, block = image((24, 24, 24)), Roi((8, 8, 8), (16, 16, 16))
    network = random_network(PLAIN, 1)
    predictor = make_predictor(network, PADDED, [NetworkInput(volume_of(raw))], block.shape, (4, 4, 4))
    scaled = torch.from_numpy(raw[block.grow((4, 4, 4)).slices].astype(np.float32) / 255 * 2 - 1)
    with torch.no_grad():
        expected = network(scaled[None, None])["affinities"][0, :, 4:-4, 4:-4, 4:-4].numpy()
    np.testing.assert_allclose(predict_whole(predictor, block)["affinities"], expected, atol=1e-3)


def naive_blend(network, raw, roi, block_shape, context):
    """Every window of the region weighted by the definition."""
    wide, lattice = np.pad(raw, 32, mode="reflect"), BlockGrid(roi, block_shape)
    size = tuple(b + 2 * c for b, c in zip(block_shape, context, strict=True))
    weight = np.ones(size)
    for axis, (n, c) in enumerate(zip(size, context, strict=True)):
        depth = np.clip([min(place + 0.5, n - place - 0.5) / (2 * c) for place in range(n)], 0, 1)
        weight *= (3 * depth**2 - 2 * depth**3).reshape([-1 if a == axis else 1 for a in range(3)])
    # A margin around the region, for windows that reach beyond it.
    total, weights = np.zeros((3, *(n + 32 for n in roi.shape))), np.zeros([n + 32 for n in roi.shape])
    for index in range(len(lattice)):
        begin = [b - c for b, c in zip(lattice[index].begin, context, strict=True)]
        window = Roi(tuple(begin), tuple(b + n for b, n in zip(begin, size, strict=True)))
        scaled = torch.from_numpy(wide[window.shift((32, 32, 32)).slices].astype(np.float32) / 255 * 2 - 1)
        with torch.no_grad():
            values = network(scaled[None, None])["affinities"][0].numpy()
        place = window.shift([16 - r for r in roi.begin]).slices
        total[(slice(None), *place)] += weight * values
        weights[place] += weight
    inside = tuple(slice(16, 16 + n) for n in roi.shape)
    return total[(slice(None), *inside)] / weights[inside]


# In the second, a window reaches beyond the neighbouring block.
@pytest.mark.parametrize(("block_shape", "context"), [((8, 6, 8), (2, 3, 2)), ((4, 2, 6), (4, 3, 1))])
def test_windows_are_blended_by_how_deep_a_voxel_lies_in_each(block_shape, context):
    raw, roi = image((20, 20, 20)), Roi((2, 0, 3), (16, 11, 17))
    network = random_network(PLAIN, 1)
    predictor = make_predictor(network, PADDED, [NetworkInput(volume_of(raw))], block_shape, context)
    blended = predict_whole(predictor, roi)["affinities"]
    # Half precision of what waits.
    np.testing.assert_allclose(blended, naive_blend(network, raw, roi, block_shape, context), atol=1e-3)


def volumes_in(folder, shape, outputs=(("affinities", 3), ("lsds", 10))):
    return {
        name: create_volume(folder, name, shape=(n, *shape), dtype="uint8", voxel_size=(1, 1, 1), shard_zyx=(8, 8, 16))
        for name, n in outputs
    }


RAW, REGION = image((24, 20, 28)), Roi((2, 3, 4), (22, 17, 28))


def stored_predictor(context=(4, 4, 4)):
    setup = Setup("s", ("raw",), ("affinities", "lsds"), PADDED, NEAREST)
    return make_predictor(random_network(setup, 1), PADDED, [NetworkInput(volume_of(RAW))], (8, 8, 16), context)


def run_chunks(tmp_path, chunks, pending_mb=1000):
    volumes, grid = volumes_in(tmp_path / "p.zarr", REGION.shape), BlockGrid(REGION, (8, 8, 16))
    done = DoneBlocks(tmp_path / "done", "f")
    for indices in chunks:
        predict_blocks(stored_predictor(), volumes, grid, indices, done, name="predict", pending_mb=pending_mb)
    assert not done.remaining(range(len(grid)))
    return {name: volume.read() for name, volume in volumes.items()}


@pytest.mark.parametrize(
    ("chunks", "pending_mb"),
    [
        ([range(5), range(5, 12)], 1000),
        ([range(3), range(12)], 1000),
        ([range(7, 12), range(12)], 0),
        ([[11], [4], range(12)], 0.3),
    ],
    ids=["two jobs", "resumed", "backwards, in columns", "in pieces, in wider columns"],
)
def test_blended_bytes_depend_on_the_lattice_only(tmp_path, chunks, pending_mb):
    expected = run_chunks(tmp_path / "whole", [range(12)])
    assert expected["affinities"].std() > 1
    for name, values in run_chunks(tmp_path / "parts", chunks, pending_mb).items():
        np.testing.assert_array_equal(values, expected[name])


def test_predicted_blocks_fill_the_volume_and_only_missing_ones_are_computed(tmp_path):
    predictor, grid = stored_predictor(), BlockGrid(REGION, (8, 8, 16))
    volumes, done = volumes_in(tmp_path / "p.zarr", REGION.shape), DoneBlocks(tmp_path / "done", "f")
    assert predict_blocks(predictor, volumes, grid, range(3), done, name="predict") == 3
    assert predict_blocks(predictor, volumes, grid, range(len(grid)), done, name="predict") == len(grid) - 3
    assert predict_blocks(predictor, volumes, grid, range(len(grid)), done, name="predict") == 0
    for name, expected in predict_whole(predictor, REGION).items():
        np.testing.assert_array_equal(volumes[name].read(), quantise(torch.from_numpy(expected)).numpy())


def test_each_window_is_computed_once_where_layers_fit(monkeypatch):
    predictor, grid, seen = stored_predictor(), BlockGrid(REGION, (8, 8, 16)), []
    read = predictor.read
    monkeypatch.setattr(predictor, "read", lambda block: seen.append(block) or read(block))
    assert len(list(predicted_blocks(predictor, grid, range(len(grid)), pending_mb=1000))) == len(grid)
    assert len(seen) == len(set(seen)) == len(grid)


# --- threads, kills and errors --------------------------------------------------------------------------------


class Counted:
    """A volume whose reads are counted, and can fail or wait."""

    def __init__(self, data, react=lambda count: None):
        self.data, self.count, self.react = data, 0, react
        self.shape, self.ndim, self.dtype = data.shape, data.ndim, data.dtype

    def __getitem__(self, box):
        self.count += 1
        self.react(self.count)
        return self.data[box]


def test_the_next_windows_are_read_while_one_is_computed():
    raw = Counted(RAW)
    predictor = make_predictor(Echo(PADDED, True), PADDED, [NetworkInput(volume_of(raw))], (8, 8, 16), batch_size=1)
    entries = predicted_blocks(predictor, BlockGrid(REGION, (8, 8, 16)), range(12), pending_mb=1)
    next(entries)
    # One in use, two waiting, and the fourth may be in the reader's hands.
    while raw.count < 3:
        time.sleep(0.001)
    entries.close()
    assert raw.count <= 5


def test_errors_of_the_reader_end_the_job_and_keep_what_was_done(tmp_path):
    def fail(count):
        if count > 6:
            raise OSError("the disk is gone")

    predictor = make_predictor(
        Echo(PADDED, True), PADDED, [NetworkInput(volume_of(Counted(RAW, fail)))], (8, 8, 16), batch_size=1
    )
    volumes = volumes_in(tmp_path / "p.zarr", REGION.shape, [("lsds", 1)])
    done, grid = DoneBlocks(tmp_path / "done", "f"), BlockGrid(REGION, (8, 8, 16))
    threads = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        predict_blocks(predictor, volumes, grid, range(12), done, name="predict")
    assert done.remaining(range(12)) == list(range(6, 12))
    inside = grid[5].shift([-b for b in REGION.begin]).slices
    np.testing.assert_array_equal(volumes["lsds"].read()[(0, *inside)], RAW[grid[5].slices])
    assert threading.active_count() == threads


def test_errors_of_the_writer_end_the_job_and_mark_nothing_unwritten(tmp_path):
    class Full:
        shape = (1, *REGION.shape)

        def __setitem__(self, box, values):
            if box[1].start >= 8:
                raise OSError("no space left")

    predictor = make_predictor(Echo(PADDED, True), PADDED, [NetworkInput(volume_of(RAW))], (8, 8, 16))
    done, grid = DoneBlocks(tmp_path / "done", "f"), BlockGrid(REGION, (8, 8, 16))
    with pytest.raises(OSError, match="no space left"):
        predict_blocks(predictor, {"lsds": Volume(Full(), (1, 1, 1))}, grid, range(12), done, name="predict")
    # The blocks of the first layer.
    assert done.remaining(range(12)) == list(range(4, 12))


KILLED = """
import os, sys
sys.path[:0] = {path!r}
import test_prediction as t
writes = 0
mark = t.DoneBlocks.mark
def counted(self, index):
    global writes
    mark(self, index)
    writes += 1
    if writes == 5:
        os.kill(os.getpid(), 9)
t.DoneBlocks.mark = counted
from pathlib import Path
t.run_chunks(Path({folder!r}), [range(12)])
"""


def test_a_killed_job_goes_on_to_the_same_bytes(tmp_path):
    expected = run_chunks(tmp_path / "whole", [range(12)])
    script = KILLED.format(path=[os.path.dirname(__file__), *filter(None, sys.path)], folder=str(tmp_path / "killed"))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    grid, done = BlockGrid(REGION, (8, 8, 16)), DoneBlocks(tmp_path / "killed/done", "f")
    assert len(done.remaining(range(12))) == 7
    volumes = {name: open_volume(tmp_path / "killed/p.zarr", name, mode="r+") for name in expected}
    assert predict_blocks(stored_predictor(), volumes, grid, range(12), done, name="predict") == 7
    for name, values in expected.items():
        np.testing.assert_array_equal(volumes[name].read(), values)


def test_predictions_that_are_no_numbers_are_refused_with_their_block(tmp_path):
    network = random_network(PLAIN, 1)
    network.heads["affinities"].bias.data[1] = float("nan")
    predictor = make_predictor(network, PADDED, [NetworkInput(volume_of(RAW))], (8, 8, 16), name="baseline")
    volumes, done = (
        volumes_in(tmp_path / "p.zarr", REGION.shape, [("affinities", 3)]),
        DoneBlocks(tmp_path / "done", "f"),
    )
    with pytest.raises(UserError, match=r"'baseline' in the block z 2–10, y 3–11, x 4–20 are not numbers"):
        predict_blocks(predictor, volumes, BlockGrid(REGION, (8, 8, 16)), range(12), done, name="predict")
    assert done.remaining(range(12)) == list(range(12))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_no_numbers_are_refused_with_their_box(bad):
    raw = RAW / np.float32(255)
    predictor = make_predictor(random_network(PLAIN, 1), PADDED, [NetworkInput(volume_of(raw))], (8, 8, 16), (2, 2, 2))
    whole = predict_whole(predictor, REGION)["affinities"]
    eight_bit = predict_whole(stored_predictor((2, 2, 2)), REGION)["affinities"]
    assert whole.shape == eight_bit.shape
    raw[20, 10, 10] = bad
    with pytest.raises(UserError, match=r"'raw' holds values that are not finite .* in z 16–28, y 1–13, x 2–22"):
        predict_whole(predictor, REGION)


def test_what_lies_outside_the_mask_is_0_and_blocks_all_outside_are_not_computed(tmp_path):
    mask = np.zeros(RAW.shape, np.uint8)
    mask[5:12, 4:9, 6:22] = 255
    seen = []
    raw = NetworkInput(volume_of(RAW))
    predictor = make_predictor(Echo(PADDED, True), PADDED, [raw], (8, 8, 16))
    read = predictor.read
    predictor.read = lambda block: seen.append(block) or read(block)
    volumes, done = volumes_in(tmp_path / "p.zarr", REGION.shape, [("lsds", 1)]), DoneBlocks(tmp_path / "done", "f")
    # Left by an earlier run.
    volumes["lsds"].data[...] = 7
    grid = BlockGrid(REGION, (8, 8, 16))
    inside = NetworkInput(volume_of(mask))
    assert predict_blocks(predictor, volumes, grid, range(12), done, name="predict", mask=inside) == 4
    assert {block.begin for block in seen} == {(2, 3, 4), (2, 3, 20), (10, 3, 4), (10, 3, 20)}
    assert not done.remaining(range(12))
    np.testing.assert_array_equal(volumes["lsds"].read()[0], np.where(mask, RAW, 0)[REGION.slices])


def test_the_mask_leaves_what_lies_inside_as_it_is(tmp_path):
    mask = np.zeros(RAW.shape, np.uint8)
    mask[4:14, 4:9, 6:22] = 1
    volumes, grid = volumes_in(tmp_path / "p.zarr", REGION.shape), BlockGrid(REGION, (8, 8, 16))
    done = DoneBlocks(tmp_path / "done", "f")
    inside = NetworkInput(volume_of(mask))
    predict_blocks(stored_predictor(), volumes, grid, range(12), done, name="predict", mask=inside)
    for name, values in run_chunks(tmp_path / "whole", [range(12)]).items():
        np.testing.assert_array_equal(volumes[name].read(), values * mask[REGION.slices])


def test_batches_are_what_the_device_computes_fastest():
    assert best_batch((56, 56, 56), CPU) == 2
    assert best_batch((144, 144, 96), CPU) == 1
    gpu = torch.device("cuda")
    assert [best_batch((n, n, n), gpu) for n in (48, 80, 208)] == [9, 1, 1]


# --- auto-context ---------------------------------------------------------------------------------------------


def test_auto_context_predicts_from_stored_inputs_what_it_saw_in_training():
    raw, whole = image((48, 48, 48)), Roi.of_shape((48, 48, 48))
    lsd = Setup("lsd", ("raw",), ("lsds",), VALID, NEAREST)
    acrlsd = Setup("acrlsd", ("raw", "lsd.lsds"), ("affinities",), VALID, NEAREST)
    first, second = random_network(lsd, 1), random_network(acrlsd, 11, seed=1)

    lsds = stored(make_predictor(first, VALID, [NetworkInput(volume_of(raw))], (24,) * 3), whole)["lsds"]
    block = Roi((20, 18, 22), (28, 26, 30))
    inputs = [NetworkInput(volume_of(raw)), NetworkInput(volume_of(lsds), output="lsds")]
    predicted = stored(make_predictor(second, VALID, inputs, block.shape), block)["affinities"]

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
    crop = Roi((12, 8, 16), (28, 24, 32))
    assert whole.contains(crop.grow(context))
    lsds = stored(make_predictor(first, PADDED, [NetworkInput(volume_of(raw))], crop.shape, context), crop)["lsds"]

    pipeline = Pipeline(acrlsd, second, {"lsd": Pipeline(lsd, first, {})}, context)
    assert pipeline.raw_shape(crop.shape) == (24, 24, 24)
    crop_of_training = raw[crop.grow(context).slices].astype(np.float32) / 255 * 2 - 1
    seen = pipeline.inputs(torch.from_numpy(crop_of_training)[None, None], crop.shape)[0, 1:]
    assert np.abs((seen.numpy() * 255).round() - lsds).max() <= 1


@pytest.mark.parametrize(("settings", "context"), [(VALID, (0, 0, 0)), (PADDED, (2, 4, 2))])
def test_frozen_networks_in_memory_give_what_their_stored_predictions_would(settings, context):
    raw, roi, block_shape = volume_of(image((30, 30, 30))), Roi((8, 7, 6), (18, 20, 21)), (8, 8, 8)
    lsd = Setup("lsd", ("raw",), ("lsds",), settings, NEAREST)
    acrlsd = Setup("acrlsd", ("raw", "lsd.lsds"), ("affinities",), settings, NEAREST)
    first, second = random_network(lsd, 1), random_network(acrlsd, 11, seed=1)
    pipeline = Pipeline(acrlsd, second, {"lsd": Pipeline(lsd, first, {})})
    options = {"block_shape": block_shape, "context": context, "device": CPU}
    inputs = inputs_seen(pipeline, raw, roi, lambda _: (block_shape, context), device=CPU)
    assert [entry.output for entry in inputs] == ["raw", "lsds"]
    # What valid blocks of 8 read: the network loses 8 voxels on each side.
    wide = roi.grow(context if settings.is_padded else (8, 8, 8))
    assert (inputs[1].origin, inputs[1].volume.shape_zyx) == (wide.begin, wide.shape)
    expected = stored(BlockPredictor(first, settings, [NetworkInput(raw)], **options), wide)["lsds"]
    np.testing.assert_array_equal(inputs[1].volume.data, expected)
    assert predict_whole(BlockPredictor(second, settings, inputs, **options), roi)["affinities"].shape == (
        3,
        10,
        13,
        15,
    )
