"""Many phrases of one instrument in one run of the synthesizer: opening a soundfont takes longer than playing."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nemo_audio_restore.data.instruments import Phrase
from nemo_audio_restore.data.midi import Note, render_midi, write_midi
from nemo_audio_restore.files.audio import read_audio

_GAP_S = 1.0


def render_together(
    phrases: Sequence[Phrase], soundfont: Path, *, program: int, drums: bool = False
) -> list[tuple[np.ndarray, int]]:
    """Renders phrases of one instrument, one after another with a pause, and takes them apart.

    Args:
        phrases: what is played.
        soundfont: a ``.sf2`` or ``.sf3`` file.
        program: of General MIDI; the number of the kit for drums.
        drums: play on the drum channel.

    Returns:
        (T,) samples, the mean of both channels, with their rate in Hz, for each phrase.

    Raises:
        RuntimeError: FluidSynth is missing or fails.
    """
    notes, starts, now = [], [], 0.0
    for phrase in phrases:
        starts.append(now)
        beat = 60 / phrase.tempo
        # At 60 beats per minute a beat is a second, so that phrases of all tempi fit into one file.
        notes += [
            Note(note.pitch, now + note.start * beat, note.beats * beat, note.velocity)
            for note in phrase.notes
            if note.start * beat < phrase.seconds
        ]
        now += phrase.seconds + _GAP_S
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder) / 'phrases.mid', Path(folder) / 'phrases.wav'
        write_midi(notes, midi, tempo=60, program=program, drums=drums)
        render_midi(midi, soundfont, wav)
        audio, rate = read_audio(wav)
    mono = audio.mean(axis=0)
    return [
        (mono[round(start * rate) : round((start + phrase.seconds) * rate)], rate)
        for start, phrase in zip(starts, phrases, strict=True)
    ]
