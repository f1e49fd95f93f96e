"""The training step of latent diffusion; importing it does not import NeMo."""

import pytest
import torch

from nemo_audio_restore.models.latent_diffusion_loss import (
    LatentLossSettings,
    TrainingTimes,
    drop_conditions,
    latent_diffusion_loss,
)
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.networks.latent_transformer import LatentTransformer
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.processes.diffusion import RectifiedFlow, VDiffusion


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('process', [VDiffusion(), RectifiedFlow()])
def test_network_that_knows_the_target_has_no_loss_and_one_that_says_nothing_the_mean_square_of_it(process):
    clean, noise = torch.randn(2, 3, 5, 7, generator=seeded())
    t = torch.tensor([0.1, 0.5, 0.9])
    target = process.target(clean, noise, t)
    parts = {'t': t, 'noise': noise}
    loss = latent_diffusion_loss(lambda x, t, c: target, process, clean, LatentCondition(), **parts)
    assert torch.equal(loss, torch.zeros(3))
    loss = latent_diffusion_loss(lambda x, t, c: torch.zeros_like(x), process, clean, LatentCondition(), **parts)
    torch.testing.assert_close(loss, target.square().mean(dim=(1, 2)))


def test_latents_without_weight_do_not_count():
    clean, noise = torch.randn(2, 2, 3, 6, generator=seeded())
    weight = torch.tensor([[1.0] * 4 + [0.0] * 2, [1.0] * 6])

    def loss(latents):
        return latent_diffusion_loss(
            lambda x, t, c: torch.zeros_like(x),
            RectifiedFlow(),
            latents,
            LatentCondition(),
            t=torch.full((2,), 0.5),
            noise=noise,
            weight=weight,
        )

    changed = clean.clone()
    changed[:, :, 4:] += 100
    before, after = loss(clean), loss(changed)
    assert before[0] == after[0] and before[1] < after[1]
    torch.testing.assert_close(before[0], (noise - clean)[0, :, :4].square().mean())


def test_dropped_items_of_the_unet_have_its_learned_tokens():
    network = LatentUNet(
        latent_channels=2, channels=32, multipliers=(1, 1), factors=(1,), blocks=(1,), attentions=(0, 0), num_heads=2,
        groups=8, token_dim=4, max_tokens=6,
    )  # fmt: skip
    condition = LatentCondition(tokens=torch.randn(400, 3, 4, generator=seeded()))
    mixed = drop_conditions(network, condition, 0.25, seeded(1))
    null = network.fixed_embedding(condition.tokens)
    dropped = (mixed.tokens == null).all(dim=(1, 2))
    kept = (mixed.tokens == condition.tokens).all(dim=(1, 2))
    assert torch.equal(dropped, ~kept)
    assert 0.15 < dropped.float().mean() < 0.35
    mixed.tokens.sum().backward()
    assert network.fixed_embedding.embedding.weight.grad[:3].abs().sum() > 0


def test_dropped_items_of_the_transformer_are_zeros_prepended_ones_independently_and_the_summary_stays():
    network = LatentTransformer(
        latent_channels=2, dim=32, depth=1, num_heads=1, token_dim=32, summary_dim=4, prepended_dim=5
    )
    condition = LatentCondition(
        tokens=1 + torch.rand(400, 3, 32), summary=torch.ones(400, 4), prepended=torch.ones(400, 2, 5)
    )
    mixed = drop_conditions(network, condition, 0.5, seeded(1))
    tokens = mixed.tokens.abs().sum(dim=(1, 2)) == 0
    prepended = mixed.prepended.abs().sum(dim=(1, 2)) == 0
    assert 0.4 < tokens.float().mean() < 0.6 and 0.4 < prepended.float().mean() < 0.6
    assert 0.15 < (tokens & prepended).float().mean() < 0.35
    assert torch.equal(mixed.summary, condition.summary)
    same = drop_conditions(network, condition, 0.0, seeded(1))
    assert torch.equal(same.tokens, condition.tokens) and torch.equal(same.prepended, condition.prepended)


def test_sobol_times_fill_the_range_evenly_and_logit_normal_ones_heap_up():
    even = TrainingTimes(LatentLossSettings(), seed=3).draw(64, seeded())
    assert torch.histc(even, bins=8, min=0, max=1).tolist() == [8.0] * 8
    middle = TrainingTimes(LatentLossSettings(times='logit_normal', time_std=0.5), seed=3).draw(400, seeded())
    assert ((middle > 0.25) & (middle < 0.75)).float().mean() > 0.9
    noisy = TrainingTimes(LatentLossSettings(times='logit_normal', time_mean=2.0), seed=3).draw(400, seeded())
    assert noisy.mean() > 0.75
    assert even.min() > 0 and even.max() < 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'times': 'uniform'}, 'sobol, logit_normal'),
        ({'condition_dropout': 1.0}, 'condition_dropout'),
        ({'time_std': 0.0}, 'time_std'),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LatentLossSettings(**arguments)
