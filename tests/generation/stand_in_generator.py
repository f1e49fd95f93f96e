"""A latent diffusion model in closed form: latents of a prompt are Gaussian around its mean, correlated over time."""

import functools
import hashlib

import torch

from nemo_audio_restore.generation import SamplerSettings
from nemo_audio_restore.processes.diffusion import VDiffusion

CORRELATION = 0.9
RATE = 8000


class GaussianGenerator:
    """What ``LatentGenerator`` asks for; each latent stands for 16 samples of two channels.

    The autoencoder is a projection to 8 of 32 dimensions: it loses detail, and each latent only knows its own samples.
    """

    sample_rate = RATE
    audio_channels = 2
    latent_channels = 8
    ratio = 16
    device = torch.device('cpu')

    def __init__(self, process=None, *, window_s=0.5, latents_multiple=1, **settings):
        self.process = process or VDiffusion()
        self.window_samples = round(window_s * self.sample_rate)
        self.latents_multiple = latents_multiple
        self.sampler = SamplerSettings(**{'steps': 12, 'guidance': 1.0, 'resamples': 2, **settings})
        square = torch.randn(32, 32, generator=torch.Generator().manual_seed(5))
        self.basis = torch.linalg.qr(square)[0][:, : self.latent_channels]
        self.decoded_lengths, self.conditions, self.batches = [], [], []

    def condition(self, prompts, *, seconds, negative):
        self.conditions.append((tuple(prompts), seconds, None if negative is None else tuple(negative)))
        null = torch.zeros(len(prompts), self.latent_channels) if negative is None else means(negative)
        return means(prompts), null

    def predictor(self, condition, *, guidance, guidance_rescale):
        asked, null = condition

        def of(x, t, mean):
            alpha, sigma = (value.to(x)[:, None, None] for value in (self.process.alpha(t), self.process.sigma(t)))
            values, vectors = modes(x.shape[-1])
            whitened = ((x - alpha * mean[..., None]) @ vectors) / (alpha**2 * values + sigma**2)
            clean = mean[..., None] + alpha * (whitened * values) @ vectors.T
            return self.process.target(clean, sigma * whitened @ vectors.T, t)

        def predict(x, t):
            self.batches.append(len(x))
            out = of(x, t, null) + guidance * (of(x, t, asked) - of(x, t, null))
            return out * (1 - 0.1 * guidance_rescale)

        return predict

    def encode(self, audio):
        batch, channels, samples = audio.shape
        assert channels == 2 and samples % self.ratio == 0
        blocks = audio.reshape(batch, 2, -1, self.ratio).permute(0, 2, 1, 3).flatten(2)
        return (blocks @ self.basis).transpose(1, 2)

    def decode(self, latents, *, length):
        self.decoded_lengths.append(length)
        needed = latents[..., : -(-length // self.ratio)]
        blocks = (needed.transpose(1, 2) @ self.basis.T).unflatten(2, (2, self.ratio))
        return blocks.permute(0, 2, 1, 3).flatten(2)[..., :length]


def covariance(length):
    """Of the latents over time, (L, L)."""
    index = torch.arange(length)
    return CORRELATION ** (index[:, None] - index).abs().float()


@functools.cache
def modes(length):
    """Variances and directions of the latents over time."""
    return torch.linalg.eigh(covariance(length))


def means(prompts):
    """The mean of every prompt, (B, D)."""
    seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), 'little') for text in prompts]
    return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def recording(seconds=0.4, seed=0, prompt='drums'):
    """(2, T) of what the model could have made, with detail that its autoencoder loses."""
    model = GaussianGenerator()
    generator = torch.Generator().manual_seed(seed)
    latents = -(-round(seconds * RATE) // 16)
    factor = torch.linalg.cholesky(covariance(latents))
    noise = torch.randn(1, 8, latents, generator=generator)
    audio = model.decode(means([prompt])[..., None] + noise @ factor.T, length=round(seconds * RATE))[0]
    return (audio + 0.01 * torch.randn(audio.shape, generator=generator)).numpy()
