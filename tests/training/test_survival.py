"""Runs that are killed, asked to stop, out of disk, or that diverge: nothing saved is lost, nothing bad is saved."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_guided_pipeline.training.checkpoints import NonFiniteError, checkpoint_folders
from mnist_guided_pipeline.training.run import Run, StopRequest
from training_runs import make_config, train

FEW = {"kills": 2, "terminations": 1, "two_process_kills": 2, "two_process_terminations": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")
def test_all_that_is_stopped_or_starved_survives():
    command = [sys.executable, Path(__file__).parents[1] / "reliability.py"]
    done = subprocess.run(
        [*command, *(f"--{name}={count}" for name, count in FEW.items())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    tried = {name: int(count) for name, count in re.findall(r"^(.+): \d+ / (\d+)  ", done.stdout, re.MULTILINE)}
    assert (tried["disk full"], tried["folder read-only"], tried["data set gone"]) == (1, 3, 4)


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_update_in_hand_is_saved_and_the_status_says_so(
        self, digits_folder, tmp_path, capsys, monkeypatch, number
    ):
        log = Run.log

        def log_and_signal(run, *given):
            log(run, *given)
            if run.state.update == 3:
                signal.raise_signal(number)

        monkeypatch.setattr(Run, "log", log_and_signal)
        with pytest.raises(SystemExit) as stop:
            train("vae", make_config("vae", digits_folder, tmp_path, checkpointing_steps=None))
        assert stop.value.code == 128 + number
        printed = capsys.readouterr().out
        assert f"Stopped by {number.name}, saved {tmp_path / 'checkpoint-3'}. Go on by the same command" in printed
        assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["checkpoint-3"]

    def test_a_second_interrupt_stops_at_once(self):
        before = signal.getsignal(signal.SIGINT)
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == before


class TestDivergence:
    def test_stops_before_anything_is_saved(self, digits_folder, tmp_path):
        config = make_config("vae", digits_folder, tmp_path, kl_weight=1e39, checkpointing_steps=1)
        with pytest.raises(NonFiniteError, match=r"Update 1 is not finite: loss inf, .*There is no checkpoint") as stop:
            train("vae", config)
        assert "reconstruction 5" in str(stop.value) and "A lower learning_rate" in str(stop.value)
        assert not checkpoint_folders(tmp_path)

    def test_names_the_last_checkpoint(self, digits_folder, tmp_path):
        """At the update of the next checkpoint, after another that was not finite either."""
        config = make_config("vae", digits_folder, tmp_path, learning_rate=1e30, checkpointing_steps=2)
        with pytest.raises(NonFiniteError, match=r"Update 3 is not finite: .* The last checkpoint is .*checkpoint-2\."):
            train("vae", config)
