"""The file of measurements loses nothing."""

import sys

import pytest
import torch
from diffusers import DDPMScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline import seeding
from mnist_guided_pipeline.evaluation.records import fingerprint, pipeline_parts, read_runs, typed_command, write_run


class TestFile:
    def test_keeps_other_runs(self, tmp_path):
        for name, value in (("a", 1), ("b/scale=2", 2), ("a", 3)):
            write_run(tmp_path / "m.json", name, {"key": value})
        assert read_runs(tmp_path / "m.json") == {"a": {"key": 3}, "b/scale=2": {"key": 2}}
        assert [file.name for file in tmp_path.iterdir()] == ["m.json"]

    @pytest.mark.parametrize("content", ["", "[]", '{"runs": 3}', '{"other": {}}'])
    def test_nothing_else_is_written_over(self, tmp_path, content):
        file = tmp_path / "metrics.json"
        file.write_text(content)
        with pytest.raises(ValueError, match="is not a file of measurements"):
            write_run(file, "a", {})
        assert file.read_text() == content

    def test_names_fit_the_markers(self, tmp_path):
        with pytest.raises(ValueError, match="name must be letters"):
            write_run(tmp_path / "metrics.json", "two words", {})

    def test_a_command_is_what_was_typed_without_this_machine(self, monkeypatch):
        monkeypatch.setattr(
            sys, "argv", ["/opt/bin/mnist-guided", "evaluate", "--output=/tmp/m.json", "runs/a b", "-1"]
        )
        assert typed_command() == "mnist-guided evaluate --output=m.json 'runs/a b' -1"
        monkeypatch.setattr(sys, "argv", ["training/run_study.py", "eta", "--judge", "../judges/clothes"])
        assert typed_command() == "python training/run_study.py eta --judge clothes"


def test_fingerprints_are_those_of_files_that_are_there():
    """Runs are found again by them, and networks their autoencoder."""
    layer = torch.nn.Linear(2, 1)
    layer.load_state_dict({"weight": torch.full((1, 2), 0.5), "bias": torch.zeros(1)})
    assert fingerprint(layer, torch.arange(3), {"b": None, "a": [1]}) == "9777deafa920b659"
    denoiser = mgp.MixtureDenoiser([1.0], [[0.0]], [[[1.0]]], [0])
    pipe = mgp.ClassifierGuidedLatentPipeline(None, denoiser, None, DDPMScheduler(clip_sample=False))
    assert fingerprint(*pipeline_parts(pipe)) == "f00273ada513c1fc"
    assert fingerprint(pipe, "x") == "b8bb06b5d10b715c"
    assert seeding.fingerprint(torch.arange(6).reshape(2, 3), torch.ones(2)) == "598ee942e4ad6fc0"
