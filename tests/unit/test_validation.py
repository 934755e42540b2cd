"""A validation scores a network on the middle of its region, predicted as volumes are."""

import numpy as np
import pytest
import torch
from torch import nn

from lsdflow.affinities import affinities, grow_boundary
from lsdflow.lsd import local_shape_descriptors
from lsdflow.network_shapes import NetworkSettings
from lsdflow.sampling import TargetSettings
from lsdflow.setups import Pipeline, Setup, SetupNetwork
from lsdflow.training import losses_of
from lsdflow.validation import Validator, block_of, centre_of, whole_batch
from lsdflow.volumes import Roi, Volume

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
VALID = NetworkSettings("unet", 2, 2, ((2, 2, 2),))
PADDED = NetworkSettings("residual_unet", 4, 2, ((1, 2, 2),))
TARGETS = TargetSettings(30.0)
CPU = torch.device("cpu")
REGION = Roi((4, 2, 0), (28, 34, 36))
CROP = (8, 12, 12)


def volumes():
    """Four columns whose grey values tell the label, with dark walls."""
    labels = np.zeros((36, 36, 36), np.uint64)
    labels[:, :18, :18], labels[:, 18:, :18], labels[:, :18, 18:], labels[:, 18:, 18:] = 1, 2, 3, 4
    return Volume((grow_boundary(labels, 1) * 60).astype(np.uint8), (10.0,) * 3), Volume(labels, (10.0,) * 3)


def pipeline_of(network, outputs=("affinities", "lsds")):
    setup = Setup("mtlsd", ("raw",), outputs, network, NEAREST)
    torch.manual_seed(0)
    return Pipeline(setup, SetupNetwork(setup, 1), {})


def validator_of(pipeline, shape=(12, 20, 20)):
    def loss(predictions, batch):
        return losses_of(pipeline.setup, predictions, batch, 0)

    return Validator(pipeline, *volumes(), centre_of(REGION, shape), loss, targets=TARGETS, crop_shape=CROP)


class Reader(nn.Module):
    """Reads true affinities off the grey values, voxel by voxel; or answers 1 everywhere."""

    def __init__(self, network, is_right=True):
        super().__init__()
        self.network, self.is_right = network, is_right

    def forward(self, x):
        margin = [(n - m) // 2 for n, m in zip(x.shape[2:], self.network.output_shape(x.shape[2:]), strict=True)]
        inner = (slice(None), *(slice(m, n - m) for m, n in zip(margin, x.shape[2:], strict=True)))
        found = []
        for crop in x:
            labels = torch.round((crop[0] + 1) / 2 * 255 / 60).to(torch.int64).numpy()
            found.append(affinities(labels, NEAREST)[inner])
        answer = torch.from_numpy(np.stack(found)).float()
        return {"affinities": answer if self.is_right else torch.ones_like(answer)}


@pytest.mark.parametrize("shape", [(10, 12, 14), (9, 100, 100)])
def test_piece_is_the_middle_of_its_region_with_targets_of_its_labels(shape):
    raw, labels = volumes()
    box = centre_of(REGION, shape)
    assert box.shape == tuple(min(s, n) for s, n in zip(shape, REGION.shape, strict=True))
    for low, high, begin, end in zip(box.begin, box.end, REGION.begin, REGION.end, strict=True):
        assert begin <= low and high <= end and abs((low - begin) - (end - high)) <= 1
    batch = whole_batch(pipeline_of(VALID).setup, raw, labels, box, TARGETS)
    grown = grow_boundary(labels.read(box), 1)
    np.testing.assert_array_equal(batch.labels[0], grown)
    np.testing.assert_array_equal(batch.targets["affinities"][0], affinities(grown, NEAREST))
    np.testing.assert_array_equal(batch.targets["lsds"][0], local_shape_descriptors(grown, 30.0, 10.0))
    np.testing.assert_allclose((batch.raw[0, 0] + 1) / 2 * 255, raw.read(box), atol=1e-4)


@pytest.mark.parametrize("network", [VALID, PADDED])
@pytest.mark.parametrize("crop", [(8, 12, 12), (1, 5, 7)])
def test_blocks_suit_the_network(network, crop):
    block, context = block_of(network, crop)
    for length, margin, period, size in zip(block, context, network.period, crop, strict=True):
        assert length % period == 0 and (length <= size or length == period)
        assert margin % period == 0 and margin >= (8 if network.is_padded else 0)


@pytest.mark.parametrize("network", [VALID, PADDED])
def test_right_predictions_score_best_and_wrong_ones_worse(network):
    validator = validator_of(pipeline_of(network, ("affinities",)))
    scores = validator(Reader(network), CPU)
    # At the near faces of the piece an affinity reaches beyond it; there the targets do not count.
    assert scores["loss"] == pytest.approx(0, abs=1e-6)
    assert scores["voi_sum"] == pytest.approx(0, abs=0.1)
    worse = validator(Reader(network, is_right=False), CPU)
    assert worse["loss"] > 0.1
    assert worse["voi_merge"] == pytest.approx(2, abs=0.05)  # four columns of equal size in one segment
    assert worse["voi_sum"] == pytest.approx(worse["voi_split"] + worse["voi_merge"])


def test_network_is_scored_as_it_predicts_and_goes_on_training():
    pipeline = pipeline_of(PADDED)
    pipeline.network.train()
    scores = validator_of(pipeline)(pipeline.network, CPU)
    assert pipeline.network.training and set(scores) == {"loss", "voi_split", "voi_merge", "voi_sum", "threshold"}


def test_setup_without_affinities_has_a_loss_only():
    pipeline = pipeline_of(VALID, ("lsds",))
    assert set(validator_of(pipeline)(pipeline.network, CPU)) == {"loss"}


@pytest.mark.parametrize("network", [VALID, NetworkSettings("residual_unet", 2, 2, ((3, 3, 3),))])
def test_frozen_networks_may_have_another_period(network):
    lsd, seen = pipeline_of(network, ("lsds",)), Setup("aclsd", ("mtlsd.lsds",), ("affinities",), PADDED, NEAREST)
    pipeline = Pipeline(seen, SetupNetwork(seen, 10), {"mtlsd": lsd})
    assert validator_of(pipeline)(pipeline.network, CPU)["loss"] > 0


def test_what_the_mask_leaves_out_is_no_truth():
    setup = pipeline_of(VALID).setup
    raw, labels = volumes()
    mask = Volume(np.ones(labels.shape_zyx, np.uint8), labels.voxel_size)
    mask.data[:, :, 20:] = 0
    box = centre_of(REGION, (10, 12, 14))
    batch = whole_batch(setup, raw, labels, box, TARGETS, mask)
    edge = 20 - box.begin[2]
    assert not batch.weights["affinities"][..., edge:].any()
    assert not batch.weights["affinities"][0, 2, ..., edge].any() and batch.weights["affinities"][..., 1:edge].any()
    assert batch.weights["lsds"][..., edge:].all()


def test_frozen_networks_are_seen():
    lsd, seen = pipeline_of(VALID, ("lsds",)), Setup("aclsd", ("mtlsd.lsds",), ("affinities",), PADDED, NEAREST)
    lsd.network.eval().requires_grad_(False)
    torch.manual_seed(1)
    pipeline = Pipeline(seen, SetupNetwork(seen, 10), {"mtlsd": lsd})
    validator = validator_of(pipeline)
    first = validator(pipeline.network, CPU)["loss"]
    lsd.network.heads["lsds"].bias.data += 2
    assert validator(pipeline.network, CPU)["loss"] == first, "frozen networks predict once"
    assert validator_of(pipeline)(pipeline.network, CPU)["loss"] != first
