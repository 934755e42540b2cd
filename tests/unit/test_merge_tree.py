"""A merge tree knows the segmentation at every threshold, and is stored so that damage shows."""

import shutil

import numpy as np
import pytest
import zarr

from lsdflow.errors import DamagedError, UserError
from lsdflow.merge_tree import MergeTree, look_up

ARRAYS = {"fragments": np.uint64, "edges": np.uint64, "scores": np.float32, "merges": np.uint64}


def chain():
    """Fragments 2 -- 5 -- 7 -- 11, and 2⁶³ alone: 7 and 11 are joined at 0, 2 and 5 at 0.25, all four at 0.5."""
    return MergeTree(
        "mean",
        fragments=np.array([2, 5, 7, 11, 2**63], np.uint64),
        edges=np.array([[2, 5], [5, 7], [7, 11]], np.uint64),
        scores=np.array([0.25, 0.5, 0], np.float32),
        merges=np.array([[7, 11], [2, 5], [2, 7]], np.uint64),
        merge_scores=np.array([0, 0.25, 0.5], np.float32),
    )


@pytest.mark.parametrize(
    ("threshold", "segments"),
    [
        (0, [2, 5, 7, 7, 2**63]),
        (0.2499, [2, 5, 7, 7, 2**63]),
        (0.25, [2, 2, 7, 7, 2**63]),
        (0.5, [2, 2, 2, 2, 2**63]),
        (1, [2, 2, 2, 2, 2**63]),
    ],
)
def test_segments_are_those_of_merges_up_to_the_threshold(threshold, segments):
    assert chain().segments(threshold).tolist() == segments


def test_a_threshold_is_as_exact_as_the_scores():
    tree = chain()
    tree.merge_scores[2] = 0.3  # as float32 a little more than 0.3
    assert tree.segments(0.3).tolist() == [2, 2, 2, 2, 2**63]


def test_a_segmentation_is_a_lookup_for_any_part_of_the_volume():
    volume = np.array([[[2, 2, 0, 5], [7, 11, 11, 2**63]], [[0, 0, 0, 7], [5, 2, 5, 0]]], np.uint64)
    expected = np.array([[[2, 2, 0, 2], [7, 7, 7, 2**63]], [[0, 0, 0, 7], [2, 2, 2, 0]]], np.uint64)
    tree = chain()
    whole = tree.segmentation(volume, 0.25)
    assert whole.dtype == np.uint64
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(tree.segmentation(volume[1:, :, ::2], 0.25), expected[1:, :, ::2])
    np.testing.assert_array_equal(look_up(volume, tree.fragments, tree.segments(0.25)), expected)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, np.nan])
def test_a_threshold_outside_0_to_1_is_refused(threshold):
    with pytest.raises(UserError, match="threshold must be in 0–1"):
        chain().segments(threshold)


@pytest.mark.parametrize("unknown", [1, 6, 2**64 - 1])
def test_fragments_that_the_tree_does_not_know_are_refused(unknown):
    with pytest.raises(UserError, match=f"fragment {unknown} is not in the merge tree"):
        chain().segmentation(np.array([[[2, unknown]]], np.uint64), 0.5)


def assert_same(a, b):
    assert a.merge_function == b.merge_function
    for name in (*ARRAYS, "merge_scores"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype


def lonely():
    """A tree without an edge."""
    empty = np.empty(0, np.float32)
    return MergeTree(
        "max", np.array([3], np.uint64), np.empty((0, 2), np.uint64), empty, np.empty((0, 2), np.uint64), empty
    )


@pytest.mark.parametrize("tree", [chain(), lonely()], ids=["chain", "lonely"])
def test_a_saved_tree_is_loaded_as_it_was(tmp_path, tree):
    tree.save(tmp_path / "new" / "tree.zarr")
    assert_same(MergeTree.load(tmp_path / "new" / "tree.zarr"), tree)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tree.zarr"]


def test_it_is_a_zarr_group_that_says_what_it_holds(tmp_path):
    chain().save(tmp_path / "tree.zarr")
    group = zarr.open_group(tmp_path / "tree.zarr", mode="r", zarr_format=3)
    assert group.attrs["merge_function"] == "mean"
    assert group.attrs["counts"] == {"fragments": 5, "edges": 3, "merges": 3}


def test_a_tree_replaces_what_was_there(tmp_path):
    path = tmp_path / "tree.zarr"
    path.write_text("a file")
    chain().save(path)
    lonely().save(path)
    assert_same(MergeTree.load(path), lonely())
    assert list(tmp_path.iterdir()) == [path]


def test_a_tree_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "tree.zarr"
    chain().save(path)
    with pytest.raises(AttributeError):
        MergeTree("mean", *[None] * 5).save(path)
    assert_same(MergeTree.load(path), chain())
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_or_foreign_store_is_named(tmp_path):
    path = tmp_path / "tree.zarr"
    with pytest.raises(UserError, match="there is no merge tree at .*tree.zarr"):
        MergeTree.load(path)
    path.mkdir()
    with pytest.raises(DamagedError, match="damaged data at .*tree.zarr"):
        MergeTree.load(path)
    zarr.create_group(path, zarr_format=3).create_array("scores", shape=(3,), dtype="f4")
    with pytest.raises(DamagedError, match="damaged data at .*tree.zarr"):
        MergeTree.load(path)
    shutil.rmtree(path)
    path.write_bytes(b"PK")
    with pytest.raises(DamagedError, match="damaged data at .*tree.zarr"):
        MergeTree.load(path)


def flip(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


def halve(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


@pytest.mark.parametrize(
    ("harm", "file"),
    # Metadata have no checksum, but cannot be read in part.
    [(flip, "edges/c/0/0"), (flip, "merge_scores/c/0")]
    + [
        (harm, f)
        for harm in (halve, empty)
        for f in ("edges/c/0/0", "merge_scores/c/0", "scores/zarr.json", "zarr.json")
    ],
)
def test_damage_is_found(tmp_path, harm, file):
    chain().save(tmp_path / "tree.zarr")
    path = tmp_path / "tree.zarr" / file
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(DamagedError, match="damaged data at .*tree.zarr"):
        MergeTree.load(tmp_path / "tree.zarr")


@pytest.mark.parametrize("file", ["edges/c/0/0", "merge_scores/c/0"])
def test_a_lost_file_is_not_taken_for_zeros(tmp_path, file):
    chain().save(tmp_path / "tree.zarr")
    (tmp_path / "tree.zarr" / file).unlink()
    with pytest.raises(DamagedError, match="a file is missing"):
        MergeTree.load(tmp_path / "tree.zarr")
