"""Classifier guidance for Hugging Face diffusers: guided latent diffusion of handwritten digits.

Importing the package makes its classes known to diffusers, so that a saved pipeline names ``mnist_guided_pipeline``
in its ``model_index.json`` and ``from_pretrained`` finds the classes here, whatever module defines them.
"""

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

from .models.autoencoders import MLPVAE, ConvVAE
from .models.conv_classifier import ConvClassifier
from .models.dit import DiTDenoiser
from .models.film_conv import FiLMConvDenoiser
from .models.gan import GANDiscriminator, GANGenerator
from .models.mixture import MixtureClassifier, MixtureDenoiser
from .models.mlp import MLPClassifier, MLPDenoiser
from .models.point_denoiser import PointDenoiser
from .models.residual_mlp import ResidualMLPClassifier, ResidualMLPDenoiser
from .models.unet import UNetDenoiser
from .pipeline import ClassifierGuidedLatentPipeline
from .weights import load_default, load_judge

__all__ = [
    "ClassifierGuidedLatentPipeline",
    "ConvClassifier",
    "ConvVAE",
    "DiTDenoiser",
    "DiffusionPipeline",
    "FiLMConvDenoiser",
    "GANDiscriminator",
    "GANGenerator",
    "MLPClassifier",
    "MLPDenoiser",
    "MLPVAE",
    "MixtureClassifier",
    "MixtureDenoiser",
    "ModelMixin",
    "PointDenoiser",
    "ResidualMLPClassifier",
    "ResidualMLPDenoiser",
    "SchedulerMixin",
    "UNetDenoiser",
    "load_default",
    "load_judge",
]

__version__ = "0.1.0"

LOADABLE_CLASSES[__name__] = {
    base: ["save_pretrained", "from_pretrained"] for base in ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")
}
