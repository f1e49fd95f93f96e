"""What the networks of the audio-language model give with seeded weights. Run as a program, it writes the file.

Only do so while tests/networks/test_audio_flamingo2_reference.py passes: that is what the numbers stand for.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from nemo_audio_restore.models.text_decoding import TextSettings, write_text

sys.path.insert(0, str(Path(__file__).parents[1] / 'checkpoints'))
from flamingo_release import empty_parts  # noqa: E402

FILE = Path(__file__).parents[1] / 'fixtures' / 'audio_flamingo2' / 'pinned.npz'


def seeded_parts():
    """Small networks whose weights depend on nothing but a seed."""
    parts = empty_parts()
    generator = torch.Generator().manual_seed(7)
    for part in (parts.audio_tower, parts.audio_transform, parts.cross_attention, parts.language_model):
        for name, tensor in sorted(part.state_dict().items()):
            if not tensor.is_floating_point() or name == 'inverse_frequencies':
                continue
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            # Widths of about 16 to 64: neither vanishing nor exploding.
            drawn = drawn.abs() + 0.5 if name.endswith(('running_var', 'gate')) else 0.2 * drawn
            tensor.copy_(drawn + 1 if tensor.ndim == 1 and 'norm' in name and name.endswith('weight') else drawn)
        part.eval()
    parts.cross_attention.attach(parts.language_model)
    return parts


@torch.no_grad()
def values():
    """Every stage for two recordings of 10 and 20 s, and texts about them."""
    parts = seeded_parts()
    generator = torch.Generator().manual_seed(8)
    times = torch.arange(160000) / 16000
    windows = torch.stack([(2 * torch.pi * hz * times).sin() for hz in (220.0, 990.0, 3000.0)])
    windows = 0.5 * windows + 0.1 * torch.randn(windows.shape, generator=generator)
    features = parts.audio_tower(windows)
    audio = torch.zeros(2, 128, features.shape[-1])
    audio[0, :64], audio[1] = features[0], features[1:].flatten(0, 1)
    mask = torch.ones(2, 128, dtype=torch.bool)
    mask[0, 64:] = False
    heard = parts.audio_transform(audio, mask)
    ids = torch.randint(2, 24, (2, 7), generator=generator)
    there = torch.ones_like(ids)
    there[1, :2] = 0
    with parts.cross_attention.hearing(heard, mask):
        logits = parts.language_model(ids[:1]).logits
        settings = TextSettings(max_new_tokens=8, no_repeat_ngram=1)
        written = write_text(parts.language_model, ids, there, stop_id=-1, padding_id=0, settings=settings)
    return {
        'features': features[:, ::8],
        'heard': heard[mask][::8],
        'logits': logits[0],
        'written': torch.tensor(written),
    }


if __name__ == '__main__':
    np.savez_compressed(FILE, **{name: tensor.numpy() for name, tensor in values().items()})
