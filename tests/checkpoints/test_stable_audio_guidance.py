"""Guided predictions of the published program: scale, rescaling, negative prompts, padding, intervals."""

import json

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.stable_audio_networks import load_network, process_of
from nemo_audio_restore.checkpoints.tensor_files import read_tensors
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.processes.guidance import guided

pytestmark = pytest.mark.needs_fixtures
TOLERANCE = 1e-4


class Stored:
    """A network, its inputs, and what the published program made of them."""

    def __init__(self, folder):
        section = json.loads((folder / 'model_config.json').read_text())
        tensors = read_tensors(folder / 'model.safetensors')
        self.network = load_network(section, tensors, prefix='model.', source=folder.name)
        self.process = process_of(section)
        self.arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / 'io.npz').items()}

    def condition(self, *, masked=True, which=''):
        arrays = self.arrays
        return LatentCondition(
            tokens=arrays[f'{which}context'],
            tokens_mask=arrays[f'{which}mask' if which else 'context_mask'] if masked else None,
            summary=arrays.get('global_cond'),
            prepended=arrays.get('prepend_cond'),
            concatenated=arrays.get('input_concat_cond'),
        )

    @torch.no_grad()
    def predict(self, *, scale, rescale=0.0, masked=True, negative=False, interval=(0.0, 1.0)):
        condition = self.condition(masked=masked)
        null = self.network.null_condition(condition, self.condition(which='neg_') if negative else None)
        settings = {'process': self.process, 'scale': scale, 'rescale': rescale, 'interval': interval}
        return guided(self.network, null, **settings)(self.arrays['x'], self.arrays['t'], condition)

    def check(self, found, name):
        expected = self.arrays[name]
        torch.testing.assert_close(found, expected, atol=TOLERANCE * expected.abs().max().item(), rtol=0)


def test_unet(reference_arrays):
    stored = Stored(reference_arrays / 'stable_audio' / 'b_unet')
    stored.check(stored.predict(scale=1.0, masked=False), 'out_cond')
    stored.check(stored.predict(scale=0.0, masked=False), 'out_uncond')
    stored.check(stored.predict(scale=1.0), 'out_cond_masked')
    stored.check(stored.predict(scale=6.0, masked=False), 'out_cfg6_norescale')
    stored.check(stored.predict(scale=6.0, masked=False), 'out_cfg6_norescale_unbatched')
    stored.check(stored.predict(scale=6.0, rescale=0.4, masked=False), 'out_cfg6_rescale0p4')
    stored.check(stored.predict(scale=6.0, rescale=0.7, masked=False), 'out_cfg6_rescale0p7')
    stored.check(stored.predict(scale=6.0, rescale=0.4), 'out_cfg6_masked_rescale0p4')
    stored.check(stored.predict(scale=6.0, rescale=0.4, masked=False, negative=True), 'out_cfg6_negative_rescale0p4')


@pytest.mark.parametrize('folder', ['c1_dit_sao_like', 'c2_dit_small_like', 'c3_dit_adaln_prepend'])
def test_transformers(reference_arrays, folder):
    stored = Stored(reference_arrays / 'stable_audio' / folder)
    for name, choices in {
        'out': {'scale': 1.0},
        'out_cfg6': {'scale': 6.0},
        'out_cfg6_rescale_cfg_true': {'scale': 6.0},
        'out_cfg7_phi0p75': {'scale': 7.0, 'rescale': 0.75},
        'out_cfg6_negative': {'scale': 6.0, 'negative': True},
    }.items():
        stored.check(stored.predict(**choices), name)
    # That program lets the first item decide for the whole batch; here every item has its own noise level.
    first = float(stored.process.sigma(stored.arrays['t'])[0])
    for name, interval in (('out_cfg6_interval_0p5_1', (0.5, 1.0)), ('out_cfg6_interval_0_0p5', (0.0, 0.5))):
        guides = interval[0] <= first <= interval[1]
        stored.check(stored.predict(scale=6.0 if guides else 1.0), name)
        own = stored.predict(scale=6.0, interval=interval)
        expected = stored.arrays[name]
        torch.testing.assert_close(own[0], expected[0], atol=TOLERANCE * expected.abs().max().item(), rtol=0)
