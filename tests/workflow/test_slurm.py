"""The profile for Slurm on the cluster that answers ``sinfo`` here (``make test-slurm``).

The nodes must see the folder of the tests (pytest's ``--basetemp``) and the Python that runs them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import yaml
from slurm_runs import Job, SlurmRun, ask, jobs_named
from workflow_runs import MASKED, REPOSITORY, TINY, write_config

from lsdflow.affinities import grow_boundary
from lsdflow.lsd import local_shape_descriptors
from lsdflow.volumes import open_volume

pytestmark = pytest.mark.slurm

ON_GPUS = {"train", "predict"}
OF_SECONDS = {"create_targets", "create_predictions", "create_fragments", "select_threshold", "compare", "summary"}

# Targets in so many blocks that a node can be lost while they are made.
BLOCKS = {
    **MASKED,
    "experiment": "blocks",
    "volumes": {
        "cube": {"shape": [96, 64, 64], "voxel_size": [10, 10, 10], "simulate": {"seed": 1, "objects_per_um3": 400}}
    },
    "split": {
        "train": [{"volume": "cube", "roi": {"z": [0, 64]}}],
        "validation": {"volume": "cube", "roi": {"z": [64, 80]}},
        "test": {"volume": "cube", "roi": {"z": [80, 96]}},
    },
    "targets": {"sigma": 100, "block_shape": [4, 4, 4]},
}
TARGETS = "results/blocks/targets/train-0"


@pytest.fixture(scope="module", autouse=True)
def no_gpus() -> list[str]:
    """What asks for no GPU where the cluster has none; without a cluster there are no tests."""
    if shutil.which("sinfo") is None:
        pytest.skip("there is no Slurm: no sinfo on PATH")
    nodes = ask("sinfo", "--noheader", "--format", "%G")
    if not nodes:
        pytest.skip("no Slurm answers sinfo")
    return [] if "gpu" in nodes else ["--set-resources", "train:gpu=0", "predict:gpu=0"]


@pytest.fixture(scope="module")
def tiny(project, no_gpus, tmp_path_factory) -> SlurmRun:
    """The tiny experiment, run to its end."""
    folder = tmp_path_factory.mktemp("tiny")
    with SlurmRun(folder, project.root / "workflow" / "Snakefile", "--configfile", str(TINY), *no_gpus) as run:
        run.check_success()
    return run


def test_every_job_completes(tiny):
    assert (tiny.folder / "results" / "tiny" / "summary.html").exists()
    assert tiny.jobs and {job.state for job in tiny.jobs.values()} == {"COMPLETED"}


def test_number_of_jobs_is_that_of_chunks(tiny):
    config = yaml.safe_load(TINY.read_text())
    regions = 2 * len(config["replicates"])  # validation and test
    segmented = sum("affinities" in setup["outputs"] for setup in config["setups"].values()) + 1  # raw_watershed
    jobs = Counter(job.rule for job in tiny.jobs.values())
    assert jobs["lsd_targets"] == config["targets"]["chunks"]
    assert jobs["train"] == len(config["setups"])
    assert jobs["predict"] == len(config["setups"]) * regions * config["prediction"].get("chunks", 1)
    assert jobs["fragments"] == jobs["region_graph"] == segmented * regions * config["segmentation"]["chunks"]


def test_rules_of_seconds_are_no_jobs(tiny):
    assert OF_SECONDS.isdisjoint(job.rule for job in tiny.jobs.values())


def test_gpus_are_asked_for_by_networks_only(tiny, no_gpus):
    assert {job.rule for job in tiny.jobs.values() if job.gpus} == (set() if no_gpus else ON_GPUS)
    assert {job.cpus for job in tiny.of_rule(*ON_GPUS)} == {4}
    assert {job.gpus for job in tiny.of_rule(*ON_GPUS)} == ({0} if no_gpus else {1})


@pytest.fixture
def growing() -> str:
    """The text of the function that makes the requests of rules grow."""
    common = (REPOSITORY / "workflow" / "rules" / "common.smk").read_text()
    return re.search(r"^def growing\(.*?(?=^\S)", common, flags=re.MULTILINE | re.DOTALL)[0]


def test_job_out_of_time_gets_more(growing, tmp_path):
    snakefile = tmp_path / "Snakefile"
    rule = """
rule slow:
    output: "done"
    resources: mem_mb=growing(1000), runtime=growing(1)
    # The second try has time enough; Slurm ends the first.
    shell: "if [ {resources.runtime} = 1 ]; then sleep 600; fi; touch {output}"
"""
    snakefile.write_text(growing + rule)
    with SlurmRun(tmp_path, snakefile) as run:
        run.check_success()
    tries = [(job.state, job.time_limit, job.memory) for job in run.of_rule("slow")]
    assert tries == [("TIMEOUT", "1:00", "1000M"), ("COMPLETED", "2:00", "2000M")]


def test_job_out_of_memory_gets_more(growing, tmp_path):
    enforced = r"ConstrainRAMSpace\s*=\s*yes|JobAcctGatherParams\s*=.*OverMemoryKill"
    if not re.search(enforced, ask("scontrol", "show", "config"), flags=re.IGNORECASE):
        pytest.skip("this Slurm lets jobs use more memory than they asked for")
    snakefile = tmp_path / "Snakefile"
    rule = """
rule large:
    output: "done"
    resources: mem_mb=growing(800), runtime=growing(10)
    shell: "python3 -c 'bytearray(1000 * 2**20)' && touch {output}"
"""
    snakefile.write_text(growing + rule)
    with SlurmRun(tmp_path, snakefile) as run:
        run.check_success()
    first, second = run.of_rule("large")
    # The step of the job was out of memory; the job itself is then one that failed.
    assert first.state in ("FAILED", "OUT_OF_MEMORY") and first.memory == "800M"
    assert second.state == "COMPLETED" and second.memory == "1600M"


def kill(job: Job) -> None:
    """End all processes of a job at once."""
    command("scancel", "--signal=KILL", "--full", str(job.number))


def requeue(job: Job) -> None:
    """Have Slurm end a job and start it anew."""
    command("scontrol", "requeue", str(job.number))


def lose_node(job: Job) -> None:
    """Have the node of a job counted as lost, and found again."""
    node = ["scontrol", "update", f"NodeName={job.node}"]
    if len(ask("squeue", "--noheader", "--nodelist", job.node).splitlines()) > 1:
        pytest.skip(f"others' jobs run on {job.node}, too")
    weight = re.search(r"Weight=(\d+)", ask("scontrol", "show", "node", job.node))[1]
    if subprocess.run([*node, f"Weight={weight}"], capture_output=True).returncode:
        pytest.skip("only operators of the cluster may take a node down")
    try:
        command(*node, "State=DOWN", "Reason=test")
        wait_until(lambda: ask("squeue", "--noheader", "--jobs", str(job.number), "--states=running") == "")
    finally:
        # In vain where the cluster takes such a node back by itself.
        subprocess.run([*node, "State=RESUME"], capture_output=True)


@pytest.mark.parametrize("loss", [kill, requeue, lose_node])
def test_lost_work_is_done_again_and_finished_blocks_are_not(project, tmp_path, loss):
    config = write_config(tmp_path / "config.yaml", BLOCKS)
    markers, target = tmp_path / f"{TARGETS}.zarr" / "done", f"{TARGETS}/chunk-0-of-1.json"
    with SlurmRun(tmp_path, project.root / "workflow" / "Snakefile", "--configfile", str(config), "--", target) as run:
        wait_until(lambda: len(list(markers.glob("*.done"))) > 20, run)
        [job] = [job for job in jobs_named(run.prefix).values() if job.rule == "lsd_targets"]
        loss(job)
        finished = {path.name: path.stat().st_mtime_ns for path in markers.glob("*.done")}
        run.check_success()
    jobs = run.of_rule("lsd_targets")
    assert jobs[-1].state == "COMPLETED" and len(jobs) + jobs[-1].restarts == 2
    done = json.loads((tmp_path / target).read_text())
    assert len(done["blocks"]) == 4096 and 0 < done["computed"] <= 4096 - len(finished)
    assert all((markers / name).stat().st_mtime_ns == changed for name, changed in finished.items())
    labels = open_volume(tmp_path / "resources" / "volumes" / "cube.zarr", "labels").read()[:64]
    labels = grow_boundary(labels)
    store = tmp_path / f"{TARGETS}.zarr"
    np.testing.assert_array_equal(open_volume(store, "labels").read(), labels)
    expected = local_shape_descriptors(labels, 100, (10, 10, 10))
    np.testing.assert_allclose(open_volume(store, "lsds").read(), expected, atol=1e-6)


def command(*words: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def wait_until(happened: Callable[[], bool], run: SlurmRun | None = None) -> None:
    """Wait for something; not beyond the end of a run."""
    while not happened():
        assert run is None or run.is_running, run.said
        time.sleep(0.02)
