"""Descriptors of labels in a tensor against those of the compiled filters, which have tests of their own."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow import lsd_torch
from lsdflow.errors import UserError
from lsdflow.lsd import SMALLEST_VARIANCE, local_shape_descriptors
from lsdflow.lsd_torch import describe_tensor
from lsdflow.roi import Roi

VOXEL_SIZE = 10

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


def described(labels, sigma=(3, 3, 3), downsample=1):
    """Descriptors of a tensor; ``sigma`` in picked voxels."""
    sigma = np.array(sigma, float)
    return describe_tensor(labels, sigma, SMALLEST_VARIANCE / (sigma * downsample * VOXEL_SIZE) ** 2, downsample)


def assert_equals_filters(labels, sigma, downsample=1, device="cpu"):
    """``labels`` is an array, or a tensor to be used as it is."""
    tensor = labels if isinstance(labels, torch.Tensor) else torch.from_numpy(labels.astype(np.int64)).to(device)
    lsds = described(tensor, sigma, downsample)
    assert lsds.dtype == torch.float32
    assert lsds.device == tensor.device
    assert lsds.shape == (10, *labels.shape)
    lsds, labels = lsds.cpu().numpy(), tensor.cpu().numpy()
    sigma = np.array(sigma, float) * downsample
    expected = local_shape_descriptors(labels, sigma * VOXEL_SIZE, VOXEL_SIZE, downsample=downsample)
    difference = np.abs(lsds - expected)
    assert difference[[0, 1, 2, 9]].max() <= 1e-5
    assert difference[3:6].max() <= 1e-4
    # Single precision leaves nothing of a correlation where a variance is far below a voxel squared.
    is_wide = expected[3:6] * sigma[:, None, None, None] ** 2 > 0.05
    is_sure = is_wide[[0, 0, 1]] & is_wide[[1, 2, 2]]
    assert (difference[6:9] * is_sure).max() <= 1e-3
    assert (lsds[:, labels == 0] == 0).all()


def patches(shape, n_labels, seed, edge=4):
    """Labels, background among them, in blocks of ``edge`` voxels with specks: many objects in several pieces."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels + 1, [-(-n // edge) for n in shape])
    for axis in range(3):
        labels = np.repeat(labels, edge, axis)
    labels = labels[tuple(slice(n) for n in shape)].copy()
    is_speckled = rng.random(shape) < 0.05
    labels[is_speckled] = rng.integers(0, n_labels + 1, is_speckled.sum())
    return labels


def cells(shape, n_objects, seed):
    """Compact objects of all sizes: each voxel is of the nearest of random points."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, shape, (n_objects, 3))
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    distance = ((grid[..., None, :] - points) ** 2).sum(axis=-1) - rng.uniform(0, 100, n_objects)
    return distance.argmin(axis=-1) + 1


@pytest.fixture
def work(monkeypatch):
    """Records the boxes, the shape and the sections of each piece of work."""
    pieces = []
    describe_boxes = lsd_torch._describe_boxes

    def recorded(objects, boxes, shape, sections, *rest):
        pieces.append((len(boxes), shape, sections))
        describe_boxes(objects, boxes, shape, sections, *rest)

    monkeypatch.setattr(lsd_torch, "_describe_boxes", recorded)
    return pieces


@pytest.mark.parametrize(
    ("shape", "sigma"),
    [
        ((21, 24, 37), (5, 5, 5)),
        ((21, 24, 37), (2.5, 2.5, 2.5)),
        ((9, 30, 33), (3, 7.5, 7.5)),
        ((17, 20, 23), (4.5, 4.4, 5.5)),
        ((1, 30, 41), (0.1, 8, 3)),
        ((18, 1, 40), (3, 3, 3)),
    ],
)
def test_patches_have_the_descriptors_of_the_filters(shape, sigma):
    assert_equals_filters(patches(shape, 4, seed=1), sigma)


@pytest.mark.parametrize("downsample", [2, 3])
@pytest.mark.parametrize("shape", [(18, 24, 36), (19, 23, 37), (2, 31, 38)])
def test_any_shape_can_be_downsampled(shape, downsample):
    assert_equals_filters(patches(shape, 4, seed=2), (3, 2, 2.5), downsample)
    assert_equals_filters(cells(shape, 20, seed=2), (3, 2, 2.5), downsample)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    sigma=st.tuples(*[st.floats(0.1, 6)] * 3),
    downsample=st.integers(1, 4),
    n_labels=st.integers(1, 60),
    edge=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_descriptors_are_those_of_the_filters(shape, sigma, downsample, n_labels, edge, seed):
    assert_equals_filters(patches(shape, n_labels, seed, edge), sigma, downsample)


def test_specks_have_the_descriptors_of_the_filters():
    labels = np.zeros((12, 12, 40), np.int64)
    labels[::4, ::4, ::5] = np.arange(1, 73).reshape(3, 3, 8)
    assert_equals_filters(labels, (4, 4, 4))


def test_thin_objects_have_the_descriptors_of_the_filters():
    labels = np.zeros((20, 22, 50), np.int64)
    labels[3, 4, :] = 1
    labels[:, 9, 11] = 2
    labels[17, 2:, 33] = 3
    labels[np.arange(20), np.arange(20), 2 * np.arange(20)] = 4
    labels[11, :, 20:45] = 5
    for downsample in (1, 2):
        assert_equals_filters(labels, (4, 3, 5), downsample)


@pytest.mark.parametrize("downsample", [1, 2, 3])
def test_one_object_may_fill_everything(downsample):
    assert_equals_filters(np.ones((23, 20, 31), np.int64), (3, 4, 2), downsample)


def test_objects_between_the_picks_are_points_without_mass():
    labels = np.ones((8, 8, 8), np.int64)
    labels[3, 3, 3] = 2
    assert_equals_filters(labels, (2, 2, 2), 2)
    lsds = described(torch.from_numpy(np.where(labels == 2, 2, 0)), (2, 2, 2), 2)
    np.testing.assert_allclose(lsds[:, 3, 3, 3], [0.5] * 3 + [1e-3 / 40**2] * 3 + [0.5] * 3 + [0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 6), (0, 5, 6), (4, 5, 0)])
def test_labels_without_objects_are_zero(shape):
    lsds = described(torch.zeros(shape, dtype=torch.int64), (3, 3, 3), 2)
    assert lsds.shape == (10, *shape)
    assert not lsds.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint32, torch.uint64])
def test_labels_may_be_any_integers(dtype):
    labels = torch.from_numpy(patches((9, 12, 20), 3, seed=5))
    expected = described(labels)
    assert torch.equal(described(labels.to(dtype)), expected)


def test_ids_may_be_huge_and_differ_by_one():
    labels = patches((9, 12, 20), 3, seed=5)
    expected = described(torch.from_numpy(labels))
    for ids in ([0, 2**62, 2**62 + 1, 2**62 + 2], [0, 2**64 - 1, 2**63, 2**63 + 1]):
        huge = torch.from_numpy(np.array(ids, np.uint64)[labels])
        assert torch.equal(described(huge), expected)


def test_memory_layout_does_not_matter():
    labels = torch.from_numpy(patches((9, 12, 20), 3, seed=6))
    assert_equals_filters(labels.permute(2, 0, 1), (3, 3, 3))
    assert_equals_filters(labels[1::2, :, ::3], (3, 3, 3), 2)


@pytest.mark.parametrize("downsample", [1, 2])
def test_little_scratch_space_gives_the_same_in_more_pieces(monkeypatch, work, downsample):
    labels = torch.from_numpy(np.where(cells((21, 25, 33), 25, seed=7) < 4, 1, cells((21, 25, 33), 25, seed=7)))
    expected = described(labels, (2, 2, 2), downsample)
    pieces = len(work)
    assert all(sections == slice(0, shape[0]) for _, shape, sections in work)
    monkeypatch.setattr(lsd_torch, "SCRATCH_FLOATS", 2**18)
    lsds = described(labels, (2, 2, 2), downsample)
    np.testing.assert_allclose(lsds, expected, atol=1e-6)
    less = work[pieces:]
    assert len(less) > 2 * pieces
    assert any(sections != slice(0, shape[0]) for _, shape, sections in less)
    monkeypatch.setattr(lsd_torch, "SCRATCH_FLOATS", 1)
    np.testing.assert_allclose(described(labels, (2, 2, 2), downsample), expected, atol=1e-6)
    assert all(n == 1 and sections.stop - sections.start == 1 for n, _, sections in work[pieces + len(less) :])


def test_many_objects_are_few_pieces_of_little_padding(work):
    labels = cells((60, 60, 60), 80, seed=8)
    labels[::9, ::9, ::9] = 1000 + np.arange(7**3).reshape(7, 7, 7)
    labels[30] = 1
    assert_equals_filters(labels, (6, 6, 6))
    assert len(work) <= 8
    boxes = [np.ptp(np.argwhere(labels == n), axis=0) + 1 for n in np.unique(labels)]
    assert sum(n for n, _, _ in work) == len(boxes)
    assert sum(n * np.prod(shape) for n, shape, _ in work) < 3 * np.prod(boxes, axis=1).sum()


def test_results_are_the_same_every_time():
    labels = torch.from_numpy(cells((30, 30, 30), 30, seed=9))
    first = described(labels, (4, 4, 4))
    assert torch.equal(described(labels, (4, 4, 4)), first)


@pytest.fixture
def _restored_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("_restored_precision")
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_are_of_full_precision_whatever_is_set(monkeypatch, precision):
    seen = []
    moments = lsd_torch._moments

    def recorded(*arguments):
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision))
        return moments(*arguments)

    monkeypatch.setattr(lsd_torch, "_moments", recorded)
    torch.set_float32_matmul_precision(precision)
    labels = torch.from_numpy(patches((12, 16, 20), 3, seed=10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equals_filters(labels, (3, 3, 3))
    assert set(seen) == {("ieee", "ieee")}
    assert torch.get_float32_matmul_precision() == precision

    def failing(*arguments):
        raise MemoryError

    monkeypatch.setattr(lsd_torch, "_moments", failing)
    with pytest.raises(MemoryError):
        described(labels)
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.usefixtures("_restored_precision")
def test_threads_do_not_change_each_others_precision(monkeypatch):
    volumes = [torch.from_numpy(cells((20, 20, 20), 12, seed)) for seed in range(8)]
    expected = [described(labels) for labels in volumes]
    seen = []
    entered = itertools.count()
    moments = lsd_torch._moments

    def slow(*arguments):
        # Who comes later takes longer: time for those before to end, and to restore what they found.
        time.sleep(0.01 * next(entered))
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return moments(*arguments)

    monkeypatch.setattr(lsd_torch, "_moments", slow)
    torch.set_float32_matmul_precision("high")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(described, volumes))
    assert set(seen) == {"ieee"}
    assert torch.get_float32_matmul_precision() == "high"
    assert all(torch.equal(lsds, other) for lsds, other in zip(results, expected, strict=True))


@needs_gpu
@pytest.mark.usefixtures("_restored_precision")
@pytest.mark.parametrize("downsample", [1, 2, 3])
def test_a_gpu_gives_the_descriptors_of_the_filters(monkeypatch, downsample):
    torch.set_float32_matmul_precision("high")
    for labels in (patches((21, 24, 37), 4, seed=1), cells((60, 61, 62), 80, seed=8), np.ones((40, 40, 40), np.int64)):
        assert_equals_filters(labels, (5, 4, 6), downsample, "cuda")
        tensor = torch.from_numpy(labels).cuda()
        first = described(tensor, (4, 4, 4), downsample)
        assert torch.equal(described(tensor, (4, 4, 4), downsample), first)
    monkeypatch.setattr(lsd_torch, "SCRATCH_FLOATS", 2**18)
    assert_equals_filters(cells((30, 31, 32), 20, seed=11), (3, 4, 2), downsample, "cuda")


@needs_gpu
def test_a_gpu_takes_more_specks_than_one_product_of_matrices():
    labels = np.zeros((80, 80, 80), np.int64)
    labels[::2, ::2, ::2] = np.arange(1, 40**3 + 1).reshape(40, 40, 40)
    labels[1::2, ::2, ::2] = labels[::2, ::2, ::2]
    assert_equals_filters(labels, (4, 4, 4), device="cuda")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(14, 15, 21), (15, 21)])
def test_public_function_takes_tensors_and_gives_tensors(shape, dtype):
    labels = np.random.default_rng(20).integers(0, 5, [-(-n // 4) for n in shape])
    labels = np.kron(labels, np.ones([4] * len(shape), int))[tuple(slice(n) for n in shape)]
    roi = Roi((2,) * len(shape), (13,) * len(shape))
    for downsample in (1, 2):
        for box in (None, roi):
            expected = local_shape_descriptors(labels, 30, 10, downsample=downsample, roi=box)
            tensor = torch.from_numpy(labels).to(dtype)
            lsds = local_shape_descriptors(tensor, 30, 10, downsample=downsample, roi=box)
            assert isinstance(lsds, torch.Tensor) and lsds.dtype == torch.float32
            np.testing.assert_allclose(lsds, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.ones(3, 3, 3), "integers, not torch.float32"),
        (torch.ones(3, 3, 3, dtype=torch.bool), "integers, not torch.bool"),
        (-torch.ones(3, 3, 3, dtype=torch.int32), "negative, but the smallest is -1"),
        (torch.ones(3, dtype=torch.int32), "not of 1 axes"),
    ],
)
def test_unusable_tensors_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        local_shape_descriptors(labels, 30, 10)
