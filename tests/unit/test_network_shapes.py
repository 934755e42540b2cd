"""Shapes are known without building a network, and every size that a message offers exists."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.errors import UserError
from lsdflow.network_shapes import (
    LENGTHS,
    NETWORKS,
    NetworkSettings,
    n_channels,
    n_channels_seen,
    padded_length,
    prediction_input_shape,
    valid_length,
)

FIB25 = NETWORKS["fib25"]
ZEBRAFINCH = NETWORKS["zebrafinch"]
SMALL = NETWORKS["small"]
FACTORS = st.lists(st.tuples(*[st.integers(1, 3)] * 3), max_size=3)


@pytest.mark.parametrize(
    ("network", "input_shape", "output_shape"),
    [
        ("fib25", (196, 196, 196), (92, 92, 92)),
        ("fib25", (268, 268, 268), (164, 164, 164)),
        ("fib25", (304, 304, 304), (200, 200, 200)),
        ("fib25", (364, 364, 364), (260, 260, 260)),
        ("hemibrain", (352, 352, 352), (248, 248, 248)),
        ("zebrafinch", (84, 268, 268), (48, 56, 56)),
        ("zebrafinch", (96, 484, 484), (60, 272, 272)),
        ("zebrafinch", (120, 484, 484), (84, 272, 272)),
        ("cicek", (116, 132, 132), (28, 44, 44)),
    ],
)
def test_shapes_of_the_paper(network, input_shape, output_shape):
    assert NETWORKS[network].output_shape(input_shape) == output_shape
    assert NETWORKS[network].input_shape(output_shape) == input_shape


def test_widths_and_channels_of_the_paper():
    # MtLSD: three affinities and ten LSDs.
    assert FIB25.num_fmaps_out([3, 10]) == ZEBRAFINCH.num_fmaps_out([10, 3]) == 14
    assert NetworkSettings("unet", 20, 6, ((2, 2, 2),)).num_fmaps_out([3, 10]) == 20
    # One task leaves the network as it is, even with 12 affinities; and others have one width only.
    assert FIB25.num_fmaps_out([12]) is SMALL.num_fmaps_out([3, 10]) is NETWORKS["cicek"].num_fmaps_out([3, 10]) is None
    assert (n_channels("affinities", 12), n_channels("lsds", 12)) == (12, 10)
    seen = {("lsd", "lsds"): 10, ("long", "affinities"): 12}
    assert n_channels_seen(["raw"], lambda *source: seen[source]) == 1
    assert n_channels_seen(["lsd.lsds", "raw", "long.affinities"], lambda *source: seen[source]) == 23


def test_all_inputs_that_a_network_can_take():
    taken = ZEBRAFINCH.valid_input_shapes((80, 260, 0), (90, 270, 105))
    assert taken == ({81: 45, 84: 48, 87: 51, 90: 54}, {268: 56}, {})
    for z in range(80, 91):
        if z in taken[0]:
            assert ZEBRAFINCH.output_shape((z, 268, 484)) == (taken[0][z], 56, 272)
        else:
            with pytest.raises(UserError, match=f"{z} voxels along z"):
                ZEBRAFINCH.output_shape((z, 268, 484))


def test_auto_context_input_of_the_paper_covers_the_second_nets_input():
    assert FIB25.covering_input_shape((196, 196, 196)) == (304, 304, 304)
    assert ZEBRAFINCH.covering_input_shape((84, 268, 268)) == (120, 484, 484)


def test_padded_network_takes_multiples_of_its_factors_and_keeps_the_shape():
    assert SMALL.is_padded and not FIB25.is_padded
    assert SMALL.output_shape((16, 20, 24)) == (16, 20, 24)
    assert SMALL.covering_input_shape((13, 16, 1)) == (16, 16, 4)
    with pytest.raises(UserError, match="18 voxels along y"):
        SMALL.output_shape((16, 18, 16))


@settings(max_examples=100, deadline=None)
@given(factors=FACTORS, size=st.integers(1, 200), architecture=st.sampled_from(sorted(LENGTHS)))
def test_covering_input_is_the_smallest_that_suffices(factors, size, architecture):
    network = NetworkSettings(architecture, 1, 1, tuple(factors))
    length_of = LENGTHS[architecture]
    for axis, found in enumerate(network.covering_input_shape((size,) * 3)):
        per_axis = [f[axis] for f in factors]
        assert length_of(found, per_axis) >= size
        assert all((length_of(n, per_axis) or 0) < size for n in range(1, found))


def offered(error):
    """The sizes that a message offers."""
    return [int(n) for n in re.findall(r"\d+", str(error.value).split("nearest it can are")[1])]


@settings(max_examples=60, deadline=None)
@given(
    factors=st.lists(st.integers(1, 4), max_size=4),
    size=st.integers(1, 300),
    architecture=st.sampled_from(["unet", "residual_unet"]),
)
def test_message_about_an_input_offers_sizes_that_exist(factors, size, architecture):
    network = NetworkSettings(architecture, 1, 1, tuple((f, 1, 1) for f in factors))
    enough = 1000
    try:
        network.output_shape((size, enough, enough))
    except UserError as error:
        near = [int(n) for n in str(error).split("nearest it can are")[1].split(",")]
        assert near == sorted(set(near)) and len(near) == 4
        for n in near:
            network.output_shape((n, enough, enough))
        # None nearer was left out.
        farthest = max(abs(n - size) for n in near)
        length_of = {"unet": valid_length, "residual_unet": padded_length}[architecture]
        nearer = {n for n in range(max(1, size - farthest + 1), size + farthest) if length_of(n, factors)}
        assert nearer <= set(near)


@pytest.mark.parametrize(("asked", "near"), [(100, [92, 104]), (1, [8]), (196, [188, 200])])
def test_message_about_an_output_offers_the_sizes_next_to_it(asked, near):
    with pytest.raises(UserError, match=f"an output of {asked} voxels along z") as error:
        FIB25.input_shape((asked, 92, 92))
    assert offered(error) == near
    for n in near:
        assert FIB25.output_shape(FIB25.input_shape((n, 92, 92))) == (n, 92, 92)


def test_message_about_a_padded_output_offers_the_sizes_next_to_it():
    with pytest.raises(UserError, match="18 voxels along x") as error:
        SMALL.input_shape((16, 16, 18))
    assert offered(error) == [16, 20]


def test_unknown_architecture_is_refused_with_those_that_exist():
    with pytest.raises(UserError, match="no network architecture 'vnet': unet, unet_cicek, residual_unet exist"):
        NetworkSettings("vnet", 12, 6, ((2, 2, 2),))


def test_settings_from_lists_equal_those_from_tuples():
    # A configuration holds lists, a checkpoint tuples.
    settings_ = NetworkSettings("unet", 12, 6, [[2, 2, 2], [2, 2, 2], [3, 3, 3]])
    assert settings_ == FIB25
    assert NetworkSettings(**settings_.as_dict()) == FIB25


@pytest.mark.parametrize("name", NETWORKS)
def test_named_networks_have_an_output(name):
    network = NETWORKS[name]
    shape = network.covering_input_shape((16, 16, 16))
    assert all(n >= 16 for n in network.output_shape(shape))


def test_period_is_the_product_of_the_factors():
    assert (FIB25.period, ZEBRAFINCH.period, SMALL.period) == ((12, 12, 12), (3, 27, 27), (4, 4, 4))
    assert NETWORKS["small_anisotropic"].period == (2, 4, 4)
    assert NetworkSettings("unet", 1, 1, ()).period == (1, 1, 1)


def test_block_of_a_valid_network_brings_its_own_context():
    # 92 voxels are made, of which 84 are the block and eight lie behind it.
    assert prediction_input_shape(FIB25, (84, 84, 84), (7, 7, 7)) == (196, 196, 196)
    assert prediction_input_shape(ZEBRAFINCH, (48, 54, 54), (0, 0, 0)) == (84, 268, 268)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            (96, 92, 96),
            r"92 voxels along y \(shape \(96, 92, 96\)\) .* a multiple of 12, and the nearest are 84 and 96",
        ),
        ((96, 96, 5), "5 voxels along x .* a multiple of 12, and the nearest are 12$"),
    ],
)
def test_blocks_of_a_valid_network_that_would_not_fit_together_are_refused(block, message):
    with pytest.raises(UserError, match=message):
        prediction_input_shape(FIB25, block, (0, 0, 0))


@settings(max_examples=50, deadline=None)
@given(factors=FACTORS, counts=st.tuples(*[st.integers(1, 6)] * 3), context=st.integers(0, 5))
def test_input_of_a_valid_block_is_the_smallest_whose_output_covers_it(factors, counts, context):
    network = NetworkSettings("unet", 1, 1, tuple(factors))
    block = tuple(p * n for p, n in zip(network.period, counts, strict=True))
    shape = prediction_input_shape(network, block, (context,) * 3)
    for axis, (size, made) in enumerate(zip(shape, network.output_shape(shape), strict=True)):
        per_axis = [f[axis] for f in factors]
        assert made >= block[axis]
        assert all((valid_length(n, per_axis) or 0) < block[axis] for n in range(1, size))


def test_block_of_a_padded_network_gets_the_context_asked_for():
    assert prediction_input_shape(SMALL, (16, 32, 32), (4, 8, 8)) == (24, 48, 48)
    with pytest.raises(UserError, match="22 voxels along z"):
        prediction_input_shape(SMALL, (16, 32, 32), (3, 8, 8))


@settings(max_examples=50, deadline=None)
@given(factors=st.lists(st.integers(1, 3), max_size=3), bottom=st.integers(5, 12))
def test_valid_network_loses_as_much_on_both_sides(factors, bottom):
    # Crops and blocks are placed by halves of this difference.
    size = bottom
    for factor in reversed(factors):
        size = size * factor + 4
    out = valid_length(size, factors)
    if out is not None:
        assert (size - out) % 2 == 0
        assert math.prod(factors) * 4 <= size - out
