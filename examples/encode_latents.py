"""Encodes captioned recordings once, so that training does not do it in every epoch.

    python examples/encode_latents.py --cuts captions/train.jsonl.gz --autoencoder audio_autoencoder_44k_small \
        --out latents/train
    python examples/train.py --config-name stable_audio_open_44k model.train_ds.dataset.latents=true \
        model.train_ds.cuts_path=latents/train/cuts.jsonl.gz ...

Writes a float16 file for each recording and a manifest whose cuts carry captions, timing and latents.
"""

from nemo_audio_restore._nemo import logging  # isort: skip - first: it keeps NeMo's import quiet

import argparse
from pathlib import Path

import torch
from lhotse import CutSet
from omegaconf import OmegaConf

from nemo_audio_restore.data.latents import encode_cuts
from nemo_audio_restore.data.manifest_safety import check_manifest
from nemo_audio_restore.models.latent_diffusion_autoencoder import with_its_own_block


def main() -> None:
    """Reads the arguments and encodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cuts', required=True, type=Path, help='Lhotse manifest of captioned recordings')
    parser.add_argument('--autoencoder', required=True, help='name or path of an autoencoder or diffusion model')
    parser.add_argument('--out', required=True, type=Path, help='folder for latents and manifest')
    parser.add_argument('--level-db', type=float, help='bring the loudest 0.1 s of every recording to this level')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    arguments = parser.parse_args()
    check_manifest(arguments.cuts)
    autoencoder = with_its_own_block(OmegaConf.create({'autoencoder': {'model': arguments.autoencoder}}))
    autoencoder.to(arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    encoded = encode_cuts(
        CutSet.from_file(arguments.cuts),
        lambda audio: autoencoder.encode(audio.to(arguments.device)),
        arguments.out / 'latents',
        sample_rate=autoencoder.sample_rate,
        ratio=autoencoder.ratio,
        level_db=arguments.level_db,
    )
    with CutSet.open_writer(arguments.out / 'cuts.jsonl.gz', overwrite=True) as writer:
        for cut in encoded:
            writer.write(cut)
    logging.info(f'latents and manifest are in {arguments.out}')


if __name__ == '__main__':
    main()
