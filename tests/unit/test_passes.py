"""A pass that does not fit is done in pieces, to the same result; precision is what was asked for."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from lsdflow import passes
from lsdflow.errors import UserError
from lsdflow.network_shapes import NetworkSettings
from lsdflow.networks import build_network
from lsdflow.passes import FittingNetwork, precision_of
from lsdflow.setups import Setup, SetupNetwork

VALID = NetworkSettings("unet", 3, 2, ((1, 2, 2), (2, 2, 2)))
PADDED = NetworkSettings("residual_unet", 2, 2, ((2, 2, 2),))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Such small networks are fastest so, and do not wait for others that keep the second core busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


class Greedy(nn.Module):
    """A network that takes so many voxels at once and no more."""

    def __init__(self, settings, most, error=OUT_OF_MEMORY[0], make=None):
        super().__init__()
        self.most, self.error, self.passes = most, error, []
        torch.manual_seed(0)
        self.body = make or build_network(settings, 1).eval().requires_grad_(False)

    def forward(self, x):
        voxels = x.shape[0] * x.shape[2:].numel()
        self.passes.append((x.shape[0], *x.shape[2:]))
        if voxels > self.most:
            raise self.error
        values = self.body(x)
        return {"affinities": values[:, :1], "lsds": values[:, 1:]}


def image(*shape):
    return torch.from_numpy(np.random.default_rng(0).random((shape[0], 1, *shape[1:]), dtype=np.float32))


def fitting(network, settings, context=(0, 0, 0)):
    return FittingNetwork(network, settings, context=context, device=CPU)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_the_batch_is_halved_first(error, capsys):
    network, x = Greedy(VALID, 2 * 32 * 48 * 52, error), image(4, 32, 48, 52)
    result = fitting(network, VALID).run(x)
    assert [p[0] for p in network.passes] == [4, 2, 2]
    with torch.no_grad():
        np.testing.assert_allclose(result.numpy(), network.body(x).numpy(), atol=1e-6)
    told = capsys.readouterr().err
    assert "out of memory with windows of 4 × z 32, y 48, x 52 voxels" in told
    assert "going on 2 of 4 windows at a time" in told


@pytest.mark.parametrize("most", [70_000, 60_000, 51_000])
def test_a_window_in_halves_is_the_same_for_valid_networks(most, capsys):
    network, x = Greedy(VALID, most), image(1, 34, 48, 52)
    result = fitting(network, VALID).run(x)
    sizes = [np.prod(p) for p in network.passes]
    assert max(sizes[1:]) < sizes[0] and sum(size <= most for size in sizes) >= 2
    with torch.no_grad():
        np.testing.assert_allclose(result.numpy(), network.body(x).numpy(), atol=1e-6)
    # The log says what was done, and which block to ask for: one the network can make.
    suggested = re.search(r"prediction.block_shape \[(\d+), (\d+), (\d+)\]", capsys.readouterr().err)
    block = [int(n) for n in suggested.groups()]
    assert all(n % p == 0 for n, p in zip(block, VALID.period, strict=True))
    assert np.prod(VALID.covering_input_shape(block)) < x.numel()


def test_what_did_not_fit_is_not_tried_again():
    network, x = Greedy(VALID, 60_000), image(1, 34, 48, 52)
    fits = fitting(network, VALID)
    fits.run(x)
    first = len(network.passes)
    fits.run(x)
    assert all(np.prod(p) <= network.most for p in network.passes[first:])


def test_halves_of_a_padded_window_are_blended_where_they_overlap(capsys):
    # What it says is where in the pass a voxel lies.
    class Ramp(nn.Module):
        def forward(self, x):
            return torch.arange(x.shape[4], dtype=torch.float32).expand(x.shape[0], 2, *x.shape[2:])

    network = Greedy(PADDED, 4 * 4 * 14, make=Ramp())
    result = fitting(network, PADDED, (1, 1, 3)).run(image(1, 4, 4, 20))
    assert network.passes == [(1, 4, 4, 20), (1, 4, 4, 14), (1, 4, 4, 14)]
    row = result[0, 0, 0, 0].numpy()
    np.testing.assert_allclose(row[:6], np.arange(6))
    np.testing.assert_allclose(row[14:], np.arange(8, 14))
    rise = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(row[6:14], np.arange(6, 14) * (1 - rise) + np.arange(8) * rise, rtol=1e-5)
    assert "prediction.block_shape [2, 2, 6]" in capsys.readouterr().err


def test_padded_networks_run_in_pieces_of_any_size():
    network, x = Greedy(PADDED, 1500), image(3, 12, 14, 20)
    result = fitting(network, PADDED, (2, 2, 2)).run(x)
    assert result.shape == (3, 2, 12, 14, 20) and torch.isfinite(result).all()


@pytest.mark.parametrize("settings", [VALID, PADDED])
def test_where_nothing_fits_the_message_names_a_block(settings):
    x = image(2, 34, 48, 52)
    with pytest.raises(
        UserError, match=r"out of memory with windows of 1 × .* prediction.block_shape \[\d+, \d+, \d+\]"
    ):
        fitting(Greedy(settings, 0), settings).run(x)


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="sizes do not match"):
        fitting(Greedy(PADDED, 0, RuntimeError("sizes do not match")), PADDED).run(image(2, 4, 4, 4))


def test_outputs_are_stacked_in_their_order():
    fits = fitting(Greedy(VALID, 10**9), VALID)
    assert fits.run(image(1, 34, 48, 52)).shape[1] == 3
    assert fits.channels == {"affinities": 1, "lsds": 2}


# --- precision ------------------------------------------------------------------------------------------------


def test_precision_is_that_of_the_device_or_what_was_asked_for(monkeypatch):
    gpu = torch.device("cuda", 0)
    assert precision_of("auto", CPU) == torch.float32
    for capability, expected in (((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert precision_of("auto", gpu) == expected
    for name, dtype in passes.PRECISIONS.items():
        assert precision_of(name, gpu) == precision_of(name, CPU) == dtype


def test_half_precision_is_near_full_and_its_sigmoid_is_full():
    setup = Setup("s", ("raw",), ("affinities",), PADDED, ((-1, 0, 0), (0, -1, 0), (0, 0, -1)))
    torch.manual_seed(0)
    network, x, seen = SetupNetwork(setup, 1).eval().requires_grad_(False), image(2, 12, 12, 12), []
    network.body.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    full = FittingNetwork(network, PADDED, context=(0, 0, 0), device=CPU, precision="float32").run(x)
    half = FittingNetwork(network, PADDED, context=(0, 0, 0), device=CPU, precision="bfloat16").run(x)
    assert seen == [torch.float32, torch.bfloat16]
    assert half.dtype == torch.float32
    # A bfloat16 in 0.5–1 has seven bits behind the first: these have more.
    assert (half != half.bfloat16().float()).any()
    assert 0 < float((half - full).abs().max()) < 0.02
