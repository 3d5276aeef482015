"""Classifier guidance for Hugging Face diffusers: guided latent diffusion of handwritten digits.

With the package its pipeline becomes known to diffusers, so that ``DiffusionPipeline.from_pretrained`` loads a saved
one too: its ``model_index.json`` names ``mnist_guided_pipeline``, where the classes are found, whatever module defines
them. Only in the program ``mnist-guided`` that waits for the first public name, so that ``--help`` and the checks of
the command line do not wait for diffusers, which takes seconds to import. Other names are imported when first used.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    ".evaluation.judge": ("load_judge",),
    ".models.autoencoders": ("ConvVAE", "MLPVAE"),
    ".models.conv_classifier": ("ConvClassifier",),
    ".models.dit": ("DiTDenoiser",),
    ".models.film_conv": ("FiLMConvDenoiser",),
    ".models.gan": ("GANDiscriminator", "GANGenerator"),
    ".models.mixture": ("MixtureClassifier", "MixtureDenoiser"),
    ".models.mlp": ("MLPClassifier", "MLPDenoiser"),
    ".models.point_denoiser": ("PointDenoiser",),
    ".models.residual_mlp": (
        "GatedResidualMLPDenoiser",
        "PosteriorResidualMLPDenoiser",
        "ResidualMLPClassifier",
        "ResidualMLPDenoiser",
    ),
    ".models.unet": ("UNetDenoiser",),
    ".sampling.clean_guide": ("CleanClassifierGuide",),
    ".sampling.denoiser": ("GuidedDenoiser",),
    ".storage.pipelines": ("ClassifierGuidedLatentPipeline", "load_default"),
    "diffusers": ("DiffusionPipeline", "ModelMixin", "SchedulerMixin"),  # the bases by which diffusers tells classes
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    """A public name, from its module."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".storage.pipelines", __name__)  # makes the package known to diffusers
    value = getattr(import_module(_HOME_OF[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_PROGRAM = ("mnist-guided", "-m")  # the second while ``python -m mnist_guided_pipeline`` imports its package

if Path(sys.argv[0]).stem not in _PROGRAM:
    import_module(".storage.pipelines", __name__)
