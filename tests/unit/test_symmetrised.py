"""A network that says the truth says the same of turned volumes, and averages are over all of them."""

import numpy as np
import pytest
import torch
from torch import nn

from lsdflow.affinities import affinities, offsets_on_axes
from lsdflow.augment import Symmetry, symmetries
from lsdflow.errors import UserError
from lsdflow.lsd import local_shape_descriptors, transform_descriptors
from lsdflow.network_inputs import NetworkInput
from lsdflow.network_shapes import NetworkSettings
from lsdflow.networks import crop
from lsdflow.prediction import BlockPredictor, predict_whole
from lsdflow.symmetrised import check_offsets, symmetries_of, transform, transform_affinities, transform_lsds
from lsdflow.volumes import Roi, Volume

VOXEL_SIZE = (10.0, 10.0, 10.0)
NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
DIAGONAL = ((0, -1, -2), (0, -2, -1), (0, 1, -2), (0, 2, -1))
OFFSETS = (*NEAREST, (-3, 0, 0), (0, 2, 0), (0, 0, -2), *DIAGONAL)
PADDED = NetworkSettings("residual_unet", 2, 2, ((2, 2, 2),))
VALID = NetworkSettings("unet", 2, 2, ((2, 2, 2),))
SIXTEEN = symmetries_of("all", VOXEL_SIZE)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Such small networks are fastest so, and do not wait for others that keep the second core busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def labels_of(shape, seed=0):
    """Blocky labels 0–4."""
    coarse = np.random.default_rng(seed).integers(0, 5, [-(-n // 3) for n in shape])
    for axis in range(3):
        coarse = coarse.repeat(3, axis)
    return coarse[tuple(slice(0, n) for n in shape)].astype(np.uint8)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))[None]


def test_there_are_sixteen_symmetries_where_y_and_x_agree():
    assert len(set(SIXTEEN)) == len(set(symmetries_of("all", (40, 4, 4)))) == 16
    assert all(symmetry.axes[0] == 0 for symmetry in SIXTEEN)
    assert len(symmetries_of("all", (40, 4, 5))) == len(symmetries_of("flips", VOXEL_SIZE)) == 8
    assert symmetries_of("none", VOXEL_SIZE) == [Symmetry()] == SIXTEEN[:1]


@pytest.mark.parametrize("symmetry", symmetries(VOXEL_SIZE)[::5])
def test_tensors_are_turned_as_arrays_are(symmetry):
    values = np.random.default_rng(0).random((2, 3, 4, 5))
    np.testing.assert_array_equal(transform(tensor(values), symmetry)[0].numpy(), symmetry.apply(values))


@pytest.mark.parametrize("symmetry", symmetries(VOXEL_SIZE))
def test_descriptors_are_turned_as_those_of_arrays_are(symmetry):
    lsds = local_shape_descriptors(labels_of((6, 9, 12)), 30, VOXEL_SIZE)
    expected = transform_descriptors(lsds, flips=symmetry.flips, axes=symmetry.axes)
    np.testing.assert_array_equal(transform_lsds(tensor(lsds), symmetry)[0].numpy(), expected)


@pytest.mark.parametrize("symmetry", SIXTEEN)
def test_affinities_of_turned_labels_are_the_turned_affinities(symmetry):
    labels = labels_of((7, 8, 9))
    turned, is_known = transform_affinities(tensor(affinities(labels, OFFSETS)), OFFSETS, symmetry)
    expected, known = affinities(symmetry.apply(labels), OFFSETS), is_known.numpy()
    np.testing.assert_array_equal(turned[0].numpy()[known], expected[known])
    assert not turned[0].numpy()[~known].any()
    # What is not known lies as near to a face as its offset is long, or nowhere.
    for channel, offset in enumerate(OFFSETS):
        inner = tuple(slice(abs(o), n - abs(o)) for o, n in zip(offset, known.shape[1:], strict=True))
        assert known[channel][inner].all()


def test_offsets_longer_than_the_window_are_nowhere_known():
    mirrored = Symmetry(flips=(False, False, True))
    _, is_known = transform_affinities(torch.ones(1, 1, 2, 2, 4), [(0, 0, -5)], mirrored)
    assert not is_known.any()


class Truth(nn.Module):
    """Says the true affinities and descriptors of the labels that its input encodes."""

    def __init__(self, settings, outputs, offsets=OFFSETS):
        super().__init__()
        self.settings, self.outputs, self.offsets = settings, outputs, offsets

    def forward(self, x):
        labels = ((x[:, 0].numpy() + 1) / 2 * 255).round().astype(np.uint8)
        made = {"affinities": [], "lsds": []}
        for one in labels:
            made["affinities"].append(affinities(one, self.offsets).astype(np.float32))
            if "lsds" in self.outputs:
                made["lsds"].append(local_shape_descriptors(one, 20, VOXEL_SIZE))
        shape = self.settings.output_shape(x.shape[2:])
        return {name: crop(torch.from_numpy(np.stack(made[name])), shape) for name in self.outputs}


def truths(raw, settings, chosen, roi, block_shape, context=(0, 0, 0), outputs=("affinities",), offsets=OFFSETS):
    predictor = BlockPredictor(
        Truth(settings, outputs, offsets),
        settings,
        [NetworkInput(Volume(raw, VOXEL_SIZE))],
        block_shape=block_shape,
        context=context,
        device=CPU,
        symmetries=chosen,
        offsets=offsets,
        batch_size=1,
    )
    return predict_whole(predictor, roi)


@pytest.mark.parametrize("symmetry", SIXTEEN)
def test_each_symmetry_gives_the_truth_inside(symmetry):
    raw, roi = labels_of((20, 22, 24)), Roi((6, 6, 6), (14, 14, 16))
    # With the identity alone at the faces, what the turned one cannot know is that of the other.
    found = truths(raw, PADDED, [Symmetry(), symmetry], roi, (8, 8, 10), (4, 4, 4))["affinities"]
    np.testing.assert_allclose(found, affinities(raw, OFFSETS)[(slice(None), *roi.slices)], atol=1e-3)


# A padded network's windows end where the truth goes on: only the middle of one is true.
@pytest.mark.parametrize(
    ("settings", "block_shape", "context"), [(VALID, (6, 4, 12), (0, 0, 0)), (PADDED, (10, 10, 12), (6, 6, 6))]
)
def test_the_mean_over_all_symmetries_of_the_truth_is_the_truth(settings, block_shape, context):
    raw, roi = labels_of((30, 28, 28)), Roi((8, 7, 8), (18, 17, 20))
    found = truths(raw, settings, SIXTEEN, roi, block_shape, context, ("affinities", "lsds"))
    np.testing.assert_allclose(found["affinities"], affinities(raw, OFFSETS)[(slice(None), *roi.slices)], atol=1e-3)
    # The descriptors' own window reaches further.
    inner = roi if settings is VALID else roi.grow((-2, -2, -2))
    expected = local_shape_descriptors(raw, 20, VOXEL_SIZE)[(slice(None), *inner.slices)]
    within = tuple(slice(a - b, c - b) for a, b, c in zip(inner.begin, roi.begin, inner.end, strict=True))
    np.testing.assert_allclose(found["lsds"][(slice(None), *within)], expected, atol=2e-3)


class LeftNeighbours(nn.Module):
    """Says for each voxel its grey value along z, y and x from its window's first corner: not symmetric at all."""

    def forward(self, x):
        return {"affinities": (x[:, :1] + 1) / 2 * torch.tensor([0.2, 0.5, 0.9])[:, None, None, None]}


def test_the_average_is_the_mean_of_what_is_known():
    raw, roi, offsets = labels_of((8, 8, 8)) * np.uint8(50), Roi.of_shape((8, 8, 8)), NEAREST
    chosen = [Symmetry(), Symmetry(flips=(True, False, False))]
    predictor = BlockPredictor(
        LeftNeighbours(), PADDED, [NetworkInput(Volume(raw, VOXEL_SIZE))], block_shape=(8, 8, 8), context=(0, 0, 0),
        device=CPU, symmetries=chosen, offsets=offsets,
    )  # fmt: skip
    z, y, x = predict_whole(predictor, roi)["affinities"]
    grey = raw / 255
    np.testing.assert_allclose(y, grey * 0.5, atol=1e-6)
    np.testing.assert_allclose(x, grey * 0.9, atol=1e-6)
    # Mirrored, the pair of a voxel and the one above it is stored with that one; the first section has none above.
    np.testing.assert_allclose(z[1:], (grey[1:] + grey[:-1]) / 2 * 0.2, atol=1e-6)
    np.testing.assert_allclose(z[0], grey[0] * 0.2, atol=1e-6)


class Comparison(nn.Module):
    """1 where the affinities and descriptors among the inputs are those of the labels among them."""

    def forward(self, x):
        shape = x.shape[2:]
        labels = ((x[:, 0].numpy() + 1) / 2 * 255).round().astype(np.uint8)
        is_true = []
        for one, seen in zip(labels, x.numpy(), strict=True):
            made = affinities(one, OFFSETS) == seen[1 : 1 + len(OFFSETS)]
            lsds = (local_shape_descriptors(one, 10, VOXEL_SIZE) * 255).astype(np.uint8) / np.float32(255)
            # A stored value is rounded down, so that of a reflected one may differ.
            near = np.abs(lsds - seen[1 + len(OFFSETS) :]) < 1.01 / 255
            is_true.append(np.concatenate([made, near]).all(axis=0)[None])
        values = np.stack(is_true).astype(np.float32)
        assert values.shape[2:] == shape
        return {"affinities": torch.from_numpy(values).expand(-1, 3, -1, -1, -1)}


@pytest.mark.parametrize("symmetry", SIXTEEN)
def test_predictions_among_the_inputs_are_turned_with_the_image(symmetry):
    raw = labels_of((24, 24, 24))
    lsds = (local_shape_descriptors(raw, 10, VOXEL_SIZE) * 255).astype(np.uint8)
    inputs = [
        NetworkInput(Volume(raw, VOXEL_SIZE)),
        NetworkInput(
            Volume(affinities(raw, OFFSETS) * np.uint8(255), VOXEL_SIZE), output="affinities", offsets=OFFSETS
        ),
        NetworkInput(Volume(lsds, VOXEL_SIZE), output="lsds"),
    ]
    predictor = BlockPredictor(
        Comparison(), PADDED, inputs, block_shape=(16, 14, 16), context=(0, 0, 0), device=CPU,
        symmetries=[Symmetry(), symmetry], offsets=NEAREST, batch_size=1,
    )  # fmt: skip
    found = predict_whole(predictor, Roi((4, 5, 4), (20, 19, 20)))["affinities"]
    # Near the window's border, where the truth of what is seen there lies outside.
    np.testing.assert_array_equal(found[:, 4:-4, 4:-4, 4:-4], 1)


def test_offsets_without_their_mirror_image_are_refused():
    diagonal = [*offsets_on_axes([1]), (0, -1, -2)]
    check_offsets(diagonal, [Symmetry()], "odd")
    with pytest.raises(UserError, match=r"'odd' has affinities to .*\(0, -1, -2\), but not to \(0, -1, 2\)"):
        check_offsets(diagonal, symmetries_of("flips", VOXEL_SIZE), "odd")
    check_offsets(offsets_on_axes([1, 3]), SIXTEEN, "long")
    # Different distances along y and x: mirrored they stay, exchanged they do not.
    uneven = [*offsets_on_axes([1]), (0, -5, 0)]
    check_offsets(uneven, symmetries_of("flips", VOXEL_SIZE), "uneven")
    with pytest.raises(UserError, match=r"set it to none, or to flips"):
        check_offsets(uneven, SIXTEEN, "uneven")
