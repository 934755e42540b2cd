"""Runs with the profile for Slurm, and the jobs that they submit as Slurm sees them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

from workflow_runs import REPOSITORY, environment

PROFILE = REPOSITORY / "workflow" / "profiles" / "slurm"

# What is asked of each job, and how wide squeue prints it.
COLUMNS = {
    "name": 80,
    "jobid": 20,
    "state": 20,
    "restartcnt": 10,
    "timeused": 20,
    "nodelist": 80,
    "numcpus": 10,
    "minmemory": 20,
    "timelimit": 20,
    "tres-per-job": 40,
    "comment": 200,
}


@dataclass(frozen=True)
class Job:
    """A job as Slurm saw it last; memory and time as squeue prints them (``8000M``, ``2-00:00:00``)."""

    number: int
    state: str
    restarts: int
    elapsed: str
    node: str
    cpus: int
    memory: str
    time_limit: str
    gpus: int
    rule: str


def ask(*command: str) -> str:
    """What a command of Slurm prints; nothing if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def jobs_named(prefix: str) -> dict[int, Job]:
    """The user's jobs whose name begins with ``prefix``, those that ended of late too."""
    form, found = ",".join(f"{column}:{width}" for column, width in COLUMNS.items()), {}
    for line in ask("squeue", "--me", "--states=all", "--noheader", "--Format", form).splitlines():
        values, begin = {}, 0
        for column, width in COLUMNS.items():
            values[column] = line[begin : begin + width].strip()
            begin += width
        if values["name"].startswith(prefix):
            gpus = re.search(r"gpu\S*[:=](\d+)", values["tres-per-job"])
            found[int(values["jobid"])] = Job(
                number=int(values["jobid"]),
                state=values["state"],
                restarts=int(values["restartcnt"]),
                elapsed=values["timeused"],
                node=values["nodelist"],
                cpus=int(values["numcpus"]),
                memory=values["minmemory"],
                time_limit=values["timelimit"],
                gpus=int(gpus[1]) if gpus else 0,
                rule=re.match(r"rule_(\w+?)(?:_wildcards_|$)", values["comment"])[1],
            )
    return found


class SlurmRun:
    """Snakemake at work on the cluster, within this context; its jobs are cancelled at the end of it.

    Parameters
    ----------
    folder : where it works; the nodes must see it.
    snakefile : the workflow.
    arguments : of Snakemake; the profile's own can be overridden.

    Attributes
    ----------
    jobs : what it submitted, by number.  Slurm is asked again and again, because without accounting it soon forgets
        jobs that ended.
    """

    def __init__(self, folder: Path, snakefile: Path, *arguments: str) -> None:
        self.folder, self.jobs = folder, {}
        self.prefix = f"test-{uuid.uuid4().hex[:12]}"
        options = [
            *("--snakefile", str(snakefile), "--directory", str(folder), "--workflow-profile", str(PROFILE)),
            *("--slurm-jobname-prefix", self.prefix, "--slurm-init-seconds-before-status-checks", "5"),
            # In place of conda, of which nothing is tested here: no rule names modules to load.
            *("--software-deployment-method", "env-modules"),
        ]
        self._command = [sys.executable, "-m", "snakemake", *options, *arguments]

    def __enter__(self) -> SlurmRun:
        with open(self.folder / "snakemake.out", "w") as out:
            self._snakemake = subprocess.Popen(
                self._command, env=environment(), cwd=self.folder, stdout=out, stderr=subprocess.STDOUT
            )
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()
        return self

    def __exit__(self, *_) -> None:
        if self.is_running:
            self._snakemake.send_signal(signal.SIGINT)
            self._snakemake.wait()
        self._ended.set()
        self._watching.join()

    @property
    def is_running(self) -> bool:
        return self._snakemake.poll() is None

    @property
    def said(self) -> str:
        """What Snakemake has printed so far."""
        return (self.folder / "snakemake.out").read_text()

    def check_success(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self._snakemake.wait() == 0, self.said
        self.jobs |= jobs_named(self.prefix)

    def of_rule(self, *rules: str) -> list[Job]:
        """The jobs of ``rules`` in the order in which they were submitted."""
        return [job for _, job in sorted(self.jobs.items()) if job.rule in rules]

    def _watch(self) -> None:
        while not self._ended.wait(1):
            self.jobs |= jobs_named(self.prefix)
