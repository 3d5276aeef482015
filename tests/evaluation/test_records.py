"""The file of measurements loses nothing."""

import sys

import pytest

from mnist_guided_pipeline.evaluation.records import read_runs, typed_command, write_run


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
