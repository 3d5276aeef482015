"""Measuring a pipeline: draw, score, compare with the floors, and file the record.

Several settings make a sweep over their cartesian product. Every run is filed when it is finished, runs that are in
the file already are not repeated, and samples come from the cache, so an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import itertools
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from ..data.images import LabelledImages
from ..storage.places import public_name
from ..training.history import training_seconds
from .accuracy_score import classification_accuracy_score
from .fingerprints import fingerprint, pipeline_fingerprint, public_config
from .inception import InceptionFid
from .judge import Judge
from .records import check_name, machine, read_runs, versions, write_run
from .samples import SamplingSettings, draw_images, start_processes
from .scores import Reference, check_enough, figure, floors, score_images

__all__ = ["Bench", "grid", "measure_runs"]

_VARIED = ("scheduler", "num_inference_steps", "guidance_scale")


@dataclass(frozen=True)
class Bench:
    """What all runs of a command share.

    Attributes:
        judge: never the guide.
        train: training images of the data set.
        test: test images of the data set.
        names: ``model``, ``judge``, ``dataset_name`` and ``inception_weights`` as given; None for what the package
            ships, and for no Inception-FID. ``dtype`` too, where the pipeline is not in float32.
        with_cas: whether to compute the classification accuracy score.
        inception: the network of Inception-FID, or None.
    """

    judge: Judge
    train: LabelledImages
    test: LabelledImages
    names: dict[str, str | None]
    with_cas: bool = False
    inception: nn.Module | None = None


def grid(
    base: SamplingSettings,
    schedulers: Sequence[str] = (),
    steps: Sequence[int] = (),
    scales: Sequence[float] = (),
    name: str = "default",
) -> dict[str, SamplingSettings]:
    """Settings by run name: the cartesian product; what has several values is told in the names.

    Args:
        base: everything else.
        schedulers: names, or none for the one of ``base``.
        steps: numbers of steps, likewise.
        scales: guidance scales, likewise.
        name: of the run where it is one, else the group before the slash, as in ``default/guidance_scale=2``.

    Raises:
        ValueError: a value that does not fit, or a bad name.
    """
    check_name(name)
    axes = dict(zip(_VARIED, (schedulers, steps, scales), strict=True))
    varied = [axis for axis, values in axes.items() if len(values) > 1]
    runs = {}
    for values in itertools.product(*(values or (getattr(base, axis),) for axis, values in axes.items())):
        chosen = dict(zip(_VARIED, values, strict=True))
        parts = [
            f"{axis}={chosen[axis]:g}" if axis == "guidance_scale" else f"{axis}={chosen[axis]}" for axis in varied
        ]
        runs["/".join([name, ",".join(parts)]) if parts else name] = replace(base, **chosen)
    return runs


def measure_runs(
    pipe: Any,
    runs: dict[str, SamplingSettings],
    bench: Bench,
    output: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    chunk_size: int = 500,
    again: bool = False,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Measure every run that is not in the file yet, and file each when it is finished.

    Under a launcher all processes draw, and the main process scores and writes.

    Args:
        pipe: the pipeline, on its device.
        runs: settings by run name; see :func:`grid`.
        bench: judge and data.
        output: a ``.json`` or ``.jsonl`` file; see ``records.py``.
        cache_dir: folder of the samples.
        chunk_size: images of one call of the pipeline.
        again: measure runs that are in the file too.
        progress: show progress bars, and a line a run.

    Returns:
        The records of these runs, by name; those that are not new come from the file.

    Raises:
        ValueError: the classes of pipeline, data set and judge differ, settings do not fit, or the file is another.
    """
    if len(pipe.id2label) not in (0, len(bench.test.class_names)):
        raise ValueError(
            f"The pipeline has {len(pipe.id2label)} classes, the data set {len(bench.test.class_names)}: give the data "
            "set that it was trained on."
        )
    for settings in runs.values():
        check_enough(settings.num_images, len(bench.test.class_names))
    state = start_processes()
    filed, records = read_runs(output), {}
    reference: Reference | None = None
    inception: InceptionFid | None = None
    hashes = {
        "model": pipeline_fingerprint(pipe),
        "judge": fingerprint(bench.judge.model),
        "dataset": fingerprint(bench.train.images, bench.train.labels, bench.test.images, bench.test.labels),
    }
    if bench.inception is not None:
        hashes["inception"] = fingerprint(bench.inception)
    floor_of = _known_floors(filed, hashes, bench)
    hidden = None if progress and state.is_main_process and len(runs) > 1 else True
    for name, settings in tqdm(runs.items(), desc="runs", unit="run", disable=hidden):
        scheduler, resolved = settings.make_scheduler(pipe), settings.resolved(pipe)
        scheduler_config = public_config(scheduler)
        key = fingerprint(hashes, resolved.to_dict(), scheduler_config, bench.with_cas, versions())
        if not again and filed.get(name, {}).get("key") == key:
            records[name] = filed[name]
            if progress and state.is_main_process:
                tqdm.write(f"{name}: in {output} already, kept.")
            continue
        started = time.perf_counter()
        drawn = draw_images(pipe, settings, cache_dir, chunk_size, progress)
        if not state.is_main_process:
            continue
        reference = reference or Reference.of(bench.train, bench.test, bench.judge)
        figures = score_images(drawn.chunks(), drawn.labels, bench.judge, reference)
        figures["non_finite_images"] = figure(drawn.num_non_finite, settings.num_images)
        figures["images_per_second"] = figure(settings.num_images / drawn.seconds, settings.num_images)
        model = bench.names.get("model")
        if model is not None and (seconds := training_seconds(model)) is not None:
            figures["training_minutes"] = figure(seconds / 60.0, settings.num_images)
        if bench.with_cas and drawn.labels is not None:
            figures["classification_accuracy_score"] = classification_accuracy_score(
                drawn.images(), drawn.labels, bench.test, progress=progress
            )
        if bench.inception is not None:
            inception = inception or InceptionFid(bench.inception, bench.test.images, pipe.device)
            figures["inception_fid"] = figure(inception(drawn.chunks()), settings.num_images)
        if settings.num_images not in floor_of:
            floor_of[settings.num_images] = _floors(
                reference, bench, pipe.vae, settings.num_images, inception, progress
            )
        records[name] = {
            "command": _command(name, settings, bench),
            "key": key,
            **{
                kind: {"name": _public(bench.names[option]) or "shipped", "fingerprint": hashes[kind]}
                for kind, option in (("model", "model"), ("judge", "judge"), ("dataset", "dataset_name"))
            },
            **({} if bench.inception is None else {"inception": {"fingerprint": hashes["inception"]}}),
            "class_names": list(bench.test.class_names),
            "settings": resolved.to_dict(),
            "scheduler_config": scheduler_config,
            "versions": versions(),
            "machine": machine(pipe.device, state.num_processes),
            "figures": figures,
            "floors": floor_of[settings.num_images],
        }
        write_run(output, name, records[name])
        if progress:
            tqdm.write(f"{name}: measured in {time.perf_counter() - started:.0f} s.")
    return records


def _known_floors(filed: dict[str, dict[str, Any]], hashes: dict[str, str], bench: Bench) -> dict[int, dict[str, Any]]:
    """Floors that a filed run with the same networks, judge and data has, by number of images: they are its too."""
    known = {}
    for record in filed.values():
        same = all(record.get(kind, {}).get("fingerprint") == value for kind, value in hashes.items())
        if same and record.get("versions") == versions() and "floors" in record:
            has_cas = "classification_accuracy_score" in record["floors"].get("real_training_images", {})
            if has_cas or not bench.with_cas:
                known[record["settings"]["num_images"]] = record["floors"]
    return known


def _floors(
    reference: Reference, bench: Bench, vae: Any, num_images: int, inception: InceptionFid | None, progress: bool
) -> dict[str, Any]:
    """The floors of sets of N images, with those figures of real images that not every command asks for."""
    found = floors(reference, bench.judge, vae, num_images)
    images, labels = bench.train.images[:num_images], bench.train.labels[:num_images]
    if inception is not None:
        found["real_training_images"]["inception_fid"] = figure(inception([images]), num_images)
    if bench.with_cas:
        score = classification_accuracy_score(images, labels, bench.test, progress=progress)
        found["real_training_images"]["classification_accuracy_score"] = score
    return found


def _command(name: str, settings: SamplingSettings, bench: Bench) -> str:
    """The line that measures this run alone."""
    words = ["mnist-guided", "evaluate"]
    if model := bench.names["model"]:
        words.append(public_name(model))
    options = {"name": name, "num_images": settings.num_images, "seed": settings.seed, "scheduler": settings.scheduler}
    options |= settings.call_arguments()
    options |= {option: _public(bench.names[option]) for option in ("dataset_name", "judge", "inception_weights")}
    options["dtype"] = bench.names.get("dtype")
    for option, value in options.items():
        if value is None or value == getattr(SamplingSettings, option, None):
            continue
        words += [f"--{option}", *map(_text, value if isinstance(value, tuple) else (value,))]
    if bench.with_cas:
        words.append("--classification_accuracy_score")
    return shlex.join(words)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _public(name: str | None) -> str | None:
    return None if name is None else public_name(name)
