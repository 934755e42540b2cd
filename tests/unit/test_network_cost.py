"""The count of operations is PyTorch's own, to the last digit, and that of the paper."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lsdflow.affinities import offsets_on_axes
from lsdflow.errors import UserError
from lsdflow.network_cost import NetworkPass, flop_per_voxel, forward_flop
from lsdflow.network_shapes import NETWORKS, NetworkSettings
from lsdflow.setups import Setup, SetupNetwork

ZEBRAFINCH = NETWORKS["zebrafinch"]
# The blocks of the paper's predictions: 96 × 484 × 484 voxels in, 60 × 272 × 272 out.
PREDICTED = (96, 484, 484)
NEAREST = tuple(offsets_on_axes([1]))


def counted(network: torch.nn.Module, in_channels, input_shape):
    """Operations of a forward pass as PyTorch counts them while the network runs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, in_channels, *input_shape, device="meta"))
    return counter.get_total_flops()


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


@pytest.mark.parametrize("name", ["small", "medium", "small_anisotropic", "fib25"])
def test_other_named_networks_count_as_in_pytorch(name):
    shape = (196, 196, 196) if name == "fib25" else (32, 40, 48)
    network = setup_network(NETWORKS[name], ("affinities",), 1)
    assert forward_flop(NetworkPass(NETWORKS[name], shape)) == counted(network, 1, shape)


@settings(max_examples=30, deadline=None)
@given(
    architecture=st.sampled_from(["unet", "residual_unet"]),
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
