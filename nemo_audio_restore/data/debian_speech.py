"""Speech that Debian packages ship: which recordings, in which language, what is said, and which split they belong to.

Games hold hours of clean speech. Their copyright files state one licence for each package; most of it is GPL. The
splits keep languages apart: Danish, English, German and Norwegian are only ever tested on, in every package, and whole
levels of the one game with a story are too. Two collections of sentences at 16 kHz serve speech recognition only.
"""

import gzip
import hashlib
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nemo_audio_restore.data.corpus import Candidate

TEST_LANGUAGES = ('da', 'de', 'en', 'nb', 'nn')
_VALIDATION_LANGUAGES = ('gl', 'lt', 'sl')
_NUM_TEST_LEVELS, _NUM_VALIDATION_LEVELS = 5, 3
_LANGUAGE = re.compile(r'_(desc_)?(zh_tw|[a-z]{2}(?:_[A-Z]{2})?)$')
_DIALOGUE = re.compile(r'dialogId\("([^"]+)".*?dialogStr\("((?:[^"\\]|\\.)*)"', re.DOTALL)
_FESTIVAL_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')


@dataclass(frozen=True)
class SpeechPackage:
    """A package, and how to find the speech in it.

    Attributes:
        licence: short name, as the copyright file states it.
        folder: where the recordings lie in the package.
        find: from the unpacked folders of the package and its companions to the recordings.
        companions: packages with the transcripts.
        recognition: sentences at 16 kHz for character error rates, neither for training nor for wide-band metrics.
    """

    licence: str
    folder: str
    find: Callable[[Path, str], list[Candidate]]
    companions: tuple[str, ...] = ()
    recognition: bool = False


def is_tested(language: str) -> bool:
    """Whether recordings in a language (``en``, ``en_GB``, ...) are kept out of training and validation."""
    return language.split('_')[0] in TEST_LANGUAGES


def unpack(deb: Path, folder: Path, prefixes: Iterable[str]) -> None:
    """Takes the files below some folders of a package out of its ``.deb`` file; files that exist are kept.

    Args:
        deb: the package file.
        folder: where the package's tree is rebuilt.
        prefixes: paths in the package, such as ``usr/share/doc``.

    Raises:
        RuntimeError: ``dpkg-deb`` cannot read the file.
    """
    prefixes = tuple(PurePosixPath(prefix).parts for prefix in prefixes)
    with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', str(deb)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode='r|') as tar:
            for member in tar:
                parts = PurePosixPath(member.name.removeprefix('./')).parts
                if not member.isfile() or '..' in parts or not any(parts[: len(p)] == p for p in prefixes):
                    continue
                target = folder.joinpath(*parts)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
        process.stdout.close()
        if process.wait() not in (0, -13):
            raise RuntimeError(f'dpkg-deb cannot read {deb}')


def find_fillets(root: Path, licence: str) -> list[Candidate]:
    """Czech dialogue of Fish Fillets; a level's recordings share a group, and some levels are held out whole."""
    sounds = root / 'usr/share/games/fillets-ng/sound'
    scripts = root / 'usr/share/games/fillets-ng/script'
    paths = sorted(sounds.rglob('cs/*.ogg'))
    levels = sorted({path.parent.parent.relative_to(sounds).as_posix() for path in paths}, key=_hashed)
    splits = dict.fromkeys(levels, 'train')
    splits.update(dict.fromkeys(levels[:_NUM_TEST_LEVELS], 'test'))
    splits.update(dict.fromkeys(levels[_NUM_TEST_LEVELS : _NUM_TEST_LEVELS + _NUM_VALIDATION_LEVELS], 'validation'))
    said = {
        (script.parent.relative_to(scripts).as_posix(), name): text.replace('\\"', '"')
        for script in sorted(scripts.rglob('dialogs_cs.lua'))
        for name, text in _DIALOGUE.findall(script.read_text(encoding='utf-8', errors='replace'))
    }
    found = []
    for path in paths:
        level = path.parent.parent.relative_to(sounds).as_posix()
        text = said.get((level, path.stem))
        found.append(Candidate(path, f'fillets/{level}', licence, splits[level], language='cs', text=text))
    return found


def find_tuxpaint(root: Path, licence: str) -> list[Candidate]:
    """Names of things, spoken by one volunteer or few in each language; the texts lie beside them."""
    stamps = root / 'usr/share/tuxpaint/stamps'
    found = []
    for path in sorted(stamps.rglob('*.ogg')):
        match = _LANGUAGE.search(path.stem)
        if match:
            language = match.group(2)
            text = _stamp_text(path.with_name(path.stem[: match.start()] + '.txt'), language) if match[1] else None
            split = 'test' if is_tested(language) else 'train'
            found.append(Candidate(path, f'tuxpaint/{language}', licence, split, language=language, text=text))
    return found


def find_klettres(root: Path, licence: str) -> list[Candidate]:
    """Letters and syllables; nothing is tested on them, so the test languages are left out."""
    sounds = root / 'usr/share/klettres'
    return [
        Candidate(path, f'klettres/{language}', licence, 'train', language=language)
        for path in sorted(sounds.rglob('*.ogg'))
        if not is_tested(language := path.relative_to(sounds).parts[0])
    ]


def find_ktuberling(root: Path, licence: str) -> list[Candidate]:
    """Names of things; Danish is left out (its test recordings are those of Tux Paint), some languages validate."""
    sounds = root / 'usr/share/ktuberling/sounds'
    found = []
    for path in sorted(sounds.rglob('*')):
        language = path.relative_to(sounds).parts[0]
        if path.suffix in ('.ogg', '.wav', '.opus') and language != 'da':
            split = 'validation' if language in _VALIDATION_LANGUAGES else 'test' if is_tested(language) else 'train'
            found.append(Candidate(path, f'ktuberling/{language}', licence, split, language=language))
    return found


def find_asterisk(root: Path, licence: str) -> list[Candidate]:
    """English prompts of a telephone exchange, 16 kHz, decoded from G.722 to FLAC beside the originals by ffmpeg.

    Args:
        root: the unpacked package and its companion.
        licence: of the recordings.

    Returns:
        Those with a transcript.

    Raises:
        RuntimeError: ffmpeg is missing or fails.
    """
    lines = gzip.decompress((root / 'usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz').read_bytes())
    said = dict(line.split(': ', 1) for line in lines.decode('utf-8', 'replace').splitlines() if ': ' in line)
    sounds = root / 'usr/share/asterisk/sounds/en_US_f_Allison'
    found = []
    for path in sorted(sounds.rglob('*.g722')):
        text = said.get(path.relative_to(sounds).with_suffix('').as_posix())
        if text:
            decoded = _decode_g722(path)
            found.append(Candidate(decoded, 'asterisk', licence, 'test', language='en', text=text.strip()))
    return found


def find_festvox_ru(root: Path, licence: str) -> list[Candidate]:
    """Russian sentences, 16 kHz, recorded for a synthesiser; plus signs mark stress in its texts and are taken out."""
    voice = root / 'usr/share/festival/voices/russian/msu_ru_nsh_clunits'
    lines = (voice / 'etc/txt.done.data').read_text(encoding='utf-8').splitlines()
    said = dict(match.groups() for match in map(_FESTIVAL_LINE.match, lines) if match)
    return [
        Candidate(path, 'festvox-ru', licence, 'test', language='ru', text=said[path.stem].replace('+', ''))
        for path in sorted((voice / 'wav').glob('*.wav'))
        if path.stem in said
    ]


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _stamp_text(path: Path, language: str) -> str | None:
    """The line of a language; the first line is English."""
    if not path.exists():
        return None
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    for key in (f'{language}.utf8=', f'{language.split("_")[0]}.utf8='):
        for line in lines:
            if line.startswith(key):
                return line.removeprefix(key).strip() or None
    return lines[0].strip() or None if lines and language.startswith('en') else None


def _decode_g722(path: Path) -> Path:
    target = path.with_suffix('.flac')
    if not target.exists():
        command = ['ffmpeg', '-v', 'error', '-y', '-f', 'g722', '-i', str(path), str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise RuntimeError('G.722 recordings need ffmpeg; install it (apt-get install ffmpeg)') from error
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f'ffmpeg cannot decode {path}: {error.stderr.strip()}') from error
    return target


# Left out: fillets-ng-data-nl, which ends at 6 kHz, and sounds of hedgewars, whose languages are not stated.
SPEECH_PACKAGES = {
    'fillets-ng-data-cs': SpeechPackage(
        'GPL-2', 'usr/share/games/fillets-ng', find_fillets, companions=('fillets-ng-data',)
    ),
    'tuxpaint-stamps-default': SpeechPackage('GPL-2', 'usr/share/tuxpaint/stamps', find_tuxpaint),
    'klettres-data': SpeechPackage('GPL-2+', 'usr/share/klettres', find_klettres),
    'ktuberling-data': SpeechPackage('GPL-2+', 'usr/share/ktuberling/sounds', find_ktuberling),
    'asterisk-core-sounds-en-g722': SpeechPackage(
        'CC-BY-SA-3.0',
        'usr/share/asterisk/sounds',
        find_asterisk,
        companions=('asterisk-core-sounds-en',),
        recognition=True,
    ),
    'festvox-ru': SpeechPackage('BSD-like', 'usr/share/festival', find_festvox_ru, recognition=True),
}
