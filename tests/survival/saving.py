"""Saves that are killed: what stands is the old or the new, never a mixture."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.atomic import IntegrityError, read_manifest, standing_folder
from tiny import Run, make

from .processes import fork, wait


def killed_saves(
    save: Callable[[], object], is_whole: Callable[[bool], bool], tries: int, dice: random.Random, log: Path
) -> Iterator[bool]:
    """Kill a process that saves, again and again.

    Args:
        save: done in a child.
        is_whole: whether what stands may stand there; is told whether the save had ended before.
        tries: saves that are killed; those that end before only move the aim.
        dice: for the moments.
        log: of the children.
    """
    started = time.perf_counter()
    assert wait([fork(save, log)]) == [0], log.read_text()
    delay = time.perf_counter() - started
    assert is_whole(True)
    killed_so_far = 0
    for _ in range(4 * tries):
        if killed_so_far == tries:
            return
        child = fork(save, log)
        time.sleep(delay * dice.uniform(0.5, 1.1))
        os.kill(child, signal.SIGKILL)
        (status,) = wait([child])
        killed = status == -signal.SIGKILL
        delay *= 1.25 if killed else 0.8  # so kills gather around the moment when the new takes the old one's place
        killed_so_far += killed
        try:
            good = status in (0, -signal.SIGKILL) and is_whole(not killed)
        except IntegrityError:
            good = False
        if killed or not good:
            yield good


def killed_pipeline_saves(root: Path, tries: int, dice: random.Random) -> Iterator[bool]:
    """Two pipelines take turns in one folder; whatever loads from it is one of them, weight for weight."""
    target = root / "pipeline"
    pipes = [make(0), make(1)]
    sums = []
    for pipe in pipes:
        pipe.save_pretrained(target)
        sums.append(read_manifest(target))
    standing = 1

    def save() -> None:
        pipes[1 - standing].save_pretrained(target)

    def is_whole(ended: bool) -> bool:
        nonlocal standing
        found, manifest = (
            mgp.ClassifierGuidedLatentPipeline.from_pretrained(target),
            read_manifest(standing_folder(target)),
        )
        if manifest not in sums or (ended and manifest == sums[standing]):
            return False
        standing = sums.index(manifest)
        networks = [
            (getattr(found, name), getattr(pipes[standing], name)) for name in ("vae", "denoiser", "classifier")
        ]
        return all(
            torch.equal(tensor, other.state_dict()[name])
            for network, other in networks
            for name, tensor in network.state_dict().items()
        )

    return killed_saves(save, is_whole, tries, dice, root / "pipeline.log")


def killed_checkpoint_saves(root: Path, tries: int, dice: random.Random) -> Iterator[bool]:
    """A run saves the checkpoint after the one that stands, which then goes; resuming gives one of both, exactly."""
    folder, run = root / "checkpoints", Run()
    run.state.save(folder)
    states = {0: run.everything()}
    run.train(1)

    def save() -> None:
        run.state.save(folder, total_limit=1)

    def is_whole(ended: bool) -> bool:
        states[run.state.update] = run.everything()
        resumed = Run(seed=1)
        resumed.state.resume(folder, "latest")
        found = resumed.state.update
        expected = states.get(found)
        if found == run.state.update:
            del states[found - 1]
            run.train(found + 1)
        elif ended:
            return False
        return expected is not None and all(
            torch.equal(a, b) for a, b in zip(resumed.everything(), expected, strict=True)
        )

    return killed_saves(save, is_whole, tries, dice, root / "checkpoints.log")
