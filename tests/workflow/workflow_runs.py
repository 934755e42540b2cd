"""Runs of the workflow from the command line, and what Snakemake plans to do."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

REPOSITORY = Path(__file__).parents[2]
TINY = Path(__file__).parent / "tiny.yaml"

# One network on `masked_cube`, and what says that it predicted the test region.
MASKED = {
    "experiment": "masked",
    "volumes": {
        "cube": {
            "shape": [24, 24, 24],
            "voxel_size": [10, 10, 10],
            **{name: {"path": "cube.npz", "format": "npz", "dataset": name} for name in ("raw", "labels", "mask")},
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
    "setups": {"net": {"inputs": ["raw"], "outputs": ["affinities", "lsds"]}},
    "training": {"iterations": 1, "crop_shape": [8, 8, 8]},
    "replicates": [0],
    "prediction": {"block_shape": [6, 8, 8]},
    "raw_watershed": {"enabled": False},
}
PREDICTED = "results/masked/predictions/net/0/test/chunk-0-of-1.json"


def masked_cube() -> dict[str, np.ndarray]:
    """Raw voxels, labels of two objects that fill the cube, and a mask that leaves out the first 14 of 24 columns."""
    raw = np.random.default_rng(0).integers(0, 256, (24, 24, 24), np.uint8)
    labels = np.ones(raw.shape, np.uint32)
    labels[:, 12:] = 2
    mask = np.ones(raw.shape, np.uint8)
    mask[:, :, :14] = 0
    return {"raw": raw, "labels": labels, "mask": mask}


@dataclass(frozen=True)
class Answer:
    """What a command said, standard output and error together, and its exit code."""

    code: int
    text: str


@dataclass(frozen=True)
class Plan:
    """The output files that Snakemake would make, with their rules."""

    rule_of: dict[str, str]

    @property
    def rules(self) -> set[str]:
        """The rules that would run."""
        return set(self.rule_of.values())

    def setups(self, *rules: str) -> set[str]:
        """The setups that the files of ``rules`` (of all rules, if none is named) belong to."""
        names = set()
        for path, rule in self.rule_of.items():
            found = re.search(r"/(?:models|predictions|segmentations|scores)/([^/]+)/\d+/|/panel_([^/]+)\.", path)
            if found and (not rules or rule in rules):
                names.add(found[1] or found[2])
        return names


@dataclass(frozen=True)
class Project:
    """A folder that holds ``workflow/`` and ``envs/``."""

    root: Path

    def command(self, folder: Path, configs: Sequence[Path], *arguments: str) -> list[str]:
        """The command line that runs the workflow in ``folder``; of ``arguments``, targets come first."""
        targets = [argument for argument in arguments if not argument.startswith("-")]
        options = [argument for argument in arguments if argument.startswith("-")]
        program = [sys.executable, "-m", "snakemake", "-s", str(self.root / "workflow" / "Snakefile")]
        return [
            *program,
            "-d",
            str(folder),
            "--cores",
            "2",
            *options,
            "--configfile",
            *map(str, configs),
            "--",
            *targets,
        ]

    def run(
        self, folder: Path, *configs: Path, arguments: Sequence[str] = (), before: Callable[[], None] | None = None
    ) -> Answer:
        """Run the workflow in ``folder``; ``before`` is called in the new process."""
        command = self.command(folder, configs, *arguments)
        done = subprocess.run(
            command, env=environment(), cwd=folder, preexec_fn=before, text=True, stdout=-1, stderr=subprocess.STDOUT
        )
        return Answer(done.returncode, done.stdout)

    def plan(self, folder: Path, *configs: Path, targets: Sequence[str] = ()) -> Plan:
        """What would run in ``folder``; nothing does."""
        command = self.command(folder, configs, "--summary", *targets)
        done = subprocess.run(command, env=environment(), cwd=folder, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        rows = csv.DictReader(done.stdout.splitlines(), delimiter="\t")
        return Plan({row["output_file"]: row["rule"] for row in rows if row["plan"] == "update pending"})

    @contextmanager
    def edited(self, path: str, change: Callable[[str], str]) -> Iterator[None]:
        """Within this context, the text of a file below the root is ``change`` of what it was."""
        file = self.root / path
        status, text = file.stat(), file.read_text()
        file.write_text(change(text))
        try:
            assert file.read_text() != text
            yield
        finally:
            file.write_text(text)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def environment() -> dict[str, str]:
    """The variables of the tests' own process, without those that change what Snakemake does."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "SNAKEMAKE_PROFILE")}


def copy(source: Path, target: Path) -> Path:
    """A copy of a folder with the times of its files, which Snakemake compares."""
    return Path(shutil.copytree(source, target, copy_function=shutil.copy2, symlinks=True))


def write_config(path: Path, content: dict) -> Path:
    """A configuration file."""
    path.write_text(yaml.safe_dump(content))
    return path
