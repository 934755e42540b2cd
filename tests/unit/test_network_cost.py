"""Parameters and operations are PyTorch's own, to the last digit, and the paper's; memory is what a process takes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lsdflow import network_cost
from lsdflow.affinities import offsets_on_axes
from lsdflow.errors import UserError
from lsdflow.network_cost import NetworkPass, flop_per_voxel, forward_flop, largest_block, n_parameters, peak_bytes
from lsdflow.network_shapes import LENGTHS, NETWORKS, NetworkSettings, prediction_input_shape
from lsdflow.setups import Setup, SetupNetwork

ZEBRAFINCH = NETWORKS["zebrafinch"]
# The blocks of the paper's predictions: 96 × 484 × 484 voxels in, 60 × 272 × 272 out.
PREDICTED = (96, 484, 484)
NEAREST = tuple(offsets_on_axes([1]))


def counted(network: torch.nn.Module, in_channels, input_shape):
    """Operations of a forward pass as PyTorch counts them while the network runs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, in_channels, *input_shape, device="meta"))
    return counter.get_total_flops()


def count_parameters(module):
    return sum(p.numel() for p in module.parameters())


def setup_network(network, outputs, in_channels):
    """The network of a setup, heads and all; without memory, as only shapes are wanted."""
    setup = Setup("setup", ("raw",), outputs, network, NEAREST)
    with torch.device("meta"):
        return SetupNetwork(setup, in_channels)


def test_two_level_unet_by_hand():
    # 20³ → 18³ → 16³, pooled to 8³ → 6³ → 4³, enlarged to 8³ → 6³ → 4³; one of 2 × 27 × in × out per voxel for each
    # convolution, 2 × in × out for the transposed one and for the head.
    network = NetworkPass(NetworkSettings("unet", 2, 3, ((2, 2, 2),)), (20, 20, 20), head_channels=5)
    convolutions = [(1, 2, 18), (2, 2, 16), (2, 6, 6), (6, 6, 4), (4, 2, 6), (2, 2, 4)]
    expected = sum(54 * a * b * n**3 for a, b, n in convolutions) + 2 * 6 * 2 * 8**3 + 2 * 2 * 5 * 4**3
    assert forward_flop(network) == expected
    assert flop_per_voxel([network]) == expected / 4**3


@pytest.mark.parametrize(
    ("outputs", "in_channels", "options"),
    [
        pytest.param(("affinities",), 1, {}, id="baseline"),
        pytest.param(("lsds",), 1, {"head_channels": 10}, id="lsd"),
        pytest.param(("lsds", "affinities"), 1, {"head_channels": 13, "num_fmaps_out": 14}, id="mtlsd"),
        pytest.param(("affinities",), 10, {"in_channels": 10}, id="aclsd"),
        pytest.param(("affinities",), 11, {"in_channels": 11}, id="acrlsd"),
    ],
)
def test_networks_of_the_paper_count_as_in_pytorch(outputs, in_channels, options):
    network = setup_network(ZEBRAFINCH, outputs, in_channels)
    for shape in [(84, 268, 268), PREDICTED]:
        assert forward_flop(NetworkPass(ZEBRAFINCH, shape, **options)) == counted(network, in_channels, shape)
    assert n_parameters(ZEBRAFINCH, **options) == count_parameters(network)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"zebrafinch"}))
def test_other_named_networks_count_as_in_pytorch(name):
    network = NETWORKS[name]
    shape = network.covering_input_shape((32, 40, 48))
    module = setup_network(network, ("affinities",), 1)
    assert forward_flop(NetworkPass(network, shape)) == counted(module, 1, shape)
    assert n_parameters(network) == count_parameters(module)


def test_parameters_of_the_3d_unet_as_its_paper_counts_them():
    # All but the scales of the normalisations, of which there is one for each map of the 3³ convolutions.
    scales = sum([32, 64, 64, 128, 128, 256, 256, 512, 256, 256, 128, 128, 64, 64])
    assert n_parameters(NETWORKS["cicek"], in_channels=3, head_channels=3) - scales == 19_069_955


@settings(max_examples=30, deadline=None)
@given(
    architecture=st.sampled_from(sorted(LENGTHS)),
    factors=st.lists(st.tuples(*[st.integers(1, 3)] * 3), max_size=3),
    # A normalisation over a single value is refused by PyTorch.
    num_fmaps=st.integers(2, 5),
    increase=st.integers(1, 3),
    in_channels=st.integers(1, 3),
    output_shape=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_any_network_counts_as_in_pytorch(architecture, factors, num_fmaps, increase, in_channels, output_shape):
    network = NetworkSettings(architecture, num_fmaps, increase, tuple(factors))
    shape = network.covering_input_shape(output_shape)
    module = setup_network(network, ("affinities",), in_channels)
    assert forward_flop(NetworkPass(network, shape, in_channels)) == counted(module, in_channels, shape)
    if factors:  # without a step down, a residual network holds a convolution that it never runs
        assert n_parameters(network, in_channels) == count_parameters(module)


def test_operations_that_pytorch_runs_for_real_are_those_it_counts_without_memory():
    network = NETWORKS["small"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        SetupNetwork(Setup("setup", ("raw",), ("affinities",), network, NEAREST), 1)(torch.zeros(1, 1, 16, 16, 16))
    assert forward_flop(NetworkPass(network, (16, 16, 16))) == counter.get_total_flops()


def test_cost_of_the_paper():
    # The paper: 0.564 TFLOP per µm³ for the baseline, twice as much for auto-context; 1620 nm³ make a voxel.
    reported = 0.564e12 * 1620e-9
    lsd = NetworkPass(ZEBRAFINCH, PREDICTED, head_channels=10)
    assert flop_per_voxel([NetworkPass(ZEBRAFINCH, PREDICTED)]) == pytest.approx(reported, rel=0.001)
    assert flop_per_voxel([lsd]) == pytest.approx(reported, rel=0.001)
    # Ten channels more in the first convolution, which the paper leaves out.
    acrlsd = NetworkPass(ZEBRAFINCH, PREDICTED, in_channels=11)
    assert flop_per_voxel([lsd, acrlsd]) == pytest.approx(2 * reported, rel=0.02)


def test_a_chain_costs_what_its_networks_cost_and_context_costs_more():
    network = NETWORKS["small"]
    first, second = NetworkPass(network, (40, 40, 40), 1, 10), NetworkPass(network, (32, 32, 32), 11, 3)
    assert flop_per_voxel([first, second]) * 32**3 == pytest.approx(forward_flop(first) + forward_flop(second))
    # Half of the length is kept.
    assert flop_per_voxel([second], (16, 16, 16)) == pytest.approx(8 * flop_per_voxel([second]))


def test_an_input_that_the_network_cannot_take_is_refused():
    with pytest.raises(UserError, match="485 voxels along x"):
        forward_flop(NetworkPass(ZEBRAFINCH, (96, 484, 485)))
    with pytest.raises(ValueError, match="num_fmaps_out"):
        NetworkPass(NETWORKS["small"], (16, 16, 16), num_fmaps_out=14)


def test_memory_of_two_convolutions_by_hand():
    # One channel of 9³ → two of 7³ → two of 5³ → a head of three, and its sigmoid.
    network = NetworkPass(NetworkSettings("unet", 2, 1, ()), (9, 9, 9))
    weights, biases = 27 * 2 + 27 * 4 + 2 * 3, 2 + 2 + 3
    arrays = [9**3, 2 * 7**3, 2 * 5**3, 3 * 5**3, 3 * 5**3]
    # The second convolution reads one array and makes another, while the caller holds the input; its kernel is copied.
    assert peak_bytes(network) == 4 * (weights + biases + sum(arrays[:3]) + 27 * 4)
    # With three members the end is fuller, when input, features, head and its sigmoid are there.
    end = arrays[0] + sum(arrays[2:])
    assert peak_bytes(network, batch_size=3) == 4 * (weights + biases + 3 * end)
    # Backward through the first ReLU: the input, its result, the gradient on both sides of it, what the loss wants, and
    # four numbers for each weight.
    alive = arrays[0] + arrays[1] + 2 * arrays[1] + 3 * arrays[4]
    assert peak_bytes(network, training=True) == 4 * (4 * (weights + biases) + alive + 27 * 2)
    # Mixed precision: weights have a half copy; input and sigmoid stay as they are, and the head is copied for it.
    full, half = arrays[0] + 2 * arrays[4], arrays[2] + arrays[3]
    assert peak_bytes(network, itemsize=2) == 4 * (weights + biases + full) + 2 * (weights + biases + half)


MEASURED = [
    # architecture, maps, growth, factors, input length, training
    ("residual_unet", 8, 2, [(2, 2, 2), (2, 2, 2)], 64, False),
    ("residual_unet", 8, 2, [(1, 2, 2), (2, 2, 2)], 40, True),
    ("unet", 12, 3, [(2, 2, 2), (2, 2, 2)], 76, False),
    ("unet", 8, 3, [(2, 2, 2), (2, 2, 2)], 60, True),
    ("unet_cicek", 8, 2, [(2, 2, 2), (2, 2, 2)], 60, False),
    ("unet_cicek", 6, 2, [(2, 2, 2), (2, 2, 2)], 60, True),
]

MEASURING = """
import json, sys
import torch
from lsdflow.network_shapes import NetworkSettings
from lsdflow.setups import Setup, SetupNetwork

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def run(network, optimiser, length):
    x = torch.rand(2, 1, *[length] * 3).contiguous(memory_format=torch.channels_last_3d)
    if optimiser is None:
        with torch.inference_mode():
            network(x)
        return
    predicted = network(x)["affinities"]
    target, weight = torch.rand_like(predicted), torch.rand_like(predicted)
    (weight * (predicted - target) ** 2).mean().backward()
    optimiser.step()
    optimiser.zero_grad()

torch.set_num_threads(1)
for *entries, length, training in json.loads(sys.argv[1]):
    settings = NetworkSettings(*entries)
    network = SetupNetwork(Setup("setup", ("raw",), ("affinities",), settings, ((-1, 0, 0), (0, -1, 0), (0, 0, -1))), 1)
    network = network.to(memory_format=torch.channels_last_3d).train(training)
    optimiser = torch.optim.Adam(network.parameters()) if training else None
    run(network, optimiser, settings.covering_input_shape((4, 4, 4))[0])
    held = sum(p.numel() for p in network.parameters()) * 4 * (3 if training else 1)
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    run(network, optimiser, length)
    print(held + status("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs the peak memory that Linux keeps")
def test_memory_is_what_a_process_takes():
    # Memory that is freed goes back at once, so that only what is alive counts.
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "PYTHONPATH": str(Path(network_cost.__file__).parents[1]),
    }
    command = [sys.executable, "-c", MEASURING, json.dumps(MEASURED)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for (*entries, length, training), taken in zip(MEASURED, map(int, run.stdout.split()), strict=True):
        network = NetworkPass(NetworkSettings(*entries), (length,) * 3)
        estimate = peak_bytes(network, batch_size=2, training=training)
        # Convolutions of other processors may want other copies.
        assert taken == pytest.approx(estimate, rel=0.25), entries


def fits(settings, block, memory, context):
    network = NetworkPass(settings, prediction_input_shape(settings, block, context))
    return peak_bytes(network) <= memory


@settings(max_examples=25, deadline=None)
@given(
    architecture=st.sampled_from(sorted(LENGTHS)),
    factors=st.lists(st.tuples(*[st.integers(1, 3)] * 3), max_size=2),
    context=st.tuples(*[st.integers(0, 5)] * 3),
    maximum=st.tuples(*[st.integers(1, 60)] * 3),
    megabytes=st.integers(1, 60),
)
def test_largest_block_fits_and_no_longer_one_does(architecture, factors, context, maximum, megabytes):
    network = NetworkSettings(architecture, 4, 2, tuple(factors))
    try:
        block = largest_block(network, memory_bytes=megabytes * 1e6, maximum=maximum, context=context)
    except UserError:
        # Then not even the smallest fits.
        least = [next(n for n in range(1, 99) if suits(network, axis, n, context)) for axis in range(3)]
        assert not fits(network, least, megabytes * 1e6, context)
        return
    assert fits(network, block, megabytes * 1e6, context)
    for axis, (length, needed) in enumerate(zip(block, maximum, strict=True)):
        # No longer than covers the region.
        assert not any(suits(network, axis, n, context) for n in range(needed, length))
        if length < needed:
            longer = [n + network.period[axis] * (a == axis) for a, n in enumerate(block)]
            assert not fits(network, longer, megabytes * 1e6, context)


def suits(network, axis, length, context):
    """Whether blocks may have ``length`` along ``axis``."""
    along = network.period[axis]
    return (length + 2 * context[axis] * network.is_padded) % along == 0


def test_largest_block_is_about_cubic():
    for name in ("small", "fib25", "cicek"):
        network = NETWORKS[name]
        block = largest_block(network, memory_bytes=8e9, maximum=(5000,) * 3, context=(16, 16, 16))
        assert max(block) - min(block) <= network.period[0] and min(block) > 96
    # Where more context is wanted, blocks are longer.
    z, y, x = largest_block(ZEBRAFINCH, memory_bytes=8e9, maximum=(5000,) * 3)
    assert y == x and 4 < y / z < 8


def test_half_precision_and_single_members_leave_room_for_larger_blocks():
    def block(**options):
        return math.prod(largest_block(NETWORKS["fib25"], memory_bytes=8e9, maximum=(5000,) * 3, **options))

    assert block(batch_size=2) < block() < block(itemsize=2)
    assert block(in_channels=11, head_channels=13, num_fmaps_out=14) < block()


def test_largest_block_has_arrays_that_can_be_indexed():
    network = NETWORKS["small"]
    block = largest_block(network, memory_bytes=1e15, maximum=(5000,) * 3)
    assert 0.95 * 2**31 < network.num_fmaps * math.prod(block) < 2**31


def test_a_network_that_does_not_fit_at_all_is_refused():
    message = r"a block of \(12, 12, 12\) voxels, the smallest that the network can make, takes 1\d\d\d MB, but 1000 MB"
    with pytest.raises(UserError, match=message):
        largest_block(NETWORKS["fib25"], memory_bytes=1e9, maximum=(100, 100, 100))
