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
            *('Which instrument is playing?', 'What instrument do you hear?', 'Name the instrument.'),
            *('Identify the instrument.', 'Which instrument is this?'),
            *('What is the instrument in this recording?', 'What instrument plays the melody?'),
            *('Which family does the instrument belong to?', 'Tell me the instrument.'),
            *('What kind of instrument is it?', 'On which instrument is this played?'),
            *('What does the musician play?', 'Which instrument produces these notes?'),
            *('Say which instrument you can hear.', 'Who or what is making the music?'),
            *('Recognise the instrument.', 'What type of instrument plays?'),
            'Which musical instrument was recorded?',
            'What is being played here?',
        ),
        claims=(
            *('Is this the sound of {}?', 'Is the instrument {}?', 'Can you hear {}?', 'Is {} playing?'),
            *('Was {} recorded?', 'Does this sound like {}?', 'Would you say it is {}?'),
            'Do you hear {}?',
        ),
    ),
    'drum': Task(
        labels=('cowbell', 'cymbal', 'hand drum', 'hi-hat', 'kick drum', 'rim click', 'snare drum', 'tom drum'),
        questions=(
            *('Which part of a drum kit is struck?', 'Which drum is this?', 'Name the drum.'),
            *('Identify the drum.', 'What percussion is being hit?', 'Which piece of the kit do you hear?'),
            *('What does the drummer strike?', 'Which percussion instrument is it?', 'What was hit?'),
            *('Tell me which drum sounds.', 'What part of the drum set is it?', 'Which drum is played?'),
            *('What drum can be heard?', 'Say the name of the percussion.', 'What type of drum was recorded?'),
            *('Recognise the drum.', 'Which percussion sample is this?'),
            'What kind of drum sound is it?',
        ),
        claims=(
            *('Is this the sound of {}?', 'Is the drum {}?', 'Can you hear {}?', 'Was {} struck?'),
            *('Did the drummer hit {}?', 'Does this sound like {}?', 'Would you say it is {}?'),
            'Do you hear {}?',
        ),
    ),
    'sound': Task(
        labels=(
            *('animal', 'bird', 'bow and arrow', 'electronic blip', 'explosion', 'fire', 'footsteps', 'leaves'),
            *('metal', 'stone', 'village', 'water', 'wind', 'wood'),
        ),
        questions=(
            *('What makes this sound?', 'What is the source of the sound?', 'Name the sound.'),
            *('Identify the sound.', 'What is this noise?', 'Which sound is it?', 'What sound do you hear?'),
            *('What could be making this noise?', 'Where does the sound come from?'),
            *('Tell me what it sounds like.', 'What is happening in the recording?'),
            *('What did the microphone pick up?', 'Which sound effect is this?', 'What event do you hear?'),
            *('What is the noise from?', 'Recognise the sound.', 'Say what makes the noise.'),
            'What produced this sound?',
            'What can be heard in this recording?',
        ),
        claims=(
            *('Is this the sound of {}?', 'Is the noise from {}?', 'Can you hear {}?', 'Was {} recorded?'),
            *('Is the source {}?', 'Does this sound like {}?', 'Would you say it is {}?'),
            'Do you hear {}?',
        ),
    ),
    'count': Task(
        labels=('one', 'two', 'three', 'four', 'five'),
        questions=(
            *('How many hits are there?', 'Count the sounds.', 'How many times does it sound?'),
            *('Count the hits.', 'How many strokes do you hear?', 'How often is the drum struck?'),
            *('How many beats can you count?', 'Tell me how many sounds there are.'),
            *('How many times is it hit?', 'How many events are in the recording?'),
            *('How often does the sound occur?', 'Give the count of the strokes.'),
            *('How many separate sounds do you hear?', 'How many notes are struck?'),
            *('Say how often it sounds.', 'Number of beats?', 'How many knocks are there?'),
            'How often was something hit?',
            'What is the number of hits?',
        ),
        claims=(
            *('Is the number of hits {}?', 'Are there {}?', 'Is the count {}?', 'Is it struck {} times?'),
            *('Does it sound {} times?', 'Can you hear {} of them?', 'Is {} the right count?'),
            'Do you count {}?',
        ),
    ),
    'order': Task(
        labels=(),
        questions=(
            *('Which sound comes first?', 'What is heard first?', 'What does the recording begin with?'),
            *('Which of the sounds is the first?', 'What do you hear at the beginning?'),
            *('What sounds before the other?', 'Which one is earlier?', 'What is at the start?'),
            *('Identify the first of the two sounds.', 'Which sound opens the recording?'),
            *('What happens first?', 'With what does it start?'),
            *('Tell me what comes before the second sound.', 'Of the two, which is heard earlier?'),
            *('What is the first thing you hear?', 'Which sound starts the recording?'),
            'Say which sound is the earlier one.',
            'Name the first sound.',
        ),
        claims=(
            *('Is {} the first sound?', 'Is {} heard first?', 'Does {} come before the other?'),
            *('Is {} at the beginning?', 'Does the recording start with {}?', 'Is {} the earlier one?'),
            'Do you hear {} first?',
            'Does it begin with {}?',
        ),
    ),
    'tempo': Task(
        labels=('slow', 'medium', 'fast'),
        questions=(
            *('What is the tempo?', 'How fast is the music?', 'Slow, medium or fast?'),
            *('How quick is the piece?', 'What speed does the music have?'),
            *('Is the tempo slow, medium or fast?', 'How would you describe the tempo?'),
            *('Which tempo do you hear?', 'How quickly do the chords follow each other?', 'Name the tempo.'),
            *('Is it played slowly or fast?', 'Tell me how fast it goes.', 'What is the speed of the beat?'),
            *('How fast are the beats?', 'Identify the tempo.'),
            'At what pace is it played?',
        ),
        claims=(
            *('Is the tempo {}?', 'Is the music {}?', 'Is the speed {}?', 'Is it played at a {} tempo?'),
            *('Would you call the tempo {}?', 'Does it go at a {} speed?'),
            'Is the pace {}?',
        ),
    ),
    'key': Task(
        labels=('major', 'minor'),
        questions=(
            *('Is the key major or minor?', 'What is the mode?', 'Major or minor?'),
            *('Is it in major or in minor?', 'Which mode do the chords have?'),
            *('Is this piece major or minor?', 'What is the tonality?', 'Is the harmony major or minor?'),
            *('Name the mode.', 'Tell me whether it is major or minor.', 'Does it sound major or minor?'),
            *('Which mode is the music in?', 'Identify the mode of the key.'),
            'In what kind of key is it?',
        ),
        claims=(
            *('Is the key {}?', 'Is the mode {}?', 'Is the music in {}?', 'Are the chords {}?'),
            *('Would you call it {}?', 'Does it sound {}?'),
            'Is this in a {} key?',
        ),
    ),
    'language': Task(
        labels=('bulgarian', 'czech', 'english', 'french', 'romanian', 'russian', 'spanish'),
        questions=(
            *('Which language is spoken?', 'What language is this?', 'Name the language.'),
            *('Identify the language.', 'What language do you hear?', 'Which language does the speaker use?'),
            *('What is the language of the speech?', 'What tongue is being spoken?', 'Tell me the language.'),
            *('Which language are the words in?', 'What language is the voice speaking?'),
            *('In what language is this said?', 'Recognise the language.', 'Which language was recorded?'),
            *('Say which language this is.', 'What does the voice speak?'),
            'In which language does the person speak?',
        ),
        claims=(
            *('Is the language {}?', 'Is this {}?', 'Is {} spoken?', 'Are the words in {}?'),
            *('Does the voice speak {}?', 'Would you say it is {}?'),
            'Does the person speak {}?',
        ),
    ),
    'kind': Task(
        labels=('speech', 'music', 'sound effect'),
        questions=(
            *('Is this speech, music or a sound effect?', 'What kind of recording is this?'),
            *('Speech, music or sound effect?', 'Which category does the recording belong to?'),
            *('Is it music, speech or an effect?', 'How would you classify the recording?'),
            'What sort of sound is it: speech, music or sound effect?',
            *('Is somebody speaking, is it music, or a sound effect?', 'What is the category of the audio?'),
            *('Is it speech or music or something else?', 'Name the type of recording.'),
            *('Identify the kind of audio.', 'Tell me whether it is speech, music or a sound effect.'),
            *('Which type of content is recorded?', 'What class of audio is this?'),
            'What type of audio do you hear?',
        ),
        claims=(
            *('Is this a recording of {}?', 'Is it {}?', 'Is the category {}?', 'Is this audio {}?'),
            *('Does the recording contain {}?', 'Is the content {}?'),
            'Would you call this {}?',
        ),
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
