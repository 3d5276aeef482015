"""Classifier guidance for Hugging Face diffusers: guided latent diffusion of handwritten digits.

Importing the package makes its classes known to diffusers, so that a saved pipeline names ``mnist_guided_pipeline``
in its ``model_index.json`` and ``from_pretrained`` finds the classes here, whatever module defines them.
"""

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

from .models.autoencoders import MLPVAE, ConvVAE
from .models.mixture import MixtureClassifier, MixtureDenoiser
from .models.mlp import MLPClassifier, MLPDenoiser
from .models.residual_mlp import ResidualMLPClassifier, ResidualMLPDenoiser
from .pipeline import ClassifierGuidedLatentPipeline
from .weights import load_default

__all__ = [
    "ClassifierGuidedLatentPipeline",
    "ConvVAE",
    "DiffusionPipeline",
    "MLPClassifier",
    "MLPDenoiser",
    "MLPVAE",
    "MixtureClassifier",
    "MixtureDenoiser",
    "ModelMixin",
    "ResidualMLPClassifier",
    "ResidualMLPDenoiser",
    "SchedulerMixin",
    "load_default",
]

__version__ = "0.1.0"

LOADABLE_CLASSES[__name__] = {
    base: ["save_pretrained", "from_pretrained"] for base in ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")
}
