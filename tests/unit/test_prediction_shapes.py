"""Blocks are as large as memory, region and network want them, and say how far around themselves they read."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow import configuration, configuration_checks
from lsdflow.errors import UserError
from lsdflow.network_cost import NetworkPass, peak_bytes
from lsdflow.network_shapes import NETWORKS, NetworkSettings
from lsdflow.prediction_shapes import block_of_region, input_box, reach

ROOT = Path(__file__).parents[2]
SCHEMA = configuration.load_schema(ROOT / "workflow/schemas/config.schema.yaml")
VALID = NetworkSettings("unet", 3, 2, ((1, 2, 2), (2, 3, 3)))
PADDED = NetworkSettings("residual_unet", 4, 2, ((1, 2, 2), (2, 2, 2)))
ONE = {"in_channels": 1, "head_channels": 3}


def test_a_padded_network_sees_its_context_on_both_sides():
    assert input_box(NETWORKS["small"], (40, 44, 48), (8, 8, 4)) == ((56, 60, 56), (8, 8, 4))
    assert reach(NETWORKS["small"], (40, 44, 48), (8, 8, 4)) == (8, 8, 4)


def test_a_valid_network_begins_at_the_block_and_reads_more_behind_it_where_it_makes_more():
    # 208 voxels make 104: the block and 8 behind it.
    assert input_box(NETWORKS["fib25"], (96, 96, 96), (9, 9, 9)) == ((208, 208, 208), (52, 52, 52))
    assert reach(NETWORKS["fib25"], (96, 96, 96), (9, 9, 9)) == (60, 60, 60)


@settings(deadline=None, max_examples=40)
@given(
    network=st.sampled_from([VALID, PADDED]),
    shape=st.tuples(*[st.integers(1, 150)] * 3),
    context=st.sampled_from([(0, 0, 0), (2, 4, 4), (3, 2, 6), (5, 5, 5)]),
    memory_mb=st.sampled_from([8, 20, 100]),
    chunks=st.integers(1, 9),
)
def test_blocks_fit_into_memory_and_cover_the_region_with_the_fewest(network, shape, context, memory_mb, chunks):
    crop = (40, 60, 48)
    arguments = {"crop_shape": crop, "memory_mb": memory_mb, "context": context, **ONE}
    block = block_of_region(network, shape, chunks=1, **arguments)
    input_shape, _ = input_box(network, block, context)
    assert peak_bytes(NetworkPass(network, input_shape)) <= memory_mb * 1e6
    if network.is_padded:
        assert all(b < c + p for b, c, p in zip(block, crop, network.period, strict=True))
    counts = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    # One period less would not cover the region in as many.
    for axis in range(3):
        assert counts[axis] * (block[axis] - network.period[axis]) < shape[axis]
    shared = block_of_region(network, shape, chunks=chunks, **arguments)
    assert all(s <= b for s, b in zip(shared, block, strict=True))
    blocks = math.prod(-(-n // b) for n, b in zip(shape, shared, strict=True))
    assert blocks >= chunks or all(s <= p for s, p in zip(shared, network.period, strict=True))


def test_every_job_has_a_block_where_there_are_as_many():
    whole = block_of_region(VALID, (64, 64, 64), crop_shape=(8, 8, 8), memory_mb=4000, context=(0, 0, 0), **ONE)
    assert whole == (64, 66, 66)
    shared = block_of_region(
        VALID, (64, 64, 64), crop_shape=(8, 8, 8), memory_mb=4000, context=(0, 0, 0), chunks=4, **ONE
    )
    assert shared == (64, 36, 36)


def test_too_little_memory_is_refused():
    with pytest.raises(UserError, match="the smallest that the network can make"):
        block_of_region(VALID, (64, 64, 64), crop_shape=(8, 8, 8), memory_mb=0.01, context=(0, 0, 0), **ONE)


# --- in a configuration ---------------------------------------------------------------------------------------


def config_with(prediction, **more):
    text = """
    experiment: e
    volumes: {cube: {shape: [150, 90, 90], voxel_size: [8, 8, 8], simulate: {seed: 0}}}
    split:
      train: [{volume: cube, roi: {z: [0, 60]}}]
      validation: {volume: cube, roi: {z: [60, 80]}}
      test: {volume: cube, roi: {z: [80, 150]}}
    setups:
      lsd: {inputs: [raw], outputs: [lsds]}
      acrlsd: {inputs: [raw, lsd.lsds], outputs: [affinities]}
    """
    config = configuration.complete(yaml.safe_load(text) | {"prediction": prediction} | more, SCHEMA)
    configuration_checks.check(config)
    return config


def test_blocks_of_a_configuration_suit_region_and_setup():
    config = config_with({})
    # The regions, and for lsd the context of 8 voxels that acrlsd sees: in blocks of at most 48 voxels.
    assert configuration.prediction_block(config, "acrlsd", "test") == (36, 48, 48)
    assert configuration.prediction_block(config, "acrlsd", "validation") == (20, 48, 48)
    assert configuration.prediction_block(config, "lsd", "test") == (44, 36, 36)
    assert configuration.prediction_roi(config, "lsd", "test").shape == (86, 106, 106)
    assert configuration.prediction_block(config, configuration.RAW_WATERSHED, "test") == (128, 128, 128)


def test_blocks_that_are_given_are_taken():
    config = config_with({"block_shape": [32, 48, 64]})
    assert configuration.prediction_block(config, "lsd", "validation") == (32, 48, 64)
    assert configuration.prediction_block(config, configuration.RAW_WATERSHED, "test") == (32, 48, 64)


UNEVEN = {"architecture": "residual_unet", "num_fmaps": 4, "fmap_inc_factor": 2, "downsample_factors": [[1, 4, 2]]}


@pytest.mark.parametrize(
    ("prediction", "more", "message"),
    [
        ({"block_shape": "large"}, {}, "prediction.block_shape: must be auto or a list of 3, each a whole number"),
        ({"memory_mb": 0.1}, {}, "prediction.memory_mb: too little for the network of setup 'lsd': a block of"),
        ({"precision": "half"}, {}, "prediction.precision: must be one of auto, float32, bfloat16, float16"),
        ({}, {"device": "cuda"}, "device: must be one of auto, cpu, gpu"),
        (
            {"augment": "all"},
            {"networks": {"uneven": UNEVEN}, "network": "uneven"},
            r"prediction.augment: all exchanges y and x, but for setup 'lsd' they differ .*\[1, 4, 2\].*take flips",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(prediction, more, message):
    with pytest.raises(UserError, match=message):
        config_with(prediction, **more)


def test_networks_that_tell_y_from_x_may_see_mirror_images():
    config_with({"augment": "flips"}, networks={"uneven": UNEVEN}, network="uneven")
