"""Push and pull through a Hub on loopback, with the real client, and with everything that can go wrong on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mnist_guided_pipeline as mgp
from hub_client import PULL, PUSH
from hub_server import TOKEN, Hub
from mnist_guided_pipeline.storage.export import export_pipeline
from mnist_guided_pipeline.storage.push import model_files, save_result
from mnist_guided_pipeline.training.config import VAEConfig
from mnist_guided_pipeline.weights import JUDGE_FOLDER
from tiny import images, make

HERE = Path(__file__).parents[1]


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """For a client in a process of its own: ``HF_ENDPOINT`` is read when huggingface_hub is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    quiet = dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
    return {**kept, **quiet, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}


def start(script: str, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    return output


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(("old", "new")):
        make(seed).save_pretrained(work / name)
    (work / "new" / "digits.png").write_bytes(b"picture")
    for leftover in ("checkpoint-3/state.json", "logs/events.out", "notes.txt", ".env", "denoiser/optimizer.bin"):
        (work / "new" / leftover).parent.mkdir(exist_ok=True)
        (work / "new" / leftover).write_text("{}")
    export_pipeline(work / "new", work / "exported")
    return {name: work / name for name in ("old", "new", "exported", "cache")}


@pytest.fixture(scope="module")
def found(folders) -> dict:
    """What came of every scene; clients run one after the other, the exported pipeline beside them."""
    work = folders["cache"]
    with Hub() as hub:
        hub.add("user/exported", folders["exported"])
        hub.add("user/judge", JUDGE_FOLDER)
        alone = start(
            "without_package.py",
            *("user/exported", work / "alone.pt", folders["exported"], work / "alone-local.pt"),
            env=environment(hub, work / "alone"),
            cwd=folders["old"],
        )
        work.mkdir()
        client = start("hub_client.py", folders["old"], folders["new"], work, env=environment(hub, work / "home"))
        results = json.loads(finish(client))
        finish(alone)
        results["alone"] = [torch.load(work / name) for name in ("alone.pt", "alone-local.pt")]
    return results


def is_typed(outcome: str) -> bool:
    """An error that ``except OSError`` catches, with a message."""
    kind, _, message = outcome.partition(": ")
    return bool(message) and any(name in kind for name in ("OSError", "FileNotFoundError", "HTTPError"))


@pytest.mark.parametrize("name", PUSH)
def test_a_push_is_whole_or_not_made(found, name):
    succeeds = PUSH[name][1]
    result = found[name]
    if succeeds:
        assert result == {"outcome": "done", "held": "new"}
    else:
        assert is_typed(result["outcome"]), result
        assert result["held"] == "old"
        assert (result["again"], result["at the end"]) == ("done", "new")


@pytest.mark.parametrize("name", PULL)
def test_a_pull_that_fails_names_what_and_may_be_tried_again(found, name):
    result, named = found[name], PULL[name][1]
    assert is_typed(result["outcome"]) and named in result["outcome"], result
    assert result["again"] == "new"


def test_other_scenes(found):
    assert found["no Hub, warm cache"] == found["local_files_only"] == "new"
    for scene in ("local_files_only, cold", "no such repository", "wrong revision"):
        assert is_typed(found[scene])
    assert "user/digits" in found["local_files_only, cold"] and "RevisionNotFoundError" in found["wrong revision"]
    assert (found["branch"], found["pull of branch"], found["pull of main"]) == ("done", "old", "new")
    assert "vae/config.json is damaged" in found["damaged in the repository"]
    assert "denoiser/diffusion_pytorch_model.safetensors is missing" in found["missing in the repository"]
    assert found["save_pretrained with push_to_hub"] == found["push_to_hub of the pipeline"] == "new"
    assert found["network"] == "MLPDenoiser" and found["private"] == ["user/secret"]
    assert found["judge"]


def test_only_the_model_is_uploaded(found, folders):
    files = found["files"]["user/digits"]
    assert {"README.md", "manifest.json", "model_index.json", "digits.png", "vae/config.json"} <= set(files)
    assert not [name for name in files if any(part in name for part in ("checkpoint", "logs", "notes", ".env", ".bin"))]
    assert not [request for request in found["requests of a pull"] if request.endswith((".py", ".png", "README.md"))]


def test_an_exported_pipeline_runs_without_the_package(found, folders):
    expected = images(mgp.ClassifierGuidedLatentPipeline.from_pretrained(folders["new"]))
    assert all(torch.equal(pictures, expected) for pictures in found["alone"])
    for name in ("alone.pt.saved", "alone-local.pt.saved"):
        saved_again = mgp.ClassifierGuidedLatentPipeline.from_pretrained(folders["cache"] / name)
        assert torch.equal(images(saved_again), expected)


@pytest.mark.parametrize("model", ["nowhere", "{}", "{}/file"])
def test_the_command_refuses_what_is_no_model(tmp_path, refused, model):
    (tmp_path / "file").write_text("x")
    refused("push", "--model", model.format(tmp_path), "--repo_id", "user/x")


def test_the_command_says_that_there_is_no_hub(folders, refused):
    said = refused("push", "--model", folders["new"], "--repo_id", "user/x")  # the tests run offline
    assert said.startswith("error: The Hub could not be reached for 'user/x'")


def test_a_training_result_is_complete(tmp_path):
    config = VAEConfig(str(tmp_path), network="MLPVAE")
    mgp.MLPVAE(latent_dim=2, hidden_size=8).save_pretrained(tmp_path)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "state.json").write_text("{}")
    save_result(config, config.to_json())
    files = ["config.json", "diffusion_pytorch_model.safetensors", "manifest.json", "train_config.json"]
    assert model_files(tmp_path) == files
    assert VAEConfig.from_json((tmp_path / "train_config.json").read_text()) == config
    assert json.loads((tmp_path / "manifest.json").read_text()).keys() == set(model_files(tmp_path)) - {"manifest.json"}
