"""Segmentation by blocks: killed, damaged or run twice at once, it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage
from workflow_runs import Answer, Project, copy, environment, write_config

from lsdflow.agglomeration import MergeTree
from lsdflow.volumes import create_volume, open_volume

EDGE, BLOCK, CHUNKS = 96, 32, 2
FOLDER = Path("results/blocks/segmentations/net/0/test")
TARGETS = [f"{FOLDER}/segmentation/chunk-{chunk}-of-{CHUNKS}.json" for chunk in range(CHUNKS)]
RULES = ["create_fragments", "fragments", "region_graph", "merge_tree", "create_segmentation", "segmentation"]
# Where each rule marks its blocks.
DONE = {
    "fragments": FOLDER / "fragments.zarr/done",
    "region_graph": FOLDER / "region_graph/blocks/done",
    "segmentation": FOLDER / "segmentation.zarr/done",
}
SMALL = {"shape": [64, 64, 64], "voxel_size": [10, 10, 10], "simulate": {"seed": 1}}
STORED = {"path": ".", "format": "zarr"}
CONFIG = {
    "experiment": "blocks",
    "volumes": {
        "small": SMALL,
        "other": SMALL,
        "cube": {"shape": [EDGE] * 3, "voxel_size": [10, 10, 10], "raw": STORED, "labels": STORED},
    },
    "split": {"train": [{"volume": "small"}], "validation": {"volume": "other"}, "test": {"volume": "cube"}},
    "setups": {"net": {"inputs": ["raw"], "outputs": ["affinities"]}},
    "training": {"crop_shape": [40, 40, 40]},
    "replicates": [0],
    "raw_watershed": {"enabled": False},
    "segmentation": {
        "block_shape": [BLOCK] * 3,
        "context": [8, 8, 8],
        "chunks": CHUNKS,
        "minimum_seed_distance": 5,
    },
}


def start(folder: Path, seed: int = 0) -> None:
    """What the rules of the segmentation start from: a volume, predictions of it, and a threshold."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(EDGE,) * 3), 4)
    affinities = np.clip(255 * np.abs(smooth) / (2 * smooth.std()), 0, 255).astype(np.uint8)
    volume, predictions = folder / "resources/volumes/cube.zarr", folder / "results/blocks/predictions/net/0"
    for path, name, values in (
        (volume, "raw", affinities),
        (volume, "labels", np.ones(affinities.shape, np.uint64)),
        (predictions / "test.zarr", "affinities", np.stack([affinities] * 3)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = create_volume(path, name, shape=values.shape, dtype=values.dtype, voxel_size=(10, 10, 10))
        stored.write(stored.roi, values)
    # As the rule that makes it does.
    zarr.open_group(predictions / "test.zarr", mode="r+").attrs["store"] = f"made with seed {seed}"
    (predictions / "test").mkdir()
    (predictions / "test/chunk-0-of-1.json").write_text(json.dumps({"fingerprint": "made here"}))
    selected = folder / "results/blocks/scores/net/0/selected.json"
    selected.parent.mkdir(parents=True, exist_ok=True)
    selected.write_text(json.dumps({"threshold": 0.4}))
    write_config(folder / "config.yaml", CONFIG)


def command(project: Project, folder: Path, *options: str, targets: Sequence[str] = TARGETS) -> list[str]:
    config = folder / "config.yaml"
    whole = project.command(folder, [config], *options, *targets)
    at = whole.index("--configfile")
    return [*whole[:at], "--allowed-rules", *RULES, *whole[at:]]


def run(project: Project, folder: Path, *options: str, targets: Sequence[str] = TARGETS) -> Answer:
    line = command(project, folder, *options, targets=targets)
    done = subprocess.run(line, env=environment(), cwd=folder, text=True, stdout=-1, stderr=subprocess.STDOUT)
    return Answer(done.returncode, done.stdout)


def finish(project: Project, folder: Path, targets: Sequence[str] = TARGETS) -> None:
    answer = run(project, folder, targets=targets)
    assert answer.code == 0, answer.text


def kill_when(project: Project, folder: Path, is_time) -> None:
    """Start a run, and kill all of its processes."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    line = command(project, folder)
    running = subprocess.Popen(line, env=environment(), cwd=folder, start_new_session=True, **silent)
    try:
        while not is_time():
            assert running.poll() is None, "it ended before its time"
            time.sleep(0.002)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert run(project, folder, "--unlock").code == 0


def markers(folder: Path, rule: str) -> dict[str, int]:
    """The marked blocks of a rule, and when each was."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / DONE[rule]).glob("*.done")}


def outcome(folder: Path) -> dict[str, np.ndarray]:
    """All that was computed."""
    tree = MergeTree.load(folder / FOLDER / "merge_tree.zarr")
    found = {name: getattr(tree, name) for name in ("fragments", "edges", "scores", "merges", "merge_scores")}
    for name in ("fragments", "segmentation"):
        volume = open_volume(folder / FOLDER / f"{name}.zarr", name)
        found[f"{name} of voxels"] = volume.read()
    return found


def assert_same(folder: Path, other: Path) -> None:
    found, expected = outcome(folder), outcome(other)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(project, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    start(folder)
    finish(project, folder)
    segments = np.unique(outcome(folder)["segmentation of voxels"])
    assert 3 < len(segments) < len(np.unique(outcome(folder)["fragments of voxels"]))
    return folder


def test_jobs_killed_in_each_rule_do_the_missing_blocks_only_and_end_the_same(project, undisturbed, tmp_path):
    start(tmp_path)
    n_blocks, kept = (EDGE // BLOCK) ** 3, {}
    for rule in DONE:
        kill_when(project, tmp_path, lambda rule=rule: len(markers(tmp_path, rule)) >= 2)
        kept[rule] = markers(tmp_path, rule)
        assert 2 <= len(kept[rule]) < n_blocks
    finish(project, tmp_path)
    for rule in DONE:
        found = markers(tmp_path, rule)
        assert len(found) == n_blocks
        assert kept[rule].items() <= found.items(), f"{rule} did blocks again"
    assert_same(tmp_path, undisturbed)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 5)


def flip(file: Path) -> None:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 16
    file.write_bytes(content)


def test_damaged_blocks_are_found_and_they_alone_made_again(project, undisturbed, tmp_path):
    folder = copy(undisturbed, tmp_path / "run")
    before = markers(folder, "fragments")
    shards = folder / FOLDER / "fragments.zarr/fragments/0/c"
    truncate(shards / "0/0/1")
    flip(shards / "1/2/0")
    (shards / "2/2/2").unlink()
    # What reads them: otherwise nothing is to be done.
    segmented = markers(folder, "segmentation")
    for target in TARGETS:
        (folder / target).unlink()
    answer = run(project, folder)
    assert answer.code == 1
    assert "3 blocks of results/blocks/segmentations/net/0/test/fragments.zarr damaged" in answer.text
    assert "run again, and what is damaged is made anew" in answer.text
    finish(project, folder)
    after = markers(folder, "fragments")
    assert {name for name in before if before[name] != after[name]} == {"1.done", "15.done", "26.done"}
    assert markers(folder, "segmentation") == segmented
    assert_same(folder, undisturbed)


def test_a_bit_that_flipped_in_a_block_or_a_merge_tree_is_found_at_reading(project, undisturbed, tmp_path):
    folder = copy(undisturbed, tmp_path / "run")
    flip(folder / FOLDER / "fragments.zarr/fragments/0/c/1/2/0")
    flip(folder / FOLDER / "merge_tree.zarr/edges/c/0/0")
    for target in TARGETS:
        (folder / target).unlink()
    (folder / DONE["segmentation"] / "15.done").unlink()
    answer = run(project, folder)
    assert answer.code == 1
    assert "merge_tree.zarr is damaged" in answer.text and "1 block of" in answer.text
    finish(project, folder)
    assert_same(folder, undisturbed)


def test_two_runs_at_once_end_as_one(project, undisturbed, tmp_path):
    start(tmp_path)
    # Snakemake lets no second run begin; where its lock does not hold, blocks must.
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.output.lock").write_text(f"{TARGETS[0]}\n")
    assert "LockException" in run(project, tmp_path).text
    both = [
        subprocess.Popen(
            command(project, tmp_path, "--nolock"), env=environment(), cwd=tmp_path, stdout=-1, stderr=-2, text=True
        )
        for _ in range(2)
    ]
    texts = [one.communicate()[0] for one in both]
    finish(project, tmp_path)
    assert any(one.returncode == 0 for one in both), texts
    assert_same(tmp_path, undisturbed)


def test_cut_into_other_jobs_nothing_is_computed_again(project, undisturbed, tmp_path):
    folder = copy(undisturbed, tmp_path / "run")
    other = {**CONFIG, "segmentation": {**CONFIG["segmentation"], "chunks": 1}}
    write_config(folder / "config.yaml", other)
    graphs = markers(folder, "region_graph")
    finish(project, folder, [f"{FOLDER}/segmentation/chunk-0-of-1.json"])
    lists = [folder / FOLDER / rule / "chunk-0-of-1.json" for rule in ("fragments", "segmentation")]
    assert [json.loads(path.read_bytes())["computed"] for path in lists] == [0, 0]
    assert markers(folder, "region_graph") == graphs
    assert_same(folder, undisturbed)


def test_another_volume_of_the_same_name_is_segmented_anew(project, undisturbed, tmp_path):
    folder = copy(undisturbed, tmp_path / "run")
    shutil.rmtree(folder / "resources")
    shutil.rmtree(folder / "results/blocks/predictions")
    start(folder, seed=1)
    finish(project, folder)
    whole, other = outcome(folder), outcome(undisturbed)
    assert set(np.unique(whole["fragments of voxels"])) == set(whole["fragments"])
    assert not np.array_equal(whole["segmentation of voxels"], other["segmentation of voxels"])
    start(tmp_path / "alone", seed=1)
    finish(project, tmp_path / "alone")
    assert_same(folder, tmp_path / "alone")
