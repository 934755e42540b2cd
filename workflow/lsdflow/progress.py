"""Progress of long work: a bar on a terminal, plain lines with a rate and the time left in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

# Often enough to see that a job lives, rare enough to keep a day's log readable.
LOG_INTERVAL_S = 10.0


class Progress:
    """Count units of work and tell how fast they go; use it as a context manager.

    On a terminal it draws a tqdm bar, elsewhere it writes a line about every `LOG_INTERVAL_S` seconds and one at the
    end.

    Parameters
    ----------
    total : number of units at which the work is complete.
    description : what is being done, such as ``"fragments"``.
    unit : name of one unit, such as ``"block"``; ``s`` is appended for the plural.
    initial : units that were done before, by a run that this one resumes; they do not count for the rate.
    stream : where to write; standard error by default.
    clock : seconds, monotonic; only tests need another.

    Examples
    --------
    >>> with Progress(3, "training", "step", stream=sys.stdout) as steps:
    ...     for loss in (0.5, 0.25, 0.125):
    ...         steps.update(loss=loss)  # doctest: +ELLIPSIS
    training: 3/3 steps (100 %), ... steps/s, ... s in all, loss 0.125
    """

    def __init__(
        self,
        total: int,
        description: str,
        unit: str = "step",
        *,
        initial: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.count = self._initial = initial
        self._values: dict[str, Any] = {}
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._begin = self._last_line = clock()
        self._closed = False
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(total=total, initial=initial, desc=description, unit=unit, file=self._stream)

    def update(self, n: int = 1, **values: Any) -> None:
        """Note that ``n`` more units are done; ``values`` (a loss, say) are shown with the count from now on."""
        self.count += n
        self._values.update(values)
        if self._bar is not None:
            self._bar.set_postfix_str(_listed(self._values), refresh=False)
            self._bar.update(n)
        elif self._clock() - self._last_line >= LOG_INTERVAL_S:
            self._write_line()

    def close(self) -> None:
        """Show the last state; to be called once the work has ended, well or not."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._bar.close()
        else:
            self._write_line()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_line(self) -> None:
        now = self._clock()
        elapsed, done_here = now - self._begin, self.count - self._initial
        rate = done_here / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.description}: {self.count}/{self.total} {self.unit}s"]
        if self.total:
            parts[0] += f" ({100 * self.count / self.total:.0f} %)"
        if done_here:
            parts.append(_rate(rate, self.unit))
        if self._closed:
            parts.append(f"{_duration(elapsed)} in all")
        elif rate > 0:
            parts.append(f"{_duration((self.total - self.count) / rate)} left")
        if self._values:
            parts.append(_listed(self._values))
        print(", ".join(parts), file=self._stream, flush=True)
        self._last_line = now


def progress(items: Iterable[Any], description: str, unit: str = "item", *, total: int | None = None) -> Iterator[Any]:
    """Yield ``items`` and show how far they are, as `Progress` does; ``total`` is needed where they have no length."""
    with Progress(len(items) if total is None else total, description, unit) as shown:
        for item in items:
            yield item
            shown.update()


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def _rate(rate: float, unit: str) -> str:
    """Units per second, or seconds per unit where that is easier to read."""
    return f"{1 / rate:.3g} s per {unit}" if 0 < rate < 1 else f"{rate:.3g} {unit}s/s"


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
