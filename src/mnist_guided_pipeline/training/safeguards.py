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
from tqdm.auto import tqdm

__all__ = ["FiniteWatch", "NonFiniteError", "StopRequest", "plain_errors"]


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a weight is infinite or not a number."""


class FiniteWatch:
    """Keeps the values of the last updates, on the device, and finds the first that is not finite.

    Watching costs and waits for nothing; only :meth:`check` computes, and reads from the device.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[int, Mapping[str, Tensor]]] = []

    def watch(self, update: int, values: Mapping[str, Tensor]) -> None:
        """Take note of an update's values, 0-d tensors on one device without gradient; the same names every time."""
        self._watched.append((update, values))

    def check(self, advice: str) -> None:
        """Stop where an update since the last check was not finite.

        Args:
            advice: ends the message.

        Raises:
            NonFiniteError: naming the first such update and its values.
        """
        if not self._watched:
            return
        watched, self._watched = self._watched, []
        table = torch.stack([torch.stack([value.float() for value in values.values()]) for _, values in watched])
        finite = table.isfinite().all(dim=1).tolist()
        if all(finite):
            return
        row = finite.index(False)
        update, values = watched[row]
        readings = ", ".join(f"{name} {value:g}" for name, value in zip(values, table[row].tolist(), strict=True))
        raise NonFiniteError(f"Update {update} is not finite: {readings}. {advice}")


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
        tqdm.write(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # not behind a progress bar
        raise SystemExit(2) from None
