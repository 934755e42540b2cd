"""How near training and prediction come to the rate at which the device multiplies matrices.

``networks.py PAGE`` writes a page of tables, with the hardware that it ran on: a GPU where there is one.  The paper's
network needs 12 GB; on a processor it takes minutes and is measured once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from lsdflow.losses import mse
from lsdflow.network_cost import NetworkPass, flop_per_voxel, forward_flop
from lsdflow.network_shapes import NETWORKS, Shape
from lsdflow.provenance import processor
from lsdflow.setups import Setup, SetupNetwork

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")


@dataclass(frozen=True)
class Case:
    """One network at one size: (z, y, x) of its input, crops at a time, and how it is run."""

    network: str
    shape: Shape
    batch: int
    is_training: bool
    threads: int = 1
    precision: str = "float32"
    channels_last: bool = True
    compiled: bool = False
    repeats: int = 5

    @property
    def cost(self) -> NetworkPass:
        return NetworkPass(NETWORKS[self.network], self.shape)

    @property
    def flop(self) -> float:
        """Of one run; the backward pass multiplies twice what the forward pass does."""
        return self.batch * forward_flop(self.cost) * (3 if self.is_training else 1)

    @property
    def voxels(self) -> int:
        z, y, x = self.cost.output_shape
        return self.batch * z * y * x


def synchronise() -> None:
    if HAS_GPU:
        torch.cuda.synchronize()


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` runs, after one that does not count (but where there is only one)."""
    times = []
    for index in range(repeats + (repeats > 1)):
        synchronise()
        begin = time.perf_counter()
        run()
        synchronise()
        if index or repeats == 1:
            times.append(time.perf_counter() - begin)
    return min(times)


def precision_of(name: str):
    """Context managers of a precision; float32 on a GPU multiplies in TF32, as training does."""
    torch.set_float32_matmul_precision("high")
    return nullcontext() if name == "float32" else torch.autocast(DEVICE.type, getattr(torch, name))


def matrix_rate(precision: str, threads: int) -> float:
    """Operations per second of a large matrix product."""
    torch.set_num_threads(threads)
    n = 8192 if HAS_GPU else 2048
    a, b = (torch.rand(n, n, device=DEVICE, dtype=getattr(torch, precision)) for _ in range(2))
    torch.set_float32_matmul_precision("high")
    return 2 * n**3 / fastest(lambda: a @ b, 5)


def seconds(case: Case) -> float:
    """Of one run of a case."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last_3d if case.channels_last else torch.contiguous_format
    setup = Setup("benchmark", ("raw",), ("affinities",), NETWORKS[case.network], NEAREST)
    network = SetupNetwork(setup, 1).to(DEVICE, memory_format=layout)
    forward = torch.compile(network) if case.compiled else network
    x = torch.rand(case.batch, 1, *case.shape, device=DEVICE).contiguous(memory_format=layout)
    if not case.is_training:
        network.eval()

        def predict():
            with torch.inference_mode(), precision_of(case.precision):
                forward(x)

        return fastest(predict, case.repeats)

    target = torch.rand(case.batch, 3, *case.cost.output_shape, device=DEVICE)
    weights = torch.ones_like(target)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, fused=HAS_GPU)

    def step():
        optimiser.zero_grad(set_to_none=True)
        with precision_of(case.precision):
            prediction = forward(x)["affinities"]
        mse(prediction, target, weights).backward()
        optimiser.step()

    return fastest(step, case.repeats)


def networks() -> Iterator[Case]:
    """Each network at the best settings found."""
    cube = (196,) * 3
    if HAS_GPU:
        for precision in ("float32", "bfloat16"):
            for compiled in (False, True):
                more = {"precision": precision, "compiled": compiled}
                yield Case("fib25", cube, 1, True, **more)
                yield Case("fib25", (268,) * 3, 1, False, **more)
                for name in ("small", "medium"):
                    yield Case(name, (128,) * 3, 4, True, **more)
                    yield Case(name, (192,) * 3, 2, False, **more)
        return
    yield Case("fib25", cube, 1, True, threads=2, repeats=1)
    yield Case("fib25", cube, 1, False, threads=2, repeats=1)
    for name in ("small", "medium"):
        yield Case(name, (40,) * 3, 2, True)
        yield Case(name, (80,) * 3, 2, False)


def settings() -> Iterator[Case]:
    """The small network in other ways."""
    if HAS_GPU:
        for channels_last in (True, False):
            yield Case("small", (128,) * 3, 4, True, precision="bfloat16", channels_last=channels_last)
            yield Case("fib25", (196,) * 3, 1, True, precision="bfloat16", channels_last=channels_last)
        return
    for is_training, shape in ((True, (40,) * 3), (False, (80,) * 3)):
        for channels_last in (True, False):
            for threads in (1, 2):
                for batch in (1, 2, 4):
                    yield Case("small", shape, batch, is_training, threads=threads, channels_last=channels_last)
    yield Case("small", (40,) * 3, 2, True, compiled=True)


def table(cases: Sequence[Case], rates: dict[tuple[str, int], float]) -> list[str]:
    """Rows of a Markdown table."""
    lines = [
        "| network | | input → output | batch | threads | precision | channels-last | compiled | MFLOP per voxel | "
        "time (s) | Mvoxels/s | GFLOP/s | of a matrix product |",
        "|---|---|---|---:|---:|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        took = seconds(case)
        rate = rates[case.precision, case.threads]
        sizes = " → ".join("×".join(map(str, s)) for s in (case.shape, case.cost.output_shape))
        per_voxel = flop_per_voxel([case.cost]) * (3 if case.is_training else 1) / 1e6
        cells = [
            case.network,
            "training" if case.is_training else "prediction",
            sizes,
            case.batch,
            case.threads,
            case.precision,
            "yes" if case.channels_last else "no",
            "yes" if case.compiled else "no",
            f"{per_voxel:.3g}",
            f"{took:.3g}",
            f"{case.voxels / took / 1e6:.3g}",
            f"{case.flop / took / 1e9:.0f}",
            f"{case.flop / took / rate:.0%}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    return lines


def main(page: Path) -> None:
    threads = (1,) if HAS_GPU else (1, 2)
    precisions = ("float32", "bfloat16") if HAS_GPU else ("float32",)
    rates = {(p, t): matrix_rate(p, t) for p in precisions for t in threads}
    host = torch.cuda.get_device_name() if HAS_GPU else processor()
    shown = ", ".join(f"{rate / 1e9:.0f} ({p}{'' if HAS_GPU else f', threads: {t}'})" for (p, t), rate in rates.items())
    lines = [
        "# Networks: time beside that of multiplying matrices",
        "",
        f"Written by `benchmarks/networks.py` on: {host}, PyTorch {torch.__version__}. A large matrix product",
        f"reaches, in GFLOP/s: {shown}. A multiplication and the addition of its result are two operations; a training",
        "step counts as three forward passes, and includes loss and optimiser; voxels are those of the output. The",
        "fastest of five runs, one of the paper's network (`fib25`) on a processor.",
        "",
        *table(list(networks()), rates),
        "",
        "## In other ways",
        "",
        *table(list(settings()), rates),
        "",
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
