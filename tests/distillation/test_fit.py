import pytest
import torch

from nemo_audio_restore.distillation.fit import fit
from nemo_audio_restore.distillation.renderers import Renderer
from nemo_audio_restore.distillation.sources import WaveformBuffer


def noisy_target(renderer, generator):
    """A stochastic objective: every iteration sees the target under other noise."""
    target = torch.linspace(-1, 1, 32) + 0.1 * torch.randn(32, generator=generator)
    audio = renderer(32)
    return {'match': (audio - target).square().mean(), 'quiet': 0.01 * audio.square().mean()}


def buffer():
    return WaveformBuffer(torch.zeros(1, 32), sample_rate=8000)


def test_the_same_seed_gives_the_same_result_and_another_seed_another():
    results = []
    for seed in (1, 1, 2):
        renderer = buffer()
        fit(renderer, noisy_target, iterations=20, seed=seed)
        results.append(renderer.audio.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = buffer()
    expected = fit(whole, noisy_target, iterations=30)

    class Killed(Exception):
        pass

    def kill(iteration, _):
        if iteration == 17:
            raise Killed

    file = tmp_path / 'run.pt'
    with pytest.raises(Killed):
        fit(buffer(), noisy_target, iterations=30, checkpoint=file, checkpoint_every=5, on_iteration=kill)
    resumed, seen = buffer(), []
    history = fit(
        resumed,
        noisy_target,
        iterations=30,
        checkpoint=file,
        checkpoint_every=5,
        on_iteration=lambda i, _: seen.append(i),
    )
    assert seen[0] == 16
    assert torch.equal(resumed.audio, whole.audio)
    assert history.terms == expected.terms
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / 'run.pt'

    def stop(iteration, _):
        if iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(buffer(), noisy_target, iterations=9, checkpoint=file, checkpoint_every=4, on_iteration=stop)
    for other in ({'seed': 3}, {'about': {'prompt': 'kick'}}):
        with pytest.raises(ValueError, match=next(iter(other.get('about', other)))):
            fit(buffer(), noisy_target, iterations=9, checkpoint=file, **other)


def test_history_holds_every_term_and_their_sum():
    history = fit(buffer(), noisy_target, iterations=4)
    assert len(history) == 4
    assert set(history.terms) == {'match', 'quiet', 'total'}
    assert history.terms['total'][2] == pytest.approx(history.terms['match'][2] + history.terms['quiet'][2])


def test_a_term_that_is_not_finite_is_named():
    def broken(renderer, generator):
        return {'fine': renderer(4).sum(), 'broken': renderer(4).sum() * float('nan')}

    with pytest.raises(FloatingPointError, match='broken'):
        fit(buffer(), broken, iterations=2)


def test_gradient_clip_limits_the_first_step_of_a_steep_objective():
    # Adam ignores the scale of a gradient, but not how it changes: a clipped outlier moves less.
    def steep_then_flat(renderer, generator):
        scale = 1e4 if torch.rand((), generator=generator) < 0.1 else 1.0
        return {'slope': scale * renderer(32).sum()}

    results = []
    for clip in (None, 1.0):
        renderer = buffer()
        fit(renderer, steep_then_flat, iterations=30, gradient_clip=clip, seed=4)
        results.append(renderer.audio.detach())
    assert not torch.allclose(*results)


def test_a_renderer_without_parameters_is_refused():
    class Silent(Renderer):
        kind = 'silent'
        sample_rate = 8000

        def forward(self, num_samples):
            return torch.zeros(1, num_samples)

    with pytest.raises(ValueError, match='no parameter'):
        fit(Silent(), noisy_target, iterations=1)


@pytest.mark.parametrize('settings', [{'iterations': 0}, {'learning_rate': 0.0}, {'checkpoint_every': 0}])
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match='must be'):
        fit(buffer(), noisy_target, **settings)
