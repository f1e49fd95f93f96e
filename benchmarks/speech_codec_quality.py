r"""Speech codecs beside each other on held-out speech, each at its real bit rate, as markdown and CSV.

    apt-get install codec2 speex opus-tools ffmpeg
    pip install 'nemo-audio-restore[speech,whisper]'
    python examples/prepare_speech.py --out speech
    python examples/prepare_speech.py --out sentences --packages asterisk-core-sounds-en-g722 festvox-ru
    python benchmarks/speech_codec_quality.py --manifest speech/test.jsonl.gz --sentences sentences/test.jsonl.gz \
        --model speech_codec_22k_small

Clips are spread evenly over each collection of the manifest, at 22.05 kHz. Every codec gets the recording at its own
level, at the codec's rate; what it decodes is brought back to 22.05 kHz and its delay, one constant for each codec, is
removed (nemo_audio_restore.evaluation.alignment). Two rows need no codec: the original, and the original at 8 kHz,
which is the best that a narrow-band codec can do. Bit rates are bytes of coded frames over duration; 'file' counts the
whole file, in which containers weigh much because the clips are short.

Spectral distances are given for all frequencies and for those up to 4 kHz, which is all that codec2 and Speex at 8 kHz
transmit; definitions are in nemo_audio_restore.evaluation.speech.

Character error rates come from sentences with transcripts: several sentences of a language, half a second apart, are
put into one window of Whisper, the same ones for every codec. DNSMOS is taken of every third clip.

Decoded clips and scores are kept in the output folder; a second run does only what is missing.
"""

import argparse
import csv
import gzip
import hashlib
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch

from nemo_audio_restore.evaluation import metrics, speech
from nemo_audio_restore.evaluation.alignment import aligned, estimate_delay, level_difference_db
from nemo_audio_restore.evaluation.classical_codecs import CLASSICAL_CODECS, ClassicalCodec
from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.evaluation.transcription import SAMPLE_RATE as WHISPER_RATE
from nemo_audio_restore.evaluation.transcription import Transcribe, WhisperTranscriber, character_errors
from nemo_audio_restore.files.audio import read_audio

if TYPE_CHECKING:
    from nemo_audio_restore.models.speech_codec import SpeechCodecModel

RATE = speech.DISTANCE_RATE_HZ
NARROW_HZ = 4000
WINDOW_S, PAUSE_S = 28.0, 0.5
SHORTEST_S = 0.5
DELAY_CLIPS = 40
# DNSMOS takes longer than all other metrics together: every third clip.
DNSMOS_EVERY = 3
# Bump when clips, codecs or metrics change: what other versions left in the output folder is not read.
CACHE_VERSION = 1


@dataclass(frozen=True)
class Clip:
    """A held-out recording.

    Attributes:
        name: unique; names the files of its decoded versions.
        collection: where it comes from; the tables are made by this.
        language: of the speech.
        text: what is said, empty when not known.
        audio: (T,) samples at 22.05 kHz.
    """

    name: str
    collection: str
    language: str
    text: str
    audio: np.ndarray


@dataclass(frozen=True)
class Coded:
    """What a codec made of a clip: decoded samples at 22.05 kHz, and what they took."""

    audio: np.ndarray
    payload_bytes: int
    file_bytes: int
    duration_s: float


Code = Callable[[np.ndarray], Coded]


def read_clips(manifest: Path, *, count: int) -> list[Clip]:
    """Clips of 0.5 to 28 s, `count` of each collection of a Lhotse manifest, spread evenly."""
    with (gzip.open if manifest.suffix == '.gz' else open)(manifest, 'rt', encoding='utf-8') as lines:
        cuts = [json.loads(line) for line in lines]
    collections: dict[str, list[dict]] = {}
    for cut in cuts:
        if SHORTEST_S <= cut['duration'] <= WINDOW_S:
            collections.setdefault(cut['custom']['group'].split('/')[0], []).append(cut)
    clips = []
    for collection, found in collections.items():
        places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
        for cut in (found[place] for place in places):
            audio, rate = read_audio(manifest.parent / cut['recording']['sources'][0]['source'])
            said = cut['supervisions'][0]
            samples = speech.resampled(audio.mean(axis=0).astype(np.float64), rate, RATE).astype(np.float32)
            clips.append(Clip(cut['id'], collection, said.get('language', ''), said.get('text', ''), samples))
    return clips


def classical(codec: ClassicalCodec) -> Code:
    """One of the codecs with a command-line program."""

    def code(audio: np.ndarray) -> Coded:
        done = codec.code(audio, RATE)
        return Coded(done.audio, done.payload_bytes, done.file_bytes, done.duration_s)

    return code


def neural(model: 'SpeechCodecModel', folder: Path) -> Code:
    """One of our codecs, through its files."""
    from nemo_audio_restore.files.token_file import read_tokens

    bits = math.ceil(math.log2(model.codebook_size))
    folder.mkdir(parents=True, exist_ok=True)
    source, tokens, target = (folder / f'one.{suffix}' for suffix in ('in.wav', 'nac', 'out.wav'))

    def code(audio: np.ndarray) -> Coded:
        soundfile.write(source, audio, RATE, subtype='FLOAT')
        model.encode_file(source, tokens, overwrite=True)
        model.decode_file(tokens, target, sample_rate=RATE, bits='float', overwrite=True)
        decoded = soundfile.read(target, dtype='float32')[0]
        payload = math.ceil(read_tokens(tokens)[0].size * bits / 8)
        return Coded(decoded, payload, tokens.stat().st_size, len(audio) / RATE)

    return code


def untouched(audio: np.ndarray) -> Coded:
    """The original: as good as any codec can get."""
    return Coded(audio, 0, 0, len(audio) / RATE)


def narrow_band(audio: np.ndarray) -> Coded:
    """The original at 8 kHz: as good as a narrow-band codec can get."""
    narrow = speech.resampled(speech.resampled(audio, RATE, 2 * NARROW_HZ), 2 * NARROW_HZ, RATE)
    return Coded(aligned(narrow, delay=0, num_samples=len(audio)), 0, 0, len(audio) / RATE)


class Outputs:
    """Decoded clips and scores of one codec in a folder."""

    def __init__(self, folder: Path, code: Callable[[], Code]):
        self._folder, self._make, self._code = folder, code, None
        folder.mkdir(parents=True, exist_ok=True)
        self._scores_path = folder / f'scores_v{CACHE_VERSION}.jsonl'
        self._scores: dict[str, dict] = {}
        if self._scores_path.exists():
            for line in self._scores_path.read_text().splitlines():
                self._scores |= json.loads(line)

    def decoded(self, clip: Clip) -> Coded:
        """What the codec makes of a clip, from the folder if it is there."""
        path = self._folder / f'{clip.name}_v{CACHE_VERSION}.wav'
        facts = path.with_suffix('.json')
        if not facts.exists():
            if self._code is None:
                self._code = self._make()
            coded = self._code(clip.audio)
            soundfile.write(path, coded.audio, RATE, subtype='FLOAT')
            facts.write_text(json.dumps({name: value for name, value in asdict(coded).items() if name != 'audio'}))
        return Coded(soundfile.read(path, dtype='float32')[0], **json.loads(facts.read_text()))

    def scores(self, key: str, compute: Callable[[], dict]) -> dict:
        """Scores under a key, computed if they are not in the folder."""
        if key not in self._scores:
            self._scores[key] = compute()
            with self._scores_path.open('a') as file:
                file.write(json.dumps({key: self._scores[key]}) + '\n')
        return self._scores[key]


def score(reference: np.ndarray, estimate: np.ndarray, *, with_dnsmos: bool) -> dict[str, float]:
    """All metrics of a clip but the error rate; NaN where a metric was left out or has too little speech."""

    def or_nan(metric: Callable[[], float]) -> float:
        try:
            return metric()
        except ValueError:
            return math.nan

    return {
        'mel': speech.mel_distance(reference, estimate, RATE),
        'mel 0-4k': speech.mel_distance(reference, estimate, RATE, high_hz=NARROW_HZ),
        'STFT': speech.stft_distance(reference, estimate, RATE),
        'STFT 0-4k': speech.stft_distance(reference, estimate, RATE, high_hz=NARROW_HZ),
        'SI-SDR': or_nan(lambda: min(metrics.si_sdr(reference, estimate), 99.0)),
        'ESTOI': or_nan(lambda: speech.estoi(reference, estimate, RATE)),
        'PESQ-WB': or_nan(lambda: speech.pesq_wb(reference, estimate, RATE)),
        'DNSMOS': speech.dnsmos(estimate, RATE).overall if with_dnsmos else math.nan,
    }


def windows(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Sentences with transcripts, packed in their order into windows of up to 28 s of one language."""
    packed: list[list[Clip]] = []
    last = ''
    used = math.inf
    for clip in (clip for clip in clips if clip.text):
        length = len(clip.audio) / RATE + PAUSE_S
        if used + length > WINDOW_S or clip.collection != last:
            packed.append([])
            used = 0.0
        packed[-1].append(clip)
        used += length
        last = clip.collection
    return packed


def transcribe_window(
    window: Sequence[Clip], audios: Sequence[np.ndarray], transcribe: Transcribe
) -> dict[str, float]:
    """Errors in a window of sentences, and characters."""
    pause = np.zeros(round(PAUSE_S * RATE), np.float32)
    joined = np.concatenate([part for audio in audios for part in (audio, pause)])
    (heard,) = transcribe([speech.resampled(joined, RATE, WHISPER_RATE)])
    errors, characters = character_errors(' '.join(clip.text for clip in window), heard, window[0].language)
    return {'errors': errors, 'characters': characters, 'heard': heard}


def run(
    arguments: argparse.Namespace, transcriber: Callable[[str], Transcribe]
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Scores every codec; returns a row for each codec and clip, and one for each codec and window."""
    clips = read_clips(arguments.manifest, count=arguments.clips)
    sentences = read_clips(arguments.sentences, count=arguments.sentence_clips) if arguments.sentences else []
    rows, heard = [], []
    for name, (place, make) in codecs(arguments).items():
        outputs = Outputs(arguments.output / place.replace(' ', '_').replace('/', '_'), make)
        places = np.linspace(0, len(clips) - 1, min(DELAY_CLIPS, len(clips))).round().astype(int)
        pairs = [(clips[place].audio, outputs.decoded(clips[place]).audio) for place in places]
        delay, level_db = estimate_delay(pairs, RATE), level_difference_db(pairs)
        for index, clip in enumerate(clips):
            coded = outputs.decoded(clip)
            estimate = aligned(coded.audio, delay=delay, num_samples=len(clip.audio))
            judged = index % DNSMOS_EVERY == 0
            scores = outputs.scores(
                f'{clip.name} {delay} {judged}',
                lambda a=clip.audio, b=estimate, judged=judged: score(a, b, with_dnsmos=judged),
            )
            facts = {'delay_ms': 1000 * delay / RATE, 'level_db': level_db, 'duration_s': coded.duration_s}
            facts |= {'payload_bytes': coded.payload_bytes, 'file_bytes': coded.file_bytes}
            rows.append({'collection': clip.collection, 'clip': clip.name, 'codec': name} | scores | facts)
        for window in windows(sentences):
            length = [len(clip.audio) for clip in window]
            audios = [outputs.decoded(clip).audio for clip in window]
            parts = [aligned(audio, delay=delay, num_samples=n) for audio, n in zip(audios, length, strict=True)]
            key = 'window ' + hashlib.sha256(' '.join(clip.name for clip in window).encode()).hexdigest() + f' {delay}'
            found = outputs.scores(key, lambda w=window, p=parts: transcribe_window(w, p, transcriber(w[0].language)))
            heard.append({'collection': window[0].collection, 'window': key, 'codec': name} | found)
        print(f'{name}: {len(clips)} clips, {len(sentences)} sentences', file=sys.stderr, flush=True)
    return rows, heard


def codecs(arguments: argparse.Namespace) -> dict[str, tuple[str, Callable[[], Code]]]:
    """What is compared: for each name a folder's name and a function that prepares the codec when it is needed."""
    named: dict[str, Callable[[], Code]] = {'original': lambda: untouched, 'original at 8 kHz': lambda: narrow_band}
    for codec in CLASSICAL_CODECS:
        named[codec.name] = lambda codec=codec: classical(codec)
    chosen = {name: (name, make) for name, make in named.items() if name not in arguments.skip}
    for name in arguments.model:
        from nemo_audio_restore.codec.weights import weights_hash
        from nemo_audio_restore.models.speech_codec import SpeechCodecModel

        model = SpeechCodecModel.from_pretrained(name)
        label = Path(name).stem if name.endswith('.nemo') else name
        # Weights that were trained on must not find the clips of their former selves.
        place = f'{label} {weights_hash(model)[:12]}'
        chosen[label] = place, lambda model=model: neural(model, arguments.output / 'tmp')
    return chosen


def summary(rows: list[dict[str, object]], heard: list[dict[str, object]]) -> str:
    """Markdown: one table for each collection and one of error rates."""
    parts = []
    names = ('mel', 'mel 0-4k', 'STFT', 'STFT 0-4k', 'SI-SDR', 'ESTOI', 'PESQ-WB', 'DNSMOS')
    for collection in dict.fromkeys(row['collection'] for row in rows):
        table = []
        of_collection = [row for row in rows if row['collection'] == collection]
        for codec in dict.fromkeys(row['codec'] for row in of_collection):
            of_codec = [row for row in of_collection if row['codec'] == codec]
            line = {'codec': codec} | _rates(of_codec)
            for name in names:
                values = [row[name] for row in of_codec if not math.isnan(row[name])]
                line[name] = _interval(values, digits=1 if name == 'SI-SDR' else 3 if name[0] in 'mSE' else 2)
            line |= {'delay, ms': f'{of_codec[0]["delay_ms"]:.1f}', 'level, dB': f'{of_codec[0]["level_db"]:+.1f}'}
            table.append(line)
        clips = [row for row in of_collection if row['codec'] == table[0]['codec']]
        minutes = sum(row['duration_s'] for row in clips) / 60
        parts.append(f'### {collection}: {len(clips)} clips, {minutes:.1f} min\n\n{markdown_table(table)}')
    if heard:
        collections = list(dict.fromkeys(row['collection'] for row in heard))
        table = [
            {'codec': codec} | {f'CER {c}': _error_rate(heard, codec, c) for c in collections}
            for codec in dict.fromkeys(row['codec'] for row in heard)
        ]
        parts.append(f'### Character error rate through Whisper base\n\n{markdown_table(table)}')
    return '\n\n'.join(parts)


def _rates(rows: list[dict[str, object]]) -> dict[str, str]:
    duration = sum(row['duration_s'] for row in rows)
    payload, file = (sum(row[name] for row in rows) * 8e-3 / duration for name in ('payload_bytes', 'file_bytes'))
    return {'kbps': f'{payload:.2f}' if payload else '', 'file kbps': f'{file:.2f}' if file else ''}


def _interval(values: Sequence[float], *, digits: int) -> str:
    if not values:
        return 'n/a'
    mean, half_width = bootstrap_interval(values, [str(index) for index in range(len(values))])
    return f'{mean:.{digits}f} ± {half_width:.{digits}f}'


def _error_rate(heard: list[dict[str, object]], codec: str, collection: str) -> str:
    """Errors over characters of all windows; windows are what is drawn again."""
    found = [row for row in heard if row['codec'] == codec and row['collection'] == collection]
    errors, characters = (np.array([row[name] for row in found]) for name in ('errors', 'characters'))
    drawn = np.random.default_rng(0).integers(0, len(found), (2000, len(found)))
    low, high = np.quantile(errors[drawn].sum(axis=1) / characters[drawn].sum(axis=1), [0.025, 0.975])
    return f'{errors.sum() / characters.sum():.3f} ± {(high - low) / 2:.3f}'


def main(arguments: Sequence[str] | None = None, transcriber: Callable[[str], Transcribe] | None = None) -> None:
    """Runs the benchmark from the command line.

    Args:
        arguments: of the command line; those of the process by default.
        transcriber: gives a recogniser for a language; Whisper base by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--manifest', type=Path, required=True, help='cuts of held-out speech (prepare_speech.py)')
    parser.add_argument('--sentences', type=Path, help='cuts of sentences with transcripts, for error rates')
    parser.add_argument('--model', action='append', default=[], help='registered name, .nemo or org/name; repeat')
    parser.add_argument('--clips', type=int, default=60, help='clips of each collection')
    parser.add_argument('--sentence-clips', type=int, default=60, help='sentences of each collection')
    parser.add_argument('--skip', nargs='+', default=[], help='codecs to leave out, by their names in the table')
    parser.add_argument('--output', type=Path, default=Path('benchmarks/results/speech_codec_quality'))
    options = parser.parse_args(arguments)
    missing = {c.package for c in CLASSICAL_CODECS if c.name not in options.skip and c.missing_programs()}
    if missing:
        parser.error(
            f'codecs are missing: `apt-get install {" ".join(sorted(missing))}`, or leave them out with --skip'
        )
    rows, heard = run(options, transcriber or whisper())
    command = shlex.join([Path(sys.argv[0]).name, *(sys.argv[1:] if arguments is None else arguments)])
    lines = [
        f'`{command}`',
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}.',
        'Mean ± half of the 95 % bootstrap interval over clips (error rates: over windows). Distances and error '
        'rates: lower is better; the others: higher.',
    ]
    text = '\n\n'.join([*lines, summary(rows, heard)]) + '\n'
    options.output.with_suffix('.md').write_text(text, 'utf-8')
    for name, table in (('', rows), ('_sentences', heard)):
        with options.output.with_name(f'{options.output.name}{name}.csv').open('w', newline='') as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in table for key in row)))
            writer.writeheader()
            writer.writerows(table)
    print(text)


def whisper() -> Callable[[str], Transcribe]:
    """Loads Whisper base when the first transcript is needed, once."""
    loaded = []

    def transcriber(language: str) -> Transcribe:
        from nemo_audio_restore.checkpoints.whisper import load_whisper

        if not loaded:
            loaded.append(load_whisper())
        return WhisperTranscriber(loaded[0].model, loaded[0].tokenizer, language=language)

    return transcriber


if __name__ == '__main__':
    main()
