"""Prepares speech that Debian packages ship, with its licences, languages, transcripts and splits.

    python examples/prepare_speech.py --out speech
    python examples/prepare_speech.py --out sentences --packages asterisk-core-sounds-en-g722 festvox-ru

The first line fetches what speech_codec_22k_small was trained and tested on (360 MB of packages, 4.6 hours), the
second the sentences for character error rates (16 kHz; those in G.722 need ffmpeg). Writes
{train,validation,test}.jsonl.gz (Lhotse cuts), tracks.csv and rejected.csv (what was left out, and why).
"""

import argparse
import sys
from pathlib import Path

from nemo_audio_restore.data.corpus import Limits, Rejected, Track, check_tracks, write_manifests
from nemo_audio_restore.data.debian import fetch_package
from nemo_audio_restore.data.debian_speech import SPEECH_PACKAGES, unpack
from nemo_audio_restore.data.takes import join_takes

WIDE_BAND = [name for name, package in SPEECH_PACKAGES.items() if not package.recognition]
# Some volunteers recorded at 8 or 16 kHz and the games converted it.
MIN_BANDWIDTH_HZ = 8500.0
# Hissy or telephone-like as a whole, although some of their files pass the bandwidth limit.
LEFT_OUT = ('tuxpaint/be', 'tuxpaint/ca', 'tuxpaint/el')


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='where the manifests and the recordings go')
    parser.add_argument(
        '--packages',
        nargs='+',
        default=WIDE_BAND,
        choices=sorted(SPEECH_PACKAGES),
        metavar='PACKAGE',
        help=f'of {", ".join(SPEECH_PACKAGES)}; default: all for training and wide-band metrics',
    )
    parser.add_argument('--deb-folder', type=Path, help='where .deb files lie or are downloaded to; default OUT/debs')
    parser.add_argument('--min-duration', type=float, default=0.35, metavar='S', help='seconds; default 0.35')
    parser.add_argument(
        '--take',
        type=float,
        default=12.0,
        metavar='S',
        help='join training recordings of a group up to this length, in seconds; 0 leaves them alone; default 12',
    )
    parser.add_argument('--rate', type=int, default=22050, metavar='HZ', help='of joined recordings; default 22050')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the preparation; returns the exit code."""
    options = parse_arguments(arguments)
    if len({SPEECH_PACKAGES[name].recognition for name in options.packages}) > 1:
        print('error: sentences at 16 kHz and wide-band speech need a folder each', file=sys.stderr)
        return 2
    try:
        candidates = []
        for name in options.packages:
            package = SPEECH_PACKAGES[name]
            root = options.out / 'audio' / name
            for member in (name, *package.companions):
                deb = fetch_package(member, options.deb_folder or options.out / 'debs')
                unpack(deb, root, [package.folder, f'usr/share/doc/{member}'])
            found = [item for item in package.find(root, package.licence) if item.group not in LEFT_OUT]
            print(f'{name}: {len(found)} recordings', file=sys.stderr)
            candidates += found
        narrow = SPEECH_PACKAGES[options.packages[0]].recognition
        limits = Limits(min_duration_s=options.min_duration, min_bandwidth_hz=0.0 if narrow else MIN_BANDWIDTH_HZ)
        tracks, rejected = check_tracks(candidates, limits)
        if options.take > 0:
            spoken = [track for track in tracks if track.split == 'train']
            takes = join_takes(spoken, options.out / 'takes', sample_rate=options.rate, take_s=options.take)
            joined, unusable = check_tracks(takes, Limits(min_duration_s=options.min_duration))
            tracks = joined + [track for track in tracks if track.split != 'train']
            rejected += unusable
        manifests = write_manifests(tracks, rejected, options.out)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    _show(tracks, rejected)
    for split, path in manifests.items():
        print(f'{split}: {path}')
    return 0


def _show(tracks: list[Track], rejected: list[Rejected]) -> None:
    for split in ('train', 'validation', 'test'):
        groups: dict[str, float] = {}
        for track in tracks:
            if track.split == split:
                name = track.group.split('/')[0] + '/' + (track.language or '')
                groups[name] = groups.get(name, 0.0) + track.duration_s / 60
        listed = ', '.join(f'{name} {minutes:.1f}' for name, minutes in sorted(groups.items()))
        print(f'{split}: {sum(groups.values()):.1f} min ({listed})', file=sys.stderr)
    print(f'{len(tracks)} recordings or takes; {len(rejected)} left out (rejected.csv)', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
