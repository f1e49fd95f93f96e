"""Every task of score distillation as one call, with priors whose answer is known."""

import math

import pytest
import torch
from torch import nn

from nemo_audio_restore.distillation.analytic_priors import ModesPrior
from nemo_audio_restore.distillation.renderers import Renderer
from nemo_audio_restore.distillation.settings import SEPARATION, DistillationSettings
from nemo_audio_restore.distillation.sources import turned_down
from nemo_audio_restore.distillation.tasks import count_segments, enhance, follow_prompt, longest, separate

RATE = 8000
T = 4000
LEVEL = 2**0.5 * 10 ** (-16 / 20)  # of a tone at -16 dB of full scale, where the tasks bring every sound


def tone(hz, samples=T):
    return LEVEL * torch.sin(2 * math.pi * hz * torch.arange(samples) / RATE)[None]


def quick(**settings):
    return DistillationSettings(**{'iterations': 30, 'draws': 2, 'guidance': 1.0, 'denoising_steps': 1, **settings})


class Windowed(ModesPrior):
    """Steady tones of any length, though the prior claims to know half a second only."""

    max_seconds = 0.6

    def __init__(self, **hz):
        super().__init__({name: tone(value, 1) for name, value in hz.items()}, std=0.02, sample_rate=RATE)
        self.hz = hz
        self.asked = []

    def condition(self, prompts, *, negative=None, seconds=None):
        assert seconds <= self.max_seconds + 1e-9
        self.asked.append(seconds)
        return super().condition(prompts, negative=negative)

    def denoise(self, noised, t, condition, *, guidance):
        self.means = torch.stack([tone(value, noised.shape[-1]) for value in self.hz.values()])
        return super().denoise(noised, t, condition, guidance=guidance)


class TwoPartials(Renderer):
    """The renderer of a user: two levels of two fixed partials."""

    kind = 'partials'
    sample_rate = RATE

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor([0.1, 0.1]))

    def forward(self, num_samples):
        return (self.level[:, None, None] * torch.stack([tone(400, num_samples), tone(1500, num_samples)])).sum(0)


@pytest.mark.parametrize(('prompt', 'partial'), [('low', 0), ('high', 1)])
def test_any_module_with_a_rate_can_follow_a_prompt(prompt, partial):
    prior = ModesPrior({'low': tone(400), 'high': tone(1500)}, std=0.02, sample_rate=RATE)
    renderer = TwoPartials()
    settings = quick(learning_rate=0.02)
    history = follow_prompt(prior, renderer, prompt, seconds=T / RATE, settings=settings)
    levels = renderer.level.detach().abs()
    assert levels[partial] > 3 * levels[1 - partial]
    assert len(history) == 30


@pytest.mark.parametrize(
    ('rendered', 'message'),
    [
        (torch.zeros(T), r'must return \(channels, samples\)'),
        (torch.zeros(3, T), '1 or 1 channels'),
        (torch.full((1, T), math.nan), 'NaN'),
    ],
)
def test_a_module_that_renders_nonsense_is_told_what_is_wrong(rendered, message):
    class Broken(TwoPartials):
        def forward(self, num_samples):
            return rendered + 0 * self.level.sum()

    prior = ModesPrior({'low': tone(400)}, std=0.02, sample_rate=RATE)
    with pytest.raises(ValueError, match=message):
        follow_prompt(prior, Broken(), 'low', seconds=T / RATE, settings=quick())


def test_a_module_of_another_rate_is_told_both_rates():
    class Slow(TwoPartials):
        sample_rate = 4000

    prior = ModesPrior({'low': tone(400)}, std=0.02, sample_rate=RATE)
    with pytest.raises(ValueError, match='4000 Hz, the prior knows 8000'):
        follow_prompt(prior, Slow(), 'low', seconds=T / RATE, settings=quick())


def test_sounds_longer_than_the_prior_knows_are_judged_in_segments():
    prior = Windowed(low=400, high=1500)
    follow_prompt(prior, TwoPartials(), 'low', seconds=2.0, settings=quick(iterations=2))
    assert prior.asked == [0.6]


def test_a_long_mixture_is_divided_piece_by_piece_and_still_adds_up():
    prior = Windowed(low=400, high=1500)
    seen = []
    mixture = tone(400, 9001) + tone(1500, 9001)
    stems = separate(
        prior, mixture, ['low', 'high'], settings=quick(learning_rate=0.02, gamma=1.0),
        on_iteration=lambda iteration, terms: seen.append(iteration),
    )  # fmt: skip
    assert float((stems.sum(0) - mixture).abs().max()) < 1e-5
    assert (stems[0] - tone(400, 9001)).square().mean() < 0.25 * tone(400).square().mean()  # equal shares: 0.5
    pieces = count_segments(prior, 9001)
    assert pieces > 2 and seen == list(range(1, 30 * pieces + 1))
    assert longest(prior) == 0.6 and count_segments(prior, 4000) == 1


def test_shorter_pieces_may_be_asked_for_but_not_longer_ones_than_the_prior_knows():
    prior = Windowed(low=400, high=1500)
    assert count_segments(prior, 9001, segment_s=0.55) > count_segments(prior, 9001)
    for seconds in (0.7, 0.5):
        with pytest.raises(ValueError, match='longer than 0.5 s and at most 0.6 s'):
            separate(prior, tone(400), ['low', 'high'], segment_s=seconds)


def test_separation_goes_on_after_an_interruption_and_knows_its_prompts(tmp_path):
    prior = ModesPrior({'low': tone(400), 'high': tone(1500)}, std=0.02, sample_rate=RATE)
    mixture = tone(400) + tone(1500)
    settings = quick(iterations=105)

    def stop(iteration, terms):
        if iteration == 102:
            raise KeyboardInterrupt

    expected = separate(prior, mixture, ['low', 'high'], settings=settings)
    with pytest.raises(KeyboardInterrupt):
        separate(prior, mixture, ['low', 'high'], settings=settings, checkpoint=tmp_path / 'run.pt', on_iteration=stop)
    with pytest.raises(ValueError, match='high.*low'):
        separate(prior, mixture, ['high', 'low'], settings=settings, checkpoint=tmp_path / 'run.pt')
    resumed = separate(prior, mixture, ['low', 'high'], settings=settings, checkpoint=tmp_path / 'run.pt')
    assert torch.equal(resumed, expected) and not list(tmp_path.iterdir())


def test_one_prompt_does_not_make_a_separation():
    prior = ModesPrior({'low': tone(400)}, std=0.02, sample_rate=RATE)
    with pytest.raises(ValueError, match='at least two sounds; got 1'):
        separate(prior, tone(400), ['low'])


def test_enhancement_takes_the_noise_away_and_gamma_says_how_strictly():
    prior = ModesPrior({'low': tone(400)}, std=0.02, sample_rate=RATE)
    noisy = tone(400) + 0.05 * torch.randn(1, T, generator=torch.Generator().manual_seed(0))
    errors = []
    for gamma in (0.0, 10.0):
        settings = quick(learning_rate=0.005, gamma=gamma, t_range=(0.05, 0.5))
        errors.append((enhance(prior, noisy, 'low', settings=settings) - tone(400)).square().mean())
    assert errors[1] < 0.3 * errors[0]


def test_what_an_estimate_lacks_is_turned_down_and_errors_of_the_decoder_cancel():
    recording = tone(400) + tone(1500)
    coded, estimate = -0.3 * recording, -0.3 * (0.5 * tone(400) + 2 * tone(1500))
    made = turned_down(recording, coded, estimate)
    assert (made - 0.5 * tone(400) - tone(1500))[:, 1000:-1000].abs().max() < 0.02 * LEVEL


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'iterations': 0}, 'iterations must be at least 1'),
        ({'draws': 0}, 'draws must be at least 1'),
        ({'guidance': 0.0}, 'guidance must be above 0'),
        ({'gamma': -1.0}, 'gamma must be 0'),
        ({'t_range': (0.5, 0.2)}, 't_range must lie inside'),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationSettings(**settings)
    assert SEPARATION.iterations >= 1
