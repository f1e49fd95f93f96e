"""Names of models with weights: what they are, where they are, and under which licence."""

from dataclasses import dataclass
from pathlib import Path

PRETRAINED_FOLDER = Path(__file__).resolve().parent.parent / 'pretrained'


@dataclass(frozen=True)
class ModelEntry:
    """One model that has a name.

    Attributes:
        name: what ``from_pretrained`` takes.
        model_class: name of the class that restores it.
        task: what it does, in the words of the command line.
        description: one sentence.
        location: ``package://FILE.nemo`` (ships with this package) or ``hf://ORG/NAME`` on the Hugging Face Hub.
        licence: SPDX identifier, or the name that the owner of the weights uses.
        sample_rate: in Hz.
        size_mb: of the download or file.
        how_to_get: for weights that must be converted by the user first: what to do; empty otherwise.
    """

    name: str
    model_class: str
    task: str
    description: str
    location: str
    licence: str
    sample_rate: int
    size_mb: float
    how_to_get: str = ''

    @property
    def path(self) -> Path | None:
        """The file of a model that ships with this package (it may be missing from a slim installation), or None."""
        scheme, _, rest = self.location.partition('://')
        return PRETRAINED_FOLDER / rest if scheme == 'package' else None

    @property
    def address(self) -> str:
        """The location as a ``file://`` or ``hf://`` address."""
        return self.path.as_uri() if self.path else self.location


_CONVERT_STABLE_AUDIO = (
    "Stability AI's weights may be downloaded after accepting their licence. Download model_config.json and "
    'model.safetensors from https://huggingface.co/{repository}, then run '
    '`audio-restore convert stable-audio --config model_config.json --weights model.safetensors -o {name}.nemo` '
    'and give the path of that file instead of the name; the text encoder is t5-base, from the hub or a folder.'
)

_FLAMINGO = (
    "NVIDIA's weights may not be passed on. Download the folder safe_ckpt of "
    'https://huggingface.co/nvidia/{repo}, then run '
    '`audio-restore convert audio-flamingo2 safe_ckpt --language-model Qwen/{language} -o {name}.nemo` '
    'and give the path of that file instead of the name.'
)

_MODELS = (
    ModelEntry(
        name='a2sb_44k_small',
        model_class='AudioRestoreModel',
        task='bandwidth extension and inpainting',
        description='Small A2SB bridge for laptop CPUs, trained on freely licensed game music.',
        location='package://a2sb_44k_small.nemo',
        licence='apache-2.0',
        sample_rate=44100,
        size_mb=16,
    ),
    ModelEntry(
        name='a2sb_44k',
        model_class='AudioRestoreModel',
        task='bandwidth extension and inpainting',
        description="NVIDIA's A2SB, two time experts of 565 M parameters each.",
        location='hf://nvidia/audio_to_audio_schrodinger_bridge',
        licence='NVIDIA OneWay Noncommercial License',
        sample_rate=44100,
        size_mb=4525,
        how_to_get=(
            "NVIDIA's weights may not be passed on. Download the two twosplit .ckpt files from "
            'https://huggingface.co/nvidia/audio_to_audio_schrodinger_bridge, then run '
            '`audio-restore convert a2sb --split 0:0.5=LOW.ckpt --split 0.5:1=HIGH.ckpt -o a2sb_44k.nemo` '
            'and give the path of that file instead of the name.'
        ),
    ),
    ModelEntry(
        name='audio_autoencoder_44k_small',
        model_class='AudioAutoencoderModel',
        task='audio autoencoder',
        description='Small stereo autoencoder for one CPU core: 36 numbers 21.5 times a second, of music and effects.',
        location='package://audio_autoencoder_44k_small.nemo',
        licence='apache-2.0',
        sample_rate=44100,
        size_mb=3.5,
    ),
    ModelEntry(
        name='speech_codec_22k_small',
        model_class='SpeechCodecModel',
        task='speech codec',
        description='Small speech codec for one CPU core: 1.89 kbit/s, trained on recordings of learning games.',
        location='package://speech_codec_22k_small.nemo',
        licence='apache-2.0',
        sample_rate=22050,
        size_mb=11,
    ),
    ModelEntry(
        name='speech_codec_22k',
        model_class='SpeechCodecModel',
        task='speech codec',
        description="NVIDIA's Low Frame-rate Speech Codec: 1.89 kbit/s, 21.5 frames a second.",
        location='hf://nvidia/low-frame-rate-speech-codec-22khz',
        licence='nsclv1',
        sample_rate=22050,
        size_mb=619,
    ),
    ModelEntry(
        name='stable_audio_44k_small',
        model_class='LatentDiffusionModel',
        task='text to audio',
        description='Small text-to-audio model for laptop CPUs: instruments, grooves and effects, stereo, up to 10 s.',
        location='package://stable_audio_44k_small.nemo',
        licence='apache-2.0',
        sample_rate=44100,
        size_mb=12,
    ),
    ModelEntry(
        name='stable_audio_open_44k',
        model_class='LatentDiffusionModel',
        task='text to audio',
        description="Stability AI's Stable Audio Open 1.0: 1.06 B parameters, stereo clips of up to 47 s.",
        location='hf://stabilityai/stable-audio-open-1.0',
        licence='Stability AI Community License',
        sample_rate=44100,
        size_mb=4854,
        how_to_get=_CONVERT_STABLE_AUDIO.format(
            repository='stabilityai/stable-audio-open-1.0', name='stable_audio_open_44k'
        ),
    ),
    ModelEntry(
        name='stable_audio_open_small_44k',
        model_class='LatentDiffusionModel',
        task='text to audio',
        description="Stability AI's Stable Audio Open Small: 341 M parameters, clips of up to 11 s in eight steps.",
        location='hf://stabilityai/stable-audio-open-small',
        licence='Stability AI Community License',
        sample_rate=44100,
        size_mb=1989,
        how_to_get=_CONVERT_STABLE_AUDIO.format(
            repository='stabilityai/stable-audio-open-small', name='stable_audio_open_small_44k'
        ),
    ),
    ModelEntry(
        name='audio_flamingo2_small',
        model_class='AudioLanguageModel',
        task='questions about audio',
        description='Small demonstration of Audio Flamingo 2 on SmolLM2-135M: nine kinds of questions, 58 answers.',
        location='package://audio_flamingo2_small.nemo',
        licence='apache-2.0',
        sample_rate=16000,
        size_mb=4.2,
    ),
    ModelEntry(
        name='audio_flamingo2_0.5b',
        model_class='AudioLanguageModel',
        task='questions about audio',
        description="NVIDIA's Audio Flamingo 2 with Qwen2.5-0.5B, 1.07 billion parameters.",
        location='hf://nvidia/audio-flamingo-2-0.5B',
        licence='NVIDIA OneWay Noncommercial License',
        sample_rate=16000,
        size_mb=7183,
        how_to_get=_FLAMINGO.format(
            repo='audio-flamingo-2-0.5B', language='Qwen2.5-0.5B', name='audio_flamingo2_0.5b'
        ),
    ),
    ModelEntry(
        name='audio_flamingo2_1.5b',
        model_class='AudioLanguageModel',
        task='questions about audio',
        description="NVIDIA's Audio Flamingo 2 with Qwen2.5-1.5B, 2.52 billion parameters.",
        location='hf://nvidia/audio-flamingo-2-1.5B',
        licence='NVIDIA OneWay Noncommercial License',
        sample_rate=16000,
        size_mb=18820,
        how_to_get=_FLAMINGO.format(
            repo='audio-flamingo-2-1.5B', language='Qwen2.5-1.5B', name='audio_flamingo2_1.5b'
        ),
    ),
    ModelEntry(
        name='audio_flamingo2_3b',
        model_class='AudioLanguageModel',
        task='questions about audio',
        description="NVIDIA's Audio Flamingo 2 with Qwen2.5-3B, 4.79 billion parameters.",
        location='hf://nvidia/audio-flamingo-2',
        licence='NVIDIA OneWay Noncommercial License',
        sample_rate=16000,
        size_mb=36980,
        how_to_get=_FLAMINGO.format(repo='audio-flamingo-2', language='Qwen2.5-3B', name='audio_flamingo2_3b'),
    ),
    ModelEntry(
        name='text_audio_small',
        model_class='TextAudioModel',
        task='text-audio similarity',
        description='Says how well a text describes a recording; on the packaged sentences of all-MiniLM-L6-v2.',
        location='package://text_audio_small.nemo',
        licence='apache-2.0',
        sample_rate=44100,
        size_mb=2.4,
    ),
)


def list_models(model_class: str | None = None) -> list[ModelEntry]:
    """All models with names.

    Args:
        model_class: only those that this class restores.

    Returns:
        Entries in the order of the README's table.
    """
    return [entry for entry in _MODELS if model_class in (None, entry.model_class)]
