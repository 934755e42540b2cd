"""A setup is data: channels, heads and inputs follow from it, and every input lies on the same voxels."""

import numpy as np
import pytest
import torch
from torch import nn

from lsdflow.errors import UserError
from lsdflow.network_shapes import N_LSDS
from lsdflow.networks import NETWORKS, NetworkSettings, crop
from lsdflow.setups import MalisSettings, Pipeline, Setup, SetupNetwork, in_channels, quantise, setup_from

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
VALID = NetworkSettings("unet", 2, 2, ((2, 2, 2),))
VALID_BY_3 = NetworkSettings("unet", 2, 2, ((1, 3, 3),))
PADDED = NetworkSettings("residual_unet", 2, 2, ((2, 2, 2),))
PLAIN = NetworkSettings("unet", 2, 2, ())


def make_setup(name, inputs=("raw",), outputs=("affinities",), network=VALID, offsets=NEAREST, **options):
    return Setup(name, tuple(inputs), tuple(outputs), network, offsets, **options)


def make_pipeline(setup, frozen=()):
    frozen = {pipeline.setup.name: pipeline for pipeline in frozen}
    channels = in_channels(setup, {name: pipeline.setup for name, pipeline in frozen.items()})
    return Pipeline(setup, SetupNetwork(setup, channels), frozen)


def test_channels_follow_from_inputs_and_offsets():
    lsd = make_setup("lsd", outputs=["lsds"])
    mtlsd = make_setup("mtlsd", outputs=["affinities", "lsds"], offsets=NEAREST * 4)
    setups = {"lsd": lsd, "mtlsd": mtlsd}
    assert (lsd.channels("lsds"), mtlsd.channels("affinities")) == (10, 12)
    assert in_channels(lsd, {}) == 1
    assert in_channels(make_setup("aclsd", ["lsd.lsds"]), setups) == 10
    assert in_channels(make_setup("acrlsd", ["raw", "lsd.lsds"]), setups) == 11
    assert in_channels(make_setup("both", ["raw", "mtlsd.lsds", "mtlsd.affinities"]), setups) == 1 + 10 + 12


def test_each_input_setup_is_named_once_in_order():
    setup = make_setup("x", ["raw", "b.lsds", "a.affinities", "b.affinities"])
    assert setup.input_setups == ("b", "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ["distances"]}, "setup 'x': there is no output 'distances'; affinities, lsds exist"),
        ({"losses": {"lsd": "mse"}}, "setup 'x': there is no output 'lsd'"),
        ({"loss_weights": {"lsd": 2.0}}, "setup 'x': there is no output 'lsd'"),
        (
            {"losses": {"affinities": "malice"}},
            "setup 'x': there is no loss 'malice' of affinities; mse, bce, malis",
        ),
        ({"losses": {"lsds": "malis"}}, "setup 'x': there is no loss 'malis' of lsds; mse, bce exist"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        make_setup("x", **options)


def test_setup_from_plain_values():
    entry = {
        "inputs": ["raw"],
        "outputs": ["affinities", "lsds"],
        "network": {
            "architecture": "unet",
            "num_fmaps": 2,
            "fmap_inc_factor": 2,
            "downsample_factors": [[2, 2, 2]],
        },
        "distances": [1, [3, 5, 5]],
        "losses": {"affinities": "bce"},
        "loss_weights": {"lsds": 2.0},
        "malis": {"after": 7, "shape": [32, 48, 48], "relabel": False},
    }
    setup = setup_from("mine", entry)
    assert setup.network == VALID
    assert setup.offsets == (*NEAREST, (-3, 0, 0), (0, -5, 0), (0, 0, -5))
    assert setup.losses == {"affinities": "bce"} and setup.loss_weights == {"lsds": 2.0}
    assert setup.malis == MalisSettings(7, (32, 48, 48), False)


def test_multi_task_network_of_the_paper_has_14_maps_at_its_top_right():
    mtlsd = make_setup("mtlsd", outputs=["affinities", "lsds"], network=NETWORKS["fib25"])
    with torch.device("meta"):
        assert SetupNetwork(mtlsd, 1).body.out_channels == 14
        # One task leaves the 12 of the network, even with 12 affinities.
        long_range = make_setup("long_range", network=NETWORKS["fib25"], offsets=NEAREST * 4)
        assert SetupNetwork(long_range, 1).body.out_channels == 12


def test_network_predicts_each_output_between_0_and_1():
    setup = make_setup("mtlsd", outputs=["affinities", "lsds"])
    predictions = SetupNetwork(setup, 1)(torch.randn(2, 1, 18, 20, 22))
    assert {name: tuple(p.shape) for name, p in predictions.items()} == {
        "affinities": (2, 3, 2, 4, 6),
        "lsds": (2, 10, 2, 4, 6),
    }
    assert all(0 <= float(p.detach().min()) and float(p.detach().max()) <= 1 for p in predictions.values())


def test_quantised_predictions_are_multiples_of_255_rounded_down():
    values = torch.tensor([0.0, 0.5, 0.99999, 1.0, 1 / 255])
    assert quantise(values).dtype == torch.uint8
    assert quantise(values).tolist() == np.floor(values.numpy() * 255).tolist() == [0, 127, 254, 255, 1]


class Copier(nn.Module):
    """Predicts its first input channel, scaled back to [0, 1], in every LSD channel: shows where a net looked."""

    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    def forward(self, x):
        copy = crop((x[:, :1] + 1) / 2, self.settings.output_shape(x.shape[2:]))
        return {"lsds": copy.expand(-1, N_LSDS, -1, -1, -1)}


def copying_pipeline(name, network):
    setup = make_setup(name, outputs=["lsds"], network=network)
    return Pipeline(setup, Copier(network), {})


def grey(shape):
    """Random raw voxels in [−1, 1], each in the middle of one of the 255 steps of a stored prediction."""
    steps = torch.randint(0, 255, (1, 1, *shape), generator=torch.Generator().manual_seed(0))
    return (steps + 0.5) / 255 * 2 - 1


def assert_on_the_same_voxels(inputs):
    raw, lsds = inputs[:, :1], inputs[:, 1:]
    assert torch.equal(torch.floor((raw + 1) / 2 * 255).expand_as(lsds), torch.round(lsds * 255))


FROZEN_AND_OWN = [
    (VALID, VALID, (18, 20, 24)),
    (VALID, PADDED, (8, 10, 12)),
    (PADDED, VALID, (18, 18, 18)),
    (PADDED, PADDED, (4, 6, 8)),
    # Odd differences between what is made and what is needed.
    (VALID, VALID_BY_3, (9, 25, 28)),
    (PADDED, VALID_BY_3, (9, 25, 31)),
]


@pytest.mark.parametrize(("frozen", "own", "shape"), FROZEN_AND_OWN)
@pytest.mark.parametrize("more", [0, 1, 2])
def test_raw_and_frozen_predictions_lie_on_the_same_voxels(frozen, own, shape, more):
    setup = make_setup("acrlsd", ["raw", "lsd.lsds"], network=own)
    pipeline = make_pipeline(setup, [copying_pipeline("lsd", frozen)])
    raw_shape = [n + more for n in pipeline.raw_shape(shape)]
    raw = grey(raw_shape)
    inputs = pipeline.inputs(raw, shape)
    assert tuple(inputs.shape) == (1, 11, *shape)
    assert torch.equal(inputs[:, :1], crop(raw, shape))
    assert_on_the_same_voxels(inputs)


@pytest.mark.parametrize("shape", [(9, 25, 28), (10, 25, 25)])
def test_two_frozen_setups_of_other_shapes_lie_on_the_same_voxels(shape):
    frozen = [copying_pipeline("a", VALID), copying_pipeline("b", PADDED), copying_pipeline("c", VALID_BY_3)]
    setup = make_setup("x", ["raw", "a.lsds", "b.lsds", "c.lsds"], network=VALID_BY_3)
    pipeline = make_pipeline(setup, frozen)
    inputs = pipeline.inputs(grey(pipeline.raw_shape(shape)), shape)
    assert inputs.shape[1] == 31
    assert_on_the_same_voxels(inputs)


class ChainedCopier(Copier):
    """As `Copier`, of the second input channel, which is a stored prediction in [0, 1]."""

    def forward(self, x):
        return super().forward(x[:, 1:] * 2 - 1)


@pytest.mark.parametrize("output_shape", [(6, 7, 9), (5, 11, 17)])
@pytest.mark.parametrize(
    "networks",
    [
        (VALID, PADDED, VALID_BY_3),
        (PADDED, VALID_BY_3, VALID),
        (VALID_BY_3, VALID, PADDED),
        # Along y, inputs of 15, 16 and 37 voxels: two odd differences in a row.
        (VALID_BY_3, PADDED, PLAIN),
    ],
)
def test_chain_of_three_setups_lies_on_the_same_voxels(networks, output_shape):
    first = copying_pipeline("first", networks[0])
    second_setup = make_setup("second", ["raw", "first.lsds"], ["lsds"], network=networks[1])
    second = Pipeline(second_setup, ChainedCopier(networks[1]), {"first": first})
    third = make_pipeline(make_setup("third", ["raw", "second.lsds"], network=networks[2]), [second])
    shape = networks[2].covering_input_shape(output_shape)
    inputs = third.inputs(grey(third.raw_shape(shape)), shape)
    raw, lsds = inputs[:, :1], inputs[:, 1:]
    # Quantised twice, a step may be lost to rounding; neighbouring voxels differ by more.
    assert float((torch.floor((raw + 1) / 2 * 255) - torch.round(lsds * 255)).abs().max()) <= 1


def test_raw_crop_of_the_papers_auto_context_nets():
    lsd = make_setup("lsd", outputs=["lsds"], network=NETWORKS["fib25"])
    acrlsd = make_setup("acrlsd", ["raw", "lsd.lsds"], network=NETWORKS["fib25"])
    pipeline = Pipeline(acrlsd, None, {"lsd": Pipeline(lsd, None, {})})
    assert pipeline.raw_shape((196, 196, 196)) == (304, 304, 304)
    assert Pipeline(lsd, None, {}).raw_shape((196, 196, 196)) == (196, 196, 196)


def test_frozen_predictions_are_seen_as_they_will_be_stored():
    lsd = make_pipeline(make_setup("lsd", outputs=["lsds"]))
    aclsd = make_pipeline(make_setup("aclsd", ["lsd.lsds"]), [lsd])
    raw = torch.randn(1, 1, *aclsd.raw_shape((18, 18, 18)), generator=torch.Generator().manual_seed(0))
    inputs = aclsd.inputs(raw, (18, 18, 18))
    stored = quantise(lsd.network(raw)["lsds"])
    assert torch.equal(inputs * 255, crop(stored, (18, 18, 18)).float())


def test_frozen_weights_get_no_gradient():
    lsd = make_pipeline(make_setup("lsd", outputs=["lsds"]))
    acrlsd = make_pipeline(make_setup("acrlsd", ["raw", "lsd.lsds"]), [lsd])
    inputs = acrlsd.inputs(torch.randn(1, 1, *acrlsd.raw_shape((18, 18, 18))), (18, 18, 18))
    acrlsd.network(inputs)["affinities"].sum().backward()
    assert all(p.grad is None for p in lsd.network.parameters())
    assert all(p.grad is not None for p in acrlsd.network.parameters())


def test_frozen_networks_keep_nothing_for_a_gradient():
    lsd = make_pipeline(make_setup("lsd", outputs=["lsds"]))
    has_graph = []
    lsd.network.register_forward_hook(lambda module, inputs, outputs: has_graph.append(outputs["lsds"].requires_grad))
    aclsd = make_pipeline(make_setup("aclsd", ["lsd.lsds"]), [lsd])
    aclsd.inputs(torch.zeros(1, 1, *aclsd.raw_shape((18, 18, 18))), (18, 18, 18))
    assert has_graph == [False]
