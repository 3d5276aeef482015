"""Processes of one thread each that draw together: how a computer with several cores makes many images.

The networks are small, so threads spend much of their time waiting for one another; processes do not wait.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

__all__ = ["DrawingProcesses", "draw", "share"]


class DrawingProcesses:
    """A pool of processes that hold a pipeline each; to be used in a ``with`` statement.

    Args:
        load: gives the pipeline on its device; it is called in every process, so it must be picklable.
        num_processes: how many, each of one thread.

    Raises:
        ValueError: no process.
    """

    def __init__(self, load: Callable[[], Any], num_processes: int):
        if num_processes < 1:
            raise ValueError(f"num_processes must be at least 1, got {num_processes}.")
        context = multiprocessing.get_context("spawn")  # a forked child cannot use the threads of its parent
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(load, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a process that dies is noticed rather than waited for
            self._ends.append(ours)
            self._processes.append(process)

    def draw(self, num_images: int, batch_size: int) -> None:
        """Draw this many images together and wait until all are done.

        Raises:
            RuntimeError: a process ended.
        """
        for index, end in enumerate(self._ends):
            end.send((share(num_images, len(self._ends), index), batch_size))
        for end in self._ends:
            try:
                end.recv()
            except EOFError as error:
                raise RuntimeError("a drawing process ended; its own message is above.") from error

    def __enter__(self) -> DrawingProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join()


def share(total: int, parts: int, index: int) -> int:
    """How many of ``total`` fall to part ``index`` of ``parts``, as equal as whole numbers can be."""
    return total * (index + 1) // parts - total * index // parts


def draw(pipe: Any, num_images: int, batch_size: int, steps: int | None = None) -> None:
    """Draw images of all classes in turn, at most ``batch_size`` at a time, as tensors."""
    output, num_classes = "latent" if pipe.vae is None else "pt", len(pipe.id2label)
    for first in range(0, num_images, batch_size):
        labels = [index % num_classes for index in range(first, min(first + batch_size, num_images))]
        generator = torch.Generator().manual_seed(first)
        pipe(labels, num_inference_steps=steps, generator=generator, output_type=output)


def _serve(load: Callable[[], Any], end: Connection) -> None:
    """Draw what is asked for until nobody asks any more."""
    torch.set_num_threads(1)
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    while True:
        try:
            num_images, batch_size = end.recv()
        except EOFError:
            return
        draw(pipe, num_images, batch_size)
        end.send(None)
