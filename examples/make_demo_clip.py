"""Makes the demonstration clip that ships: an excerpt of real music, dulled and with a hole, beside its original.

    python examples/make_demo_clip.py settlers-routine.ogg nemo_audio_restore/pretrained/demo

The source is the track of the FreeCol soundtrack that the Debian package ``freecol`` installs under
``/usr/share/games/freecol/default/resources/music/default`` (CC-BY-4.0). No model was trained on it.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve, firwin

START_S, DURATION_S = 18.0, 9.0
CUTOFF_HZ = 4000.0
TRANSITION_HZ = 200.0
GAP_S = (5.0, 5.3)
FADE_S = 0.02


def low_pass(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Removes what lies above the cutoff with a linear-phase filter, without delay.

    Args:
        audio: (T, C), any level.
        sample_rate: in Hz.

    Returns:
        (T, C), below -80 dB from ``CUTOFF_HZ`` upwards.
    """
    taps = firwin(2047, CUTOFF_HZ - TRANSITION_HZ / 2, window=('kaiser', 9.0), fs=sample_rate)
    return fftconvolve(audio, taps[:, None], mode='same', axes=0)


def main() -> None:
    """Reads the track named on the command line and writes ``original.flac`` and ``dull_with_gap.flac``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('track', type=Path, help='the whole track')
    parser.add_argument('folder', type=Path, help='where the two clips go')
    arguments = parser.parse_args()

    track, sample_rate = soundfile.read(arguments.track, always_2d=True)
    clip = track[round(START_S * sample_rate) : round((START_S + DURATION_S) * sample_rate)].copy()
    fade = np.linspace(0.0, 1.0, round(FADE_S * sample_rate))[:, None]
    clip[: len(fade)] *= fade
    clip[-len(fade) :] *= fade[::-1]

    degraded = low_pass(clip, sample_rate)
    degraded[round(GAP_S[0] * sample_rate) : round(GAP_S[1] * sample_rate)] = 0.0

    arguments.folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(arguments.folder / 'original.flac', clip, sample_rate, subtype='PCM_16')
    soundfile.write(arguments.folder / 'dull_with_gap.flac', degraded, sample_rate, subtype='PCM_16')


if __name__ == '__main__':
    main()
