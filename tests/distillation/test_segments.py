import pytest
import torch

from nemo_audio_restore.distillation.segments import in_segments, segment_starts


@pytest.mark.parametrize('num_samples', [50, 100, 101, 150, 185, 1000])
@pytest.mark.parametrize('overlap', [0, 20, 60])
def test_segments_cover_the_recording_and_overlap_enough(num_samples, overlap):
    starts = segment_starts(num_samples, segment_samples=100, overlap_samples=overlap)
    assert starts[0] == 0 and starts[-1] == max(0, num_samples - 100)
    assert all(0 < b - a <= 100 - overlap for a, b in zip(starts[:-1], starts[1:], strict=True))


@pytest.mark.parametrize('num_samples', [90, 130, 185, 500])
def test_parts_that_add_up_to_every_segment_add_up_to_the_whole(num_samples):
    audio = torch.randn(2, num_samples, generator=torch.Generator().manual_seed(0))

    def divide(segment, index, checkpoint):
        # Shares differ from segment to segment, their sum does not.
        share = 0.1 + 0.8 * (index % 2)
        return torch.stack([share * segment, (1 - share) * segment])

    parts = in_segments(audio, divide, segment_samples=100, overlap_samples=20)
    torch.testing.assert_close(parts.sum(0), audio)
    assert num_samples <= 100 or not torch.allclose(parts[0], 0.1 * audio)


def test_an_interrupted_recording_goes_on_where_it_stopped_and_leaves_no_file(tmp_path):
    audio = torch.randn(1, 250, generator=torch.Generator().manual_seed(0))
    done = []

    def work(segment, index, checkpoint):
        assert checkpoint == tmp_path / 'run.pt'
        if index == 2 and len(done) < 3:
            done.append('stopped')
            raise KeyboardInterrupt
        done.append(index)
        return segment * (index + 1)

    options = {'segment_samples': 100, 'overlap_samples': 10, 'checkpoint': tmp_path / 'run.pt'}
    with pytest.raises(KeyboardInterrupt):
        in_segments(audio, work, **options)
    with pytest.raises(ValueError, match='another recording'):
        in_segments(audio + 1, work, **options)
    resumed = in_segments(audio, work, **options)
    assert done == [0, 1, 'stopped', 2] and not list(tmp_path.iterdir())
    whole = in_segments(
        audio, lambda segment, index, _: segment * (index + 1), segment_samples=100, overlap_samples=10
    )
    torch.testing.assert_close(resumed, whole)


def test_overlaps_as_long_as_a_segment_are_refused():
    with pytest.raises(ValueError, match='longer than they overlap; got 100, 100'):
        segment_starts(500, segment_samples=100, overlap_samples=100)
