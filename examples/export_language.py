r"""Packs the averaged weights of a train_language_plain.py run into a .nemo file for inference, in half precision.

    python examples/export_language.py --config conf/audio_flamingo2_small.yaml \
        --checkpoint runs/audio_flamingo2_small/last.pt --out audio_flamingo2_small.nemo

Tower, transform and cross-attention go into the file; the language model, which was not trained, stays in its package.
"""

import argparse
from pathlib import Path

import torch
from omegaconf import OmegaConf

from nemo_audio_restore.models.audio_language import AudioLanguageModel

INFERENCE_BLOCKS = ('target', 'audio_tower', 'listening', 'audio_transform', 'cross_attention', 'language_model')
INFERENCE_BLOCKS += ('tokenizer', 'question', 'card')
PARTS = ('audio_tower', 'audio_transform', 'cross_attention')


def export(config: Path, checkpoint: Path, out: Path) -> AudioLanguageModel:
    """Writes the .nemo file.

    Args:
        config: YAML that the run was trained with.
        checkpoint: ``last.pt`` of the run.
        out: file to write.

    Returns:
        The model as it was restored from the file.
    """
    block = OmegaConf.load(config).model
    model = AudioLanguageModel(OmegaConf.masked_copy(block, [name for name in INFERENCE_BLOCKS if name in block]))
    averaged = torch.load(checkpoint, weights_only=True, map_location='cpu')['averaged']
    for part in PARTS:
        own = {key.removeprefix(f'{part}.'): value for key, value in averaged.items() if key.startswith(f'{part}.')}
        getattr(model, part).load_state_dict(own)
    model.save_to(str(out), half_precision=True)
    return AudioLanguageModel.restore_from(out)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML of the run')
    parser.add_argument('--checkpoint', type=Path, required=True, help='last.pt of the run')
    parser.add_argument('--out', type=Path, required=True, help='.nemo file to write')
    arguments = parser.parse_args()
    model = export(arguments.config, arguments.checkpoint, arguments.out)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f'{arguments.out}: {arguments.out.stat().st_size:,} bytes, {count:,} parameters')


if __name__ == '__main__':
    main()
