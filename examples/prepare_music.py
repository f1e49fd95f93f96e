"""Prepares training music: a folder of yours, or music that Debian packages ship.

    python examples/prepare_music.py --folder ~/Music --licence 'own recordings' --out corpus
    python examples/prepare_music.py --debian marsshooter-data singularity-music freecol --out corpus

Writes corpus/{train,validation,test}.jsonl.gz (Lhotse cuts), tracks.csv and rejected.csv (what was left out, and why).
"""

import argparse
import sys
from pathlib import Path

from nemo_audio_restore.data.corpus import Limits, Rejected, Track, check_tracks, find_audio, write_manifests
from nemo_audio_restore.data.debian import debian_tracks, extract_tracks, fetch_package


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--folder', type=Path, help='a folder of audio; files stay where they are')
    source.add_argument('--debian', nargs='+', metavar='PACKAGE', help="package names, or 'all'")
    parser.add_argument('--out', type=Path, required=True, help='where the manifests (and Debian audio) go')
    parser.add_argument('--licence', default='unknown', help='licence of the files of --folder')
    parser.add_argument('--deb-folder', type=Path, help='where .deb files lie or are downloaded to; default OUT/debs')
    parser.add_argument(
        '--all-licences',
        action='store_true',
        help='also take Debian tracks that shipped weights may not be trained on',
    )
    parser.add_argument('--min-duration', type=float, default=3.0, metavar='S', help='seconds; default 3')
    parser.add_argument('--min-bandwidth', type=float, default=0.0, metavar='HZ', help='default 0: keep narrow files')
    parser.add_argument('--validation-share', type=float, default=0.05, help='of the duration, for --folder')
    parser.add_argument('--test-share', type=float, default=0.05, help='of the duration, for --folder')
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the preparation; returns the exit code."""
    options = parse_arguments()
    rejected: list[Rejected] = []
    try:
        if options.folder is not None:
            candidates = find_audio(options.folder, licence=options.licence)
        else:
            packages = None if options.debian == ['all'] else options.debian
            rows = [row for row in debian_tracks(packages) if row.shipped_weights or options.all_licences]
            candidates = []
            for package in dict.fromkeys(row.package for row in rows):
                deb = fetch_package(package, options.deb_folder or options.out / 'debs')
                print(f'{package}: {deb.name}', file=sys.stderr)
                members = [row for row in rows if row.package == package]
                accepted, missing = extract_tracks(deb, members, options.out / 'audio')
                candidates += accepted
                rejected += missing
        limits = Limits(min_duration_s=options.min_duration, min_bandwidth_hz=options.min_bandwidth)
        tracks, unusable = check_tracks(candidates, limits, on_track=_show)
        manifests = write_manifests(
            tracks,
            rejected + unusable,
            options.out,
            validation_share=options.validation_share,
            test_share=options.test_share,
        )
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    minutes = sum(track.duration_s for track in tracks) / 60
    print(f'{len(tracks)} tracks, {minutes:.1f} min; {len(rejected + unusable)} files left out (rejected.csv)')
    for split, path in manifests.items():
        print(f'{split}: {path}')
    return 0


def _show(result: Track | Rejected) -> None:
    if isinstance(result, Rejected):
        print(f'left out {result.path}: {result.reason}', file=sys.stderr)
    else:
        facts = f'{result.duration_s:.0f} s, {result.sample_rate} Hz, reaches {result.bandwidth_hz / 1000:.1f} kHz'
        print(f'{result.path.name}: {facts}, {result.licence}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
