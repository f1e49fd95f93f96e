"""Prepares captioned audio for text-to-audio training: renders, sound effects and music of Debian packages.

    sudo apt-get install mma fluidsynth
    python examples/prepare_captions.py --out captions --music corpus

Four kinds of clips of 1 to 10 s at 44.1 kHz, each with a caption, tags, a class, a licence and a split:
accompaniments of mma in 17 styles and solo phrases of 16 instrument families, both rendered by FluidSynth with two
soundfonts (MIT); named sound effects of games, drum kits and samples (CC0, CC-BY, CC-BY-SA, GPL: every clip says
which); and excerpts of the music that prepare_music.py has prepared in --music (CC and MIT only).
Writes OUT/{train,validation,test}.jsonl.gz (Lhotse cuts), clips.csv and the clips in OUT/audio. The packages (2.3 GB,
of which 0ad-data is 1.4 GB) are downloaded with apt-get. The same command again resumes. --effect-packages can name
19 more packages (2.4 GB), whose sounds are for training only, and 9 (0.9 GB), whose sounds are for tests only.
"""

import argparse
import csv
import sys
from collections.abc import Iterable
from pathlib import Path

from nemo_audio_restore.data.clips import SPLITS, TASKS, Clip, clip_path, write_clip_manifests
from nemo_audio_restore.data.debian import fetch_package
from nemo_audio_restore.data.debian_speech import unpack
from nemo_audio_restore.data.effects import (
    EFFECT_PACKAGES,
    MORE_EFFECT_PACKAGES,
    TESTED_EFFECT_PACKAGES,
    find_effects,
    make_effects,
    unpack_archive,
)
from nemo_audio_restore.data.grooves import LIBRARY
from nemo_audio_restore.data.music_excerpts import excerpt_music
from nemo_audio_restore.data.rendered import SOUNDFONTS, Soundfont, render_grooves, render_phrases
from nemo_audio_restore.files.audio import probe

# These packages hold their files in one archive; what no rule names (voices, music) is left out.
ARCHIVES = {
    '0ad-data': ('usr/share/games/0ad/mods/public/public.zip', ('audio/a', 'audio/resource')),
    'ufoai-sound': ('usr/share/games/ufoai/base/0snd.pk3', ('sound/',)),
}
PACKAGES = {**EFFECT_PACKAGES, **MORE_EFFECT_PACKAGES, **TESTED_EFFECT_PACKAGES}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='where manifests, packages and clips go')
    parser.add_argument(
        '--tasks', nargs='+', choices=TASKS, default=list(TASKS), metavar='TASK', help=f'of {", ".join(TASKS)}'
    )
    parser.add_argument('--music', type=Path, help='folder of prepare_music.py; without it there are no excerpts')
    parser.add_argument('--deb-folder', type=Path, help='where .deb files lie or are downloaded to; default OUT/debs')
    parser.add_argument(
        '--effect-packages',
        nargs='+',
        choices=sorted(PACKAGES),
        default=list(EFFECT_PACKAGES),
        metavar='PACKAGE',
        help=f'of {", ".join(PACKAGES)}; default the first {len(EFFECT_PACKAGES)}',
    )
    parser.add_argument('--mma-library', type=Path, default=LIBRARY, help=f'default {LIBRARY}')
    parser.add_argument('--per-style', type=int, default=40, help='accompaniments of each style; default 40')
    parser.add_argument('--per-family', type=int, default=38, help='about as many solo phrases each; default 38')
    parser.add_argument('--seed', type=int, default=0, help='of tempi, keys and phrases; default 0')
    parser.add_argument('--workers', type=int, default=2, help='renders at a time; default 2')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the preparation; returns the exit code."""
    options = parse_arguments(arguments)
    folder = options.out / 'audio'
    clips: list[Clip] = []
    try:
        if 'effect' in options.tasks:
            clips += effects(options, folder)
        if 'instrument' in options.tasks or 'groove' in options.tasks:
            fonts = soundfonts(options)
            how = {'seed': options.seed, 'workers': options.workers, 'report': report}
            if 'instrument' in options.tasks:
                clips += render_phrases(fonts, folder, per_family=options.per_family, **how)
            if 'groove' in options.tasks:
                library = options.mma_library
                clips += render_grooves(fonts, folder, library=library, per_class=options.per_style, **how)
        if 'music' in options.tasks and options.music is not None:
            manifests = {split: options.music / f'{split}.jsonl.gz' for split in SPLITS}
            clips += excerpt_music({split: path for split, path in manifests.items() if path.exists()}, folder)
        manifests = write_clip_manifests(clips, folder, options.out)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    write_table(clips, folder, options.out / 'clips.csv')
    for split, path in manifests.items():
        print(f'{split}: {path}')
    return 0


def effects(options: argparse.Namespace, folder: Path) -> list[Clip]:
    """Fetches the packages with effects and cuts them."""
    found = []
    for package in options.effect_packages:
        root = package_folder(package, PACKAGES[package], options)
        if package in ARCHIVES:
            archive, prefixes = ARCHIVES[package]
            for prefix in prefixes:
                unpack_archive(root / archive, root / 'files', prefix)
            root = root / 'files'
        members = find_effects(package, root)
        print(f'{package}: {len(members)} named sounds', file=sys.stderr)
        found += members
    clips, messages = make_effects(found, folder)
    for message in messages:
        report(message)
    return clips


def soundfonts(options: argparse.Namespace) -> dict[Soundfont, Path]:
    """Fetches the soundfonts."""
    return {
        font: package_folder(font.package, (str(Path(font.member).parent),), options) / font.member
        for font in SOUNDFONTS
    }


def package_folder(package: str, prefixes: Iterable[str], options: argparse.Namespace) -> Path:
    """Unpacks what is needed of a package into OUT/packages."""
    root = options.out / 'packages' / package
    deb = fetch_package(package, options.deb_folder or options.out / 'debs')
    print(f'{package}: {deb.name}', file=sys.stderr)
    unpack(deb, root, [*prefixes, f'usr/share/doc/{package}'])
    return root


def report(message: str) -> None:
    """Says what was left out."""
    print(f'left out: {message}', file=sys.stderr)


def write_table(clips: list[Clip], folder: Path, path: Path) -> None:
    """Lists the clips, and shows the sums."""
    sums: dict[tuple[str, str], list[float]] = {}
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(('split', 'task', 'class', 'name', 'seconds', 'caption', 'group', 'licence'))
        for clip in sorted(clips, key=lambda clip: (clip.split, clip.task, clip.kind, clip.name)):
            seconds = probe(clip_path(clip, folder)).duration_s
            writer.writerow(
                (clip.split, clip.task, clip.kind, clip.name, f'{seconds:.2f}', clip.caption, clip.group, clip.licence)
            )
            sums.setdefault((clip.split, clip.task), []).append(seconds)
    for (split, task), lengths in sorted(sums.items()):
        print(f'{split} {task}: {len(lengths)} clips, {sum(lengths) / 60:.1f} min', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
