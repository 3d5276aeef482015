"""Classifier guidance for Hugging Face diffusers: guided latent diffusion of handwritten digits."""

from diffusers import ModelMixin, SchedulerMixin

from .models.autoencoders import ConvVAE, MLPVAE
from .models.mlp import MLPClassifier, MLPDenoiser
from .models.residual_mlp import ResidualMLPClassifier, ResidualMLPDenoiser

__version__ = "0.1.0"
