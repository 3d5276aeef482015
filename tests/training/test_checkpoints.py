"""A run that is stopped and resumed is the run that never stopped."""

import json
import logging
import pickle
import shutil

import pytest
import torch

from mnist_guided_pipeline.storage.atomic import IntegrityError, write_manifest
from mnist_guided_pipeline.training.checkpoints import NonFiniteError, averaged_weights, checkpoint_folders
from tiny import Run


def test_rotation_keeps_the_newest(tmp_path):
    run = Run()
    assert run.state.resume(tmp_path, "latest") is None
    (tmp_path / "checkpoint-best").mkdir()  # somebody's own folder is not touched
    (tmp_path / ".checkpoint-3.12345678.partial").mkdir()  # what a killed run left half-written
    for update in (2, 9, 10, 11):
        run.train(update)
        run.state.save(tmp_path, total_limit=2)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["checkpoint-10", "checkpoint-11"]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-best", "checkpoint-10", "checkpoint-11"}
    suffixes = {path.suffix for path in (tmp_path / "checkpoint-11").iterdir()}
    assert suffixes == {".json", ".safetensors"}  # nothing is pickled


def flip(file, position=-1):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-10])


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


def rewrite(folder, name, content):
    """A file that the manifest agrees with."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def replace_by_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


FAULTS = {
    "a bit of the weights": lambda folder: flip(folder / "denoiser.safetensors"),
    "a bit of the average": lambda folder: flip(folder / "denoiser.ema.safetensors"),
    "state cut short": lambda folder: cut(folder / "state.json"),
    "no weights": lambda folder: (folder / "denoiser.safetensors").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a pickle for weights": lambda folder: rewrite(folder, "denoiser.safetensors", pickle.dumps(Bomb())),
    "a state of nothing": lambda folder: rewrite(folder, "state.json", "{}"),
    "another update": lambda folder: rewrite(folder, "state.json", json.dumps({"update": 7})),
    "nothing in it": empty,
    "a file": replace_by_a_file,
}


@pytest.mark.parametrize("damage", FAULTS)
def test_a_damaged_newest_checkpoint_is_named_and_skipped(tmp_path, caplog, damage):
    run, resumed = Run(), Run(seed=1)
    run.train(2)
    good = run.state.save(tmp_path)
    expected = run.everything()
    run.train(3)
    bad = run.state.save(tmp_path)
    FAULTS[damage](bad)

    with caplog.at_level(logging.WARNING):
        assert resumed.state.resume(tmp_path, "latest") == good
    assert "damaged" in caplog.text and str(bad) in caplog.text
    assert all(map(torch.equal, resumed.everything(), expected))
    with pytest.raises(IntegrityError, match="checkpoint-3"):
        resumed.state.resume(tmp_path, str(bad))


def test_where_no_checkpoint_is_whole_a_run_does_not_silently_start_afresh(tmp_path):
    flip(Run().state.save(tmp_path) / "denoiser.safetensors")
    with pytest.raises(IntegrityError, match="None of the checkpoints .* is whole: checkpoint-0"):
        Run().state.resume(tmp_path, "latest")


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    run = Run()
    good = run.state.save(tmp_path)
    run.train(2)
    with torch.no_grad():
        next(run.classifier.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="of classifier is not finite at update 2"):
        run.state.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


def test_rotation_spares_what_was_just_saved_beside_later_ones(tmp_path):
    """After going back to an earlier checkpoint."""
    run = Run()
    for update in (5, 6):
        run.train(update)
        run.state.save(tmp_path)
    back = Run()
    back.train(3)
    back.state.save(tmp_path, total_limit=1)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == [f"checkpoint-{n}" for n in (3, 5, 6)]


def test_other_settings_are_refused_naming_both_values(tmp_path):
    folder = Run().state.save(tmp_path)
    with pytest.raises(ValueError, match="learning_rate = 0.01, this run has 8") as refusal:
        Run(learning_rate=8).state.resume(tmp_path, "latest")
    assert str(folder) in str(refusal.value)
    with pytest.raises(ValueError, match="beta = None, this run has 3"):
        Run(beta=3).state.resume(tmp_path, "latest")


def test_settings_that_do_not_change_the_run_may_differ(tmp_path):
    Run(of_an_earlier_version=True).state.save(tmp_path)
    assert Run(output_dir="there", report_to="none").state.resume(tmp_path, "latest")


def test_averaged_weights_are_lent_and_given_back():
    run = Run()
    run.train(3)
    trained = [parameter.detach().clone() for parameter in run.denoiser.parameters()]
    with pytest.raises(RuntimeError), averaged_weights(run.ema, run.denoiser):
        inside = zip(run.denoiser.parameters(), run.ema.shadow_params, trained, strict=True)
        assert all(torch.equal(now, mean) and not torch.equal(now, old) for now, mean, old in inside)
        raise RuntimeError
    assert all(torch.equal(now, old) for now, old in zip(run.denoiser.parameters(), trained, strict=True))
    with averaged_weights(None, run.denoiser):
        assert torch.equal(next(run.denoiser.parameters()), trained[0])
