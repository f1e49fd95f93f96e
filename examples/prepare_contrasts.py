r"""Prepares what AF-CLAP's loss learns from: paraphrases of captions, and captions in which one thing is wrong.

    python examples/prepare_captions.py --out captions --music corpus
    python examples/prepare_contrasts.py --captions captions --out contrasts
    python examples/train.py --config-name text_audio_small \
        ++model.loss._target_=nemo_audio_restore.losses.composition_contrast.CompositionContrastLoss \
        model.train_ds.cuts_path=contrasts/train.jsonl.gz model.validation_ds.cuts_path=contrasts/validation.jsonl.gz

Every clip of prepare_captions.py gets the custom fields `paraphrases` and `altered`; new clips are put together from
its single sounds, two in order or one struck two to five times, so that order and number can be told wrongly. What is
wrong is known to be: the other order, another number, key, tempo, phrase or loudness. Writes
OUT/{train,validation,test}.jsonl.gz (Lhotse cuts) and the new clips in OUT/audio; the others stay where they are. The
same command again resumes.
"""

import argparse
import os
import sys
from pathlib import Path

from lhotse import CutSet

from nemo_audio_restore.data.clips import write_clip_manifests
from nemo_audio_restore.data.composed_clips import compose_clips
from nemo_audio_restore.data.contrasts import contrasts_of
from nemo_audio_restore.data.corpus import SPLITS


def main(arguments: list[str] | None = None) -> int:
    """Runs the preparation; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--captions', type=Path, required=True, help='folder of prepare_captions.py')
    parser.add_argument('--out', type=Path, required=True, help='where manifests and new clips go')
    parser.add_argument('--composed', type=int, default=600, help='new clips of each kind to train on; default 600')
    parser.add_argument('--each', type=int, default=3, help='paraphrases, and altered captions of each; default 3')
    parser.add_argument('--seed', type=int, default=0, help='of the choices; default 0')
    options = parser.parse_args(arguments)
    manifests = {split: options.captions / f'{split}.jsonl.gz' for split in SPLITS}
    manifests = {split: path for split, path in manifests.items() if path.exists()}
    if not manifests or options.out.resolve() == options.captions.resolve():
        print('error: --captions needs manifests of prepare_captions.py, and --out another folder', file=sys.stderr)
        return 1
    folder, composed = options.out / 'audio', []
    for split, manifest in manifests.items():
        number = options.composed if split == 'train' else options.composed // 10
        composed += compose_clips(manifest, folder, split=split, number=number, seed=options.seed)
    new = write_clip_manifests(composed, folder, options.out) if composed else {}
    back = Path(os.path.relpath(options.captions, options.out))
    for split, manifest in manifests.items():
        cuts = list(CutSet.from_file(manifest))
        for cut in cuts:
            source = cut.recording.sources[0]
            source.source = (back / source.source).as_posix()
        cuts += CutSet.from_file(new[split]) if split in new else []
        wrong = 0
        for cut in cuts:
            said = contrasts_of(
                cut.supervisions[0].text,
                cut.custom['tags'],
                seed=f'{options.seed}/{cut.id}',
                paraphrases=options.each,
                altered=options.each,
            )
            cut.custom |= {'paraphrases': list(said.paraphrases), 'altered': list(said.altered)}
            wrong += bool(said.altered)
        path = options.out / f'{split}.jsonl.gz'
        CutSet.from_cuts(cuts).to_file(path)
        print(f'{split}: {path}, {len(cuts)} clips, {wrong} with altered captions')
    return 0


if __name__ == '__main__':
    sys.exit(main())
