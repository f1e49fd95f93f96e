"""Answers about many files: in batches, one bad file ending nothing, and kept as lines of JSON that survive a stop."""

import json
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nemo_audio_restore.apps import console
from nemo_audio_restore.apps.inputs import UsageError

if TYPE_CHECKING:
    from nemo_audio_restore.models.conversations import HeardRecording

Record = dict[str, Any]
"""What is known of a file: ``audio``, what was asked and the answer; where it applies ``warnings``, ``error``, and
``cut``, true for an answer that was cut at its limit of tokens."""


@dataclass(frozen=True)
class Work:
    """How files are answered.

    Attributes:
        listen: reads a file.
        answer: answers for the recordings of a batch, in their order.
        asked: what is asked of every file, and how: the head of its record.
        batch_size: files at once.
        verbose: say where errors come from.
    """

    listen: Callable[[Path], 'HeardRecording']
    answer: Callable[[Sequence['HeardRecording']], Sequence[Record]]
    asked: Mapping[str, Any]
    batch_size: int
    verbose: bool = False

    def records(self, files: Sequence[Path]) -> Iterator[Record]:
        """Works on files.

        Args:
            files: in the order of the records.

        Yields:
            The record of each file; one that cannot be read or answered has an ``error``.

        Raises:
            QuestionError: what is asked cannot be asked of any file.
        """
        for start in range(0, len(files), self.batch_size):
            records: list[Record] = [
                {'audio': str(path), **self.asked} for path in files[start : start + self.batch_size]
            ]
            heard = {}
            for index, record in enumerate(records):
                with self._kept(record):
                    heard[index] = self.listen(Path(record['audio']))
            self._answer([records[index] for index in heard], list(heard.values()))
            yield from records

    def _answer(self, records: Sequence[Record], heard: Sequence['HeardRecording']) -> None:
        if not records:
            return
        if len(records) == 1:
            with self._kept(records[0]):
                records[0].update(self.answer(heard)[0])
            return
        with _caught_notes() as caught:
            try:
                answers = self.answer(heard)
            except Exception:  # also for lack of memory: each alone shows whose fault it was
                answers = None
        if answers is None:
            for record, recording in zip(records, heard, strict=True):
                self._answer([record], [recording])
            return
        for item, (record, answer) in enumerate(zip(records, answers, strict=True)):
            record.update(answer)
            caught.tell(record, item)

    @contextmanager
    def _kept(self, record: Record) -> Iterator[None]:
        """Puts warnings and errors of a file into its record."""
        from nemo_audio_restore.data.listening import NothingToHearError
        from nemo_audio_restore.data.question_text import QuestionError
        from nemo_audio_restore.files.audio import AudioFileError

        with _caught_notes() as caught:
            try:
                yield
            except QuestionError:
                raise
            except (AudioFileError, NothingToHearError) as error:
                record['error'] = str(error)
            except Exception as error:
                # One bad file must not end a folder of a thousand; the details are one option away.
                if self.verbose:
                    console.say(traceback.format_exc())
                record['error'] = f'{record["audio"]}: {type(error).__name__}: {error} (-v shows the details)'
        caught.tell(record, 0)


@dataclass
class _Caught:
    """What the model warned of: audio or text that it does not get, and which items have answers that were cut."""

    notes: list[str] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)

    def tell(self, record: Record, item: int) -> None:
        """Writes it into the record of an item."""
        if self.notes:
            record['warnings'] = [*record.get('warnings', ()), *self.notes]
        if item in self.cut:
            record['cut'] = True


@contextmanager
def _caught_notes() -> Iterator[_Caught]:
    """Holds, at the end, what there was to say."""
    from nemo_audio_restore.data.listening import InputWarning
    from nemo_audio_restore.models.audio_language_answers import CutAnswerWarning

    found = _Caught()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', InputWarning)
        warnings.simplefilter('always', CutAnswerWarning)
        yield found
    said = [warning.message for warning in caught]
    found.notes += dict.fromkeys(str(message) for message in said if isinstance(message, InputWarning))
    found.cut.update(item for message in said if isinstance(message, CutAnswerWarning) for item in message.items)


class AnswerFile:
    """A file with a line of JSON for every recording.

    Lines are written to a name of their own as they come, and the file appears when it is complete. What a run that
    was stopped has left is taken over by the next one that asks the same, but for files that failed.

    Args:
        path: of the file.
        asked: what is asked of every file; lines that asked something else are not taken over.
        overwrite: replace a complete file.

    Raises:
        UsageError: the file is there already, or its folder is not.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], *, overwrite: bool):
        if path.exists() and not overwrite:
            raise UsageError(f'{path} exists; allow it with --overwrite, or choose another name')
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f'{path} cannot be written: give the name of a file in a folder that exists')
        self.path = path
        self._partial = path.with_name(f'.{path.name}.partial')
        # As they come back from JSON.
        asked = json.loads(json.dumps(dict(asked)))
        self.done: dict[str, Record] = {
            record['audio']: record
            for record in _lines(self._partial)
            if 'error' not in record and all(record.get(key) == value for key, value in asked.items())
        }
        self._file: TextIO | None = None

    def __enter__(self) -> 'AnswerFile':
        # Written anew: the last line of a killed run may be half a line, and failures are asked again.
        fresh = self._partial.with_name(f'{self._partial.name}.new')
        fresh.write_text(''.join(map(_as_line, self.done.values())), encoding='utf-8')
        os.replace(fresh, self._partial)  # Windows renames no open file
        self._file = self._partial.open('a', encoding='utf-8')
        return self

    def write(self, record: Record) -> None:
        """Adds a line, which is on the disk afterwards."""
        assert self._file is not None
        self._file.write(_as_line(record))
        self._file.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        assert self._file is not None
        self._file.close()
        if kind is None:
            os.replace(self._partial, self.path)
        elif not self._partial.stat().st_size:
            self._partial.unlink()


def _as_line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + '\n'


def _lines(path: Path) -> Iterator[Record]:
    """Records of a file that may end in the middle of a line."""
    if not path.is_file():
        return
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get('audio'), str):
            yield record


def in_order(
    files: Sequence[Path], done: Mapping[str, Record], fresh: Iterator[Record]
) -> Iterator[tuple[Record, bool]]:
    """Records of all files, some of which an earlier run has left.

    Args:
        files: as named on the command line.
        done: records of an earlier run, by file.
        fresh: the records of the others, in their order.

    Yields:
        Record, and whether it is new.
    """
    for path in files:
        if str(path) in done:
            yield done[str(path)], False
        else:
            yield next(fresh), True
