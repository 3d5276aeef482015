"""A run that is stopped and resumed is the run that never stopped."""

import logging

import pytest
import torch
from torch.nn import functional

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.atomic import IntegrityError
from mnist_guided_pipeline.checkpoints import TrainingState, averaged_weights, checkpoint_folders, make_ema

SETTINGS = {"learning_rate": 1e-2, "train_batch_size": 4, "output_dir": "here"}


class Run:
    """A real training run, small: two networks, AdamW, a schedule, an average."""

    def __init__(self, seed: int = 0, **settings):
        torch.manual_seed(seed)
        self.denoiser = mgp.MLPDenoiser(sample_shape=(3,), hidden_size=8)
        self.classifier = mgp.MLPClassifier(sample_shape=(3,), hidden_size=8)
        self.ema = make_ema(self.denoiser, 0.9)
        parameters = [*self.denoiser.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.state = TrainingState(
            {**SETTINGS, **settings},
            networks={"denoiser": self.denoiser, "classifier": self.classifier},
            emas={"denoiser": self.ema},
            optimizers={"both": self.optimizer},
            lr_schedulers={"both": self.schedule},
        )

    def train(self, until: int) -> None:
        while self.state.update < until:
            generator = torch.Generator().manual_seed(self.state.update)
            x, t = torch.randn(4, 3, generator=generator), torch.tensor([1, 20, 300, 900])
            loss = self.denoiser(x, t).sample.square().mean()
            (loss + functional.cross_entropy(self.classifier(x, t).logits, t % 10)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
            self.ema.step(self.denoiser.parameters())
            self.state.update += 1

    def everything(self) -> list[torch.Tensor]:
        state = self.optimizer.state_dict()["state"]
        moments = [state[index][name] for index in sorted(state) for name in sorted(state[index])]
        counts = torch.tensor([self.state.update, self.ema.optimization_step, self.schedule.last_epoch])
        rates = torch.tensor(self.schedule.get_last_lr(), dtype=torch.float64)
        weights = [*self.denoiser.parameters(), *self.classifier.parameters(), *self.ema.shadow_params]
        return [value.detach().clone() for value in (*weights, *moments, counts, rates)]


def assert_same(first: Run, second: Run) -> None:
    for a, b in zip(first.everything(), second.everything(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("which", ["latest", "path"])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, which):
    whole, stopped, resumed = Run(), Run(), Run(seed=1)
    whole.train(9)
    stopped.train(4)
    folder = stopped.state.save(tmp_path)
    assert resumed.state.resume(tmp_path, str(folder) if which == "path" else which) == folder
    assert_same(resumed, stopped)
    resumed.train(9)
    assert_same(resumed, whole)


def test_a_checkpoint_made_before_the_first_update_resumes(tmp_path):
    run, resumed = Run(), Run(seed=1)
    run.state.save(tmp_path)
    resumed.state.resume(tmp_path, "latest")
    assert_same(resumed, run)


def test_nothing_is_pickled(tmp_path):
    run = Run()
    run.train(1)
    files = sorted(path.name for path in run.state.save(tmp_path).iterdir())
    assert {name.rsplit(".", 1)[1] for name in files} == {"json", "safetensors"}
    assert len(files) == 6  # two networks, an average, an optimizer, state.json and the manifest


def test_rotation_keeps_the_newest(tmp_path):
    run = Run()
    (tmp_path / "checkpoint-best").mkdir()  # somebody's own folder is not touched
    for update in (2, 9, 10, 11):
        run.train(update)
        run.state.save(tmp_path, total_limit=2)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["checkpoint-10", "checkpoint-11"]
    assert (tmp_path / "checkpoint-best").is_dir()


def test_latest_of_nothing_is_nothing(tmp_path):
    assert Run().state.resume(tmp_path, "latest") is None


@pytest.mark.parametrize("damage", ["flip", "missing", "no manifest"])
def test_a_damaged_newest_checkpoint_is_named_and_skipped(tmp_path, caplog, damage):
    run, resumed = Run(), Run(seed=1)
    run.train(2)
    good = run.state.save(tmp_path)
    expected = run.everything()
    run.train(3)
    bad = run.state.save(tmp_path)
    weights = bad / "denoiser.safetensors"
    if damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    else:
        (weights if damage == "missing" else bad / "manifest.json").unlink()

    with caplog.at_level(logging.WARNING):
        assert resumed.state.resume(tmp_path, "latest") == good
    assert "damaged" in caplog.text and str(bad) in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(resumed.everything(), expected, strict=True))
    with pytest.raises(IntegrityError, match="checkpoint-3"):
        resumed.state.resume(tmp_path, str(bad))


def test_other_settings_are_refused_naming_both_values(tmp_path):
    folder = Run().state.save(tmp_path)
    with pytest.raises(ValueError, match="train_batch_size = 4, this run has 8") as refusal:
        Run(train_batch_size=8).state.resume(tmp_path, "latest")
    assert str(folder) in str(refusal.value)
    with pytest.raises(ValueError, match="beta = None, this run has 3"):
        Run(beta=3).state.resume(tmp_path, "latest")


def test_settings_that_do_not_change_the_run_may_differ(tmp_path):
    Run().state.save(tmp_path)
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
