"""Runs that are killed, asked to stop, out of disk, or that diverge: nothing saved is lost, nothing bad is saved."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnist_guided_pipeline.checkpoints import checkpoint_folders
from mnist_guided_pipeline.data import DatasetError
from mnist_guided_pipeline.progress import Progress
from mnist_guided_pipeline.runtime import make_accelerator
from mnist_guided_pipeline.safeguards import FiniteWatch, NonFiniteError
from training_runs import make_config, train


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")
def test_killed_stopped_and_disk_full():
    """A few of what ``python tests/reliability.py --kills 25`` does."""
    script = Path(__file__).with_name("reliability.py")
    options = ["--kills", "4", "--terminations", "2", "--two_process_runs", "1"]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"(\d+) / (\d+)", done.stdout)
    assert [int(tried) for _, tried in counts] == [2, 2, 2, 1, 1]
    assert all(survived == tried for survived, tried in counts)


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
