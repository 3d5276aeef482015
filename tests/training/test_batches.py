"""Batches prepared together are those of every update alone, in any layout and from any update on."""

import importlib

import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.training import batches as module
from mnist_guided_pipeline.training.batches import Batches, TrainingStream
from training_runs import NETWORKS, make_config, train

UPDATES = 130  # of 15 an epoch; chunks are of 50
CPU = torch.device("cpu")


def draw(indices, generator):
    return indices, torch.randn(len(indices), 3, generator=generator)


def alone(update):
    """What an update trains on, from the stream itself."""
    stream = TrainingStream(120, 8, seed=1)
    return draw(stream.indices(update), stream.generator(update))


@pytest.mark.parametrize("updates", [range(UPDATES), [7], [49], [129]], ids=["whole", "from 7", "from 49", "from 129"])
def test_every_update_has_its_own_numbers_wherever_a_run_starts(updates):
    found = Batches(TrainingStream(120, 8, seed=1), CPU, UPDATES, draw)
    for update in updates:
        ((indices, noise),) = found.of(update)
        assert torch.equal(indices, alone(update)[0]) and torch.equal(noise, alone(update)[1])


def test_preparing_together_changes_nothing_and_may_leave_things_out(monkeypatch):
    def prepare(indices, noise):
        return indices.float()[:, None] * noise, None

    expected = Batches(TrainingStream(120, 4, accumulation_steps=2), CPU, UPDATES, draw, prepare)
    monkeypatch.setattr(module, "_MOST_BYTES", 1)  # every update apart
    found = Batches(TrainingStream(120, 4, accumulation_steps=2), CPU, UPDATES, draw, prepare)
    for update in range(UPDATES):
        for one, other in zip(expected.of(update), found.of(update), strict=True):
            assert torch.equal(one[0], other[0]) and one[1] is other[1] is None


def test_nothing_is_drawn_beyond_the_end():
    stream, drawn = TrainingStream(120, 8), []
    stream.generator = lambda update: drawn.append(update) or torch.Generator()
    Batches(stream, CPU, 60, draw).of(55)
    assert drawn == [55, 56, 57, 58, 59]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("decoder", "pair")])
def test_no_update_reads_from_the_device(digits_folder, tmp_path, monkeypatch, name):
    """Between two log points nothing asks a tensor for its value, which would wait for an accelerator."""
    script = importlib.import_module(f"train_{name}")
    read, between, logged = [], [], []
    for method in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, method)

        def watched(self, *args, original=original, method=method, **kwargs):
            read.append(method)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, method, watched)

    class Run(script.Run):
        def log(self, *values):
            if 10 <= self.state.update < 19:  # the first updates set the optimizer up, the last validates
                between.extend(read)
            read.clear()
            super().log(*values)
            (between if 10 < self.state.update < 20 else logged).extend(read)
            read.clear()

    monkeypatch.setattr(script, "Run", Run)
    settings = {"max_train_steps": 20, "validation_steps": 20, "checkpointing_steps": None}
    if name == "classifier":
        mgp.MLPDenoiser((1, 28, 28), hidden_size=8).save_pretrained(tmp_path / "denoiser")
        settings["denoiser_path"] = str(tmp_path / "denoiser")
    train(name, make_config(name, digits_folder, tmp_path, **settings))
    assert between == []
    assert "tolist" in logged  # so reading is seen
