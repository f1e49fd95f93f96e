"""Text to audio with any latent diffusion model; plain torch, sees a model only through ``LatentGenerator``."""

from nemo_audio_restore.generation.engine import generate_clips
from nemo_audio_restore.generation.given import Continuation, Inpainting, Variation, given_audio
from nemo_audio_restore.generation.level import at_loudness, limited
from nemo_audio_restore.generation.protocol import GeneratedClip, GenerationStep, LatentGenerator
from nemo_audio_restore.generation.sampling import run_sampler, sampler_times
from nemo_audio_restore.generation.settings import SAMPLERS, GenerationError, SamplerSettings

__all__ = [
    'SAMPLERS',
    'Continuation',
    'GeneratedClip',
    'GenerationError',
    'GenerationStep',
    'Inpainting',
    'LatentGenerator',
    'SamplerSettings',
    'Variation',
    'at_loudness',
    'generate_clips',
    'given_audio',
    'limited',
    'run_sampler',
    'sampler_times',
]
