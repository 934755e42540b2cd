"""Which device a job computes on: the CPU, or a GPU that no other job of this machine holds."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time

import torch

# Held open until the process ends: closing a file gives its lock back.
_held_locks = []


def acquire_device(gpus: int, threads: int) -> torch.device:
    """The device for a job that was granted ``gpus`` GPUs (0 or 1) and ``threads`` CPU threads.

    Jobs of one machine take different GPUs: each locks a file per device until its process ends.  Where a scheduler
    sets ``CUDA_VISIBLE_DEVICES``, only what it shows is taken; while others hold all of that, the job waits.  Without a
    GPU it runs on the CPU.
    """
    torch.set_num_threads(max(1, threads))
    if gpus < 1 or not torch.cuda.is_available():
        return torch.device("cpu")
    is_waiting = False
    while True:
        for index in range(torch.cuda.device_count()):
            name = f"lsdflow-{os.getuid()}-gpu-{_identity(index).replace('/', '_')}.lock"
            path = os.path.join(tempfile.gettempdir(), name)
            lock = open(path, "w")  # noqa: SIM115
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            _held_locks.append(lock)
            return torch.device("cuda", index)
        if not is_waiting:
            print("other jobs hold all GPUs: waiting for one of them to end", file=sys.stderr)
            is_waiting = True
        time.sleep(1)


def _identity(index: int) -> str:
    """A name of a GPU that all processes of this machine agree on."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    shown = visible[index] if index < len(visible) else ""
    if shown.startswith("MIG-"):
        return shown
    try:
        # Slurm may count from 0 within each job, so that the same index means different GPUs.
        return str(torch.cuda.get_device_properties(index).uuid)
    except (AssertionError, AttributeError, RuntimeError):  # a build of torch that does not know it
        return shown or str(index)
