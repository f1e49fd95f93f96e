"""Captioned batches: timing of crops, silence, and prompts made of metadata."""

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from nemo_audio_restore.data.captions import CaptionDataset, caption_of, crop_seconds, metadata_prompt
from nemo_audio_restore.data.clips import Clip, clip_path, write_clip_manifests

RATE = 8000
TAGS = {'Instruments': 'guitar, drums, bass', 'Genre': 'rock', 'BPM': '120'}


def make_cuts(folder, *audio: np.ndarray, tags=TAGS) -> CutSet:
    clips = []
    for index, samples in enumerate(audio):
        clip = Clip(f'c{index}', 'train', 'groove', 'rock', 'driving rock', 'CC0', 'kit', dict(tags))
        (folder / 'audio').mkdir(exist_ok=True)
        soundfile.write(clip_path(clip, folder / 'audio'), samples, RATE)
        clips.append(clip)
    manifests = write_clip_manifests(clips, folder / 'audio', folder)
    return CutSet.from_cuts(CutSet.from_file(manifests['train']).with_recording_path_prefix(str(folder)))


def ramp(seconds: float) -> np.ndarray:
    """Tells from its level where a crop begins."""
    return np.linspace(0.1, 0.9, round(seconds * RATE))


def test_a_whole_clip_starts_at_zero_and_lasts_its_seconds_rounded_up(tmp_path):
    batch = CaptionDataset(sample_rate=RATE)[make_cuts(tmp_path, ramp(2.5), ramp(4.0))]
    assert batch['audio'].shape == (2, 2, 4 * RATE) and batch['audio_lens'].tolist() == [2.5 * RATE, 4 * RATE]
    assert batch['seconds_start'].tolist() == [0, 0] and batch['seconds_total'].tolist() == [3, 4]
    assert batch['captions'] == ['driving rock'] * 2
    assert (batch['classes'], batch['tasks']) == (['rock'] * 2, ['groove'] * 2)


def test_other_wordings_come_from_the_custom_fields(tmp_path):
    (first, second) = make_cuts(tmp_path, ramp(1.0), ramp(1.0))
    first.custom = {**first.custom, 'paraphrases': ['rock that drives'], 'altered': ['rocking drive', 'slow rock']}
    batch = CaptionDataset(sample_rate=RATE)[CutSet.from_cuts([first, second])]
    assert batch['paraphrases'] == [['rock that drives'], []]
    assert batch['altered'] == [['rocking drive', 'slow rock'], []]


def test_the_start_says_where_the_crop_was_taken(tmp_path):
    cuts = make_cuts(tmp_path, ramp(8.0))
    exact = CaptionDataset(sample_rate=RATE, window_samples=RATE, whole_seconds=False, seed=3)
    for _ in range(5):
        batch = exact[cuts]
        assert batch['audio'].shape == (1, 2, RATE)
        heard = (float(batch['audio'][0, 0, 0]) - 0.1) / 0.8 * 8
        assert float(batch['seconds_start'][0]) == pytest.approx(heard, abs=0.02)
        assert float(batch['seconds_total'][0]) == 8


def test_whole_seconds_round_the_start_down_and_the_total_up(tmp_path):
    (cut,) = make_cuts(tmp_path, ramp(4.2))
    crop = cut.truncate(offset=1.7, duration=1.0)
    assert crop_seconds(crop) == (1.0, 5.0)
    assert crop_seconds(crop, whole=False) == pytest.approx((1.7, 4.2))


def test_a_short_clip_is_padded_to_the_window_with_silence(tmp_path):
    batch = CaptionDataset(sample_rate=RATE, window_samples=2 * RATE)[make_cuts(tmp_path, ramp(0.5))]
    assert batch['audio'].shape[2] == 2 * RATE and batch['audio_lens'].tolist() == [RATE // 2]
    assert not batch['audio'][:, :, RATE // 2 :].any()


def test_silent_crops_are_drawn_again(tmp_path):
    half = np.concatenate([np.zeros(8 * RATE), ramp(8.0)])
    cuts = make_cuts(tmp_path, half)
    dataset = CaptionDataset(sample_rate=RATE, window_samples=RATE)
    silent = sum(not dataset[cuts]['audio'].any() for _ in range(20))
    # One crop of twenty would be silent with probability 0.5 ** 6 each time.
    assert silent <= 3


def test_a_recording_without_sound_ends_the_search(tmp_path):
    batch = CaptionDataset(sample_rate=RATE, window_samples=RATE)[make_cuts(tmp_path, np.zeros(4 * RATE))]
    assert not batch['audio'].any()


def test_half_of_the_crops_have_their_phase_flipped(tmp_path):
    cuts = make_cuts(tmp_path, ramp(1.0))
    dataset = CaptionDataset(sample_rate=RATE, flips=True)
    negative = sum(float(dataset[cuts]['audio'].sum()) < 0 for _ in range(40))
    assert 8 < negative < 32
    plain = CaptionDataset(sample_rate=RATE)
    assert all(float(plain[cuts]['audio'].sum()) > 0 for _ in range(10))


def test_crops_come_at_the_level_that_is_asked_for(tmp_path):
    cuts = make_cuts(tmp_path, ramp(1.0), 0.01 * ramp(1.0), np.zeros(RATE))
    loud, faint, silent = CaptionDataset(sample_rate=RATE, level_db=-12.0)[cuts]['audio']
    assert loud[:, -800:].square().mean().sqrt() == pytest.approx(10 ** (-12 / 20), rel=0.02)
    torch.testing.assert_close(loud, faint, atol=1e-2, rtol=1e-2)  # 16 bits
    assert not silent.any()


def test_one_channel_is_the_mix_of_both(tmp_path):
    cuts = make_cuts(tmp_path, np.stack([ramp(1.0), -0.5 * ramp(1.0)], axis=1))
    stereo = CaptionDataset(sample_rate=RATE)[cuts]['audio']
    mono = CaptionDataset(sample_rate=RATE, channels=1)[cuts]['audio']
    assert mono.shape[1] == 1
    torch.testing.assert_close(mono, stereo.mean(dim=1, keepdim=True))


def test_the_seed_decides_the_crops(tmp_path):
    cuts = make_cuts(tmp_path, ramp(8.0))

    def starts(seed):
        dataset = CaptionDataset(sample_rate=RATE, window_samples=RATE, whole_seconds=False, seed=seed)
        return [float(dataset[cuts]['seconds_start']) for _ in range(3)]

    assert starts(1) == starts(1) != starts(2)


def test_the_share_of_metadata_decides_the_prompt(tmp_path):
    cuts = make_cuts(tmp_path, ramp(0.5))
    made = [CaptionDataset(sample_rate=RATE, metadata_share=0.5, seed=i)[cuts]['captions'][0] for i in range(30)]
    assert 5 < made.count('driving rock') < 25
    assert 'driving rock' not in CaptionDataset(sample_rate=RATE, metadata_share=1.0)[cuts]['captions']


def test_without_tags_the_caption_stays(tmp_path):
    cuts = make_cuts(tmp_path, ramp(0.5), tags={})
    assert CaptionDataset(sample_rate=RATE, metadata_share=1.0)[cuts]['captions'] == ['driving rock']


def test_a_cut_without_caption_and_a_missing_generator_are_errors(tmp_path):
    (cut,) = make_cuts(tmp_path, ramp(0.5))
    with pytest.raises(ValueError, match='need a generator'):
        caption_of(cut, metadata_share=0.5)
    cut.supervisions[0].text = ''
    with pytest.raises(ValueError, match='has no caption'):
        caption_of(cut)
    assert caption_of(cut, torch.Generator(), metadata_share=0.01)


def test_metadata_prompts_keep_types_with_bars_or_drop_them_with_commas():
    generator = torch.Generator().manual_seed(0)
    prompts = [metadata_prompt(TAGS, generator) for _ in range(400)]
    typed = [prompt for prompt in prompts if ':' in prompt]
    assert 150 < len(typed) < 250
    full = [prompt for prompt in typed if prompt.count(':') == 3]
    assert full and all(prompt.count('|') == 2 for prompt in full)
    assert all('|' not in prompt for prompt in prompts if ':' not in prompt)
    words = {word.strip() for prompt in prompts if ':' not in prompt for word in prompt.lower().split(',')}
    assert words == {'guitar', 'drums', 'bass', 'rock', '120'}


def test_metadata_prompts_vary_in_subset_order_and_case():
    generator = torch.Generator().manual_seed(1)
    prompts = [metadata_prompt(TAGS, generator) for _ in range(400)]
    untyped = [prompt for prompt in prompts if ':' not in prompt]
    assert {prompt.lower() for prompt in untyped} >= {'rock', '120', 'guitar, drums, bass', 'bass, drums, guitar'}
    assert {'ROCK', 'rock', 'Rock'} <= set(untyped)
    assert metadata_prompt(TAGS, torch.Generator().manual_seed(5)) == metadata_prompt(
        TAGS, torch.Generator().manual_seed(5)
    )


def test_a_prompt_needs_a_tag():
    with pytest.raises(ValueError, match='at least one tag'):
        metadata_prompt({}, torch.Generator())


@pytest.mark.parametrize(
    'arguments',
    [{'sample_rate': 0}, {'window_samples': 0}, {'channels': 3}, {'metadata_share': 1.5}],
)
def test_arguments_outside_their_range_are_refused(arguments):
    with pytest.raises(ValueError, match='must be'):
        CaptionDataset(**{'sample_rate': RATE, **arguments})
