"""Which device a job computes on: the CPU, or a GPU that no other job of this machine holds."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time

import torch

from lsdflow.errors import UserError

DEMANDS = ("auto", "cpu", "gpu")

# What libraries below torch say when they have no memory; torch itself has a class for it on GPUs only.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "could not create a memory")

# Held open until the process ends: closing a file gives its lock back.
_held_locks = []


def acquire_device(gpus: int, threads: int, *, demanded: str = "auto") -> torch.device:
    """The device for a job that was granted ``gpus`` GPUs (0 or 1) and ``threads`` CPU threads.

    Jobs of one machine take different GPUs: each locks a file per device until its process ends.  Where a scheduler
    sets ``CUDA_VISIBLE_DEVICES``, only what it shows is taken; while others hold all of that, the job waits.

    Parameters
    ----------
    demanded : ``"auto"`` takes the CPU where no GPU was granted or none is there; ``"cpu"`` takes it anyway; ``"gpu"``
        never does.

    Raises
    ------
    UserError
        If a GPU is demanded and none was granted, or none can be seen.
    """
    if demanded not in DEMANDS:
        raise ValueError(f"demanded must be one of {', '.join(DEMANDS)}, not {demanded!r}")
    torch.set_num_threads(max(1, threads))
    if demanded == "gpu" and gpus < 1:
        raise UserError(
            "device: gpu is demanded, but this run has none to give: name a profile that has "
            "(--workflow-profile gpu or slurm), or set device to auto or cpu"
        )
    if demanded == "cpu" or gpus < 1:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        reason = _why_no_gpu()
        if demanded == "gpu":
            raise UserError(f"device: gpu is demanded, but PyTorch sees none: {reason}; or set device to auto or cpu")
        print(f"no GPU to be seen, computing on the CPU: {reason}", file=sys.stderr)
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
            # What names no device, such as pinned memory, must not open a context on another one.
            torch.cuda.set_device(index)
            return torch.device("cuda", index)
        if not is_waiting:
            print("other jobs hold all GPUs: waiting for one of them to end", file=sys.stderr)
            is_waiting = True
        time.sleep(1)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` is a GPU that computes bfloat16 itself: older ones only emulate it."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _why_no_gpu() -> str:
    """What the likely cause is, and what to do about it."""
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA; install one that has it, as the conda environment does"
    if (shown := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES is {shown!r}; make it name a GPU of this machine"
    return "look whether nvidia-smi lists one, and has a driver for CUDA " + torch.version.cuda


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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that there was no memory, on a GPU or not."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(part in str(error) for part in NO_MEMORY)
