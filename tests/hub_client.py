"""What a user does with the Hub, run by ``test_hub.py`` in a process whose ``HF_ENDPOINT`` is the loopback server.

Prints one JSON object: for each scene what came of it, and what came of a second try without the fault.
"""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

import torch
from huggingface_hub import HfApi

import mnist_guided_pipeline as mgp
from hub_server import TOKEN
from mnist_guided_pipeline.evaluation.judge import Judge, load_judge
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.storage.push import push_folder
from tiny import images

PUSH = {  # name: faults as (pattern, kind, times), and whether the push succeeds all the same
    "create drops once": ([("POST /api/repos/create", "drop", 1)], True),
    "commit answers 429 once": ([("/commit/", "429", 1)], True),
    "answer to commit is lost": ([("/commit/", "lost", 1)], True),
    "commit answers 403": ([("/commit/", "403")], False),
    "commit always drops": ([("/commit/", "drop")], False),
}
PULL = {  # the same, and what the error must name
    "info answers 503": ([("GET /api/models/user/digits/revision", "503")], "user/digits"),
    "weights always end early": ([("GET .*denoiser.*safetensors", "truncate")], "user/digits"),
    "a bit of the weights flips": (
        [("GET .*denoiser.*safetensors", "flip")],
        "denoiser/diffusion_pytorch_model.safetensors",
    ),
    "a bit of a config flips": ([("GET .*vae/config.json", "flip")], "vae/config.json"),
    "a file answers 404": ([(".*classifier/config.json", "404")], "classifier/config.json"),
    "every request drops": ([(" /(?!control)", "drop")], "user/digits"),
}


def scene(*faults: tuple) -> dict:
    """Set the faults; what the server saw and holds."""
    names = ("pattern", "kind", "times")
    wanted = {"faults": [dict(zip(names, fault, strict=False)) for fault in faults]}
    request = urllib.request.Request(os.environ["HF_ENDPOINT"] + "/control", json.dumps(wanted).encode(), method="POST")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def pulled(cache: Path, expected: dict[str, torch.Tensor], repo_id: str = "user/digits", **options) -> str:
    """Which pipeline a pull gives, or the error."""
    try:
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(repo_id, cache_dir=cache, **options)
    except Exception as error:
        return f"{type(error).__mro__[1].__name__} {type(error).__name__}: {error}"
    found = images(pipe)
    return next((name for name, image in expected.items() if torch.equal(found, image)), "something else")


def pushed(folder: Path, repo_id: str, **options) -> str:
    """``done``, or the error."""
    try:
        push_folder(folder, repo_id, **options)
    except Exception as error:
        return f"{type(error).__mro__[1].__name__} {type(error).__name__}: {error}"
    return "done"


def main(old: Path, new: Path, work: Path) -> dict:
    load = mgp.ClassifierGuidedLatentPipeline.from_pretrained
    expected = {"old": images(load(old)), "new": images(load(new))}
    found = {}
    for i, (name, (faults, _)) in enumerate(PUSH.items()):
        repo_id = f"user/push{i}"
        push_folder(old, repo_id)
        scene(*faults)
        outcome = pushed(new, repo_id)
        scene()
        found[name] = {"outcome": outcome, "held": pulled(work / f"push{i}", expected, repo_id)}
        if outcome != "done":
            again = pushed(new, repo_id)
            found[name] |= {"again": again, "at the end": pulled(work / f"push{i}", expected, repo_id)}
    push_folder(new, "user/digits")
    for i, (name, (faults, _)) in enumerate(PULL.items()):
        scene(*faults)
        outcome = pulled(work / f"pull{i}", expected)
        scene()
        found[name] = {"outcome": outcome, "again": pulled(work / f"pull{i}", expected)}

    warm = work / "warm"
    found["first pull"] = pulled(warm, expected)
    found["requests of a pull"] = scene()["requests"]
    scene((" /(?!control)", "drop"))
    found["no Hub, warm cache"] = pulled(warm, expected)
    found["local_files_only"] = pulled(warm, expected, local_files_only=True)
    found["local_files_only, cold"] = pulled(work / "cold", expected, local_files_only=True)
    scene()
    found["wrong revision"] = pulled(work / "wrong", expected, revision="nothing")
    found["no such repository"] = pulled(work / "wrong", expected, repo_id="user/nothing")
    found["network"] = type(load_network("user/digits", "denoiser", cache_dir=work / "network")).__name__
    picture = torch.eye(28).mul(255).byte()[None]
    found["judge"] = torch.equal(Judge.from_pretrained("user/judge").predict(picture), load_judge().predict(picture))

    push_folder(new, "user/secret", private=True)
    found["branch"] = pushed(old, "user/digits", revision="before")
    found["pull of branch"] = pulled(work / "branch", expected, revision="before")
    found["pull of main"] = pulled(work / "branch", expected)

    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="vae/config.json", repo_id="user/push0")
    found["damaged in the repository"] = pulled(work / "damaged", expected, repo_id="user/push0")
    HfApi().delete_file("denoiser/diffusion_pytorch_model.safetensors", "user/push1")
    found["missing in the repository"] = pulled(work / "missing", expected, repo_id="user/push1")
    pipe = load(new)
    pipe.save_pretrained(work / "saved", push_to_hub=True, repo_id="user/saved")
    found["save_pretrained with push_to_hub"] = pulled(work / "saved-cache", expected, repo_id="user/saved")
    pipe.push_to_hub("user/method")
    found["push_to_hub of the pipeline"] = pulled(work / "method", expected, repo_id="user/method")
    return found | scene()


if __name__ == "__main__":
    assert os.environ["HF_TOKEN"] == TOKEN
    old, new, work = map(Path, sys.argv[1:])
    wait = time.sleep
    time.sleep = lambda seconds: wait(min(seconds, 0.05))  # between tries: how often matters here, not how long
    print(json.dumps(main(old, new, work)))
