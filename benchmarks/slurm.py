"""A whole experiment on the Slurm cluster that answers ``sinfo``, and what its jobs asked for and came to.

``slurm.py CONFIG FOLDER PAGE [ARGUMENT ...]`` runs it in FOLDER, which the nodes must see, with further arguments for
Snakemake, and writes a table of all jobs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from slurm_runs import Job, SlurmRun, ask

SNAKEFILE = Path(__file__).parents[1] / "workflow/Snakefile"


def seconds(elapsed: str) -> int:
    """Of a time as Slurm prints it (``1-02:03:04``)."""
    days, _, rest = elapsed.rpartition("-")
    total = 0
    for part in rest.split(":"):
        total = 60 * total + int(part)
    return total + 86400 * int(days or 0)


def spread(values: list) -> str:
    """The only one of some values, or the least and the greatest."""
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} – {high}"


def row(rule: str, jobs: list[Job]) -> str:
    """The line of a rule."""
    states = ", ".join(f"{count} {state}" for state, count in Counter(job.state for job in jobs).items())
    times = [seconds(job.elapsed) for job in jobs]
    asked = [spread([job.cpus for job in jobs]), spread([int(job.memory.rstrip("M")) for job in jobs])]
    asked += [spread([seconds(job.time_limit) // 60 for job in jobs]), spread([job.gpus for job in jobs])]
    return f"| {rule} | {len(jobs)} | {states} | {' | '.join(asked)} | {sum(times)} | {max(times)} |"


def main(config: str, folder: str, page: str, *arguments: str) -> None:
    here = Path(folder).resolve()
    here.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with SlurmRun(here, SNAKEFILE, "--configfile", str(Path(config).resolve()), *arguments) as run:
        run.check_success()
    minutes = (time.monotonic() - begin) / 60
    rules = list(dict.fromkeys(job.rule for _, job in sorted(run.jobs.items())))
    nodes = ask("sinfo", "--noheader", "--Node", "--format", "%N: %c CPUs, %m MB, %G").splitlines()
    lines = [
        "# An experiment on Slurm",
        "",
        f"`{config}` with `--workflow-profile slurm`, as Slurm ({ask('sinfo', '--version').strip()}) saw its "
        f"{len(run.jobs)} jobs; {minutes:.0f} minutes. Nodes: {'; '.join(dict.fromkeys(nodes))}. Further arguments: "
        f"`{' '.join(arguments) or 'none'}`, and no conda environments. Rules of seconds ran where Snakemake did.",
        "",
        "| rule | jobs | exit states | CPUs | memory (MB) | time limit (min) | GPUs | time, all (s) | longest (s) |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
        *(row(rule, run.of_rule(rule)) for rule in rules),
    ]
    Path(page).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
