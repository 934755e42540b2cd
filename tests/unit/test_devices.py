"""Jobs of one machine never share a GPU, and a job without one runs on the CPU."""

import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch

from lsdflow import devices
from lsdflow.devices import acquire_device
from lsdflow.errors import UserError


@pytest.fixture(autouse=True)
def restored(monkeypatch, tmp_path):
    """Locks in a folder of this test's own, given back at its end."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "_held_locks", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    for lock in devices._held_locks:
        lock.close()
    torch.set_num_threads(threads)


@pytest.fixture
def gpus(monkeypatch):
    """A machine that shows the GPUs of the given ids, in this order."""

    def show(*ids):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(ids))
        monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=ids[index]))

    return show


class OthersHoldAll(Exception):
    pass


@pytest.fixture
def no_waiting(monkeypatch):
    def give_up(_):
        raise OthersHoldAll

    monkeypatch.setattr(devices.time, "sleep", give_up)


def test_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert acquire_device(1, 1) == torch.device("cpu")


def test_a_gpu_that_was_granted_but_is_not_there_is_told(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    acquire_device(0, 1)
    assert capsys.readouterr().err == ""
    acquire_device(1, 1)
    assert "no GPU to be seen, computing on the CPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cuda", "visible", "told"),
    [(None, None, "built without CUDA"), ("12.6", "", "CUDA_VISIBLE_DEVICES is ''"), ("12.6", None, "CUDA 12.6")],
)
def test_a_demanded_gpu_that_is_not_there_is_refused(monkeypatch, cuda, visible, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=f"gpu is demanded, but PyTorch sees none: .*{told}.* auto or cpu"):
        acquire_device(1, 1, demanded="gpu")


def test_a_demanded_gpu_that_was_not_granted_is_refused(gpus):
    gpus("a")
    with pytest.raises(UserError, match="this run has none to give: name a profile"):
        acquire_device(0, 1, demanded="gpu")
    assert acquire_device(1, 1, demanded="gpu") == torch.device("cuda", 0)


def test_a_demanded_cpu_leaves_gpus_to_others(gpus):
    gpus("a")
    assert acquire_device(1, 1, demanded="cpu") == torch.device("cpu")
    assert not devices._held_locks
    with pytest.raises(ValueError, match="auto, cpu, gpu"):
        acquire_device(1, 1, demanded="tpu")


def test_cpu_where_none_was_granted(gpus):
    gpus("a")
    assert acquire_device(0, 1) == torch.device("cpu")
    assert not devices._held_locks


def test_threads_are_those_granted():
    acquire_device(0, 2)
    assert torch.get_num_threads() == 2
    acquire_device(0, 0)
    assert torch.get_num_threads() == 1


def test_each_job_gets_a_gpu_of_its_own_and_the_next_one_waits(gpus, no_waiting, capsys):
    gpus("a", "b")
    # A lock belongs to an open file, so two calls are like two processes.
    assert [acquire_device(1, 1) for _ in range(2)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(OthersHoldAll):
        acquire_device(1, 1)
    assert "waiting" in capsys.readouterr().err


def test_same_gpu_shown_under_another_index_is_still_taken(gpus, no_waiting, monkeypatch):
    gpus("a", "b")
    acquire_device(1, 1)
    gpus("b", "a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert acquire_device(1, 1) == torch.device("cuda", 0)
    gpus("a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(OthersHoldAll):
        acquire_device(1, 1)


def test_other_gpu_shown_under_the_same_index_is_free(gpus, no_waiting, monkeypatch):
    # As Slurm shows them to jobs that it confines.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for shown in ("a", "b"):
        gpus(shown)
        assert acquire_device(1, 1) == torch.device("cuda", 0)


def test_parts_of_one_gpu_are_told_apart(gpus, no_waiting, monkeypatch):
    gpus("a", "a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1/2, MIG-1/3")
    assert [acquire_device(1, 1).index for _ in range(2)] == [0, 1]


def test_torch_without_ids_goes_by_the_visible_devices(gpus, no_waiting, monkeypatch):
    gpus("a", "b")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert [acquire_device(1, 1).index for _ in range(2)] == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert acquire_device(1, 1) == torch.device("cuda", 1)


HOLDER = """
import sys, tempfile
from types import SimpleNamespace
import torch
tempfile.tempdir = sys.argv[1]
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.set_device = lambda index: None
torch.cuda.get_device_properties = lambda index: SimpleNamespace(uuid="ab"[index])
from lsdflow.devices import acquire_device
print(acquire_device(1, 1).index, flush=True)
sys.stdin.read()
"""


def test_gpu_of_another_process_is_free_again_when_it_ends(gpus, no_waiting, tmp_path):
    gpus("a", "b")
    search_path = [p for p in sys.path if p]
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {search_path!r}\n{HOLDER}", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline().strip() == "0"
        assert acquire_device(1, 1) == torch.device("cuda", 1)
        with pytest.raises(OthersHoldAll):
            acquire_device(1, 1)
        holder.kill()
        holder.wait()
    assert acquire_device(1, 1) == torch.device("cuda", 0)
