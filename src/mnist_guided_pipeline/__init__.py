"""Classifier guidance for Hugging Face diffusers: guided latent diffusion of handwritten digits.

A public name is imported from its module when it is first used, so that ``mnist-guided --help`` and the checks of the
command line do not wait for diffusers, which takes seconds to import. With the first of them the package's classes
become known to diffusers, so that a saved pipeline names ``mnist_guided_pipeline`` in its ``model_index.json`` and
``from_pretrained`` finds the classes here, whatever module defines them. Where diffusers is imported already, that is
at once: ``DiffusionPipeline.from_pretrained`` then loads a saved pipeline too.
"""

import sys
from importlib import import_module
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


if "diffusers" in sys.modules:
    import_module(".storage.pipelines", __name__)
