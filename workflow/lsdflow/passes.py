"""One pass of a network, at the precision asked for, in smaller pieces where memory does not suffice."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Sequence

import torch
from torch import nn

from lsdflow.devices import computes_bfloat16, is_out_of_memory
from lsdflow.errors import UserError
from lsdflow.network_shapes import NetworkSettings
from lsdflow.roi import AXES

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """The number type of convolutions.

    ``"auto"`` is float32 on the CPU, and on a GPU bfloat16, which has the range of float32, or float16 where the GPU is
    too old for it.
    """
    if name != "auto":
        return PRECISIONS[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if computes_bfloat16(device) else torch.float16


class FittingNetwork:
    """A network that is run on as much at a time as memory allows.

    When a pass runs out of memory, it is repeated in halves: of the batch, then of the window along its longest axis.
    Halves of a valid network's window give the same result. Those of a padded one overlap by twice the context and are
    blended; the result differs, as it does with smaller blocks. What did not fit is not tried again.

    Parameters
    ----------
    network : a module that returns predictions ``(batch, channels, z, y, x)`` by name.
    settings : its shape arithmetic.
    context : voxels near the border of a padded network's window that lack context, z y x.
    device : where the network is.
    precision : see `precision_of`.

    Attributes
    ----------
    channels : of each output by name, in the order in which `run` stacks them; empty before the first pass.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: NetworkSettings,
        *,
        context: Sequence[int],
        device: torch.device,
        precision: str = "auto",
    ) -> None:
        self.network, self.settings, self.context, self.device = network, settings, tuple(context), device
        self.dtype = precision_of(precision, device)
        self.channels: dict[str, int] = {}
        self._too_many = math.inf
        if device.type == "cuda":
            # Windows are all alike: the search for the fastest convolution pays.
            torch.backends.cudnn.benchmark = True

    @torch.inference_mode()
    def run(self, x: torch.Tensor) -> torch.Tensor:
        """All outputs of ``x`` ``(batch, channels, z, y, x)``, stacked as channels, float32.

        Raises
        ------
        UserError
            If not even the smallest pass fits into memory.
        """
        if x.shape[0] * math.prod(x.shape[2:]) < self._too_many:
            outputs = self._attempt(x)
            if outputs is not None:
                return outputs
        if len(x) > 1:
            half = len(x) // 2
            return torch.cat([self.run(x[:half]), self.run(x[half:])])
        return self._in_halves(x)

    def _attempt(self, x: torch.Tensor) -> torch.Tensor | None:
        """A pass in one go; None if it does not fit."""
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                predictions = self.network(x.contiguous(memory_format=torch.channels_last_3d))
            self.channels = {name: value.shape[1] for name, value in predictions.items()}
            return torch.cat([value.float() for value in predictions.values()], dim=1)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Beyond the except clause: before, the error holds what the pass had allocated.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._too_many = min(self._too_many, x.shape[0] * math.prod(x.shape[2:]))
        if len(x) > 1:
            smaller = f"{len(x) // 2} of {len(x)} windows at a time"
        else:
            smaller = f"in halves; prediction.block_shape {self._suggested(x)} would make windows of their size"
        print(f"out of memory with windows of {_shown(x)} voxels ({reason}): going on {smaller}", file=sys.stderr)
        return None

    def _in_halves(self, x: torch.Tensor) -> torch.Tensor:
        """The result for one window, from two smaller ones along its longest axis that can be cut."""
        shape = tuple(x.shape[2:])
        for axis in sorted(range(3), key=lambda a: -shape[a]):
            halves = self._padded_halves if self.settings.is_padded else self._valid_halves
            if (result := halves(x, axis)) is not None:
                return result
        raise UserError(
            f"out of memory with windows of {_shown(x)} voxels, which cannot be cut further: give the job more memory, "
            f"or choose a smaller network; prediction.block_shape {self._suggested(x)} asks for about the least"
        )

    def _valid_halves(self, x: torch.Tensor, axis: int) -> torch.Tensor | None:
        size, period = x.shape[2 + axis], self.settings.period[axis]
        made = self.settings.output_shape(x.shape[2:])[axis]
        # Pooling must pair the same voxels: the second half begins at a multiple of the period.
        cut = made // 2 // period * period
        shorter = (made - cut) // period * period
        if cut == 0 or shorter == 0:
            return None
        first = self.run(x.narrow(2 + axis, 0, size - shorter)).narrow(2 + axis, 0, cut)
        return torch.cat([first, self.run(x.narrow(2 + axis, cut, size - cut))], dim=2 + axis)

    def _padded_halves(self, x: torch.Tensor, axis: int) -> torch.Tensor | None:
        size, period = x.shape[2 + axis], self.settings.period[axis]
        length = -(-(size // 2 + self.context[axis]) // period) * period
        if length >= size:
            return None
        first = self.run(x.narrow(2 + axis, 0, length))
        second = self.run(x.narrow(2 + axis, size - length, length))
        shared = 2 * length - size
        rise = (torch.arange(shared, device=x.device) + 0.5) / max(1, shared)
        rise = rise.reshape([-1 if a == axis else 1 for a in range(3)])
        begin, end = first.narrow(2 + axis, 0, length - shared), second.narrow(2 + axis, shared, length - shared)
        middle = torch.lerp(first.narrow(2 + axis, length - shared, shared), second.narrow(2 + axis, 0, shared), rise)
        return torch.cat([begin, middle, end], dim=2 + axis)

    def _suggested(self, x: torch.Tensor) -> list[int]:
        """The block shape whose window is about half as large as ``x``."""
        shape = list(self.settings.output_shape(x.shape[2:]))
        axis = max(range(3), key=lambda a: shape[a])
        if self.settings.is_padded:
            shape = [max(1, n - 2 * c) for n, c in zip(shape, self.context, strict=True)]
        shape[axis] //= 2
        return [max(p, n // p * p) for n, p in zip(shape, self.settings.period, strict=True)]


def _shown(x: torch.Tensor) -> str:
    """The shape of a pass, with its batch."""
    return f"{len(x)} × {', '.join(f'{axis} {n}' for axis, n in zip(AXES, x.shape[2:], strict=True))}"
