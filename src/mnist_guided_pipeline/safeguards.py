"""What stops a run before it does harm: a value that is no number, and a signal that asks to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor

__all__ = ["FiniteWatch", "NonFiniteError", "StopRequest", "plain_errors"]


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a weight is infinite or not a number."""


class FiniteWatch:
    """Remembers, on the device, the first update whose values were not finite.

    Watching waits for nothing; only :meth:`check` reads from the device.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._record: Tensor | None = None  # (1 + values,): the update and its values, the first bad or the last ones

    def watch(self, update: int, values: Mapping[str, Tensor]) -> None:
        """Take note of an update's values, 0-d tensors on one device; the same names every time."""
        current = torch.stack([value.detach().float() for value in values.values()])
        record = torch.cat([torch.full_like(current[:1], update), current])
        if self._record is None:
            self._names, self._record = list(values), record
        else:
            self._record = torch.where(self._record.isfinite().all(), record, self._record)

    def check(self, advice: str) -> None:
        """Stop where an update was not finite.

        Args:
            advice: ends the message.

        Raises:
            NonFiniteError: naming the first such update and its values.
        """
        if self._record is None or self._record.isfinite().all():
            return
        update, *values = self._record.tolist()
        readings = ", ".join(f"{name} {value:g}" for name, value in zip(self._names, values, strict=True))
        raise NonFiniteError(f"Update {update:.0f} is not finite: {readings}. {advice}")


class StopRequest:
    """Turns SIGTERM, which schedulers of shared machines send, into a flag that a loop reads between two updates."""

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            self._previous = signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def release(self) -> None:
        """Let SIGTERM do what it did before."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line and status 2 on what the user can mend: settings, files, a run that diverges."""
    try:
        yield
    except (ValueError, OSError, NonFiniteError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
