"""Volumes come back as they were stored, with their place in the world, in files that other programs open."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from lsdflow.errors import UserError
from lsdflow.volumes import Roi, Volume, attributes, create_volume, open_volume, write_volume

RNG = np.random.default_rng(0)


def metadata(path, name):
    """The metadata of the group and of its array, read as plain JSON: what any other program sees."""
    group = json.loads((path / name / "zarr.json").read_text())
    array = json.loads((path / name / "0" / "zarr.json").read_text())
    return group, array


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((5, 6, 7), "uint8"), ((3, 5, 6, 7), "uint8"), ((5, 6, 7), "uint64"), ((10, 4, 4, 4), "float32")],
)
def test_what_is_written_is_read(tmp_path, shape, dtype):
    data = RNG.integers(0, 255, shape).astype(dtype)
    write_volume(tmp_path / "a.zarr", "raw", Volume(data, (40, 4, 4.5), (10, -20, 3)))
    volume = open_volume(tmp_path / "a.zarr", "raw")
    assert volume.data.dtype == dtype
    assert (volume.read() == data).all()
    assert (volume.voxel_size, volume.offset) == ((40, 4, 4.5), (10, -20, 3))
    assert volume.shape_zyx == shape[-3:]
    assert volume.roi == Roi.of_shape(shape[-3:])


def test_large_labels_are_kept_to_the_last_digit(tmp_path):
    data = np.array([2**64 - 1, 2**63 + 1, 2**53 + 1, 0], np.uint64).reshape(1, 2, 2)
    write_volume(tmp_path / "a.zarr", "labels", Volume(data, (1, 1, 1)))
    assert (open_volume(tmp_path / "a.zarr", "labels").read() == data).all()


def test_reading_a_box_takes_all_channels(tmp_path):
    data = RNG.integers(0, 255, (2, 5, 6, 7), dtype=np.uint8)
    write_volume(tmp_path / "a.zarr", "affinities", Volume(data, (1, 1, 1)))
    box = open_volume(tmp_path / "a.zarr", "affinities").read(Roi((1, 2, 3), (4, 6, 5)))
    assert (box == data[:, 1:4, 2:6, 3:5]).all()


def test_a_store_holds_several_volumes(tmp_path):
    for value, name in enumerate(("raw", "labels")):
        write_volume(tmp_path / "a.zarr", name, Volume(np.full((2, 2, 2), value, np.uint8), (1, 1, 1)))
    assert [open_volume(tmp_path / "a.zarr", name).read().max() for name in ("raw", "labels")] == [0, 1]


def test_a_new_volume_is_empty_and_replaces_an_old_one(tmp_path):
    write_volume(tmp_path / "a.zarr", "raw", Volume(np.ones((4, 4, 4), np.uint8), (1, 1, 1)))
    create_volume(tmp_path / "a.zarr", "raw", shape=(2, 3, 4), dtype="uint64", voxel_size=(1, 1, 1))
    volume = open_volume(tmp_path / "a.zarr", "raw")
    assert volume.data.shape == (2, 3, 4) and volume.data.dtype == np.uint64
    assert not volume.read().any()


# --- storage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "shard", "expected_shard", "expected_chunk"),
    [
        # A small volume is one file of one chunk.
        ((20, 30, 40), None, [20, 30, 40], [20, 30, 40]),
        # Shards are whole chunks, no more of them than the volume needs.
        ((300, 100, 64), None, [256, 128, 64], [64, 64, 64]),
        # A shard that is asked for is kept; its chunks divide it, and hold all channels.
        ((100, 100, 100), (32, 48, 96), [32, 48, 96], [32, 48, 48]),
        ((3, 100, 100, 100), (50, 50, 50), [3, 50, 50, 50], [3, 50, 50, 50]),
        # Also where it is larger than the volume.
        ((30, 30, 30), (64, 64, 64), [64, 64, 64], None),
    ],
)
def test_shards_and_chunks(tmp_path, shape, shard, expected_shard, expected_chunk):
    create_volume(tmp_path / "a.zarr", "a", shape=shape, dtype="uint8", voxel_size=(1, 1, 1), shard_zyx=shard)
    _, array = metadata(tmp_path / "a.zarr", "a")
    (codec,) = array["codecs"]
    assert codec["name"] == "sharding_indexed"
    assert array["chunk_grid"]["configuration"]["chunk_shape"] == expected_shard
    inner = codec["configuration"]["chunk_shape"]
    assert expected_chunk in (None, inner)
    assert all(s % c == 0 for s, c in zip(expected_shard, inner, strict=True))
    _, compressor, checksum = codec["configuration"]["codecs"]
    assert (compressor["name"], compressor["configuration"]["cname"]) == ("blosc", "zstd")
    assert checksum["name"] == "crc32c"


def test_an_empty_volume_takes_no_files_but_its_metadata(tmp_path):
    create_volume(tmp_path / "a.zarr", "a", shape=(256, 256, 256), dtype="uint64", voxel_size=(1, 1, 1))
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"zarr.json"}


def test_jobs_may_write_neighbouring_shards_at_the_same_time(tmp_path):
    data = RNG.integers(0, 255, (32, 32, 32), dtype=np.uint8)
    create_volume(
        tmp_path / "a.zarr", "a", shape=data.shape, dtype="uint8", voxel_size=(1, 1, 1), shard_zyx=(8, 16, 32)
    )

    def write(begin):
        box = Roi(begin, (begin[0] + 8, begin[1] + 16, 32)).slices
        open_volume(tmp_path / "a.zarr", "a", mode="r+").data[box] = data[box]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [(z, y, 0) for z in range(0, 32, 8) for y in (0, 16)]))
    assert (open_volume(tmp_path / "a.zarr", "a").read() == data).all()


def test_volumes_of_a_store_that_exists_may_be_created_at_the_same_time(tmp_path):
    names = [f"volume_{index}" for index in range(8)]

    def create(name):
        data = np.full((4, 4, 4), names.index(name), np.uint8)
        write_volume(tmp_path / "a.zarr", name, Volume(data, (1, 1, 1)))

    create(names[0])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, names[1:]))
    assert [open_volume(tmp_path / "a.zarr", name).read().max() for name in names] == list(range(8))


# --- metadata -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (3,)])
def test_metadata_is_that_of_ome_ngff_0_5(tmp_path, lead):
    create_volume(
        tmp_path / "a.zarr", "a", shape=(*lead, 4, 5, 6), dtype="uint8", voxel_size=(40, 4, 4), offset=(80, 0, -8)
    )
    group, array = metadata(tmp_path / "a.zarr", "a")
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    ome = group["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    space = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    # The specification: channel before space, space in z y x order, each dataset with a scale, then a translation.
    assert image["axes"] == ([{"name": "c", "type": "channel"}] if lead else []) + space
    (dataset,) = image["datasets"]
    assert dataset["path"] == "0"
    scale, translation = dataset["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [1.0] * len(lead) + [40, 4, 4]}
    assert translation == {"type": "translation", "translation": [0.0] * len(lead) + [100, 2, -6]}
    assert array["dimension_names"] == [axis["name"] for axis in image["axes"]]


def test_the_offset_is_the_corner_and_the_metadata_the_centre_of_the_first_voxel(tmp_path):
    create_volume(tmp_path / "a.zarr", "a", shape=(2, 2, 2), dtype="uint8", voxel_size=(10, 4, 8), offset=(0, 0, 0))
    group, _ = metadata(tmp_path / "a.zarr", "a")
    (dataset,) = group["attributes"]["ome"]["multiscales"][0]["datasets"]
    assert dataset["coordinateTransformations"][1]["translation"] == [5, 2, 4]
    assert open_volume(tmp_path / "a.zarr", "a").offset == (0, 0, 0)


def test_levels_have_the_place_of_the_voxels_that_they_span(tmp_path):
    create_volume(
        tmp_path / "a.zarr",
        "a",
        shape=(3, 50, 200, 200),
        dtype="uint8",
        voxel_size=(40, 10, 10),
        offset=(80, 0, -8),
        pyramid="mean",
    )
    group, _ = metadata(tmp_path / "a.zarr", "a")
    (image,) = group["attributes"]["ome"]["multiscales"]
    assert image["type"] == "mean"
    assert image["metadata"] == {"method": "lsdflow.pyramids.mean"}
    # Voxels of 40, 10, 10 nm, then twice and four times as large in y and x; their corners stay, their centres move.
    expected = [([40, 10, 10], [100, 5, -3]), ([40, 20, 20], [100, 10, 2]), ([40, 40, 40], [100, 20, 12])]
    for level, (dataset, (scale, centre)) in enumerate(zip(image["datasets"], expected, strict=True)):
        assert dataset["path"] == str(level)
        assert dataset["coordinateTransformations"] == [
            {"type": "scale", "scale": [1, *scale]},
            {"type": "translation", "translation": [0, *centre]},
        ]
        array = json.loads((tmp_path / "a.zarr/a" / str(level) / "zarr.json").read_text())
        assert array["shape"] == [3, 50, 200 // 2**level, 200 // 2**level]
        assert array["dimension_names"] == ["c", "z", "y", "x"]
    volume = open_volume(tmp_path / "a.zarr", "a")
    assert (volume.voxel_size, volume.offset) == ((40, 10, 10), (80, 0, -8))
    assert volume.pyramid.factors == ((1, 2, 2), (1, 4, 4))


def test_there_is_one_level_unless_more_are_asked_for(tmp_path):
    create_volume(tmp_path / "a.zarr", "a", shape=(200, 200, 200), dtype="uint8", voxel_size=(8, 8, 8))
    assert open_volume(tmp_path / "a.zarr", "a").pyramid is None
    assert sorted(folder.name for folder in (tmp_path / "a.zarr/a").iterdir()) == ["0", "zarr.json"]


def test_more_attributes_are_kept_beside_the_ome_metadata(tmp_path):
    data = np.zeros((2, 2, 2), np.uint8)
    write_volume(tmp_path / "a.zarr", "a", Volume(data, (1, 1, 1)), attributes={"threshold": 0.25})
    found = attributes(tmp_path / "a.zarr", "a")
    assert found["threshold"] == 0.25
    assert found["ome"]["version"] == "0.5"


# --- beyond the border ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@given(begin=st.tuples(*[st.integers(-3, 3)] * 3), end=st.tuples(*[st.integers(7, 12)] * 3))
def test_padded_reading_equals_cutting_from_the_padded_whole(mode, begin, end):
    data = np.random.default_rng(1).integers(1, 255, (2, 8, 9, 10), dtype=np.uint8)
    roi = Roi(begin, end)
    whole = np.pad(data, [(0, 0)] + [(4, 4)] * 3, mode=mode)
    expected = whole[(..., *roi.shift((4, 4, 4)).slices)]
    assert (Volume(data, (1, 1, 1)).read_padded(roi, mode) == expected).all()


def test_padding_reaches_farther_than_the_volume_is_wide():
    data = np.arange(3, dtype=np.uint8).reshape(3, 1, 1)
    row = Volume(data, (1, 1, 1)).read_padded(Roi((-4, 0, 0), (7, 1, 1)))[:, 0, 0]
    # 0 1 2 mirrored without repeating the border voxel, again and again.
    assert row.tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]


def test_padded_reading_works_on_stored_volumes(tmp_path):
    data = RNG.integers(1, 255, (4, 4, 4), dtype=np.uint8)
    write_volume(tmp_path / "a.zarr", "a", Volume(data, (1, 1, 1)))
    found = open_volume(tmp_path / "a.zarr", "a").read_padded(Roi((-1, 0, 0), (4, 4, 5)), mode="constant")
    assert (found == np.pad(data, [(1, 0), (0, 0), (0, 1)])).all()


def test_a_box_wholly_outside_is_an_error():
    with pytest.raises(ValueError, match="wholly outside"):
        Volume(np.zeros((4, 4, 4)), (1, 1, 1)).read_padded(Roi((4, 0, 0), (6, 4, 4)))


# --- refusals -------------------------------------------------------------------------------------------------


def test_a_volume_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no volume 'raw' in .*a.zarr"):
        open_volume(tmp_path / "a.zarr", "raw")
    create_volume(tmp_path / "a.zarr", "labels", shape=(2, 2, 2), dtype="uint8", voxel_size=(1, 1, 1))
    with pytest.raises(UserError, match="there is no volume 'raw' in .*a.zarr"):
        open_volume(tmp_path / "a.zarr", "raw")


def test_looking_for_a_volume_makes_nothing(tmp_path):
    with pytest.raises(UserError):
        open_volume(tmp_path / "a.zarr", "raw")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("ome", [None, {"version": "0.5", "multiscales": []}])
def test_a_volume_without_place_is_refused(tmp_path, ome):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3).create_group("raw")
    group.create_array("0", shape=(2, 2, 2), dtype="uint8")
    if ome is not None:
        group.attrs["ome"] = ome
    with pytest.raises(UserError, match="a.zarr/raw has no OME-NGFF scale and translation: import it again"):
        open_volume(tmp_path / "a.zarr", "raw")


def test_a_file_in_the_place_of_a_store_is_refused_and_kept(tmp_path):
    (tmp_path / "a.zarr").write_text("mine")
    with pytest.raises(UserError, match="is a file: a Zarr store is a folder"):
        create_volume(tmp_path / "a.zarr", "raw", shape=(2, 2, 2), dtype="uint8", voxel_size=(1, 1, 1))
    assert (tmp_path / "a.zarr").read_text() == "mine"


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4, 4), (0, 4, 4), (4, -1, 4)])
def test_impossible_shapes_are_errors(tmp_path, shape):
    with pytest.raises(ValueError, match="positive lengths"):
        create_volume(tmp_path / "a.zarr", "raw", shape=shape, dtype="uint8", voxel_size=(1, 1, 1))
    assert not (tmp_path / "a.zarr").exists()
