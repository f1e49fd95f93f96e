"""Claims about manifests from strangers: none of them gets to run a command."""

import gzip
import io
import json
import tarfile

import pytest
import yaml

from nemo_audio_restore.data.manifest_safety import UnsafeManifestError, check_data_config, check_manifest


def _cut(**source):
    recording = {'id': 'r', 'sampling_rate': 44100, 'num_samples': 44100, 'duration': 1.0}
    recording['sources'] = [{'type': 'file', 'channels': [0], 'source': 'a.flac', **source}]
    return {'id': 'c', 'start': 0, 'duration': 1.0, 'channel': 0, 'type': 'MonoCut', 'recording': recording}


GOOD = [_cut(), {'audio_filepath': 'rock | roll/pipe organ.flac', 'duration': 1.0, 'text': 'the command | line'}]
EVIL = [
    _cut(type='command', source='touch /tmp/ran'),
    _cut(source='pipe:touch /tmp/ran'),
    {**_cut(), 'custom': {'target_recording': _cut(type='command', source='x')['recording']}},
    {'audio_filepath': 'pipe:touch /tmp/ran', 'duration': 1.0},
    {'audio_filepath': ' PIPE:touch /tmp/ran', 'duration': 1.0},
    {'features': {'storage_type': 'kaldiio', 'storage_path': 'touch /tmp/ran |'}},
]


def _write(path, entries, escape=False):
    lines = '\n'.join(json.dumps(entry) for entry in entries)
    if escape:
        lines = lines.replace('command', '\\u0063ommand').replace('pipe:', '\\u0070ipe:')
    data = lines.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
    return path


@pytest.mark.parametrize('name', ['m.jsonl', 'm.jsonl.gz', 'm.json'])
@pytest.mark.parametrize('evil', EVIL)
def test_entry_that_runs_a_command_is_refused_wherever_it_stands(evil, name, tmp_path):
    with pytest.raises(UnsafeManifestError, match='runs'):
        check_manifest(_write(tmp_path / name, [*GOOD, evil]))


@pytest.mark.parametrize('evil', EVIL[:4])
def test_command_in_escaped_letters_is_found(evil, tmp_path):
    with pytest.raises(UnsafeManifestError, match='line 3'):
        check_manifest(_write(tmp_path / 'm.jsonl', [*GOOD, evil], escape=True))


def test_good_manifests_pass(tmp_path):
    for name in ('m.jsonl', 'm.jsonl.gz', 'm.json'):
        check_manifest(_write(tmp_path / name, GOOD))


def test_json_document_over_several_lines_is_read_whole(tmp_path):
    path = tmp_path / 'm.json'
    path.write_text(json.dumps(GOOD, indent=1))
    check_manifest(path)
    path.write_text(json.dumps([*GOOD, EVIL[0]], indent=1))
    with pytest.raises(UnsafeManifestError):
        check_manifest(path)


def test_line_that_cannot_be_checked_is_refused(tmp_path):
    (tmp_path / 'm.jsonl').write_text('{"source": "a |"\n')
    with pytest.raises(UnsafeManifestError, match='no JSON'):
        check_manifest(tmp_path / 'm.jsonl')


def test_shar_folder_is_checked_inside_its_archives(tmp_path):
    _write(tmp_path / 'cuts.000000.jsonl.gz', GOOD)
    check_manifest(tmp_path)
    with tarfile.open(tmp_path / 'recording.000000.tar', 'w') as archive:
        data = json.dumps(EVIL[0]['recording']).encode()
        member = tarfile.TarInfo('c.json')
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    with pytest.raises(UnsafeManifestError, match='member c.json'):
        check_manifest(tmp_path)


@pytest.mark.parametrize(
    'place',
    [
        lambda path: {'cuts_path': path},
        lambda path: {'manifest_filepath': [['x.jsonl'], [path]]},
        lambda path: {'shar_path': {'cuts': [path]}},
        lambda path: {'input_cfg': [{'type': 'lhotse', 'cuts_path': path, 'weight': 0.5}]},
        lambda path: {'input_cfg': [{'type': 'group', 'input_cfg': [{'type': 'nemo', 'manifest_filepath': path}]}]},
    ],
)
def test_config_is_refused_for_a_manifest_it_names(place, tmp_path):
    check_data_config(place(str(_write(tmp_path / 'm.jsonl', GOOD))))
    with pytest.raises(UnsafeManifestError, match='m.jsonl, line 1'):
        check_data_config(place(str(_write(tmp_path / 'm.jsonl', EVIL))))


def test_config_file_named_by_input_cfg_is_followed(tmp_path):
    manifest = _write(tmp_path / 'm.jsonl', EVIL)
    entries = [{'type': 'lhotse', 'cuts_path': str(manifest)}]
    (tmp_path / 'input.yaml').write_text(yaml.safe_dump(entries))
    with pytest.raises(UnsafeManifestError):
        check_data_config({'input_cfg': str(tmp_path / 'input.yaml')})


@pytest.mark.parametrize('pattern', ['m__OP_0..11_CL_.jsonl', 'm_{0..11}.jsonl'])
def test_every_shard_of_a_pattern_is_checked(pattern, tmp_path):
    for number in range(12):
        _write(tmp_path / f'm_{number}.jsonl', GOOD)
    check_data_config({'manifest_filepath': str(tmp_path / pattern)})
    _write(tmp_path / 'm_11.jsonl', EVIL)
    with pytest.raises(UnsafeManifestError):
        check_data_config({'manifest_filepath': str(tmp_path / pattern)})


def test_pipe_in_the_config_itself_is_refused():
    for key in ('cuts_path', 'tarred_audio_filepaths', 'shar_path'):
        with pytest.raises(UnsafeManifestError, match='curl'):
            check_data_config({key: 'pipe:curl x'})
    check_data_config({'cuts_path': 'missing.jsonl', 'batch_size': 4, 'seed': None})
    check_data_config(None)
