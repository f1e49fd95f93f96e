"""The representation against arrays of the published program."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_audio_restore.signal.corruption import bandwidth_mask
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

SMALL = MagnitudePhaseSpectrogram(sample_rate=11025, n_fft=512, hop_length=128)
FULL = MagnitudePhaseSpectrogram()


@pytest.fixture(scope='module')
def arrays():
    path = Path(__file__).resolve().parent.parent / 'fixtures' / 'a2sb' / 'repr_small.npz'
    return {name: torch.from_numpy(value) for name, value in np.load(path).items()}


def perturbed(spectrogram, seed):
    """What a poor network would return: noise on all channels, and a patch without a phase."""
    noise = torch.randn(spectrogram.shape, generator=torch.Generator().manual_seed(int(seed)))
    result = spectrogram + 0.3 * noise
    result[1:, 10:14, 5:9] = 0
    return result


def test_encode_gives_the_published_representation(arrays):
    spectrogram = SMALL.encode(arrays['wav'][None])[0]
    # cos and sin of near-silent bins are ill-conditioned; the published STFT and ours differ by rounding.
    torch.testing.assert_close(spectrogram[:, ::16], arrays['repr_sub'], atol=1e-4, rtol=0)


def test_decode_gives_the_published_round_trip(arrays):
    audio = SMALL.decode(SMALL.encode(arrays['wav'][None]))[0]
    torch.testing.assert_close(audio, arrays['wav_roundtrip'], atol=1e-5, rtol=0)


def test_decode_repairs_an_inconsistent_spectrogram_as_the_published_program_does(arrays):
    spectrogram = perturbed(SMALL.encode(arrays['wav'][None])[0], arrays['perturb_seed'])
    torch.testing.assert_close(SMALL.decode(spectrogram[None])[0], arrays['wav_from_perturbed'], atol=1e-4, rtol=0)


def test_bandwidth_mask_is_the_published_one(arrays):
    assert torch.equal(bandwidth_mask(1000.0, SMALL).flatten(), arrays['bwe_mask_row'])
    for cutoff_hz, _, count in arrays['bwe_cutoff_table_hz_firstmasked_count'].tolist():
        if cutoff_hz < SMALL.sample_rate / 2:
            assert int(bandwidth_mask(float(cutoff_hz), SMALL).sum()) == count


@pytest.mark.needs_fixtures
@pytest.mark.parametrize(('name', 'representation'), [('small', SMALL), ('full', FULL)])
def test_all_published_arrays_at_both_sizes(reference_arrays, name, representation):
    stored = np.load(reference_arrays / 'a2sb' / f'repr_{name}.npz')
    arrays = {key: torch.from_numpy(stored[key]) for key in stored}
    audio = arrays['wav'][None]
    spectrogram = representation.encode(audio)[0]
    torch.testing.assert_close(spectrogram, arrays['repr'], atol=1e-4, rtol=0)
    spectrum = torch.view_as_real(representation.stft(audio)[0, ::16]).permute(2, 0, 1)
    torch.testing.assert_close(spectrum, arrays['stft_real_imag'], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(representation.decode(spectrogram[None])[0], arrays['wav_roundtrip'], atol=1e-5, rtol=0)
    broken = perturbed(arrays['repr'], arrays['perturb_seed'])
    torch.testing.assert_close(broken[:, ::16], arrays['perturbed_sub'])
    repaired = representation.to_complex(broken[None])[0, 15::16]  # the stored rows start at DC
    magnitude, cosine, sine = arrays['svdfix_sub'][:, 1:]
    torch.testing.assert_close(repaired, torch.complex(magnitude * cosine, magnitude * sine), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(representation.decode(broken[None])[0], arrays['wav_from_perturbed'], atol=1e-4, rtol=0)
