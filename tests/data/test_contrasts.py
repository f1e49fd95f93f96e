"""Claims about paraphrases and altered captions, checked by a reader that knows nothing of how they are written."""

import re
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from nemo_audio_restore.data.clips import Clip, prepare_audio, save_clip, write_clip_manifests
from nemo_audio_restore.data.composed_clips import compose_clips
from nemo_audio_restore.data.contrasts import COUNTS, NUMBERS, ORDERS, contrasts_of
from nemo_audio_restore.data.grooves import GrooveTake, groove_clip, styles
from nemo_audio_restore.data.instruments import compose, instruments, phrase_clip
from nemo_audio_restore.data.music_excerpts import Measured, _clip
from nemo_audio_restore.files.audio import read_audio

OPPOSITE = {'slow': 'fast', 'bright': 'dark', 'soft': 'hard', 'loud and energetic': 'quiet and calm'}
OPPOSITE |= {false: true for true, false in OPPOSITE.items()}


def clips():
    """Captions and tags of every kind that the preparation writes."""
    for index, row in enumerate(row for row in instruments() if row.family):
        for seed in range(6):
            yield phrase_clip(row, compose(row, 100 * index + seed), seed, 'FluidR3', 'MIT')
    for index, style in enumerate(styles() * 6):
        take = GrooveTake(style, 'file', 'groove', index, 60 + 2 * index, 'Ab', 'minor', 8.0, ('C',), 'train')
        yield groove_clip(take, [[0, 33, None], [None]][index % 2], 'FluidR3', 'MIT')
    for index, level in enumerate((-10.0, -20.0, -30.0) * 8):
        measured = Measured(level, (900.0, 2000.0, 5000.0)[index // 3 % 3], 61 + 5 * index if index % 2 else None)
        yield _clip(Path(f'track{index}'), 'naev-data', 'CC0', 'train', index, measured)
    sound = {'Type': 'sound effect', 'Class': 'x', 'Sound': 'snare drum hit'}
    for caption in ('several snare drum hits', 'snare drum hits in a row', 'snare drum hits, one after another'):
        yield effect(caption, {**sound, 'Count': 'several'})
    for caption in ('hard snare drum hit', 'soft crack of a snare drum', 'snare drum hit'):
        yield effect(caption, {**sound, 'Count': 'one'})
    for chord in ('G minor', 'D sharp major', 'A minor7b5'):
        caption = f'acoustic guitar strum of a {chord} chord'
        yield effect(caption, {'Sound': f'strummed acoustic guitar chord, {chord}', 'Count': 'one'})
    for form in ORDERS:
        words = {'first': 'cymbal', 'second': 'hi-hat cymbal'}
        yield effect(form.format(**words), {'First': words['first'], 'Second': words['second']})
    for number, form in zip(NUMBERS, COUNTS, strict=True):
        yield effect(
            form.format(number=number, sounds='cowbell strokes'), {'Count': number, 'Sounds': 'cowbell strokes'}
        )


def effect(caption, tags):
    return Clip('name', 'train', 'effect', 'kind', caption, 'CC0', 'kit', tags)


def contradictions(text, caption, tags):
    """What a text says that is not so."""
    found = []
    found += [bpm for bpm in re.findall(r'(\d+) BPM', text) if bpm != tags.get('BPM')]
    key = tags.get('Key') or tags.get('Sound', '').partition('chord, ')[2]
    found += [said for said in re.findall(r'\b[A-G](?: sharp| flat|b)? (?:major|minor)\b(?!7)', text) if said != key]
    facts = {tags.get('Pace'), *tags.get('Mood', '').split(', '), caption.split()[0]}
    plain = re.sub('bright piano|slow strings', '', text).replace(tags.get('Phrase', '-'), 'PHRASE')
    found += [word for word, other in OPPOSITE.items() if re.search(rf'\b{word}\b', plain) and other in facts]
    if 'Phrase' in tags:
        found += [] if 'PHRASE' in plain else ['another phrase']
    found += ['a clear beat'] if 'with a clear beat' in text and 'without' in tags['Rhythm'] else []
    if tags.get('Count') == 'several':
        found += ['one'] if 'once' in text or 'single' in text else []
    if tags.get('Count') in NUMBERS:
        found += [word for word in NUMBERS if word in text.split() and word != tags['Count']]
    if 'First' in tags:
        first = text.replace('hi-hat cymbal', 'SECOND').replace('cymbal', 'FIRST')
        backwards = ' after ' in text or text.startswith('before ')
        found += ['order'] if (first.index('FIRST') > first.index('SECOND')) != backwards else []
    return found


def test_altered_captions_are_wrong_and_paraphrases_are_not():
    seen = []
    for clip in clips():
        said = contrasts_of(clip.caption, clip.tags, seed=clip.name, paraphrases=4, altered=9)
        assert not contradictions(clip.caption, clip.caption, clip.tags)
        for text in said.paraphrases:
            assert not contradictions(text, clip.caption, clip.tags), (clip, text)
        for text in said.altered:
            wrong = contradictions(text, clip.caption, clip.tags)
            assert len(wrong) == 1, (clip, text, wrong)  # one thing, and the rest is true
            seen += wrong
        assert len({clip.caption, *said.paraphrases, *said.altered}) == 1 + len(said.paraphrases + said.altered)
        assert said.paraphrases
    kinds = {'order', 'one', 'another phrase', 'a clear beat', *NUMBERS, *OPPOSITE}
    assert kinds <= set(seen) and any('minor' in word for word in seen) and any(word.isdigit() for word in seen)


def test_numbers_of_captions_and_the_seed_count_and_nothing_is_known_to_be_wrong_without_tags():
    clip = next(clips())
    few = contrasts_of(clip.caption, clip.tags, seed='a', paraphrases=1, altered=1)
    assert (len(few.paraphrases), len(few.altered)) == (1, 2)  # of the caption and of the paraphrase
    assert contrasts_of(clip.caption, clip.tags, seed='a', paraphrases=1, altered=1) == few
    assert any(contrasts_of(clip.caption, clip.tags, seed=s, paraphrases=1, altered=1) != few for s in 'bcdef')
    plain = contrasts_of('a dog barks {loudly}', {}, seed='a')
    assert len(plain.paraphrases) == 3 and all('a dog barks {loudly}' in text for text in plain.paraphrases)
    assert plain.altered == ()


@pytest.fixture
def captions(tmp_path):
    """A folder of captioned clips: ticks of three drums and a loop."""
    made = []
    for index, kind in enumerate(('cowbell', 'kick drum', 'snare drum', 'drum loop')):
        tags = {'Sound': kind, 'Count': 'one'}
        made.append(Clip(f'clip{index}', 'train', 'effect', kind, f'hard {kind}', 'CC0', 'kit', tags))
        audio = np.random.default_rng(index).standard_normal((1, 4410 if index < 3 else 44100 * 3)).astype(np.float32)
        save_clip(made[-1], prepare_audio(audio, 44100), tmp_path / 'captions' / 'audio')
    write_clip_manifests(made, tmp_path / 'captions' / 'audio', tmp_path / 'captions')
    return tmp_path / 'captions'


def test_composed_clips_hold_what_they_say(captions, tmp_path):
    made = list(compose_clips(captions / 'train.jsonl.gz', tmp_path, split='train', number=6))
    counted = [clip for clip in made if clip.kind == 'counted hits']
    ordered = [clip for clip in made if clip.kind == 'sounds in order']
    assert len(counted) == len(ordered) == 6
    for clip in counted:
        audio, rate = read_audio(tmp_path / f'{clip.name}.flac')
        loud = np.abs(audio[0]).reshape(-1, 441).max(axis=1) > 0.02
        assert int((np.diff(loud.astype(int), prepend=0) == 1).sum()) == NUMBERS.index(clip.tags['Count']) + 2
        assert clip.tags['Count'] in clip.caption.split() and clip.tags['Sounds'] in clip.caption
    for clip in ordered:
        assert clip.tags['First'] != clip.tags['Second'] and 'loop' not in clip.caption
    assert made == list(compose_clips(captions / 'train.jsonl.gz', tmp_path, split='train', number=6))
    other = list(compose_clips(captions / 'train.jsonl.gz', tmp_path, split='train', number=6, seed=1))
    assert [clip.caption for clip in other] != [clip.caption for clip in made]
    assert not {clip.name for clip in other} & {clip.name for clip in made}  # no clip on disk stands for another


def test_the_script_adds_what_the_loss_reads(captions, tmp_path, monkeypatch, capsys, repository):
    monkeypatch.syspath_prepend(str(repository / 'examples'))
    import prepare_contrasts

    assert prepare_contrasts.main(['--captions', str(captions), '--out', str(captions)]) == 1
    assert 'another folder' in capsys.readouterr().err
    arguments = ['--captions', str(captions), '--out', str(tmp_path / 'out'), '--composed', '2', '--each', '2']
    assert prepare_contrasts.main(arguments) == 0
    cuts = list(CutSet.from_file(tmp_path / 'out' / 'train.jsonl.gz'))
    assert len(cuts) == 8
    assert all((tmp_path / 'out' / cut.recording.sources[0].source).exists() for cut in cuts)
    assert all(len(cut.custom['paraphrases']) == 2 for cut in cuts)
    assert [cut.custom['altered'][0] for cut in cuts[:2]] == ['soft cowbell', 'soft kick drum']
    assert all(cut.custom['altered'] for cut in cuts[4:])
    assert prepare_contrasts.main(arguments) == 0
    again = CutSet.from_file(tmp_path / 'out' / 'train.jsonl.gz')
    assert [cut.custom for cut in again] == [cut.custom for cut in cuts]
