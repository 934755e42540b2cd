"""Readers give back what other libraries wrote, and refuse with a reason what cannot be used."""

import gzip
import logging

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsdflow import sources
from lsdflow.errors import UserError
from lsdflow.sources import (
    apply_lookup,
    check_labels,
    check_pair,
    check_raw,
    fill_background,
    hdf5_attributes,
    natural_key,
    open_zarr,
    read_source,
)


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 255, (12, 5, 6), dtype=np.uint8)


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    return path


# --- formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_image_stack_is_read_in_natural_order(tmp_path, volume, suffix):
    for z, section in enumerate(volume):  # z10 and z11 would come before z2 in plain order
        imageio.imwrite(tmp_path / f"z{z}.{suffix}", section)
    read = read_source(tmp_path / f"z*.{suffix}", "image_stack")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, volume)


def test_image_stack_keeps_16_bits(tmp_path):
    section = np.array([[0, 1000], [40000, 65535]], np.uint16)
    imageio.imwrite(tmp_path / "a.png", section)
    read = read_source(tmp_path / "*.png", "image_stack")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read[0], section)


def test_natural_key_sorts_numbers_by_value():
    assert sorted(["b1", "a10", "a9", "10", "a"], key=natural_key) == ["10", "a", "a9", "a10", "b1"]


@pytest.mark.parametrize("imagej", [False, True])
def test_tiff_is_read(tmp_path, volume, imagej):
    tifffile.imwrite(tmp_path / "v.tif", volume, imagej=imagej, photometric="minisblack")
    np.testing.assert_array_equal(read_source(tmp_path / "v.tif", "tiff"), volume)


def test_npy_is_read(tmp_path, volume):
    np.save(tmp_path / "v.npy", np.asfortranarray(volume))
    read = read_source(tmp_path / "v.npy", "npy")
    np.testing.assert_array_equal(read, volume)
    assert read.flags.c_contiguous


def test_npz_is_read_by_key(tmp_path, volume):
    np.savez_compressed(tmp_path / "v.npz", raw=volume, other=volume[:2])
    np.testing.assert_array_equal(read_source(tmp_path / "v.npz", "npz", dataset="raw"), volume)


@pytest.mark.parametrize("is_packed", [False, True])
def test_hdf5_is_read_gzipped_or_not(tmp_path, volume, is_packed):
    path = write_hdf5(tmp_path / "v.h5", volumes__raw=volume, other=volume[0])
    if is_packed:
        path = tmp_path / "v.h5.gz"
        path.write_bytes(gzip.compress((tmp_path / "v.h5").read_bytes()))
    np.testing.assert_array_equal(read_source(path, "hdf5", dataset="/volumes/raw"), volume)


def test_dataset_may_be_left_out_when_there_is_only_one(tmp_path, volume):
    path = write_hdf5(tmp_path / "v.h5", volumes__raw=volume)
    np.testing.assert_array_equal(read_source(path, "hdf5"), volume)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dataset", ["volumes/raw", "volumes/raw/0", "/volumes/raw"])
def test_zarr_array_or_its_group_is_read(tmp_path, volume, zarr_format, dataset):
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=zarr_format)
    array = group.require_group("volumes/raw").create_array(
        "0", shape=volume.shape, dtype=volume.dtype, chunks=(5, 5, 5)
    )
    array[...] = volume
    np.testing.assert_array_equal(read_source(tmp_path / "v.zarr", "zarr", dataset=dataset), volume)


def test_zarr_array_at_the_root_needs_no_dataset(tmp_path, volume):
    zarr.save_array(tmp_path / "v.zarr", volume)
    np.testing.assert_array_equal(read_source(tmp_path / "v.zarr", "zarr"), volume)


@pytest.mark.parametrize("is_nested", [False, True])  # OME-NGFF up to 0.4, from 0.5
def test_zarr_multiscales_gives_the_first_level_without_time_and_channel(tmp_path, volume, is_nested):
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=3 if is_nested else 2)
    for level, data in (("s0", volume), ("s1", volume[::2, ::2, ::2])):
        group.create_array(level, data=np.ascontiguousarray(data)[None, None])
    multiscales = [{"datasets": [{"path": "s0"}, {"path": "s1"}]}]
    group.attrs.update({"ome": {"multiscales": multiscales}} if is_nested else {"multiscales": multiscales})
    np.testing.assert_array_equal(read_source(tmp_path / "v.zarr", "zarr"), volume)


def test_only_array_of_a_zarr_store_needs_no_dataset(tmp_path, volume):
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=3)
    group.create_array("volumes/labels/0", data=volume)
    np.testing.assert_array_equal(read_source(tmp_path / "v.zarr", "zarr"), volume)


def test_foreign_file_in_a_zarr_store_is_passed_over_in_silence(tmp_path, volume, recwarn):
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=3)
    group.create_array("raw", data=volume)
    (tmp_path / "v.zarr" / ".snakemake_timestamp").touch()
    np.testing.assert_array_equal(read_source(tmp_path / "v.zarr", "zarr"), volume)
    assert not recwarn.list


def test_zarr_can_be_opened_without_reading_it(tmp_path, volume):
    zarr.save_array(tmp_path / "v.zarr", volume[None])
    array = open_zarr(tmp_path / "v.zarr")
    assert isinstance(array, zarr.Array)
    assert array.shape == (1, *volume.shape)
    np.testing.assert_array_equal(array[0, 3:5], volume[3:5])
    with pytest.raises(UserError, match="no_such.zarr does not exist"):
        open_zarr(tmp_path / "no_such.zarr")
    with pytest.raises(UserError, match="v.zarr cannot be read as zarr"):
        open_zarr(tmp_path / "v.zarr", "raw")


@pytest.mark.parametrize("is_packed", [False, True])
def test_attributes_of_an_hdf5_dataset(tmp_path, volume, is_packed):
    with h5py.File(write_hdf5(tmp_path / "v.h5", raw=volume, labels=volume), "a") as file:
        file["labels"].attrs["resolution"] = (40.0, 4.0, 4.0)
    if is_packed:
        (tmp_path / "v.h5").write_bytes(gzip.compress((tmp_path / "v.h5").read_bytes()))
    assert hdf5_attributes(tmp_path / "v.h5", "raw") == {}
    np.testing.assert_array_equal(hdf5_attributes(tmp_path / "v.h5", "labels")["resolution"], (40, 4, 4))
    with pytest.raises(UserError, match="no dataset 'other'"):
        hdf5_attributes(tmp_path / "v.h5", "other")


def test_every_format_refuses_a_missing_file(tmp_path):
    for format in sources.FORMATS:
        with pytest.raises(UserError, match="no_such"):
            read_source(tmp_path / "no_such", format)


def test_every_format_refuses_broken_bytes(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing of use")
    for format in sources.FORMATS:
        with pytest.raises(UserError, match="broken.png"):
            read_source(path, format)


@pytest.mark.parametrize("is_packed", [False, True])
def test_hdf5_cut_off_halfway_is_refused(tmp_path, is_packed):
    content = write_hdf5(tmp_path / "v.h5", raw=np.zeros((20, 20, 20))).read_bytes()
    content = gzip.compress(content) if is_packed else content
    (tmp_path / "v.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="v.h5 cannot be read as hdf5"):
        read_source(tmp_path / "v.h5", "hdf5", dataset="raw")


def test_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="unknown format 'jpeg2000'.*hdf5, image_stack, npy, npz, tiff, zarr"):
        read_source(tmp_path, "jpeg2000")


def test_dataset_of_a_format_without_datasets_is_refused(tmp_path, volume):
    np.save(tmp_path / "v.npy", volume)
    with pytest.raises(UserError, match="holds one array"):
        read_source(tmp_path / "v.npy", "npy", dataset="raw")


def test_missing_dataset_lists_those_in_the_file(tmp_path, volume):
    write_hdf5(tmp_path / "v.h5", stack=volume, volumes__raw=volume)
    np.savez(tmp_path / "v.npz", stack=volume, raw=volume)
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=2)
    group.create_array("stack", data=volume)
    group.create_array("volumes/raw", data=volume)
    for name, format in (("v.h5", "hdf5"), ("v.npz", "npz"), ("v.zarr", "zarr")):
        with pytest.raises(
            UserError, match=f"no dataset 'labels' in .*{name}: it holds (raw, stack|stack, volumes/raw)"
        ):
            read_source(tmp_path / name, format, dataset="labels")
        with pytest.raises(UserError, match="dataset.*stack"):
            read_source(tmp_path / name, format)


def test_wrong_dimension_is_refused_with_the_shape(tmp_path, volume):
    np.save(tmp_path / "v.npy", volume[None])
    with pytest.raises(UserError, match=r"must be 3-D \(z, y, x\), not 4-D \(1, 12, 5, 6\)"):
        read_source(tmp_path / "v.npy", "npy")


def test_sections_that_differ_are_refused_with_the_file(tmp_path, volume):
    imageio.imwrite(tmp_path / "z0.png", volume[0])
    imageio.imwrite(tmp_path / "z1.png", volume[0, :4])
    with pytest.raises(UserError, match=r"z1.png is \(4, 6\) uint8.*\(5, 6\) uint8"):
        read_source(tmp_path / "z*.png", "image_stack")
    imageio.imwrite(tmp_path / "z1.png", volume[0].astype(np.uint16))
    with pytest.raises(UserError, match="z1.png is .* uint16"):
        read_source(tmp_path / "z*.png", "image_stack")


def test_colour_sections_and_folders_are_refused(tmp_path, volume):
    imageio.imwrite(tmp_path / "z0.png", np.repeat(volume[0, ..., None], 3, axis=-1))
    with pytest.raises(UserError, match="z0.png must be a grey"):
        read_source(tmp_path / "z*.png", "image_stack")
    with pytest.raises(UserError, match="is a folder"):
        read_source(tmp_path, "image_stack")


def test_tiff_of_unlike_pages_is_refused(tmp_path, volume):
    with tifffile.TiffWriter(tmp_path / "v.tif") as file:
        file.write(volume[0])
        file.write(volume[0, :3])
    with pytest.raises(UserError, match="v.tif holds 2 images"):
        read_source(tmp_path / "v.tif", "tiff")


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.save(tmp_path / "v.npy", np.array([{}], dtype=object))
    with pytest.raises(UserError, match="allow_pickle"):
        read_source(tmp_path / "v.npy", "npy")


# --- lookup ---------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    labels=hnp.arrays(np.int32, (2, 3, 4), elements=st.integers(0, 9)),
    bodies=st.lists(st.integers(0, 2**64 - 1), min_size=10, max_size=10),
    order=st.permutations(range(10)),
)
def test_lookup_equals_a_dictionary_of_the_table(labels, bodies, order):
    table = np.array([(i, bodies[i]) for i in order], dtype=np.uint64)
    expected = np.vectorize(lambda i: bodies[i], otypes=[np.uint64])(labels)
    mapped = apply_lookup(labels, table)
    assert mapped.dtype == np.uint64
    np.testing.assert_array_equal(mapped, expected)


def test_lookup_does_not_round_large_ids():
    large = 2**63 + 1
    labels = np.array([[[large, large + 1]]], np.uint64)
    table = np.array([[large, 1], [large + 1, 2]], np.uint64)
    np.testing.assert_array_equal(apply_lookup(labels, table), [[[1, 2]]])


def test_lookup_keeps_the_background_that_the_table_does_not_list():
    np.testing.assert_array_equal(apply_lookup(np.array([[[0, 5]]]), np.array([[5, 9]])), [[[0, 9]]])


def test_lookup_refuses_missing_ids_and_double_rows():
    labels = np.array([[[1, 2, 7, 8]]])
    with pytest.raises(UserError, match=r"lacks 2 ids that the labels hold \(7, 8"):
        apply_lookup(labels, np.array([[1, 1], [2, 1]]))
    with pytest.raises(UserError, match="supervoxel 2 more than one body"):
        apply_lookup(labels, np.array([[1, 1], [2, 1], [2, 3]]))
    with pytest.raises(UserError, match=r"n x 2 .* not \(2, 3\)"):
        apply_lookup(labels, np.zeros((2, 3), int))
    with pytest.raises(UserError, match="float64"):
        apply_lookup(labels, np.zeros((2, 2)))


@pytest.mark.parametrize("format", ["hdf5", "npz"])
def test_lookup_is_read_from_the_same_file(tmp_path, format):
    stack, transforms = np.arange(8, dtype=np.int32).reshape(2, 2, 2), np.array([[i, i // 2] for i in range(8)])
    path = tmp_path / f"v.{format}"
    if format == "npz":
        np.savez(path, stack=stack, transforms=transforms)
    else:
        write_hdf5(path, stack=stack, transforms=transforms)
    np.testing.assert_array_equal(read_source(path, format, dataset="stack", lookup="transforms"), stack // 2)
    with pytest.raises(UserError, match="no dataset 'table'.*stack, transforms"):
        read_source(path, format, dataset="stack", lookup="table")


# --- checks ---------------------------------------------------------------------------------------------------


def test_raw_of_8_bits_is_taken_as_it_is(volume, caplog):
    assert check_raw(volume) is volume
    assert not caplog.records


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_raw_of_other_types_is_rescaled_by_percentiles_with_a_note(dtype, caplog):
    raw = np.random.default_rng(1).normal(1000, 100, (10, 20, 30)).astype(dtype)
    raw[0, 0, 0] = 30000  # a hot voxel must not set the contrast
    with caplog.at_level(logging.WARNING):
        rescaled = check_raw(raw, "here")
    low, high = np.percentile(raw, [0.1, 99.9])
    expected = np.rint(np.clip((raw.astype(float) - low) / (high - low), 0, 1) * 255)
    assert rescaled.dtype == np.uint8 and rescaled[0, 0, 0] == 255
    np.testing.assert_array_equal(rescaled, expected)
    assert "here" in caplog.text and "rescaled" in caplog.text


def test_raw_that_is_nearly_constant_is_rescaled_by_its_extremes():
    raw = np.zeros((20, 20, 20), np.uint16)
    raw[0, 0, 0] = 7
    assert check_raw(raw).max() == 255


@pytest.mark.parametrize("value", [0, 3])
def test_constant_raw_is_refused(value):
    with pytest.raises(UserError, match=f"{value} everywhere"):
        check_raw(np.full((2, 2, 2), value, np.uint8))


def test_raw_that_is_no_image_is_refused(volume):
    with pytest.raises(UserError, match="not bool"):
        check_raw(volume > 3)
    with pytest.raises(UserError, match="not complex128"):
        check_raw(volume.astype(complex))
    with pytest.raises(UserError, match="not finite"):
        check_raw(np.where(volume > 3, np.nan, 1.0))
    with pytest.raises(UserError, match=r"3-D.*not \(5, 6\)"):
        check_raw(volume[0])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint64, ">i8"])
def test_labels_come_back_as_uint64(dtype):
    labels = check_labels(np.arange(8).reshape(2, 2, 2).astype(dtype))
    assert labels.dtype == np.uint64
    np.testing.assert_array_equal(labels.ravel(), range(8))


def test_labels_that_are_no_labels_are_refused(volume):
    for dtype in (np.float32, bool):
        with pytest.raises(UserError, match=f"truth must be integers, not {np.dtype(dtype)}"):
            check_labels(volume.astype(dtype), "truth")
    with pytest.raises(UserError, match="go down to -4"):
        check_labels(volume.astype(int) - 4 - int(volume.min()))
    with pytest.raises(UserError, match="0 everywhere"):
        check_labels(np.zeros_like(volume))
    with pytest.raises(UserError, match=r"not \(5, 6\)"):
        check_labels(volume[0])


def test_pair_of_unlike_shapes_is_refused_with_both(volume):
    check_pair(volume, volume)
    with pytest.raises(UserError, match=r"\(12, 5, 6\) and \(11, 5, 6\)"):
        check_pair(volume, volume[1:])


@pytest.mark.parametrize("voxel_size", [(1, 1, 1), (40, 4, 4)])
def test_background_is_filled_by_a_nearest_label(voxel_size):
    rng = np.random.default_rng(2)
    labels = rng.integers(1, 5, (5, 6, 7)).astype(np.uint64) * (rng.random((5, 6, 7)) < 0.1)
    labels = labels.astype(np.uint64)
    filled = fill_background(labels, voxel_size)
    # Oracle: all distances to all labelled voxels; among ties any of the nearest labels is right.
    seeds = np.argwhere(labels)
    for voxel in np.ndindex(*labels.shape):
        distances = np.linalg.norm((seeds - voxel) * voxel_size, axis=1)
        nearest = seeds[np.isclose(distances, distances.min())]
        assert filled[voxel] in labels[tuple(nearest.T)]
    assert filled.dtype == labels.dtype


def test_fill_background_leaves_labels_alone_and_refuses_nothing_but_background():
    labels = np.array([[[1, 0, 0, 2]]])
    np.testing.assert_array_equal(fill_background(labels), [[[1, 1, 2, 2]]])
    np.testing.assert_array_equal(labels, [[[1, 0, 0, 2]]])
    full = np.ones((2, 2, 2), int)
    assert fill_background(full) is not full
    with pytest.raises(UserError, match="0 everywhere"):
        fill_background(np.zeros((2, 2, 2), int))
