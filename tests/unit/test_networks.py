"""The networks are those of the paper, and their features lie where the shape arithmetic says."""

import pytest
import torch
import torch.nn.functional as F

from lsdflow.errors import UserError
from lsdflow.network_layers import LAYERS
from lsdflow.network_shapes import LENGTHS
from lsdflow.networks import (
    ARCHITECTURES,
    NETWORKS,
    CicekUNet,
    NetworkSettings,
    ResidualUNet,
    UNet,
    build_network,
    crop,
)


def count_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_every_architecture_has_its_arithmetic():
    assert ARCHITECTURES.keys() == LENGTHS.keys() == LAYERS.keys()


@pytest.mark.parametrize(
    ("name", "count", "millions"),
    [("fib25", 263_722_488, 263.7), ("hemibrain", 263_722_488, 263.7), ("zebrafinch", 95_853_456, 95.9)],
)
def test_parameters_of_the_paper(name, count, millions):
    with torch.device("meta"):
        network = build_network(NETWORKS[name], 1)
    assert count_parameters(network) == count
    assert round(count / 1e6, 1) == millions


def test_parameters_of_the_3d_unet_as_its_paper_counts_them():
    # Weights of all convolutions, the up-convolutions too, and a bias for each map of the 3³ and of the last ones. What
    # is left over are the scales of the normalisations.
    with torch.device("meta"):
        body = build_network(NETWORKS["cicek"], 3)
        head = torch.nn.Conv3d(body.out_channels, 3, 1)
        assert tuple(body(torch.empty(1, 3, 116, 132, 132)).shape) == (1, 64, 28, 44, 44)
    norms = [module for module in body.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    scales = sum(norm.weight.numel() for norm in norms)
    assert count_parameters(body) + count_parameters(head) - scales == 19_069_955
    assert scales == sum([32, 64, 64, 128, 128, 256, 256, 512, 256, 256, 128, 128, 64, 64]) == 2336
    assert body.output_shape((116, 132, 132)) == (28, 44, 44)


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


@pytest.mark.parametrize("name", ["small", "medium", "small_anisotropic", "medium_anisotropic"])
def test_named_residual_networks_run(name):
    network = build_network(NETWORKS[name], 1)
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape[2:] == (8, 8, 8)


def test_small_network_has_the_parameters_that_its_checkpoints_hold():
    def body(channels):
        return {
            "0.weight": (channels, channels, 3, 3, 3),
            "1.weight": (channels,),
            "1.bias": (channels,),
            "3.weight": (channels, channels, 3, 3, 3),
            "4.weight": (channels,),
            "4.bias": (channels,),
        }

    expected = {"stem.0.weight": (8, 1, 3, 3, 3), "stem.1.weight": (8,), "stem.1.bias": (8,)}
    for level, (above, channels) in enumerate([(8, 16), (16, 32)]):
        expected[f"down.{level}.0.weight"] = (channels, above, 2, 2, 2)
        expected |= {f"down.{level}.1.{name}": (channels,) for name in ("weight", "bias")}
        expected |= {f"down.{level}.3.body.{name}": shape for name, shape in body(channels).items()}
    for level, (channels, below) in enumerate([(8, 16), (16, 32)]):
        expected[f"up.{level}.weight"] = (below, channels, 2, 2, 2)
        expected[f"up.{level}.bias"] = (channels,)
    expected |= {f"merge.0.body.{name}": shape for name, shape in body(16).items()}
    expected |= {"top.0.weight": (8, 8, 3, 3, 3), "top.1.weight": (8,), "top.1.bias": (8,)}
    held = build_network(NETWORKS["small"], 1).state_dict()
    # In this order, too: from the same seed come the same weights.
    assert [(name, tuple(values.shape)) for name, values in held.items()] == list(expected.items())


def test_kernels_stay_within_sections_where_the_step_down_does():
    with torch.device("meta"):
        network = build_network(NETWORKS["medium_anisotropic"], 1)

    def kernels(module):
        return [m.kernel_size for m in module.modules() if isinstance(m, torch.nn.Conv3d)]

    flat, cube, doubled = (1, 3, 3), (3, 3, 3), (2, 2, 2)
    assert (kernels(network.stem), kernels(network.top)) == ([flat], [cube])
    assert [kernels(down) for down in network.down] == [
        [(1, 2, 2), flat, cube],
        [(1, 2, 2), cube, cube],
        [doubled, cube, cube],
    ]
    assert [kernels(merge) for merge in network.merge] == [[flat, cube], [cube, cube]]
    assert kernels(build_network(NETWORKS["small"], 1)).count(cube) == 8


def randomised(network, seed=0):
    """All numbers of the network, running means and all, drawn anew, so that none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in network.state_dict().values():
            if values.is_floating_point():
                values.copy_(torch.rand(values.shape, generator=generator) * 0.4 + 0.1)
        for parameter in network.parameters():
            parameter.sub_(0.25)
    return network


def joined(skip, x):
    """``x`` behind the centre of ``skip``."""
    begin = [(n - m) // 2 for n, m in zip(skip.shape[2:], x.shape[2:], strict=True)]
    for axis, b in enumerate(begin):
        skip = skip.narrow(2 + axis, b, x.shape[2 + axis])
    return torch.cat([skip, x], 1)


def test_unet_is_that_of_the_paper_step_by_step():
    network = randomised(UNet(2, 2, 3, [(2, 2, 2), (1, 2, 2)], num_fmaps_out=4)).double()
    p = network.state_dict()

    def two(x, name):
        for index in (0, 2):
            x = F.relu(F.conv3d(x, p[f"{name}.{index}.weight"], p[f"{name}.{index}.bias"]))
        return x

    def up(x, name, factor):
        return F.relu(F.conv_transpose3d(x, p[f"{name}.0.weight"], p[f"{name}.0.bias"], stride=factor))

    x = torch.rand(1, 2, 36, 44, 44, dtype=torch.float64)
    top = two(x, "left.0")
    middle = two(F.max_pool3d(top, 2), "left.1")
    bottom = two(F.max_pool3d(middle, (1, 2, 2)), "left.2")
    middle = two(joined(middle, up(bottom, "up.1", (1, 2, 2))), "right.1")
    expected = two(joined(top, up(middle, "up.0", 2)), "right.0")
    found = network(x)
    assert found.shape[1] == 4 and found.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_3d_unet_is_that_of_its_paper_step_by_step(training):
    network = randomised(CicekUNet(3, 2, 2, [(2, 2, 2)])).double().train(training)
    p = {name: values.clone() for name, values in network.state_dict().items()}
    assert p["left.0.0.weight"].shape[:2] == (2, 3) and p["left.0.3.weight"].shape[:2] == (4, 2)
    assert p["left.1.0.weight"].shape[:2] == (4, 4) and p["left.1.3.weight"].shape[:2] == (8, 4)
    assert p["up.0.weight"].shape[:2] == (8, 8) and p["right.0.0.weight"].shape[:2] == (4, 12)

    def normalised(x, name):
        mean, variance = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        if training:
            # The batch is a single one: means are those over its voxels.
            mean, variance = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
        column = (1, -1, 1, 1, 1)
        x = (x - mean.view(column)) / (variance.view(column) + 1e-5).sqrt()
        return x * p[f"{name}.weight"].view(column) + p[f"{name}.bias"].view(column)

    def two(x, name):
        for index in (0, 3):
            x = F.relu(normalised(F.conv3d(x, p[f"{name}.{index}.weight"]), f"{name}.{index + 1}"))
        return x

    x = torch.rand(1, 3, 20, 22, 20, dtype=torch.float64)
    top = two(x, "left.0")
    bottom = two(F.max_pool3d(top, 2), "left.1")
    expected = two(joined(top, F.conv_transpose3d(bottom, p["up.0.weight"], stride=2)), "right.0")
    found = network(x)
    assert tuple(found.shape) == (1, 4, 4, 6, 4) and found.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("with_gradient", [True, False])
def test_residual_network_step_by_step(with_gradient):
    network = randomised(ResidualUNet(2, 3, 2, [(1, 2, 2), (2, 2, 2)])).double()
    p = network.state_dict()

    def conv(x, name):
        weight = p[f"{name}.weight"]
        return F.conv3d(x, weight, padding=tuple(n // 2 for n in weight.shape[2:]))

    def norm(x, name):
        return F.group_norm(x, 1, p[f"{name}.weight"], p[f"{name}.bias"])

    def block(x, name):
        inner = F.relu(norm(conv(x, f"{name}.body.0"), f"{name}.body.1"))
        return F.relu(x + norm(conv(inner, f"{name}.body.3"), f"{name}.body.4"))

    def down(x, name, factor):
        x = F.conv3d(x, p[f"{name}.0.weight"], stride=factor)
        return block(F.relu(norm(x, f"{name}.1")), f"{name}.3")

    def up(x, name, factor):
        return F.conv_transpose3d(x, p[f"{name}.weight"], p[f"{name}.bias"], stride=factor)

    x = torch.rand(2, 2, 4, 8, 12, dtype=torch.float64)
    original = x.clone()
    top = F.relu(norm(conv(x, "stem.0"), "stem.1"))
    middle = down(top, "down.0", (1, 2, 2))
    bottom = down(middle, "down.1", 2)
    middle = block(F.relu(middle + up(bottom, "up.1", 2)), "merge.0")
    expected = F.relu(norm(conv(F.relu(top + up(middle, "up.0", (1, 2, 2))), "top.0"), "top.1"))
    # Without a gradient, sums are written over what they add.
    with torch.set_grad_enabled(with_gradient):
        found = network(x)
    assert found.std() > 0
    torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(x, original)


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


@pytest.mark.parametrize("architecture", ["unet", "unet_cicek"])
def test_valid_networks_commute_with_shifts_by_their_period_and_no_others(architecture):
    settings = NetworkSettings(architecture, 2, 2, ((1, 2, 2), (1, 2, 1)))
    assert settings.period == (1, 4, 2)
    network = randomised(build_network(settings, 1)).double().eval()
    x = torch.rand(1, 1, *settings.covering_input_shape((3, 9, 5)), dtype=torch.float64)
    whole, part = network(x), network(x[..., 1:, 4:, 2:])
    torch.testing.assert_close(part, whole[..., 1:, 4:, 2:], rtol=0, atol=1e-12)
    # Two voxels along y are half of the period: pools begin elsewhere.
    between = network(x[..., 2:-2, :])
    assert (between - whole[..., 2:-2, :]).abs().max() > 1e-6


@pytest.mark.parametrize(("length", "to", "begin"), [(6, 4, 1), (7, 4, 1), (5, 4, 0), (4, 4, 0)])
def test_crop_takes_the_centre_the_lower_one_if_there_are_two(length, to, begin):
    x = torch.arange(length, dtype=torch.float32).expand(1, 1, 2, 3, length)
    assert crop(x, (2, 3, to))[0, 0, 0, 0].tolist() == list(range(begin, begin + to))
