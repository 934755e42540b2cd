"""Volumes exported to Neuroglancer's precomputed format are the same voxels in the same place."""

import json

import numpy as np
import pytest
import tensorstore

from lsdflow.errors import DamagedError, UserError
from lsdflow.precomputed import export, main
from lsdflow.volumes import Volume, open_volume, write_volume

RNG = np.random.default_rng(0)


def stored(path, data, voxel_size=(10, 10, 10), begin=(0, 0, 0), **more):
    write_volume(path, "a", Volume(data, voxel_size, tuple(np.multiply(begin, voxel_size))), **more)
    return open_volume(path, "a")


def read(folder, level=0):
    """A level as a reader that knows nothing of this project sees it: voxels in x y z c order, and where they begin."""
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", "scale_index": level}
    store = tensorstore.open(spec).result()
    return store.read().result(), store.domain.origin


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "float32"])
@pytest.mark.parametrize("shape", [(20, 70, 300), (2, 20, 30, 40)])
def test_what_is_exported_is_read_back(tmp_path, dtype, shape):
    if dtype == "float32":
        data = RNG.random(shape, dtype=np.float32)
    else:
        data = RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    volume = stored(tmp_path / "a.zarr", data, (40, 4, 4.5), (5, 0, 12))
    assert export(volume, tmp_path / "out") == [(40, 4, 4.5)]
    found, origin = read(tmp_path / "out")
    assert found.dtype == dtype
    assert (found.T.reshape(shape) == data).all()
    assert origin[:3] == (12, 0, 5)
    info = json.loads((tmp_path / "out/info").read_text())
    assert (info["type"], info["data_type"]) == ("segmentation" if dtype == "uint64" else "image", dtype)
    assert info["num_channels"] == (1 if len(shape) == 3 else 2)
    (scale,) = info["scales"]
    assert scale["resolution"] == [4.5, 4, 40]
    assert scale["voxel_offset"] == [12, 0, 5]
    assert scale["size"] == list(shape[:-4:-1])


def test_volumes_of_several_shards_are_exported_shard_by_shard(tmp_path, capsys):
    data = RNG.integers(0, 5, (64, 280, 600)).astype(np.uint64)
    export(stored(tmp_path / "a.zarr", data, begin=(3, 4, 5)), tmp_path / "out")
    found, _ = read(tmp_path / "out")
    assert (found[..., 0].T == data).all()
    shards = sorted(file.name for file in (tmp_path / "out").rglob("*.shard"))
    # Written one after the other, each in one go.
    assert f"{len(shards)}/{len(shards)} shards (100 %)" in capsys.readouterr().err
    assert len(shards) > 1


def test_coarser_levels_are_exported_where_they_begin_with_a_voxel(tmp_path):
    data = RNG.integers(0, 5, (200, 20, 20)).astype(np.uint64)
    volume = stored(tmp_path / "a.zarr", data, begin=(2, 4, 8), pyramid="majority")
    assert volume.pyramid.factors == ((2, 2, 2), (4, 4, 4))
    # Four voxels are 40 nm; the volume begins at 20 nm.
    assert export(volume, tmp_path / "out") == [(10, 10, 10), (20, 20, 20)]
    found, origin = read(tmp_path / "out", level=1)
    assert (found[..., 0].T == np.asarray(volume.pyramid.arrays[0])).all()
    assert origin[:3] == (4, 2, 1)


def test_the_command_exports_and_refuses_to_overwrite(tmp_path, capsys):
    stored(tmp_path / "a.zarr", np.ones((4, 5, 6), np.uint64))
    arguments = [str(tmp_path / "a.zarr"), "a", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert read(tmp_path / "out")[0].shape == (6, 5, 4, 1)
    assert main(arguments) == 1
    assert "holds a precomputed volume: remove it" in capsys.readouterr().err


def test_what_the_format_does_not_know_is_refused(tmp_path):
    with pytest.raises(UserError, match="uint8, .*float32, not float64"):
        export(stored(tmp_path / "a.zarr", np.zeros((2, 2, 2))), tmp_path / "out")
    with pytest.raises(UserError, match="not whole voxels"):
        export(stored(tmp_path / "a.zarr", np.zeros((2, 2, 2), np.uint8), begin=(0.5, 0, 0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_not_exported(tmp_path):
    volume = stored(tmp_path / "a.zarr", np.ones((4, 4, 4), np.uint8))
    (file,) = (tmp_path / "a.zarr/a/0/c").rglob("0/0/0")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DamagedError):
        export(volume, tmp_path / "out")
