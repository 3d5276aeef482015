"""Pipelines and training runs of a few weights, every part of them real."""

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch.nn import functional

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.training.checkpoints import TrainingState, make_ema

Pipeline = mgp.ClassifierGuidedLatentPipeline
NOISE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample": False}
UNET = {
    **{"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1},
    **{"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
}
SETTINGS = {"learning_rate": 1e-2, "train_batch_size": 4, "output_dir": "here"}


def make(seed: int = 0, **parts) -> Pipeline:
    """A small pipeline of untrained networks of several kinds."""
    torch.manual_seed(seed)
    noise = DDPMScheduler(**NOISE)
    schedule = {name: noise.config[name] for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
    networks = {
        "vae": mgp.MLPVAE(latent_dim=4, hidden_size=8, latents_mean=[0.1] * 4, latents_std=[0.9] * 4),
        "denoiser": mgp.MLPDenoiser(sample_shape=(4,), hidden_size=8, num_classes=10),
        "classifier": mgp.ResidualMLPClassifier(
            sample_shape=(4,), hidden_size=8, num_layers=1, condition_dim=8, noise_schedule=schedule
        ),
        "scheduler": noise,
        "sampling_defaults": {"num_inference_steps": 2, "guidance_scale": 1.0},
    }
    return Pipeline(**{**networks, **parts})


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=seeds(seed)[0], dtype=dtype)


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """All weights random, so that no zero initialisation hides a path."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def unet(channels: int = 1, size: int = 8, **options) -> UNet2DModel:
    """A small network of diffusers, shaken."""
    return shaken(UNet2DModel(size, channels, channels, **UNET, **options))


def images(pipe: Pipeline) -> torch.Tensor:
    return pipe([3, 7], generator=seeds(0)[0], output_type="pt").images


class Run:
    """A real training run, small: two networks, AdamW, a schedule, an average."""

    def __init__(self, seed: int = 0, **settings):
        torch.manual_seed(seed)
        self.denoiser = mgp.MLPDenoiser(sample_shape=(3,), hidden_size=8)
        self.classifier = mgp.MLPClassifier(sample_shape=(3,), hidden_size=8)
        self.ema = make_ema(self.denoiser, 0.9)
        parameters = [*self.denoiser.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.state = TrainingState(
            {**SETTINGS, **settings},
            networks={"denoiser": self.denoiser, "classifier": self.classifier},
            emas={"denoiser": self.ema},
            optimizers={"both": self.optimizer},
            lr_schedulers={"both": self.schedule},
        )

    def train(self, until: int) -> None:
        while self.state.update < until:
            generator = torch.Generator().manual_seed(self.state.update)
            x, t = torch.randn(4, 3, generator=generator), torch.tensor([1, 20, 300, 900])
            loss = self.denoiser(x, t).sample.square().mean()
            (loss + functional.cross_entropy(self.classifier(x, t).logits, t % 10)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
            self.ema.step(self.denoiser.parameters())
            self.state.update += 1

    def everything(self) -> list[torch.Tensor]:
        state = self.optimizer.state_dict()["state"]
        moments = [state[index][name] for index in sorted(state) for name in sorted(state[index])]
        counts = torch.tensor([self.state.update, self.ema.optimization_step, self.schedule.last_epoch])
        rates = torch.tensor(self.schedule.get_last_lr(), dtype=torch.float64)
        weights = [*self.denoiser.parameters(), *self.classifier.parameters(), *self.ema.shadow_params]
        return [value.detach().clone() for value in (*weights, *moments, counts, rates)]
