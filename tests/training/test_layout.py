"""However the global batch is cut and wherever a run is stopped, the same weights come out; two processes are real."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import mnist_guided_pipeline as mgp
from training_runs import CHECKPOINT, NETWORKS, SCRIPTS, UPDATES, history, make_config, train, weights

LAYOUTS = {  # processes, batch of each, accumulation
    "one process": (1, 8, 1),
    "accumulated": (1, 4, 2),
    "two processes": (2, 4, 1),
    "two processes, accumulated": (2, 2, 2),
}


@pytest.fixture(scope="session")
def layouts(digits_folder, tmp_path_factory):
    """Every script in every layout: folders by script and layout; and resumed runs, of one process and of two."""
    root = tmp_path_factory.mktemp("layouts")
    torch.manual_seed(0)
    mgp.MLPDenoiser(sample_shape=(1, 28, 28), hidden_size=8, num_classes=10).save_pretrained(root / "denoiser")
    mgp.MLPVAE(latent_dim=4, hidden_size=16).save_pretrained(root / "vae")
    small = {"sample_shape": (1, 28, 28), "hidden_size": 8, "num_layers": 1, "condition_dim": 8, "num_classes": 10}
    mgp.ResidualMLPDenoiser(**small).save_pretrained(root / "teacher")
    mgp.ResidualMLPClassifier(**small).save_pretrained(root / "guide")
    needed = {
        "classifier": {"denoiser_path": str(root / "denoiser"), "random_label_share": 0.5},
        "decoder": {"vae_path": str(root / "vae")},
        "pair": {"denoiser_path": str(root / "teacher"), "classifier_path": str(root / "guide")},
    }
    folders, plan = {}, []
    for name in NETWORKS:
        changes = needed.get(name, {})
        for layout, (processes, batch, accumulation) in LAYOUTS.items():
            folder = folders[name, layout] = root / f"{name} {layout}"
            cut = {"train_batch_size": batch, "gradient_accumulation_steps": accumulation, **changes}
            config = make_config(name, digits_folder, folder, **cut)
            if processes == 1:
                train(name, config)
            else:
                plan.append({"name": name, "config": dataclasses.asdict(config)})
            if accumulation == 2:
                continue
            resumed = folders[name, f"{layout}, resumed"] = root / f"{name} {layout}, resumed"
            config = make_config(name, digits_folder, resumed, resume_from_checkpoint="latest", **cut)
            checkpoint = f"checkpoint-{CHECKPOINT}"
            if processes == 1:
                shutil.copytree(folder / checkpoint, resumed / checkpoint)
                train(name, config)
            else:
                copy = str(folder / checkpoint)
                plan.append({"name": name, "config": dataclasses.asdict(config), "copy": copy})
    (root / "plan.json").write_text(json.dumps(plan))
    command = ["accelerate", "launch", "--config_file", str(SCRIPTS / "accelerate" / "cpu.yaml")]  # two processes
    program = Path(__file__).parents[1] / "training_runs.py"
    done = subprocess.run(
        [*command, "--main_process_port", "0", str(program), str(root / "plan.json")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_layout_does_not_change_the_weights(layouts, name, layout):
    expected, found = weights(layouts[name, "one process"]), weights(layouts[name, layout])
    assert expected.keys() == found.keys()
    assert len({line["step"] for line in history(layouts[name, layout])}) == 2  # it did train, and only one has logged
    for key, tensor in expected.items():
        if "running" not in key and "num_batches" not in key:  # of the last images seen, and measured anew at the end
            precision = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
            rounding = precision * tensor.double().abs()  # the judge is saved in float16
            assert ((found[key].double() - tensor.double()).abs() < 1e-5 + rounding).all(), key


@pytest.mark.parametrize("layout", ["one process", "two processes"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_run_is_bit_for_bit_the_run_that_never_stopped(layouts, name, layout):
    """Weights, averages, moments and history; the checkpoint is of the middle of an epoch."""
    expected, found = (weights(layouts[name, text]) for text in (layout, f"{layout}, resumed"))
    assert expected.keys() == found.keys()
    assert any(f"checkpoint-{2 * CHECKPOINT}/" in key for key in found)
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    states = [
        json.loads((layouts[name, text] / f"checkpoint-{2 * CHECKPOINT}" / "state.json").read_text())
        for text in (layout, f"{layout}, resumed")
    ]
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    assert states[0]["emas"] == states[1]["emas"]
    resumed = history(layouts[name, f"{layout}, resumed"])
    assert resumed == [line for line in history(layouts[name, layout]) if line["step"] > CHECKPOINT]
    assert resumed[-1]["step"] == UPDATES
