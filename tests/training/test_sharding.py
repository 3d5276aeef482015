"""Two processes that keep half of everything train what one process trains, and write the same files."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType, DynamoBackend

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.training.sharding import start_sharding
from training_runs import NETWORKS, history, make_config, train, weights

HERE = Path(__file__).parents[1]
SHORT = {"max_train_steps": 4, "checkpointing_steps": 2, "validation_steps": 2, "lr_warmup_steps": 1}


@pytest.fixture(scope="module")
def runs(digits_folder, tmp_path_factory):
    """Folders of every script's runs: by one process, by two with shards, and resumed by those; and the output."""
    root = tmp_path_factory.mktemp("sharding")
    torch.manual_seed(0)
    mgp.MLPDenoiser(sample_shape=(1, 28, 28), hidden_size=8).save_pretrained(root / "denoiser")
    mgp.MLPVAE(latent_dim=4, hidden_size=16).save_pretrained(root / "vae")
    needed = {"classifier": {"denoiser_path": str(root / "denoiser")}, "decoder": {"vae_path": str(root / "vae")}}
    large = SHORT | {"network_config": '{"hidden_size": 512}', "train_batch_size": 4, "dry_run": True}
    plan = [{"name": "vae", "config": dataclasses.asdict(make_config("vae", digits_folder, root / "large", **large))}]
    for name in NETWORKS:
        changes = SHORT | needed.get(name, {})
        train(name, make_config(name, digits_folder, root / f"{name} whole", **changes))
        sharded = make_config(name, digits_folder, root / f"{name} sharded", train_batch_size=4, **changes)
        resumed = dataclasses.replace(
            sharded, output_dir=str(root / f"{name} resumed"), resume_from_checkpoint="latest"
        )
        plan.append({"name": name, "config": dataclasses.asdict(sharded)})
        copy = str(root / f"{name} sharded" / "checkpoint-2")
        plan.append({"name": name, "config": dataclasses.asdict(resumed), "copy": copy})
    (root / "plan.json").write_text(json.dumps(plan))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    settings = ["--config_file", HERE.parent / "training" / "accelerate" / "fsdp.yaml"]
    done = subprocess.run(
        [*launcher, *settings, HERE / "training_runs.py", root / "plan.json"],
        capture_output=True,
        text=True,
        timeout=900,  # of a machine that does much else
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout


def test_a_process_keeps_half_of_everything(runs):
    parameters = sum(parameter.numel() for parameter in mgp.MLPVAE(hidden_size=512).parameters())
    held = dict(re.findall(r"(weights|averages|optimizers) ([\d.]+) MB", runs[1]))
    for group, numbers in {"weights": 1, "averages": 1, "optimizers": 2}.items():
        assert float(held[group]) == pytest.approx(parameters * 4 * numbers / 2 / 1e6, abs=0.1)


@pytest.mark.parametrize("name", NETWORKS)
def test_shards_do_not_change_the_weights(runs, name):
    root, _ = runs
    whole, sharded = root / f"{name} whole", root / f"{name} sharded"
    expected, found = weights(whole), weights(sharded)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        if "running" not in key and "num_batches" not in key:  # of the last images seen, and measured anew at the end
            rounding = torch.finfo(tensor.dtype).eps * tensor.double().abs()  # the judge is saved in float16
            assert ((found[key].double() - tensor.double()).abs() < 1e-5 + rounding).all(), key
    for line, other in zip(history(whole), history(sharded), strict=True):
        assert line.keys() == other.keys()
        for key in line:  # the losses of training are those of the last micro-batch
            if key.startswith("test/") or key.endswith("norm"):
                assert other[key] == pytest.approx(line[key], rel=1e-4, abs=1e-4), key
    config, other = (json.loads((folder / "config.json").read_text()) for folder in (whole, sharded))
    assert config.keys() == other.keys()
    assert config.get("_class_name") == other.get("_class_name")
    assert config.get("architectures") == other.get("architectures")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_run_with_shards_is_bit_for_bit_the_run_that_never_stopped(runs, name):
    root, _ = runs
    expected, found = weights(root / f"{name} sharded"), weights(root / f"{name} resumed")
    assert expected.keys() == found.keys()
    assert any("checkpoint-4/" in key for key in found)
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


UNSUPPORTED = {
    "FSDP_VERSION": "1",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_OFFLOAD_PARAMS": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


@pytest.mark.parametrize("name", [*UNSUPPORTED, "mixed_precision", "torch_compile"])
def test_what_is_not_supported_is_refused_by_name(monkeypatch, name):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    if name in UNSUPPORTED:
        monkeypatch.setenv(name, UNSUPPORTED[name])
    precision = "fp16" if name == "mixed_precision" else "no"
    backend = DynamoBackend.INDUCTOR if name == "torch_compile" else DynamoBackend.NO
    state = SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=backend))
    with pytest.raises(ValueError, match=rf"fsdp\.yaml asks for it, but not with this {name.lower()}"):
        start_sharding(
            SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, mixed_precision=precision, state=state)
        )
