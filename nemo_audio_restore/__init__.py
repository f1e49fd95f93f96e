"""Restore, generate and describe audio: a NeMo collection.

Names are loaded when they are first used: importing the package costs neither torch nor NeMo.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemo_audio_restore.checkpoints.registry import list_models
    from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel
    from nemo_audio_restore.models.audio_language import AudioLanguageModel
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
    from nemo_audio_restore.models.speech_codec import SpeechCodecModel
    from nemo_audio_restore.models.text_audio import TextAudioModel
    from nemo_audio_restore.processes.bridge import SchrodingerBridge
    from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

__version__ = '0.1.0'

_MODULE_OF = {
    'AudioAutoencoderModel': 'models.audio_autoencoder',
    'AudioLanguageModel': 'models.audio_language',
    'AudioRestoreModel': 'models.audio_restore',
    'LatentDiffusionModel': 'models.latent_diffusion',
    'MagnitudePhaseSpectrogram': 'signal.spectrogram',
    'SchrodingerBridge': 'processes.bridge',
    'SpeechCodecModel': 'models.speech_codec',
    'TextAudioModel': 'models.text_audio',
    'list_models': 'checkpoints.registry',
}

__all__ = [
    'AudioAutoencoderModel',
    'AudioLanguageModel',
    'AudioRestoreModel',
    'LatentDiffusionModel',
    'MagnitudePhaseSpectrogram',
    'SchrodingerBridge',
    'SpeechCodecModel',
    'TextAudioModel',
    '__version__',
    'list_models',
]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(f'{__name__}.{_MODULE_OF[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
