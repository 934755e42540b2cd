"""Damage to stored chunks is found when they are read, and gone when they are written again."""

import multiprocessing
import re

import numpy as np
import pytest

from lsdflow.errors import DamagedError, UserError
from lsdflow.roi import Roi
from lsdflow.volumes import Volume, create_volume, open_volume, write_volume

RNG = np.random.default_rng(0)
# Cut at its far faces, and of several chunks in each shard.
SHAPE, SHARD = (40, 30, 50), (32, 32, 32)


@pytest.fixture
def stored(tmp_path):
    """A volume of which every chunk is written, and what it holds."""
    data = RNG.integers(0, 5, SHAPE).astype(np.uint64)
    volume = create_volume(
        tmp_path / "a.zarr", "labels", shape=SHAPE, dtype="uint64", voxel_size=(1, 1, 1), shard_zyx=SHARD
    )
    volume.write(volume.roi, data)
    return volume, data


def shards(path):
    """The files of the full resolution, in order of their blocks."""
    return sorted(file for file in (path / "a.zarr/labels/0/c").rglob("*") if file.is_file())


def damaged(content, how):
    """The content of a shard after a mishap."""
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    kinds = {"emptied": b"", "cut short": content[: len(content) // 2], "one byte lost": content[:-1]}
    return (kinds | {"zeros": bytes(len(content)), "a bit flipped": bytes(flipped)})[how]


HOW = pytest.mark.parametrize("how", ["emptied", "cut short", "one byte lost", "zeros", "a bit flipped"])


@HOW
def test_damage_is_found_when_it_is_read(tmp_path, stored, how):
    first, *others = shards(tmp_path)
    assert others
    first.write_bytes(damaged(first.read_bytes(), how))
    volume = open_volume(tmp_path / "a.zarr", "labels")
    message = f"damaged data at {re.escape(str(tmp_path))}/a.zarr/labels/0.*: remove this Zarr store and run again"
    with pytest.raises(DamagedError, match=message):
        volume.read()
    assert issubclass(DamagedError, UserError)
    # What lies in other files can be read.
    rest = Roi((32, 0, 0), SHAPE)
    assert (volume.read(rest) == stored[1][rest.slices]).all()


def test_every_flipped_bit_of_a_chunk_is_found(tmp_path, stored):
    first = shards(tmp_path)[0]
    content = first.read_bytes()
    volume = open_volume(tmp_path / "a.zarr", "labels")
    for position in RNG.choice(len(content), 50, replace=False):
        flipped = bytearray(content)
        flipped[position] ^= 1 << RNG.integers(8)
        first.write_bytes(flipped)
        with pytest.raises(DamagedError):
            volume.read()


@HOW
def test_a_part_of_a_damaged_shard_is_not_taken_for_the_whole(tmp_path, stored, how):
    first = shards(tmp_path)[0]
    first.write_bytes(damaged(first.read_bytes(), how))
    volume = open_volume(tmp_path / "a.zarr", "labels", mode="r+")
    part = Roi((0, 0, 0), (8, 8, 8))
    with pytest.raises(DamagedError, match="labels/0( in z 0–8, y 0–8, x 0–8|/c/0/0/0)"):
        volume.write(part, np.ones(part.shape, np.uint64))


@HOW
@pytest.mark.parametrize("shard", [0, -1])
def test_writing_the_block_again_mends_it(tmp_path, stored, how, shard):
    volume, data = stored
    file = shards(tmp_path)[shard]
    good = file.read_bytes()
    file.write_bytes(damaged(good, how))
    roi = [Roi((0, 0, 0), (32, 30, 32)), Roi((32, 0, 32), SHAPE)][shard]
    open_volume(tmp_path / "a.zarr", "labels", mode="r+").write(roi, data[roi.slices])
    assert file.read_bytes() == good
    assert (volume.read() == data).all()


def test_writing_zeros_over_a_block_empties_it(tmp_path, stored):
    volume, data = stored
    roi = Roi((0, 0, 0), (32, 30, 32))
    volume.write(roi, np.zeros(roi.shape, np.uint64))
    expected = data.copy()
    expected[roi.slices] = 0
    assert (volume.read() == expected).all()


def test_damage_to_a_coarser_level_is_mended_too(tmp_path):
    data = RNG.integers(0, 5, (70, 32, 32)).astype(np.uint64)
    volume = create_volume(
        tmp_path, "a", shape=data.shape, dtype="uint64", voxel_size=(1, 1, 1), shard_zyx=SHARD, pyramid="majority"
    )
    volume.write(volume.roi, data)
    (coarse,) = volume.pyramid.arrays
    good = np.asarray(coarse)
    for file in (tmp_path / "a/1/c").rglob("*/0/0"):
        file.write_bytes(b"torn")
    roi = Roi((64, 0, 0), data.shape)
    volume.write(roi, data[roi.slices])
    volume.write(Roi((0, 0, 0), (64, 32, 32)), data[:64])
    assert (np.asarray(coarse) == good).all()


def test_damaged_metadata_are_named(tmp_path, stored):
    for name in ("zarr.json", "0/zarr.json"):
        file = tmp_path / "a.zarr/labels" / name
        good = file.read_text()
        for content in (good[: len(good) // 2], ""):
            file.write_text(content)
            with pytest.raises(DamagedError, match="damaged data at .*a.zarr/labels.*run again"):
                open_volume(tmp_path / "a.zarr", "labels")
        file.write_text(good)


def test_values_of_another_shape_are_the_programmers_mistake(stored):
    volume, _ = stored
    for roi, shape in [(Roi((0, 0, 0), (8, 8, 8)), (8, 8, 7)), (Roi((-8, 0, 0), (8, 8, 8)), (16, 8, 8))]:
        with pytest.raises(ValueError, match="are to be written"):
            volume.write(roi, np.zeros(shape, np.uint64))


def write_repeatedly(path, values, barrier, times):
    """What one of the processes does that write the same block."""
    volume = open_volume(path, "labels", mode="r+")
    barrier.wait()
    for _ in range(times):
        volume.write(volume.roi, values)


def test_processes_that_write_the_same_block_leave_one_of_both_whole(tmp_path):
    # Of different lengths when compressed: neither fits into the place of the other.
    versions = [RNG.integers(0, n, (32, 32, 32)).astype(np.uint64) for n in (2, 10**9)]
    write_volume(tmp_path, "labels", Volume(versions[0], (1, 1, 1)))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=write_repeatedly, args=(tmp_path, v, barrier, 50)) for v in versions]
    for writer in writers:
        writer.start()
    volume = open_volume(tmp_path, "labels")
    barrier.wait()
    found = [volume.read() for _ in range(50)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert all(any((values == version).all() for version in versions) for values in [*found, volume.read()])
    assert [file.name for file in (tmp_path / "labels/0/c").rglob("*") if file.is_file()] == ["0"]
