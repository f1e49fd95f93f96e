r"""Prepares questions about audio for the small audio-language model: recordings whose facts are known, and answers.

    python examples/prepare_captions.py --out captions --music corpus
    python examples/prepare_speech.py --out speech
    python examples/prepare_speech.py --out sentences --packages asterisk-core-sounds-en-g722
    python examples/prepare_captions.py --out sounds --tasks effect --effect-packages widelands-data megaglest-data
    python examples/prepare_questions.py --captions captions --sounds sounds --speech speech --sentences sentences \
        --out questions

Nine tasks: instrument families and chords of known tempo and key (rendered), drums and sounds (clips of
prepare_captions.py), counting and order (put together from single sounds), spoken language (prepare_speech.py), and
speech, music or sound effect. The clips of --sounds are of packages that are only trained or only tested on. Writes
OUT/{train,validation,test}.jsonl.gz (a Lhotse cut for every question) and the recordings, mono at 16 kHz, in
OUT/audio. Tests use another soundfont, other drum kits, other packages and other voices, and one paraphrase of every
question that is never trained. The same command again resumes.
"""

import argparse
import sys
from pathlib import Path

from nemo_audio_restore.data.corpus import SPLITS
from nemo_audio_restore.data.debian import fetch_package
from nemo_audio_restore.data.debian_speech import unpack
from nemo_audio_restore.data.question_corpus import Known, write_question_manifests
from nemo_audio_restore.data.question_material import (
    TESTED_FONT,
    TRAINED_FONT,
    chord_recordings,
    counted_recordings,
    effect_recordings,
    instrument_recordings,
    music_recordings,
    ordered_recordings,
    parts_of,
    speech_recordings,
)
from nemo_audio_restore.data.rendered import Soundfont


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--captions', type=Path, required=True, help='folder of prepare_captions.py')
    parser.add_argument('--sounds', type=Path, help='folder of prepare_captions.py with sounds of more packages')
    parser.add_argument('--speech', type=Path, required=True, help='folder of prepare_speech.py')
    parser.add_argument('--sentences', type=Path, help='folder of prepare_speech.py with English prompts')
    parser.add_argument('--out', type=Path, required=True, help='where manifests and recordings go')
    parser.add_argument('--packages', type=Path, help='unpacked packages; default CAPTIONS/packages')
    parser.add_argument('--per-family', type=int, default=60, help='solo phrases of a family; default 60')
    parser.add_argument('--chords', type=int, default=60, help='chord phrases of an instrument; default 60')
    parser.add_argument('--counted', type=int, default=1000, help='recordings to count in; default 1000')
    parser.add_argument('--ordered', type=int, default=1400, help='recordings of two sounds; default 1400')
    parser.add_argument('--questions', type=int, default=4, help='about each fact; default 4')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the preparation; returns the exit code."""
    options = parse_arguments(arguments)
    folder = options.out / 'audio'
    folder.mkdir(parents=True, exist_ok=True)
    try:
        recordings = gather(options, folder)
        manifests = write_question_manifests(recordings, folder, options.out, number=options.questions)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for split, path in manifests.items():
        members = [known for known in recordings if known.split == split]
        tasks = sorted({fact.task for known in members for fact in known.facts})
        counts = [f'{task} {sum(task in [fact.task for fact in known.facts] for known in members)}' for task in tasks]
        print(f'{path}: {len(members)} recordings: {", ".join(counts)}')
    return 0


def gather(options: argparse.Namespace, folder: Path) -> list[Known]:
    """All recordings of all tasks."""
    manifests = {split: options.captions / f'{split}.jsonl.gz' for split in SPLITS}
    effects = list(effect_recordings(manifests, folder))
    if options.sounds is not None:
        more = {split: options.sounds / f'{split}.jsonl.gz' for split in SPLITS}
        more = {split: path for split, path in more.items() if path.exists()}
        if not more:
            raise FileNotFoundError(
                f'{options.sounds} holds no manifest of prepare_captions.py, such as train.jsonl.gz'
            )
        effects += effect_recordings(more, folder)
    print(f'{len(effects)} drums and sounds', file=sys.stderr)
    music = list(music_recordings(manifests, folder))
    sentences = None if options.sentences is None else options.sentences / 'test.jsonl.gz'
    speech = list(speech_recordings(options.speech / 'train.jsonl.gz', sentences, folder))
    print(f'{len(music)} excerpts of music, {len(speech)} of speech', file=sys.stderr)
    solos, chords = [], []
    for font, share, seed in ((TESTED_FONT, 5, 1), (TRAINED_FONT, 1, 0)):
        path = soundfont(font, options)
        solos += instrument_recordings(font, path, folder, per_family=options.per_family // share, seed=seed)
        chords += chord_recordings(font, path, folder, number=options.chords // (share - share // 5), seed=seed)
        print(f'{len(solos)} solos, {len(chords)} phrases of chords', file=sys.stderr)
    parts = parts_of([*effects, *solos], folder)
    scenes = {
        'counted': list(counted_recordings(parts, folder, numbers=_numbers(options.counted))),
        'ordered': list(ordered_recordings(parts, folder, numbers=_numbers(options.ordered))),
    }
    return [*effects, *music, *speech, *solos, *chords, *scenes['counted'], *scenes['ordered']]


def soundfont(font: Soundfont, options: argparse.Namespace) -> Path:
    """The file of a soundfont, fetched if need be."""
    root = (options.packages or options.captions / 'packages') / font.package
    path = root / font.member
    if not path.exists():
        unpack(fetch_package(font.package, options.out / 'debs'), root, [str(Path(font.member).parent)])
    return path


def _numbers(trained: int) -> dict[str, int]:
    return {'train': trained, 'validation': trained // 20, 'test': trained // 5}


if __name__ == '__main__':
    sys.exit(main())
