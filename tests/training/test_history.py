"""The history of a run holds what was logged, and a resumed run's is that of a run that never stopped."""

import json
import shutil

from accelerate import Accelerator

from mnist_guided_pipeline.training.history import (
    HISTORY_FILE,
    HistoryTracker,
    read_history,
    start_trackers,
    training_seconds,
)


def start(folder, step=0) -> Accelerator:
    accelerator = Accelerator(cpu=True, log_with=[HistoryTracker(folder)])
    start_trackers(accelerator, "project", {"learning_rate": 1e-3, "path": None}, step)
    return accelerator


def test_events_come_back_in_order_and_a_new_run_starts_anew(tmp_path):
    accelerator = start(tmp_path / "run")
    accelerator.log({"loss": 1.5, "note": "text"}, step=1)
    accelerator.log({"loss": 0.5, "test/loss": 0.25}, step=2)
    assert read_history(tmp_path / "run") == [{"step": 1, "loss": 1.5}, {"step": 2, "loss": 0.5, "test/loss": 0.25}]
    start(tmp_path / "run")
    assert read_history(tmp_path / "run") == read_history(tmp_path) == []


def test_a_resumed_run_cuts_what_came_after_its_checkpoint(tmp_path):
    accelerator = start(tmp_path)
    for step in (10, 20, 30):
        accelerator.log({"loss": float(step)}, step=step)
    with open(tmp_path / HISTORY_FILE, "a") as file:
        file.write(json.dumps({"step": 40, "loss": 1.0})[:9])  # killed while writing
    accelerator = start(tmp_path, step=20)
    accelerator.log({"loss": 30.0}, step=30)
    assert [event["step"] for event in read_history(tmp_path)] == [10, 20, 30]


def test_seconds_are_the_sum_over_the_history(tmp_path):
    lines = [
        {"step": 10, "seconds_per_update": 0.1},
        {"step": 10, "test/loss": 1.0},
        {"step": 40, "seconds_per_update": 0.4},
    ]
    for step in ("vae", "denoiser"):
        folder = tmp_path / "pipeline" / "steps" / step
        folder.mkdir(parents=True)
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seconds = 10 * 0.1 + 30 * 0.4
    assert training_seconds(tmp_path / "pipeline" / "steps" / "vae") == seconds
    assert training_seconds(tmp_path / "pipeline") == 2 * seconds
    shutil.rmtree(tmp_path / "pipeline" / "steps" / "vae")
    (tmp_path / "pipeline" / "steps" / "vae").mkdir()
    assert training_seconds(tmp_path / "pipeline") is None
    assert training_seconds(tmp_path) is None
