"""The studies of ``run_study.py``: what is varied, and how each variant draws.

Everything that a study does not vary is the same: data, seed, order of the images, number of updates, network, and
the noise of every image that is drawn. Denoisers are small and told the label, so no classifier takes part.
"""

import json
from typing import Any, NamedTuple

from mnist_guided_pipeline.training.config import DenoiserConfig, VAEConfig


class Variant(NamedTuple):
    """One trained system of a study.

    Attributes:
        denoiser: its settings.
        vae: settings of an autoencoder of its own; None for the one that the study shares, or for pixels.
        drawings: how images are drawn, settings of the sampling by name; every name is a row of the table.
    """

    denoiser: DenoiserConfig
    vae: VAEConfig | None = None
    drawings: dict[str, dict[str, Any]] = {  # noqa: B006 - nobody writes to it
        "": {"scheduler": "DPMSolverMultistepScheduler", "num_inference_steps": 20}
    }


class Study(NamedTuple):
    """Variants by name.

    Attributes:
        description: what the table shows.
        variants: by name, which is a folder's name too.
        on_pixels: whether the denoisers work without an autoencoder.
    """

    description: str
    variants: dict[str, Variant]
    on_pixels: bool = False


def _denoiser(**changes: Any) -> DenoiserConfig:
    settings: dict[str, Any] = {
        "network": "ResidualMLPDenoiser",
        "network_config": json.dumps({"hidden_size": 256, "num_layers": 3, "condition_dim": 64, "num_classes": 10}),
        "train_batch_size": 256,
        "max_train_steps": 2_000,
        "learning_rate": 2e-3,
    }
    return DenoiserConfig("", **settings | changes)


def _vae(latent_dim: int) -> VAEConfig:
    network = json.dumps({"latent_dim": latent_dim, "hidden_size": 400})
    return VAEConfig("", network="MLPVAE", network_config=network, max_train_steps=2_500, learning_rate=2e-3)


def _transformer(patch_size: int) -> DenoiserConfig:
    network = {"patch_size": patch_size, "hidden_size": 64, "num_layers": 3, "num_heads": 4, "num_classes": 10}
    return _denoiser(
        network="DiTDenoiser", network_config=json.dumps(network), train_batch_size=64, max_train_steps=1_500
    )


def _all_steps(timesteps: int) -> dict[str, dict[str, Any]]:
    """The sampler that was trained for, a step a timestep, and another in twenty steps."""
    return {
        "DDPM in T steps": {"scheduler": "DDPMScheduler", "num_inference_steps": timesteps},
        "DDIM in 20 steps": {"scheduler": "DDIMScheduler", "num_inference_steps": 20},
    }


_DDPM = {"": {"scheduler": "DDPMScheduler", "num_inference_steps": 100}}

STUDIES = {
    "targets": Study(
        "What the denoiser predicts. epsilon, x0 and v share the linear noise law, which keeps a little signal at its "
        "end; the cosine law has next to none there, and a prediction of epsilon is divided by it.",
        {
            "epsilon": Variant(_denoiser(prediction_type="epsilon", beta_schedule="linear")),
            "x0": Variant(_denoiser(prediction_type="sample", beta_schedule="linear")),
            "v": Variant(_denoiser(prediction_type="v_prediction", beta_schedule="linear")),
            "v,snr_gamma=5": Variant(_denoiser(prediction_type="v_prediction", beta_schedule="linear", snr_gamma=5.0)),
            "flow": Variant(_denoiser(prediction_type="flow_prediction")),
            "epsilon,cosine": Variant(_denoiser(prediction_type="epsilon")),
            "v,cosine": Variant(_denoiser(prediction_type="v_prediction")),
        },
    ),
    "schedules": Study(
        "How the noise grows over 1,000 timesteps, for a denoiser that predicts v.",
        {  # of the samplers in diffusers, only DDPM's knows the sigmoid law
            schedule: Variant(_denoiser(beta_schedule=schedule), drawings=_DDPM)
            for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
        },
    ),
    "timesteps": Study(
        "The number of timesteps T, with betas up to 0.02 (linear) and with the cosine law, which ends in noise at "
        "every T.",
        {
            f"T={timesteps},{name}": Variant(
                _denoiser(num_train_timesteps=timesteps, beta_schedule=schedule), drawings=_all_steps(timesteps)
            )
            for name, schedule in (("linear", "linear"), ("cosine", "squaredcos_cap_v2"))
            for timesteps in (20, 100, 200, 1000)
        },
    ),
    "latent-dim": Study(
        "The size of a vector latent: an autoencoder of its own and a denoiser on it.",
        {f"latent={dim}": Variant(_denoiser(), _vae(dim)) for dim in (2, 4, 8, 16, 32)},
    ),
    "patch-size": Study(
        "The patches of a small diffusion transformer on pixels, at equal updates.",
        {f"patch={size}": Variant(_transformer(size)) for size in (7, 4, 2)},
        on_pixels=True,
    ),
}
