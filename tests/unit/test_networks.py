"""The networks are those of the paper, and their features lie where the shape arithmetic says."""

import pytest
import torch

from lsdflow.errors import UserError
from lsdflow.networks import NETWORKS, NetworkSettings, ResidualUNet, UNet, build_network, crop


def count_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "millions"), [("fib25", 263.7), ("hemibrain", 263.7), ("zebrafinch", 95.9)])
def test_parameters_of_the_paper(name, millions):
    with torch.device("meta"):
        network = build_network(NETWORKS[name], 1)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.05)


def test_parameters_of_a_two_level_unet_by_hand():
    # One 3³ convolution a → b has 27 a b + b parameters, a transposed one with kernel 2³ 8 a b + b.
    # left: 1 → 2 → 2, 2 → 6 → 6; up: 6 → 2; right: (2 skipped + 2 up) 4 → 2 → 2.
    conv = [(1, 2), (2, 2), (2, 6), (6, 6), (4, 2), (2, 2)]
    expected = sum(27 * a * b + b for a, b in conv) + 8 * 6 * 2 + 2
    assert count_parameters(UNet(1, 2, 3, [(2, 2, 2)])) == expected


def test_levels_widen_by_the_factor_and_the_top_right_one_as_asked():
    with torch.device("meta"):
        network = UNet(1, 12, 6, NETWORKS["fib25"].downsample_factors, num_fmaps_out=14)
    assert [conv[2].out_channels for conv in network.left] == [12, 72, 432, 2592]
    assert [conv[2].out_channels for conv in network.right] == [14, 72, 432]
    assert [up[0].out_channels for up in network.up] == [12, 72, 432]
    assert network.out_channels == 14


@pytest.mark.parametrize(
    ("factors", "input_shape"),
    [
        ([], (9, 10, 11)),
        ([(2, 2, 2)], (18, 20, 24)),
        ([(1, 3, 3)], (13, 25, 28)),
        ([(1, 2, 2), (2, 2, 2)], (26, 44, 48)),
    ],
)
def test_forward_pass_has_the_shape_that_was_promised(factors, input_shape):
    network = UNet(2, 2, 2, factors)
    features = network(torch.zeros(1, 2, *input_shape))
    expected = NetworkSettings("unet", 2, 2, tuple(factors)).output_shape(input_shape)
    assert tuple(features.shape) == (1, 2, *expected)
    assert network.output_shape(input_shape) == expected


@pytest.mark.parametrize("factors", [[], [(1, 2, 2)], [(1, 2, 2), (2, 2, 2)]])
def test_residual_network_keeps_the_shape(factors):
    network = ResidualUNet(3, 4, 2, factors)
    assert tuple(network(torch.zeros(2, 3, 4, 8, 12)).shape) == (2, 4, 4, 8, 12)
    assert network.output_shape((4, 8, 12)) == (4, 8, 12)


@pytest.mark.parametrize("name", ["small", "medium", "small_anisotropic"])
def test_named_residual_networks_run(name):
    network = build_network(NETWORKS[name], 1)
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape[2:] == (8, 8, 8)


def test_network_refuses_what_it_cannot_take():
    with pytest.raises(UserError, match="cannot take an input of 19 voxels along z"):
        UNet(1, 2, 2, [(2, 2, 2)]).output_shape((19, 18, 18))
    with pytest.raises(UserError, match="cannot take an input of 7 voxels along x"):
        ResidualUNet(1, 2, 2, [(2, 2, 2)]).output_shape((8, 8, 7))


def copying(network):
    """Set the weights of a `UNet` so that every convolution hands on its first channel, and nothing comes up."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for conv_pass in [*network.left, *network.right]:
            for conv in (conv_pass[0], conv_pass[2]):
                conv.weight[0, 0, 1, 1, 1] = 1
    return network


@pytest.mark.parametrize(
    ("factors", "shape"), [([(2, 2, 2)], (18, 20, 22)), ([(1, 3, 3)], (13, 25, 28)), ([(1, 2, 2)] * 2, (21, 44, 48))]
)
def test_output_is_about_the_centre_of_the_input(factors, shape):
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    network = copying(UNet(1, 2, 2, factors))
    features = network(x)
    assert torch.equal(features[:, :1], crop(x, network.output_shape(shape)))


def test_up_path_puts_every_voxel_back_to_its_place():
    # The skip is silent; the deep path pools 2³ voxels and writes the maximum back to the same eight.
    network = copying(UNet(1, 1, 1, [(2, 2, 2)]))
    with torch.no_grad():
        network.up[0][0].weight[0, 0] = 1
        network.right[0][0].weight.zero_()
        network.right[0][0].weight[0, 1, 1, 1, 1] = 1
    x = torch.rand(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    # Two voxels are lost to the first pass, so pools begin at odd pairs: 2, 4, ...
    pooled = torch.nn.functional.max_pool3d(x[..., 2:-2, 2:-2, 2:-2], 2)
    expected = pooled.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    assert torch.equal(network(x), crop(expected, network.output_shape((20, 20, 20))))


def test_unet_commutes_with_shifts_by_its_factors():
    torch.manual_seed(1)
    network = UNet(1, 2, 2, [(2, 2, 2)]).double()
    x = torch.rand(1, 1, 22, 20, 22, dtype=torch.float64)
    whole, part = network(x), network(x[..., 2:, :, 2:])
    torch.testing.assert_close(part, whole[..., 2:, :, 2:], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "to", "begin"), [(6, 4, 1), (7, 4, 1), (5, 4, 0), (4, 4, 0)])
def test_crop_takes_the_centre_the_lower_one_if_there_are_two(length, to, begin):
    x = torch.arange(length, dtype=torch.float32).expand(1, 1, 2, 3, length)
    assert crop(x, (2, 3, to))[0, 0, 0, 0].tolist() == list(range(begin, begin + to))
