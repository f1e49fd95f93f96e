"""The head start of the small speech codec."""

import pytest
import torch

from nemo_audio_restore.networks.spectral_codec import SpectralDecoder, SpectralEncoder
from nemo_audio_restore.networks.spectral_start import _hadamard, start_from_components

SAMPLES = 128
SMALL = {'samples_per_frame': SAMPLES, 'channels': 8, 'num_blocks': 1, 'frame_channels': 8, 'num_frame_blocks': 1}


def codec(encoded_dim: int = 8) -> tuple[SpectralEncoder, SpectralDecoder]:
    torch.manual_seed(0)
    return SpectralEncoder(encoded_dim=encoded_dim, **SMALL), SpectralDecoder(encoded_dim=encoded_dim, **SMALL)


def rounded(encoded: torch.Tensor) -> torch.Tensor:
    return (4 * encoded.tanh()).round() / 4


def coloured_noise() -> torch.Tensor:
    """Noise whose level and colour change from frame to frame."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 60, SAMPLES, generator=generator)
    level = 10 ** (torch.rand(8, 60, 1, generator=generator) * 2 - 2.5)
    dull = torch.rand(8, 60, 1, generator=generator)
    return (level * (noise + dull * noise.roll(1, dims=2))).reshape(8, -1)


def reconstruction_error(encoder: SpectralEncoder, decoder: SpectralDecoder, audio: torch.Tensor) -> float:
    with torch.no_grad():
        encoded, frames = encoder(audio=audio, audio_len=torch.full((len(audio),), audio.shape[1]))
        log_magnitude, _ = decoder.spectra(rounded(encoded), frames)
        features = encoder.features(audio)[:, :, : encoder.num_bins]
        return float((log_magnitude - encoder.log_magnitudes(features)).abs().mean())


def test_a_started_codec_reconstructs_better_than_a_mean_spectrum():
    encoder, decoder = codec()
    audio = coloured_noise()
    before = reconstruction_error(encoder, decoder, audio)
    error = start_from_components(encoder, decoder, rounded, audio)
    target = encoder.log_magnitudes(encoder.frame_features(encoder.features(audio)).flatten(0, 1))
    spread = float((target - target.mean(dim=0)).abs().mean())
    assert error < 0.75 * spread < before
    assert reconstruction_error(encoder, decoder, audio) == pytest.approx(error, rel=0.2)


def test_more_values_leave_a_smaller_error():
    errors = [start_from_components(*codec(dim), rounded, coloured_noise()) for dim in (2, 8)]
    assert errors[1] < errors[0]


def test_values_start_with_equal_spread():
    encoder, decoder = codec()
    start_from_components(encoder, decoder, rounded, coloured_noise())
    with torch.no_grad():
        values = encoder.direct(encoder.frame_features(encoder.features(coloured_noise()))).flatten(0, 1)
    assert values.std(dim=0).min() > 0.8
    assert values.std(dim=0).max() < 1.2


def test_mixing_matrix_is_orthogonal_with_equal_magnitudes():
    matrix = _hadamard(8)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8))
    assert matrix.abs().unique().numel() == 1


def test_odd_numbers_of_values_are_refused():
    with pytest.raises(ValueError, match='power of two'):
        start_from_components(*codec(6), rounded, coloured_noise())
