import re

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.tensor_files import fill, read_tensors
from nemo_audio_restore.losses.adversarial import discriminator_hinge, feature_matching, generator_hinge
from nemo_audio_restore.networks.stft_discriminators import StftDiscriminators
from nemo_audio_restore.processes.diffusion import RectifiedFlow, VDiffusion


def test_hinge_ignores_what_is_judged_with_a_margin():
    sure, unsure = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -0.5])
    assert discriminator_hinge([sure], [-sure]) == 0
    # (0.5 + 1.5) / 2 for recordings, (1.5 + 0.5) / 2 for generated audio.
    assert discriminator_hinge([unsure], [unsure]) == 2
    assert discriminator_hinge([sure, unsure], [-sure, unsure]) == 1
    assert generator_hinge([torch.tensor([1.0, 3.0]), torch.tensor([-4.0])]) == 1


def test_feature_matching_averages_layers_then_discriminators_and_trains_the_generator_only():
    real = [[torch.zeros(2, requires_grad=True), torch.zeros(3)], [torch.zeros(4)]]
    fake = [[torch.ones(2, requires_grad=True), 3 * torch.ones(3)], [4 * torch.ones(4)]]
    loss = feature_matching(real, fake)
    assert loss == (2 + 4) / 2
    loss.backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad.abs().sum() > 0


def test_discriminators_hear_both_channels_and_every_resolution_judges():
    network = StftDiscriminators(window_lengths=(64, 32), filters=4)
    audio = torch.randn(2, 2, 512, generator=torch.Generator().manual_seed(0))
    judged, other = network(audio), network(audio * torch.tensor([1.0, 0.5])[:, None])
    assert len(judged.scores) == 2
    for scores, changed, features, bins in zip(judged.scores, other.scores, judged.features, (33, 17), strict=True):
        assert scores.shape[-1] == bins
        assert not torch.allclose(scores, changed)
        assert len(features) == 5
    generator_hinge(judged.scores).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_spectrum_is_normalised_so_that_noise_has_the_same_level_at_every_resolution():
    audio = torch.randn(1, 2, 8192, generator=torch.Generator().manual_seed(0))
    network = StftDiscriminators(window_lengths=(512, 32), filters=4)
    levels = []
    for discriminator in network.discriminators:
        discriminator.convs[0].register_forward_pre_hook(lambda _module, inputs: levels.append(inputs[0].std().item()))
    network(audio)
    assert levels[0] == pytest.approx(levels[1], rel=0.1)
    assert levels[0] == pytest.approx(0.5**0.5, rel=0.1)


def _file_name(name):
    normed = re.sub(r'parametrizations\.weight\.original([01])$', lambda match: 'weight_' + 'gv'[int(match[1])], name)
    container, _, last = normed.rpartition('.')
    return f'discriminators.{container}.conv.{last}'


@pytest.mark.needs_fixtures
@torch.no_grad()
def test_losses_and_objectives_of_the_published_program(reference_arrays):
    folder = reference_arrays / 'stable_audio' / 'f_losses'
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / 'io.npz').items()}
    network = StftDiscriminators(filters=8)
    tensors = {
        name: t for name, t in read_tensors(folder / 'model.safetensors').items() if not name.endswith('window')
    }
    fill(network, tensors, file_name=_file_name, part='the discriminators', source='file')
    real, fake = network(arrays['reals']), network(arrays['fakes'])
    assert [list(scores.shape) for scores in real.scores] == arrays['disc_logits_shape'].tolist()
    v, flow = VDiffusion(), RectifiedFlow()
    t, clean, noise = arrays['t'], arrays['x0'], arrays['noise']
    found = {
        'disc_logits_mean': torch.stack([scores.mean() for scores in real.scores]),
        'disc_loss': discriminator_hinge(real.scores, fake.scores),
        'adv_loss': generator_hinge(fake.scores),
        'feature_matching': feature_matching(real.features, fake.features),
        'alpha': v.alpha(t),
        'sigma': v.sigma(t),
        'noised': v.noised(clean, noise, t).state,
        'v_target': v.noised(clean, noise, t).target,
        'rf_noised': flow.noised(clean, noise, t).state,
        'rf_target': flow.noised(clean, noise, t).target,
    }
    for name, value in found.items():
        torch.testing.assert_close(value, arrays[name], atol=1e-5 * arrays[name].abs().max().item(), rtol=0)
