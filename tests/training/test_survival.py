"""Runs that are killed, asked to stop, out of disk, or that diverge: nothing saved is lost, nothing bad is saved."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnist_guided_pipeline.data.images import DatasetError
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.tables import render_view
from mnist_guided_pipeline.training.checkpoints import checkpoint_folders
from mnist_guided_pipeline.training.progress import Progress
from mnist_guided_pipeline.training.runtime import make_accelerator
from mnist_guided_pipeline.training.safeguards import FiniteWatch, NonFiniteError
from training_runs import make_config, train

FEW = {  # of what ``python tests/reliability.py`` does
    "kills": 2,
    "terminations": 1,
    "saves": 4,
    "two_process_kills": 2,
    "two_process_terminations": 1,
    "two_process_runs": 0,
    "every": 15,
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")
def test_all_that_is_stopped_starved_or_damaged_survives(tmp_path):
    script, output = Path(__file__).parents[1] / "reliability.py", tmp_path / "metrics.json"
    counts = [f"--{name}={count}" for name, count in FEW.items()]
    command = [sys.executable, script, *counts, "--no-faults", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    record = read_runs(output)["reliability"]
    assert record["command"] == " ".join(
        ["python", "tests/reliability.py", *counts, "--no-faults", "--output", "metrics.json"]
    )
    rows = record["figures"]["rows"]
    assert all(row["survived"] == row["tried"] > 0 for row in rows.values())
    tried = {name: row["tried"] for name, row in rows.items()}  # of the others, some may end before they are stopped
    assert (tried["disk full"], tried["folder read-only"], tried["data set gone"]) == (1, 3, 4)
    assert [count for name, count in tried.items() if "killed at a checkpoint" in name] == [2, 2, 2, 2]
    table = render_view({"reliability": record}, "reliability", "rows")
    assert len(table.splitlines()) == 2 + len(rows)


class TestDivergence:
    def test_stops_before_anything_is_saved(self, digits_folder, tmp_path):
        config = make_config("vae", digits_folder, tmp_path, kl_weight=1e39, checkpointing_steps=1)
        with pytest.raises(NonFiniteError, match=r"Update 1 is not finite: loss inf, .*There is no checkpoint") as stop:
            train("vae", config)
        assert "reconstruction 5" in str(stop.value) and "A lower learning_rate" in str(stop.value)
        assert not checkpoint_folders(tmp_path)

    def test_names_the_last_checkpoint(self, digits_folder, tmp_path):
        config = make_config("vae", digits_folder, tmp_path, max_train_steps=5, checkpointing_steps=5)
        train("vae", config)
        progress = Progress(make_accelerator(config), 10, 5, 8)
        try:
            progress.update(6, {"loss": torch.tensor(float("nan"))})
            with pytest.raises(NonFiniteError, match=r"Update 6 is not finite: loss nan.* is .*checkpoint-5\."):
                progress.check_finite()
        finally:
            progress.close()

    def test_the_first_bad_update_is_remembered(self):
        watch = FiniteWatch()
        for update, loss in enumerate([2.0, 1.0, float("nan"), 3.0, float("inf")], start=1):
            watch.watch(update, {"loss": torch.tensor(loss), "grad_norm": torch.tensor(0.5)})
            if update == 2:
                watch.check("Advice.")
        with pytest.raises(NonFiniteError, match=r"Update 3 is not finite: loss nan, grad_norm 0.5. Advice."):
            watch.check("Advice.")


class TestWhatFailsAtTheStart:
    def test_a_data_set_that_has_vanished(self, tmp_path):
        with pytest.raises(DatasetError, match="no such folder"):
            train("vae", make_config("vae", tmp_path / "gone", tmp_path / "vae"))
        assert not (tmp_path / "vae").exists()

    def test_a_place_that_cannot_be_written(self, digits_folder, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            train("vae", make_config("vae", digits_folder, tmp_path / "file" / "vae"))
