"""What cannot be used is refused at the command line: before work starts, in one clear message, nothing overwritten."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from workflow_runs import PREDICTED, Answer, Project, copy, write_config

SHAPE = (24, 24, 24)
EARLIER = "an earlier result\n"


def config() -> dict:
    """A configuration that can be used, with a volume from files."""
    return {
        "experiment": "bad",
        "volumes": {
            "cube": {
                "shape": list(SHAPE),
                "voxel_size": [10, 10, 10],
                "raw": {"path": "raw.npy", "format": "npy"},
                "labels": {"path": "labels.npy", "format": "npy"},
            }
        },
        "split": {
            "train": [{"volume": "cube", "roi": {"z": [0, 12]}}],
            "validation": {"volume": "cube", "roi": {"z": [12, 18]}},
            "test": {"volume": "cube", "roi": {"z": [18, 24]}},
        },
        "networks": {
            "tiny": {"architecture": "unet", "num_fmaps": 2, "fmap_inc_factor": 2, "downsample_factors": [[2, 2, 2]]}
        },
        "network": "tiny",
        "setups": {
            "baseline": {"inputs": ["raw"], "outputs": ["affinities"]},
            "lsd": {"inputs": ["raw"], "outputs": ["lsds"]},
            "aclsd": {"inputs": ["lsd.lsds"], "outputs": ["affinities"]},
        },
        "training": {"iterations": 1, "crop_shape": [8, 8, 8]},
        "prediction": {"block_shape": [8, 8, 8]},
        "segmentation": {"block_shape": [24, 24, 24]},
    }


def arrays() -> dict[str, np.ndarray]:
    """Raw and labels that can be used."""
    raw = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    labels = np.ones(SHAPE, np.uint32)
    labels[:, 12:] = 2
    return {"raw": raw, "labels": labels}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a volume in files and results of an earlier run."""
    for name, array in arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    for path in ("results/bad/summary.html", "results/bad/scores/rows.csv", "results/bad/models/lsd/0/checkpoint.pt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(EARLIER)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files but Snakemake's own, logs and measurements."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not {".snakemake", "logs", "benchmarks"} & set(inside.parts):
            found[str(inside)] = path.read_bytes()
    return found


def check_refused(answer: Answer, *phrases: str) -> None:
    """Failed with a message that holds all ``phrases``, and without a traceback."""
    assert answer.code == 1, answer.text
    assert "Traceback" not in answer.text
    for phrase in phrases:
        assert phrase in answer.text, answer.text


def setup_misspelt(c: dict) -> None:
    c["setups"]["aclsd"]["inputs"] = ["lds.lsds"]


def setup_missing(c: dict) -> None:
    del c["setups"]["lsd"]


def output_missing(c: dict) -> None:
    c["setups"]["aclsd"]["inputs"] = ["baseline.lsds"]


def cycle(c: dict) -> None:
    c["setups"]["lsd"]["inputs"] = ["aclsd.affinities"]


def unknown_key(c: dict) -> None:
    c["training"]["iteratons"] = 5


def unknown_key_of_setup(c: dict) -> None:
    c["setups"]["baseline"]["ouputs"] = ["lsds"]


def number_as_word(c: dict) -> None:
    c["training"]["learning_rate"] = "1e-4"


def roi_outside(c: dict) -> None:
    c["split"]["test"]["roi"] = {"z": [18, 30]}


def roi_empty(c: dict) -> None:
    c["split"]["test"]["roi"] = {"z": [20, 20]}


def train_overlaps_test(c: dict) -> None:
    c["split"]["train"].append({"volume": "cube", "roi": {"z": [10, 20], "y": [0, 12]}})
    c["split"]["validation"]["roi"] = {"z": [12, 18], "y": [12, 24]}


def volume_missing(c: dict) -> None:
    c["split"]["test"]["volume"] = "cub"


def file_missing(c: dict) -> None:
    c["volumes"]["cube"]["labels"]["path"] = "label.npy"


def block_shape(c: dict) -> None:
    c["prediction"]["block_shape"] = [8, 9, 8]


def crop_larger_than_region(c: dict) -> None:
    c["training"]["crop_shape"] = [14, 8, 8]


def crop_unsuitable(c: dict) -> None:
    c["training"]["crop_shape"] = [8, 9, 8]


def malis_never(c: dict) -> None:
    c["setups"]["baseline"] |= {"losses": {"affinities": "malis"}, "malis": {"after": 1}}


def batch_shared_unevenly(c: dict) -> None:
    c["training"] |= {"batch_size": 3, "processes": 2}


def more_parts_than_crops(c: dict) -> None:
    c["training"] |= {"batch_size": 4, "processes": 2, "accumulate": 3}


def rotation_would_stretch(c: dict) -> None:
    c["volumes"]["cube"]["voxel_size"] = [10, 10, 20]
    c["training"]["augment"] = {"elastic": 1}


def threshold_above_one(c: dict) -> None:
    c["evaluation"] = {"thresholds": {"begin": 0, "end": 1.2, "step": 0.1}}


def threshold_negative(c: dict) -> None:
    c["evaluation"] = {"thresholds": {"begin": -0.1}}


@pytest.mark.parametrize(
    ("spoil", "phrases"),
    [
        (unknown_key, ["training.iteratons", "did you mean iterations"]),
        (unknown_key_of_setup, ["setups.baseline.ouputs", "did you mean outputs"]),
        (setup_misspelt, ["setups.aclsd.inputs", "'lds'", "did you mean lsd"]),
        (setup_missing, ["setups.aclsd.inputs", "no setup 'lsd'"]),
        (output_missing, ["setups.aclsd.inputs", "'baseline.lsds'", "affinities"]),
        (cycle, ["setups", "lsd → aclsd", "cycle"]),
        (number_as_word, ["training.learning_rate", "1e-4", "number"]),
        (roi_outside, ["split.test.roi", "[18, 30]", "'cube'", "24"]),
        (roi_empty, ["split.test.roi", "20"]),
        (train_overlaps_test, ["split", "train", "test", "overlap", "z 18–20, y 0–12"]),
        (volume_missing, ["split.test.volume", "'cub'", "cube"]),
        (file_missing, ["volumes.cube.labels.path", "label.npy"]),
        (block_shape, ["prediction.block_shape", "9 voxels along y", "multiple of 2", "8 and 10"]),
        (crop_larger_than_region, ["training.crop_shape [14, 8, 8]", "split.train.0 [12, 24, 24]", "smaller crop"]),
        (crop_unsuitable, ["training.crop_shape [8, 9, 8]", "9 voxels along y", "nearest", "8 and 10"]),
        (malis_never, ["setups.baseline.malis.after: 1", "after 1 iterations", "take less"]),
        (batch_shared_unevenly, ["training.batch_size: 3 crops", "training.processes, 2", "multiple"]),
        (more_parts_than_crops, ["training.accumulate", "2 crops for each process", "3 parts"]),
        (rotation_would_stretch, ["training.augment.rotation", "10 × 20 nm along y and x", "set it to 0"]),
        (threshold_above_one, ["evaluation.thresholds.end", "≤ 1", "1.2"]),
        (threshold_negative, ["evaluation.thresholds.begin", "≥ 0", "-0.1"]),
    ],
)
def test_unusable_configuration_is_refused_when_read(project: Project, folder: Path, spoil: Callable, phrases: list):
    content = config()
    spoil(content)
    path = write_config(folder / "config.yaml", content)
    before = files(folder)
    check_refused(project.run(folder, path), *phrases)
    assert files(folder) == before


def test_gpu_that_the_profile_does_not_give_is_refused_before_work(project: Project, folder: Path):
    path = write_config(folder / "config.yaml", config())
    before = files(folder)
    answer = project.run(folder, path, arguments=["--config=device=gpu"])
    check_refused(answer, "device: gpu is demanded", "--workflow-profile gpu", "auto or cpu")
    assert files(folder) == before


def other_shape(parts: dict) -> None:
    parts["labels"] = parts["labels"][:, :-2]


def mask_of_other_shape(parts: dict) -> None:
    parts["mask"] = np.ones((24, 24, 20), bool)


def float_labels(parts: dict) -> None:
    parts["labels"] = parts["labels"].astype(np.float32)


def raw_of_zeros(parts: dict) -> None:
    parts["raw"][:] = 0


def raw_with_nan(parts: dict) -> None:
    parts["raw"] = parts["raw"].astype(np.float32)
    parts["raw"][3, 4, 5] = np.nan


def labels_of_zeros(parts: dict) -> None:
    parts["labels"][:] = 0


def train_unlabelled(parts: dict) -> None:
    parts["labels"][:12] = 0


def smaller_than_told(parts: dict) -> None:
    for name in parts:
        parts[name] = parts[name][:20]


@pytest.mark.parametrize(
    ("spoil", "rule", "phrases"),
    [
        (other_shape, "import_volume", ["'cube'", "(24, 24, 24) and (24, 22, 24)", "same shape"]),
        (mask_of_other_shape, "import_volume", ["raw and mask of volume 'cube'", "(24, 24, 20)", "same shape"]),
        (float_labels, "import_volume", ["labels of volume 'cube'", "must be integers, not float32"]),
        (raw_of_zeros, "import_volume", ["raw data of volume 'cube'", "0 everywhere"]),
        (raw_with_nan, "import_volume", ["raw data of volume 'cube'", "not finite (NaN or infinite)", "replace"]),
        (labels_of_zeros, "import_volume", ["labels of volume 'cube'", "0 everywhere"]),
        (smaller_than_told, "import_volume", ["volumes.cube.shape", "[24, 24, 24]", "[20, 24, 24]"]),
        (train_unlabelled, "create_targets", ["no labelled voxel", "train-0", "split.train"]),
    ],
)
def test_unusable_volume_is_refused_before_training(project: Project, folder: Path, spoil: Callable, rule, phrases):
    parts, content = arrays(), config()
    spoil(parts)
    for name, array in parts.items():
        np.save(folder / f"{name}.npy", array)
        content["volumes"]["cube"][name] = {"path": f"{name}.npy", "format": "npy"}
    path = write_config(folder / "config.yaml", content)
    before = files(folder)
    answer = project.run(folder, path)
    check_refused(answer, *phrases)
    assert answer.text.count(f"error in {rule}: ") == 1
    after = files(folder)
    assert {name: after.get(name) for name in before} == before
    made = {name for name in after if name not in before}
    # Beside it the empty stores of other work may have been made, but nothing in them.
    work = ("models", "targets/train-0/", "chunk-", "scores", "figures")
    assert not any(part in name for name in made for part in work), made
    assert not made or rule != "import_volume", "a volume that was refused must not stay"


@pytest.fixture
def trained(masked, tmp_path) -> Path:
    """A folder in which a network was trained, and its predictions must be made again."""
    folder = copy(masked, tmp_path / "run")
    (folder / PREDICTED).unlink()
    return folder


def test_checkpoint_of_another_network_is_refused(project: Project, trained: Path):
    path = trained / "results/masked/models/net/0/checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["network"]["num_fmaps"] = 5
    torch.save(content, path)
    before = files(trained)
    answer = project.run(trained, trained / "config.yaml", arguments=[PREDICTED])
    check_refused(answer, "another network than setup 'net' asks for (num_fmaps 5 there, 2 here): train it again")
    assert answer.text.count("error in predict: ") == 1
    assert files(trained) == before


def test_gpu_that_is_demanded_and_not_there_is_refused(project: Project, trained: Path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = files(trained)
    answer = project.run(trained, trained / "config.yaml", arguments=["--workflow-profile=gpu", PREDICTED])
    check_refused(answer, "error in predict: device: gpu is demanded, but PyTorch sees none", "auto or cpu")
    assert files(trained) == before


def test_validation_where_nothing_is_labelled_is_refused_before_training(project: Project, trained: Path):
    # The middle of the region lies outside the mask.
    change = write_config(trained / "change.yaml", {"training": {"validation_shape": [6, 24, 4]}})
    answer = project.run(trained, trained / "config.yaml", change, arguments=[PREDICTED])
    check_refused(answer, "error in train: the centre of split.validation, [6, 24, 4] voxels, has no label")
    assert not (trained / "results/masked/models/net/0/state.pt").exists()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(tmp_path_factory):
    """The address of a server and the folder that it serves."""
    served = tmp_path_factory.mktemp("served")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(served))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", served
        running.shutdown()


def test_download_with_another_checksum_is_refused_and_not_kept(project: Project, folder: Path, server):
    address, served = server
    lines = []
    for name in ("raw.npy", "labels.npy"):
        content = (folder / name).read_bytes()
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        (served / name).write_bytes(content if name == "raw.npy" else content + b"x")
    (folder / "cube.sha256").write_text("".join(lines))
    content = config()
    content["downloads"] = {"cube": {"url": address, "checksums": "cube.sha256"}}
    for part in ("raw", "labels"):
        content["volumes"]["cube"][part]["download"] = "cube"
    path = write_config(folder / "config.yaml", content)
    before = files(folder)
    answer = project.run(folder, path)
    check_refused(answer, f"labels.npy from {address}/labels.npy is not the listed file", "SHA256")
    assert answer.text.count("error in download: ") == 1
    after = files(folder)
    assert {name: after.get(name) for name in before} == before
    # What is right may stay for the next try; what is not, and the sign that all is there, must not.
    assert set(after) - set(before) <= {"resources/downloads/cube/raw.npy"}
