"""The command that scores one label file against another, and the files that it takes."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import networkx as nx
import numpy as np
import pytest
import tifffile
import zarr

import lsdflow
from lsdflow.errors import UserError
from lsdflow.metrics import border_mask
from lsdflow.metrics.__main__ import main
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.file_scores import count_overlaps, ids_at
from lsdflow.metrics.label_files import LabelFile, agreed_voxel_size, compared_region, format_of, open_labels
from lsdflow.metrics.run_length import run_length_scores
from lsdflow.metrics.scores import overlap_scores
from lsdflow.metrics.skeletons import node_labels, save_skeletons, skeletonize
from lsdflow.roi import Roi
from lsdflow.synthetic import simulate_neuropil
from lsdflow.volumes import Volume, write_volume

VOXEL_SIZE = (10.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def pair():
    """Blocky labels with background on both sides."""
    rng = np.random.default_rng(0)
    truth, segmentation = (
        rng.integers(0, 6, (4, 6, 8)).repeat(3, axis=1).repeat(3, axis=2).astype(np.uint64) for _ in range(2)
    )
    return truth, segmentation


@pytest.fixture(scope="module")
def neuropil():
    """Smooth objects that fill space, and all of them cut by a plane."""
    _, truth = simulate_neuropil((40, 40, 40), seed=2)
    segmentation = truth.copy()
    segmentation[:, 20:] += np.uint64(1000)
    return truth, segmentation


@pytest.fixture
def files(tmp_path, pair):
    """The pair as npy files."""
    return write_npy(tmp_path, *pair)


def write_npy(folder, truth, segmentation):
    np.save(folder / "truth.npy", truth)
    np.save(folder / "segmentation.npy", segmentation)
    return [str(folder / "truth.npy"), str(folder / "segmentation.npy")]


def write_hdf5(path, array, **attributes):
    with h5py.File(path, "w") as file:
        file["labels"] = array
        file["labels"].attrs.update(attributes)
    return str(path)


def write_ome_zarr(path, name, array, voxel_size=VOXEL_SIZE, offset=(0, 0, 0)):
    write_volume(path, name, Volume(array, voxel_size, offset))
    return str(path)


def expected(truth, segmentation, **options):
    return overlap_scores(contingency_table(segmentation, truth, **options))


def scores_of(arguments, folder):
    """The JSON that the command writes."""
    assert main([*map(str, arguments), "--json", str(folder / "scores.json")]) == 0
    return json.loads((folder / "scores.json").read_text())


def error_of(arguments, capsys):
    """The one line that the command says when it fails."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


# --- what it says and writes ------------------------------------------------------------------------------------


def test_table_names_metrics_units_and_conventions(tmp_path, capsys):
    # two objects in one segment: H(truth | segment) = 1 bit, half of the pairs are wrong
    assert main(write_npy(tmp_path, np.array([[[1, 1, 2, 2]]]), np.array([[[7, 7, 7, 7]]]))) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["Metric", "Value", "Perfect"] in lines
    assert ["VOI", "split", "(bits)", "0.0000", "0"] in lines
    assert ["VOI", "merge", "(bits)", "1.0000", "0"] in lines
    assert ["Rand", "merge", "0.5000", "1"] in lines
    assert ["Segments", "1", "2"] in lines
    assert "4 voxels of 2 true objects in 0:1,0:1,0:4" in out
    assert "VOI in bits; voxels of truth 0 are ignored; segment 0 counts as one segment." in out
    assert len({len(line) for line in out.splitlines()[4:16]}) == 1  # aligned


def test_csv_and_json_hold_all_scores(tmp_path, files, pair):
    result = scores_of([*files, "--csv", tmp_path / "scores.csv"], tmp_path)
    truth, segmentation = pair
    assert result["scores"] == expected(truth, segmentation)
    assert result["region"] == "0:4,0:18,0:24"
    assert result["voxels"] == np.count_nonzero(truth)
    assert result["true_objects"] == 5
    (row,) = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    assert row["truth"] == files[0]
    assert {name: float(row[name]) for name in result["scores"]} == result["scores"]
    assert (tmp_path / "scores.csv").read_bytes().count(b"\n") == 2


def test_ignored_segment_zero_changes_scores_and_conventions(tmp_path, files, pair, capsys):
    result = scores_of([*files, "--ignore-zero"], tmp_path)
    assert result["scores"] == expected(*pair, ignore_segment_zero=True)
    assert result["scores"] != expected(*pair)
    assert "voxels of segment 0 are ignored" in capsys.readouterr().out


def test_roi_is_scored_as_the_cropped_files_are(tmp_path, files, pair):
    result = scores_of([*files, "--roi", "1:3,0:10,5:24"], tmp_path)
    assert result["scores"] == expected(*(labels[1:3, :10, 5:] for labels in pair))


def test_border_tolerance_leaves_out_what_the_mask_does(tmp_path, neuropil, capsys):
    truth, segmentation = neuropil
    files = write_npy(tmp_path, truth, segmentation)
    result = scores_of([*files, "--border-tolerance", 20, "--voxel-size", 10, 10, 5], tmp_path)
    masked = np.where(border_mask(truth, 20, (10, 10, 5)), truth, np.uint64(0))
    assert 0 < np.count_nonzero(masked) < np.count_nonzero(truth)
    assert result["scores"] == expected(masked, segmentation)
    assert result["border_tolerance_nm"] == 20
    assert "within 20 nm of a border" in capsys.readouterr().out


def test_runs_as_a_module(files):
    environment = {**os.environ, "PYTHONPATH": str(Path(lsdflow.__file__).parents[1])}
    command = [sys.executable, "-m", "lsdflow.metrics", *files]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "VOI split (bits)" in run.stdout
    run = subprocess.run([*command, "--roi", "0:9,0:9,0:9"], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m lsdflow.metrics truth.tif segmentation.h5" in capsys.readouterr().out


# --- formats ----------------------------------------------------------------------------------------------------


def write_each_format(folder, labels, name):
    small = labels.astype(np.uint16)
    np.save(folder / f"{name}.npy", labels)
    np.savez(folder / f"{name}.npz", labels=labels)
    tifffile.imwrite(folder / f"{name}.tif", small, photometric="minisblack")
    write_hdf5(folder / f"{name}.h5", labels)
    (folder / f"{name}.h5.gz").write_bytes(gzip.compress((folder / f"{name}.h5").read_bytes()))
    zarr.save_array(folder / f"{name}_plain.zarr", labels)
    write_ome_zarr(folder / f"{name}_ome.zarr", "labels", labels)
    (folder / name).mkdir()
    for z, section in enumerate(small):
        tifffile.imwrite(folder / name / f"{z}.tif", section)


@pytest.mark.parametrize(
    "form", ["{}.npy", "{}.npz", "{}.tif", "{}.h5", "{}.h5.gz", "{}_plain.zarr", "{}_ome.zarr", "{}/*.tif"]
)
def test_every_format_gives_the_same_scores(tmp_path, pair, form):
    write_each_format(tmp_path, pair[0], "truth")
    write_each_format(tmp_path, pair[1], "segmentation")
    files = [tmp_path / form.format(name) for name in ("truth", "segmentation")]
    assert scores_of(files, tmp_path)["scores"] == expected(*pair)
    mixed = [files[0], tmp_path / "segmentation.npy"]
    assert scores_of(mixed, tmp_path)["scores"] == expected(*pair)


def test_dataset_is_chosen_by_name(tmp_path, pair):
    truth, segmentation = pair
    np.savez(tmp_path / "both.npz", truth=truth, segmentation=segmentation)
    write_ome_zarr(tmp_path / "both.zarr", "labels", truth)
    write_ome_zarr(tmp_path / "both.zarr", "result", segmentation)
    for file, names in (("both.npz", ("truth", "segmentation")), ("both.zarr", ("labels", "result"))):
        path = tmp_path / file
        arguments = [path, path, "--truth-dataset", names[0], "--segmentation-dataset", names[1]]
        assert scores_of(arguments, tmp_path)["scores"] == expected(truth, segmentation)
    below = [tmp_path / "both.zarr" / "labels", tmp_path / "both.zarr" / "result"]
    assert scores_of(below, tmp_path)["scores"] == expected(truth, segmentation)


def test_zarr_with_axes_for_time_and_channel_is_read(tmp_path, pair):
    for name, labels in zip(("truth", "segmentation"), pair, strict=True):
        zarr.save_array(tmp_path / f"{name}.zarr", labels[None, None])
    assert scores_of([tmp_path / "truth.zarr", tmp_path / "segmentation.zarr"], tmp_path)["scores"] == expected(*pair)


def test_format_is_told_by_the_ending(tmp_path):
    assert format_of("a/b.TIFF") == "tiff"
    assert format_of("sample_A.hdf") == "hdf5"
    assert format_of("no_such.zarr") == "zarr"
    assert format_of(tmp_path / "z*.png") == "image_stack"
    with pytest.raises(UserError, match=r"labels.nii is not known by its ending: use .npy, .npz"):
        format_of("labels.nii")
    with pytest.raises(UserError, match="folder without Zarr metadata"):
        format_of(tmp_path)


def test_volumes_in_zarr_stay_on_disk_and_others_come_into_memory(tmp_path, pair):
    zarr.save_array(tmp_path / "v.zarr", pair[0])
    assert isinstance(open_labels(tmp_path / "v.zarr").data, zarr.Array)
    np.save(tmp_path / "v.npy", pair[0])
    assert isinstance(open_labels(tmp_path / "v.npy").data, np.ndarray)


# --- blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_length", [1, 3, 5, 100])
@pytest.mark.parametrize("border_tolerance", [0, 5, 12])
def test_blocks_count_as_the_whole_does(neuropil, block_length, border_tolerance):
    region, region_of_segmentation = Roi((1, 7, 0), (4, 17, 20)), Roi((2, 17, 5), (5, 27, 25))
    truth, segmentation = neuropil[0][region.slices], neuropil[1][region_of_segmentation.slices]
    masked = truth * border_mask(truth, border_tolerance, VOXEL_SIZE)
    assert np.any(masked != truth) == (border_tolerance > 0)
    table = count_overlaps(
        LabelFile("truth", neuropil[0]),
        LabelFile("segmentation", neuropil[1]),
        (region, region_of_segmentation),
        border_tolerance=border_tolerance,
        voxel_size=VOXEL_SIZE,
        block_length=block_length,
    )
    whole = contingency_table(segmentation, masked)
    for name in ("segments", "truths", "rows", "columns", "counts"):
        np.testing.assert_array_equal(getattr(table, name), getattr(whole, name))


def test_blocks_are_whole_chunks_so_that_each_is_decoded_once(tmp_path, pair, monkeypatch):
    arrays = []
    for name, labels in zip(("truth", "segmentation"), pair, strict=True):
        path = tmp_path / f"{name}.zarr"
        array = zarr.open_array(path, mode="w", shape=labels.shape, chunks=(1, 9, 24), dtype=labels.dtype)
        array[...] = labels
        arrays.append(open_labels(path))
    boxes, read = [], LabelFile.read
    monkeypatch.setattr(LabelFile, "read", lambda self, roi: (boxes.append(roi), read(self, roi))[1])
    table = count_overlaps(*arrays, (Roi.of_shape(pair[0].shape),) * 2, block_length=6)
    assert overlap_scores(table) == expected(*pair)
    assert len(boxes) == 2 * 8
    assert {(b.begin[0] % 1, b.begin[1] % 9, b.begin[2] % 24) for b in boxes} == {(0, 0, 0)}


def test_long_work_shows_its_progress_on_standard_error(pair, capsys):
    labels = [LabelFile(name, labels) for name, labels in zip("ab", pair, strict=True)]
    count_overlaps(*labels, (Roi.of_shape(pair[0].shape),) * 2, block_length=8)
    captured = capsys.readouterr()
    assert captured.out == "" and "counting overlaps: 9/9 blocks" in captured.err


@pytest.mark.parametrize("block_length", [2, 5, 100])
def test_ids_at_voxels_of_a_region(pair, block_length):
    region = Roi((1, 3, 2), (4, 16, 23))
    voxels = np.random.default_rng(1).integers(0, region.shape, (50, 3))
    found = ids_at(LabelFile("labels", pair[0]), region, voxels, block_length=block_length)
    np.testing.assert_array_equal(found, pair[0][region.slices][tuple(voxels.T)])


# --- place ------------------------------------------------------------------------------------------------------


def test_voxel_size_and_offset_are_found_where_writers_put_them(tmp_path, pair):
    labels = pair[0]
    place = (10, 5, 5), (100, 50, 25)
    write_ome_zarr(tmp_path / "ome.zarr", "labels", labels, *place)
    zarr.save_array(tmp_path / "funlib.zarr", labels)
    zarr.open_array(tmp_path / "funlib.zarr").attrs.update({"resolution": place[0], "offset": place[1]})
    write_hdf5(tmp_path / "cremi.hdf", labels, resolution=place[0], offset=place[1])
    for name, dataset in (
        ("ome.zarr", None),
        ("ome.zarr", "labels/0"),
        ("ome.zarr/labels", None),
        ("ome.zarr/labels/0", None),
        ("funlib.zarr", None),
        ("cremi.hdf", "labels"),
    ):
        file = open_labels(tmp_path / name, dataset)
        assert (file.voxel_size, file.offset) == place, name
    zarr.save_array(tmp_path / "plain.zarr", labels)
    assert open_labels(tmp_path / "plain.zarr").voxel_size is None


def test_ome_zarr_in_micrometres_and_without_translation(tmp_path, pair):
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=2)
    group.create_array("s0", data=pair[0])
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [0.04, 0.004, 0.004]}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": scale}]}]
    file = open_labels(tmp_path / "v.zarr")
    assert file.voxel_size == pytest.approx((40, 4, 4))
    assert file.offset is None


def test_voxel_sizes_that_differ_are_refused_with_both(tmp_path, pair, capsys):
    truth = write_hdf5(tmp_path / "truth.h5", pair[0], resolution=(40, 4, 4))
    other = write_ome_zarr(tmp_path / "other.zarr", "labels", pair[1], (8, 8, 8))
    line = error_of([truth, other], capsys)
    assert "40 4 4 of " in line and "truth.h5" in line and "8 8 8 of " in line and "other.zarr" in line
    assert scores_of([truth, other, "--voxel-size", 8, 8, 8], tmp_path)["scores"] == expected(*pair)


def test_voxel_size_of_one_file_or_equal_ones_are_agreed():
    labels = np.ones((1, 1, 1), np.uint8)
    sized, plain = LabelFile("a", labels, (40, 4, 4)), LabelFile("b", labels)
    rounded = LabelFile("c", labels, (40.0000001, 4, 4))
    assert agreed_voxel_size(plain, plain) is None
    for truth, segmentation in ((sized, plain), (plain, sized), (sized, rounded)):
        assert agreed_voxel_size(truth, segmentation) == (40, 4, 4)


def test_segmentation_of_a_part_is_placed_by_its_offset(tmp_path, pair, capsys):
    truth, segmentation = pair
    part = segmentation[1:4, 3:15, 6:]
    whole_path = write_ome_zarr(tmp_path / "truth.zarr", "labels", truth, offset=(7, 7, 7))
    part_path = write_ome_zarr(tmp_path / "part.zarr", "labels", part, offset=(17, 22, 37))
    line = error_of([whole_path, part_path], capsys)
    assert "(4, 18, 24)" in line and "(3, 12, 18)" in line and "voxel (1, 3, 6) of the truth" in line
    remedy = line[line.index("--roi") :].split()
    assert remedy == ["--roi", "1:4,3:15,6:24"]
    result = scores_of([whole_path, part_path, *remedy], tmp_path)
    assert result["scores"] == expected(truth[1:4, 3:15, 6:], part)
    smaller = scores_of([whole_path, part_path, "--roi", "2:3,4:15,7:20"], tmp_path)
    assert smaller["scores"] == expected(truth[2:3, 4:15, 7:20], segmentation[2:3, 4:15, 7:20])
    line = error_of([whole_path, part_path, "--roi", "0:4,3:15,6:24"], capsys)
    assert "part.zarr" in line and "1:4,3:15,6:24" in line


def test_volumes_of_one_shape_at_different_places_are_refused(tmp_path, pair, capsys):
    a = write_ome_zarr(tmp_path / "a.zarr", "labels", pair[0])
    b = write_ome_zarr(tmp_path / "b.zarr", "labels", pair[1], offset=(20, 0, 0))
    assert "begins at voxel (2, 0, 0)" in error_of([a, b], capsys)
    regions = compared_region(open_labels(a), open_labels(b))  # without a voxel size nobody knows how far
    assert regions == (Roi.of_shape((4, 18, 24)),) * 2


# --- skeletons --------------------------------------------------------------------------------------------------


def run_lengths(graph, segmentation, voxel_size, offset=(0, 0, 0)):
    scores = run_length_scores(graph, node_labels(graph, segmentation, voxel_size, offset))
    return scores.expected_run_length, scores.maximum, scores.normalized


def test_run_lengths_on_skeletons_made_of_the_truth(tmp_path, neuropil, capsys):
    size = (40.0, 40.0, 40.0)
    result = scores_of([*write_npy(tmp_path, *neuropil), "--voxel-size", *size, "--make-skeletons"], tmp_path)
    graph = skeletonize(neuropil[0], size)
    names = ("expected_run_length", "maximum_run_length", "normalized_run_length")
    assert tuple(result["scores"][name] for name in names) == run_lengths(graph, neuropil[1], size)
    assert 0 < result["scores"]["normalized_run_length"] < 1
    assert result["skeletons"] == len(set(nx.get_node_attributes(graph, "component").values()))
    assert "Expected run length (nm)" in capsys.readouterr().out


def test_run_lengths_on_skeletons_of_a_file_in_the_region(tmp_path):
    #   z 0 . . . . . . . 7     one skeleton along z, 10 nm apart; segments 5 and 6 meet at z = 4; offset 100 nm
    labels = np.ones((8, 3, 3), np.uint16)
    segmentation = np.repeat([5, 6], 4)[:, None, None] * labels
    truth_path = write_ome_zarr(tmp_path / "truth.zarr", "labels", labels, (10, 10, 10), (100, 0, 0))
    segmentation_path = write_ome_zarr(tmp_path / "s.zarr", "labels", segmentation, (10, 10, 10), (100, 0, 0))
    graph = nx.path_graph(8)
    for z in graph:
        graph.nodes[z].update(position=(105.0 + 10 * z, 15.0, 15.0), component=1, label=1)
    nx.set_edge_attributes(graph, 10.0, "length")
    save_skeletons(tmp_path / "skeletons.npz", graph)
    arguments = [truth_path, segmentation_path, "--skeletons", tmp_path / "skeletons.npz"]
    scores = scores_of(arguments, tmp_path)["scores"]
    assert scores["expected_run_length"] == pytest.approx((30**2 + 30**2) / 70)
    assert scores["maximum_run_length"] == pytest.approx(70)
    # in z 2-7 the skeleton is 40 nm long: 10 nm in segment 5 and 20 nm in segment 6 are correct
    result = scores_of([*arguments, "--roi", "2:7,0:3,0:3"], tmp_path)
    assert result["skeleton_length_nm"] == 40
    assert result["scores"]["expected_run_length"] == pytest.approx((10**2 + 20**2) / 40)


def test_skeletons_without_voxel_size_or_outside_the_volume_are_refused(tmp_path, files, capsys):
    assert "--voxel-size" in error_of([*files, "--make-skeletons"], capsys)
    (tmp_path / "far.swc").write_text("1 0 9000 9000 9000 1 -1\n2 0 9010 9000 9000 1 1\n")
    line = error_of([*files, "--voxel-size", 1, 1, 1, "--skeletons", tmp_path / "far.swc"], capsys)
    assert "no node of the skeletons lies in the volume" in line
    assert "no_such.swc" in error_of([*files, "--voxel-size", 1, 1, 1, "--skeletons", "no_such.swc"], capsys)


# --- bad input --------------------------------------------------------------------------------------------------


def test_shapes_that_differ_are_refused_with_both(tmp_path, pair, capsys):
    files = write_npy(tmp_path, pair[0], pair[1][1:])
    line = error_of(files, capsys)
    assert "(4, 18, 24)" in line and "(3, 18, 24)" in line and "truth.npy" in line and "segmentation.npy" in line
    assert "must have the same shape" in error_of([*files, "--roi", "0:3,0:18,0:24"], capsys)  # where does it lie?


def test_truth_without_label_is_refused(tmp_path, pair, capsys):
    assert "the truth has no label" in error_of(write_npy(tmp_path, pair[0] * 0, pair[1]), capsys)


def test_segmentation_of_zeros_is_one_segment(tmp_path, capsys):
    truth = np.array([[[1, 1, 2, 3]]])
    files = write_npy(tmp_path, truth, truth * 0)
    scores = scores_of(files, tmp_path)["scores"]
    assert scores["voi_split"] == 0
    assert scores["voi_merge"] == pytest.approx(1.5)  # H(truth) = 1/2 + 2 · 1/4 · 2 bits
    assert scores["segments"] == 1
    assert "no label where it is compared" in error_of([*files, "--ignore-zero"], capsys)


@pytest.mark.parametrize("dtype", [np.float32, bool])
@pytest.mark.parametrize("suffix", ["npy", "zarr"])
def test_labels_that_are_no_integers_are_refused(tmp_path, pair, capsys, dtype, suffix):
    truth, segmentation = pair
    path = tmp_path / f"segmentation.{suffix}"
    np.save(tmp_path / "truth.npy", truth)
    np.save(path, segmentation.astype(dtype)) if suffix == "npy" else zarr.save_array(path, segmentation.astype(dtype))
    line = error_of([tmp_path / "truth.npy", path], capsys)
    assert f"segmentation.{suffix} must hold integer ids, not {np.dtype(dtype)}" in line


def test_negative_ids_are_refused(tmp_path, pair, capsys):
    files = write_npy(tmp_path, pair[0], pair[1].astype(np.int64) - 3)
    assert "the segmentation must hold ids of 0 or more, not -3" in error_of(files, capsys)


def test_ids_above_63_bits_are_objects_like_any_other(tmp_path):
    truth = np.array([[[2**64 - 1, 2**64 - 1, 2**64 - 2, 2**63 + 1]]], np.uint64)
    segmentation = np.array([[[2**63, 2**63, 2**63, 2**63 + 2]]], np.uint64)
    scores = scores_of(write_npy(tmp_path, truth, segmentation), tmp_path)["scores"]
    small = expected(np.array([1, 1, 2, 3]), np.array([1, 1, 1, 2]))
    assert scores == small
    signed = scores_of(write_npy(tmp_path, truth, np.array([[[8, 8, 8, 9]]], np.int64)), tmp_path)["scores"]
    assert signed == small


@pytest.mark.parametrize("wrong", [np.ones((3, 4), int), np.ones((2, 3, 4, 5), int), np.ones((0, 3, 4), int)])
def test_arrays_that_are_no_volumes_are_refused(tmp_path, pair, capsys, wrong):
    line = error_of(write_npy(tmp_path, pair[0], wrong), capsys)
    assert "segmentation.npy" in line and str(wrong.shape) in line


def test_zarr_with_channels_is_refused(tmp_path, files, pair, capsys):
    zarr.save_array(tmp_path / "v.zarr", np.stack([pair[0]] * 2))
    assert "must be 3-D (z, y, x), not 4-D (2, 4, 18, 24)" in error_of([files[0], tmp_path / "v.zarr"], capsys)


def test_missing_and_broken_files_are_refused(tmp_path, files, pair, capsys):
    assert "no_such.h5 does not exist" in error_of([files[0], tmp_path / "no_such.h5"], capsys)
    assert "no_such.zarr does not exist" in error_of([files[0], tmp_path / "no_such.zarr"], capsys)
    (tmp_path / "broken.h5").write_bytes(b"not what it seems")
    assert "broken.h5 cannot be read as hdf5" in error_of([files[0], tmp_path / "broken.h5"], capsys)
    zarr.save_array(tmp_path / "broken.zarr", pair[0])
    (chunk,) = (path for path in (tmp_path / "broken.zarr" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(b"not what it seems")
    assert "broken.zarr cannot be read as labels" in error_of([files[0], tmp_path / "broken.zarr"], capsys)


def test_dataset_that_is_missing_or_not_named_is_refused_with_the_option(tmp_path, files, pair, capsys):
    np.savez(tmp_path / "many.npz", a=pair[0], b=pair[1])
    many = str(tmp_path / "many.npz")
    line = error_of([many, files[1]], capsys)
    assert "--truth-dataset is not set" in line and "it holds a, b" in line
    line = error_of([files[0], many, "--segmentation-dataset", "c"], capsys)
    assert "no dataset 'c'" in line and "it holds a, b" in line
    assert "holds one array" in error_of([*files, "--truth-dataset", "a"], capsys)
    write_ome_zarr(tmp_path / "many.zarr", "a", pair[0])
    write_ome_zarr(tmp_path / "many.zarr", "b", pair[1])
    line = error_of([tmp_path / "many.zarr", files[1]], capsys)
    assert "name as --truth-dataset one of a/0, b/0" in line


def test_region_that_is_empty_or_beyond_the_volume_is_refused(files, capsys):
    for roi in ("0:5,0:18,0:24", "2:2,0:18,0:24", "3:2,0:18,0:24"):
        line = error_of([*files, "--roi", roi], capsys)
        assert f"the region {roi}" in line and "0:4,0:18,0:24" in line


@pytest.mark.parametrize(
    "arguments",
    [["--roi", "0:1,0:1"], ["--roi=-1:1,0:1,0:1"], ["--voxel-size", "4", "0", "4"], ["--border-tolerance", "x"]],
)
def test_options_that_cannot_be_read_are_refused_by_name(files, capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main([*files, *arguments])
    assert f"argument {arguments[0].partition('=')[0]}: must be" in capsys.readouterr().err


def test_border_tolerance_needs_a_voxel_size_and_must_leave_something(files, capsys):
    assert "add --voxel-size Z Y X" in error_of([*files, "--border-tolerance", 10], capsys)
    line = error_of([*files, "--border-tolerance", 1000, "--voxel-size", 4, 4, 4], capsys)
    assert "farther than 1000 nm from a border" in line


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, files, capsys):
    for path in (tmp_path / "no_such" / "scores.csv", tmp_path):
        assert "cannot be written" in error_of([*files, "--csv", path], capsys)
        assert "cannot be written" in error_of([*files, "--json", path], capsys)


def test_voxel_size_that_is_not_positive_is_refused(tmp_path, files, pair, capsys):
    path = write_hdf5(tmp_path / "v.h5", pair[0], resolution=(40, 0, 4))
    assert "v.h5 tells a voxel size of 40 0 4 nm" in error_of([path, files[1]], capsys)
