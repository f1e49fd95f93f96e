r"""Packs the averaged weights of a plain run into a .nemo file for inference, in half precision.

    python examples/export_plain.py --config conf/a2sb_44k_small.yaml --checkpoint runs/a2sb_44k_small/last.pt \
        --out a2sb_44k_small.nemo

For runs of train_plain.py, train_codec_plain.py, train_autoencoder_plain.py, train_language_plain.py and
train_diffusion_plain.py; the last needs ``--autoencoder``, too. Only what inference needs goes into the file: no data
set, no loss, no optimizer, no language model of a package. The latents of a spectral autoencoder become standardised:
the run measured their means and deviations.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel
from nemo_audio_restore.models.audio_language import AudioLanguageModel
from nemo_audio_restore.models.audio_restore import AudioRestoreModel
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.models.speech_codec import SpeechCodecModel
from nemo_audio_restore.networks.spectral_autoencoder_start import standardize_latents


@dataclass(frozen=True)
class Kind:
    """What is kept of a run.

    Attributes:
        model: built from the config.
        blocks: of the config that inference needs.
        parts: attributes of the model that the run trained, and how their weights are named in the checkpoint.
    """

    model: type[BaseModel]
    blocks: tuple[str, ...]
    parts: Mapping[str, str]


KINDS = (
    Kind(AudioRestoreModel, ('representation', 'process', 'network', 'sampler', 'card'), {'network': ''}),
    Kind(AudioAutoencoderModel, ('target', 'sample_rate', 'network', 'card'), {'network': ''}),
    Kind(
        SpeechCodecModel,
        ('target', 'sample_rate', 'samples_per_frame', 'audio_encoder', 'vector_quantizer', 'audio_decoder', 'card'),
        {'audio_encoder': 'audio_encoder.', 'audio_decoder': 'audio_decoder.'},
    ),
    Kind(
        LatentDiffusionModel,
        ('target', 'conditions', 'network', 'objective', 'window_latents', 'sampler', 'card'),
        {'network': 'network.', 'conditions': 'conditions.'},
    ),
    Kind(
        AudioLanguageModel,
        ('target', 'audio_tower', 'listening', 'audio_transform', 'cross_attention', 'language_model')
        + ('tokenizer', 'question', 'card'),
        {name: f'{name}.' for name in ('audio_tower', 'audio_transform', 'cross_attention')},
    ),
)


def export(config: Path, checkpoint: Path, out: Path, *, autoencoder: Path | None = None) -> BaseModel:
    """Writes the .nemo file.

    Args:
        config: YAML that the run was trained with.
        checkpoint: ``last.pt`` of the run.
        out: file to write.
        autoencoder: .nemo file that encoded the clips of a diffusion model; it becomes a part of it.

    Returns:
        The model as it was restored from the file.

    Raises:
        ValueError: no run of that model is exported here, or the autoencoder is missing or has no use.
    """
    trained = OmegaConf.load(config).model
    name = str(trained.get('target', AudioRestoreModel.__name__)).rpartition('.')[2]
    found = {kind.model.__name__: kind for kind in KINDS}
    if name not in found:
        raise ValueError(f'{config} is for {name}; exported are runs of {", ".join(found)}')
    kind = found[name]
    if (autoencoder is not None) != (kind.model is LatentDiffusionModel):
        raise ValueError('--autoencoder belongs to a LatentDiffusionModel, and only to that')
    block = OmegaConf.masked_copy(trained, [key for key in kind.blocks if key in trained])
    if autoencoder is not None:
        block.autoencoder = {'model': str(autoencoder)}
    model = kind.model(block)
    state = torch.load(checkpoint, weights_only=True, map_location='cpu')
    for part, prefix in kind.parts.items():
        getattr(model, part).load_state_dict(below(state['averaged'], prefix))
    if 'latent_mean' in state:
        standardize_latents(model.network, state['latent_mean'], state['latent_std'])
    model.save_to(str(out), half_precision=True)
    return kind.model.restore_from(out)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML of the run')
    parser.add_argument('--checkpoint', type=Path, required=True, help='last.pt of the run')
    parser.add_argument('--autoencoder', type=Path, help='.nemo file that encoded the clips of a diffusion model')
    parser.add_argument('--out', type=Path, required=True, help='.nemo file to write')
    arguments = parser.parse_args()
    try:
        model = export(arguments.config, arguments.checkpoint, arguments.out, autoencoder=arguments.autoencoder)
    except ValueError as error:
        parser.error(str(error))
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f'{arguments.out}: {arguments.out.stat().st_size:,} bytes, {count:,} parameters')


if __name__ == '__main__':
    main()
