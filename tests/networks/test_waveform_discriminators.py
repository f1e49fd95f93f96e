"""Claims about the light discriminators."""

import pytest
import torch

from nemo_audio_restore.networks.waveform_discriminators import LightPeriodDiscriminator, LightStftDiscriminator

KINDS = {
    'period': lambda **sizes: LightPeriodDiscriminator(**{'periods': (2, 3), 'channels': (4, 8), **sizes}),
    'stft': lambda **sizes: LightStftDiscriminator(**{'resolutions': ((64, 16, 64),), 'channels': 4, **sizes}),
}


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


def test_recordings_and_generated_audio_are_judged_alike(make):
    judge = make()
    audio = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    real, generated, real_features, features = judge(audio_real=audio, audio_gen=audio)
    for mine, other in zip(real, generated, strict=True):
        torch.testing.assert_close(mine, other)
    for mine, other in zip(real_features, features, strict=True):
        assert len(mine) == len(other) > 1


def test_learns_to_tell_a_tone_from_noise(make):
    torch.manual_seed(0)
    judge = make()
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)

    def scores():
        tone = torch.sin(torch.arange(800) * 0.05 + 6 * torch.rand(4, 1, generator=generator))
        return judge(audio_real=tone, audio_gen=torch.randn(4, 800, generator=generator))

    for _ in range(40):
        real, generated, _, _ = scores()
        loss = sum((1 - r).square().mean() + g.square().mean() for r, g in zip(real, generated, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, generated, _, _ = scores()
    assert sum(float((r.mean() - g.mean()).detach()) for r, g in zip(real, generated, strict=True)) / len(real) > 0.3


def test_every_period_and_resolution_is_looked_at():
    audio = torch.randn(1, 900)
    assert len(KINDS['period'](periods=(2, 3, 5))(audio, audio)[0]) == 3
    assert len(KINDS['stft'](resolutions=((64, 16, 64), (128, 32, 128)))(audio, audio)[0]) == 2
    # A period folds the samples into that many columns.
    assert [score.shape[2] for score in KINDS['period'](periods=(2, 7))(audio, audio)[0]] == [2, 7]


def test_width_decides_the_size():
    def size(judge):
        return sum(parameter.numel() for parameter in judge.parameters())

    assert size(KINDS['period'](channels=(4, 16))) > size(KINDS['period'](channels=(4, 8)))
    assert size(KINDS['stft'](channels=8)) > 3 * size(KINDS['stft'](channels=4))
    light = LightStftDiscriminator(channels=16), LightPeriodDiscriminator()
    assert sum(map(size, light)) < 400_000


@pytest.mark.parametrize(
    'build',
    [
        lambda: LightPeriodDiscriminator(periods=()),
        lambda: LightPeriodDiscriminator(channels=()),
        lambda: LightStftDiscriminator(resolutions=(), channels=4),
        lambda: LightStftDiscriminator(channels=0),
    ],
)
def test_sizes_of_nothing_are_refused(build):
    with pytest.raises(ValueError, match='at least one|must be'):
        build()
