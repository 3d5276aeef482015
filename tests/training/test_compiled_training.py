"""Compiled training is the same training."""

import os
import shutil

import pytest
import torch

from training_runs import make_config, train, weights

SHORT = {"max_train_steps": 6, "checkpointing_steps": 3, "validation_steps": 6, "lr_warmup_steps": 1}


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")
def test_compiled_training_makes_the_same_weights(digits_folder, tmp_path):
    for folder, compiled in (("plain", False), ("compiled", True)):
        train("denoiser", make_config("denoiser", digits_folder, tmp_path / folder, torch_compile=compiled, **SHORT))
    plain, compiled = (weights(tmp_path / folder) for folder in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for key, tensor in plain.items():
        torch.testing.assert_close(compiled[key], tensor, rtol=1e-4, atol=1e-5)
