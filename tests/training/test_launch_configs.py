"""The launcher files are read by accelerate, and the one for CPUs starts two processes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from training_runs import make_config, train

FOLDER = Path(__file__).parents[2] / "training" / "accelerate"
EXPECTED = {  # processes, machines
    "cpu": (2, 1),
    "one_gpu": (1, 1),
    "several_gpus": (4, 1),
    "several_machines": (8, 2),
}


def test_there_are_no_others():
    assert {file.stem for file in FOLDER.iterdir()} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines) == EXPECTED[name]
    assert (config.distributed_type.value == "NO") == (config.num_processes == 1)


def test_a_launcher_that_cuts_networks_into_shards_is_refused(digits_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="cuts networks into shards .* Launch with training/accelerate/several_gpus"):
        train("vae", make_config("vae", digits_folder, tmp_path))


@pytest.mark.parametrize(("name", "value"), [("GRADIENT_ACCUMULATION_STEPS", "4"), ("MIXED_PRECISION", "bf16")])
def test_a_launcher_that_says_otherwise_than_the_settings_is_refused(digits_folder, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(
        ValueError, match=f"The launcher sets {name.lower()} {value} .* or give --{name.lower()} {value}"
    ):
        train("vae", make_config("vae", digits_folder, tmp_path))


def test_the_one_for_cpus_starts_two_processes_that_train_together(digits_folder, tmp_path):
    script = FOLDER.parent / "train_vae.py"
    options = "--network MLPVAE --max_train_samples 64 --max_eval_samples 16 --train_batch_size 8 --num_train_epochs 1 "
    options += "--checkpointing_steps 4 --report_to none --network_config"
    words = [*options.split(), '{"latent_dim": 4, "hidden_size": 16}']
    words += ["--dataset_name", digits_folder, "--output_dir", tmp_path / "vae"]
    launcher = ["accelerate", "launch", "--config_file", str(FOLDER / "cpu.yaml")]
    done = subprocess.run(
        [*launcher, "--main_process_port", "0", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    state = json.loads((tmp_path / "vae" / "checkpoint-4" / "state.json").read_text())
    assert state["settings"]["global_batch_size"] == 16  # eight images in each of two processes
