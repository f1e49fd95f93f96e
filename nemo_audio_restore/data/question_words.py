"""What is asked about recordings whose facts are known, in which words, and what is answered: a closed vocabulary."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_audio_restore.data.question_text import with_options

FORMS = ('words', 'yes or no', 'options')
NUM_OPTIONS = 4
_LISTS = 4


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
        labels: everything that can be the answer.
        questions: paraphrases; the last one is never trained.
        claims: questions for yes or no about a label in place of ``{}``; the last one is never trained.
    """

    labels: tuple[str, ...]
    questions: tuple[str, ...]
    claims: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Attributes:
        question: complete, with options where there are any.
        answer: what is to be said.
        form: one of ``FORMS``.
        options: what can be chosen, in the order in which the question lists it; else empty.
    """

    question: str
    answer: str
    form: str
    options: tuple[str, ...] = ()


TASKS: Mapping[str, Task] = {
    'instrument': Task(
        labels=(
            *('accordion', 'acoustic guitar', 'bass', 'brass', 'choir', 'drum kit', 'electric guitar', 'flute'),
            *('mallet percussion', 'organ', 'piano', 'reed woodwinds', 'saxophone', 'strings', 'synth lead'),
            'synth pad',
        ),
        questions=(
            'Which instrument is playing?',
            'What instrument do you hear?',
            'Name the instrument.',
            'What is being played here?',
        ),
        claims=('Is this the sound of {}?', 'Do you hear {}?'),
    ),
    'drum': Task(
        labels=('cowbell', 'cymbal', 'hand drum', 'hi-hat', 'kick drum', 'rim click', 'snare drum', 'tom drum'),
        questions=(
            'Which part of a drum kit is struck?',
            'Which drum is this?',
            'Name the drum.',
            'What kind of drum sound is it?',
        ),
        claims=('Is this the sound of {}?', 'Do you hear {}?'),
    ),
    'sound': Task(
        labels=(
            *('animal', 'bird', 'bow and arrow', 'electronic blip', 'explosion', 'fire', 'footsteps', 'leaves'),
            *('metal', 'stone', 'village', 'water', 'wind', 'wood'),
        ),
        questions=(
            'What makes this sound?',
            'What is the source of the sound?',
            'Name the sound.',
            'What can be heard in this recording?',
        ),
        claims=('Is this the sound of {}?', 'Do you hear {}?'),
    ),
    'count': Task(
        labels=('one', 'two', 'three', 'four', 'five'),
        questions=(
            'How many hits are there?',
            'Count the sounds.',
            'How many times does it sound?',
            'What is the number of hits?',
        ),
        claims=('Is the number of hits {}?', 'Do you count {}?'),
    ),
    'order': Task(
        labels=(),
        questions=(
            'Which sound comes first?',
            'What is heard first?',
            'What does the recording begin with?',
            'Name the first sound.',
        ),
        claims=('Is {} the first sound?', 'Does it begin with {}?'),
    ),
    'tempo': Task(
        labels=('slow', 'medium', 'fast'),
        questions=(
            'What is the tempo?',
            'How fast is the music?',
            'Slow, medium or fast?',
            'At what pace is it played?',
        ),
        claims=('Is the tempo {}?', 'Is the pace {}?'),
    ),
    'key': Task(
        labels=('major', 'minor'),
        questions=('Is the key major or minor?', 'What is the mode?', 'Major or minor?', 'In what kind of key is it?'),
        claims=('Is the key {}?', 'Is this in a {} key?'),
    ),
    'language': Task(
        labels=('bulgarian', 'czech', 'english', 'french', 'romanian', 'russian', 'spanish'),
        questions=(
            'Which language is spoken?',
            'What language is this?',
            'Name the language.',
            'In which language does the person speak?',
        ),
        claims=('Is the language {}?', 'Does the person speak {}?'),
    ),
    'kind': Task(
        labels=('speech', 'music', 'sound effect'),
        questions=(
            'Is this speech, music or a sound effect?',
            'What kind of recording is this?',
            'Speech, music or sound effect?',
            'What type of audio do you hear?',
        ),
        claims=('Is this a recording of {}?', 'Would you call this {}?'),
    ),
}
"""Every task; the labels of ``order`` are those of ``ORDERED``."""

ORDERED = tuple(label for name in ('drum', 'sound', 'instrument') for label in TASKS[name].labels)
"""What can come first: every drum, sound and instrument."""


def labels_of(task: str) -> tuple[str, ...]:
    """Everything that can be the answer to a task's questions."""
    return ORDERED if task == 'order' else TASKS[task].labels


def ask_about(
    task: str,
    label: str,
    *,
    form: str,
    generator: random.Random,
    held_out: bool = False,
    present: Sequence[str] = (),
) -> Asked:
    """Writes one question about a fact.

    Args:
        task: of ``TASKS``.
        label: what is true.
        form: of ``FORMS``.
        generator: of the choices.
        held_out: use the paraphrase that is never trained; else one of the others.
        present: other labels that must be among the options, such as the second of two sounds.

    Returns:
        The question with its answer; half of the claims are true.

    Raises:
        ValueError: the task does not know the label, or there is no such form.
    """
    labels = labels_of(task)
    if label not in labels or form not in FORMS:
        raise ValueError(f'{task} asks for one of {", ".join(labels)} in the forms {", ".join(FORMS)}; got {label!r}')
    texts = TASKS[task].claims if form == 'yes or no' else TASKS[task].questions
    text = texts[-1] if held_out else generator.choice(texts[:-1])
    others = [other for other in labels if other != label]
    if form == 'words':
        return Asked(text, label, form)
    if form == 'yes or no':
        true = generator.random() < 0.5
        claimed = label if true else generator.choice(list(present) or others)
        return Asked(text.format(claimed), 'yes' if true else 'no', form)
    # Few lists for each label, so that few different texts pass the language model in training.
    drawn = random.Random(f'{task}/{label}/{generator.randrange(_LISTS)}')
    options = distractors(task, label, present=present, generator=drawn)
    options.insert(drawn.randrange(len(options) + 1), label)
    return Asked(with_options(text, options), label, form, tuple(options))


def distractors(task: str, label: str, *, present: Sequence[str] = (), generator: random.Random) -> list[str]:
    """Wrong options beside a right one: those present first, then any.

    Args:
        task: of ``TASKS``.
        label: what is true.
        present: labels that must be among them.
        generator: of the choices.

    Returns:
        At most ``NUM_OPTIONS`` - 1 labels, shuffled. Two sounds in order have no other options than each other.
    """
    wanted = [other for other in present if other != label]
    if task != 'order':
        others = [other for other in labels_of(task) if other != label and other not in wanted]
        wanted += generator.sample(others, min(len(others), NUM_OPTIONS - 1 - len(wanted)))
    return generator.sample(wanted, len(wanted))
