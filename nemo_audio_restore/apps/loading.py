"""Models and devices by the names that users type."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nemo_audio_restore.apps.inputs import UsageError

if TYPE_CHECKING:
    from nemo_audio_restore.distillation.prior import AudioPrior
    from nemo_audio_restore.generation import LatentGenerator
    from nemo_audio_restore.models.audio_language import AudioLanguageModel
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel
    from nemo_audio_restore.models.base import BaseModel
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
    from nemo_audio_restore.models.speech_codec import SpeechCodecModel
    from nemo_audio_restore.reporting import ModelIdentity

_Model = TypeVar('_Model', bound='BaseModel')


def load_model(name: str, device: str) -> 'AudioRestoreModel':
    """A model in evaluation mode on a device.

    Args:
        name: of a registered model, a ``.nemo`` file, an unpacked folder, or ORG/NAME on the Hub.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        The model.

    Raises:
        UsageError: there is no such model or device.
    """
    where = find_device(device)
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel

    return _loaded(AudioRestoreModel, name, where)


def load_codec(name: str, device: str) -> 'SpeechCodecModel':
    """A speech codec in evaluation mode on a device.

    Args:
        name: as for :func:`load_model`.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        The codec.

    Raises:
        UsageError: there is no such codec or device.
    """
    where = find_device(device)
    from nemo_audio_restore.models.speech_codec import SpeechCodecModel

    return _loaded(SpeechCodecModel, name, where, kind='codec')


def load_generator(name: str, device: str, *, text_encoder: str | None = None) -> 'LatentGenerator':
    """A text-to-audio model in evaluation mode on a device, as the engine of :mod:`generation` sees it.

    Args:
        name: as for :func:`load_model`.
        device: auto, cpu, cuda, cuda:N or mps.
        text_encoder: folder, file or hub name of the text encoder; None where the model knows it.

    Returns:
        The model.

    Raises:
        UsageError: there is no such model or device, or no such text encoder.
    """
    from nemo_audio_restore.models.latent_generation import AsGenerator

    return AsGenerator(_latent_diffusion(name, device, text_encoder))


def load_prior(name: str, device: str, *, text_encoder: str | None = None) -> 'AudioPrior':
    """A text-to-audio model on a device, frozen, as score distillation sees it.

    Args:
        name: as for :func:`load_model`.
        device: auto, cpu, cuda, cuda:N or mps.
        text_encoder: folder, file or hub name of the text encoder; None where the model knows it.

    Returns:
        The prior.

    Raises:
        UsageError: there is no such model or device, or no such text encoder.
    """
    from nemo_audio_restore.models.latent_diffusion_prior import LatentDiffusionPrior

    return LatentDiffusionPrior(_latent_diffusion(name, device, text_encoder))


def _loaded(model_class: type[_Model], name: str, device: str, *, kind: str = 'model') -> _Model:
    from nemo_audio_restore._nemo import logging

    logging.setLevel(logging.ERROR)  # a program's user has no use for NeMo's own report of what it loaded
    try:
        model = model_class.from_pretrained(name)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        raise UsageError(f'the {kind} {name} cannot be loaded: {error}') from error
    return model.to(device).eval()


def _latent_diffusion(name: str, device: str, text_encoder: str | None) -> 'LatentDiffusionModel':
    where = find_device(device)
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel

    model = _loaded(LatentDiffusionModel, name, where)
    if text_encoder is not None:
        try:
            model.use_text_encoder(text_encoder)
        except (ValueError, OSError, ImportError) as error:
            raise UsageError(f'the text encoder {text_encoder} cannot be used: {error}') from error
    return model.to(where)


def load_listener(name: str, device: str) -> 'AudioLanguageModel':
    """A model that answers questions about audio, in evaluation mode on a device.

    Args:
        name: as for :func:`load_model`.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        The model.

    Raises:
        UsageError: there is no such model or device, its language model is not installed, or it has no tokenizer.
    """
    where = find_device(device)
    from nemo_audio_restore.models.audio_language import AudioLanguageModel

    model = _loaded(AudioLanguageModel, name, where)
    try:
        _ = model.questions  # a model without words cannot be asked
    except ValueError as error:
        raise UsageError(f'the model {name} cannot be asked: {error}') from error
    return model


def identify_generator(name: str, device: str) -> 'ModelIdentity':
    """What the provenance of a clip says about the model: its name, file and device."""
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
    from nemo_audio_restore.reporting import ModelIdentity

    path = Path(LatentDiffusionModel.from_pretrained(name, return_model_file=True))
    return ModelIdentity(name, path, find_device(device))


def fetch_model(name: str, *, refresh: bool = False) -> Path:
    """The file or folder behind the name of a model, downloaded if need be.

    Args:
        name: as for :func:`load_model`.
        refresh: download again what is cached already.

    Returns:
        An existing path.

    Raises:
        UsageError: there is no such model, or it cannot be reached.
    """
    from nemo_audio_restore.models.locate import locate_named_model

    try:
        return locate_named_model(name, refresh_cache=refresh)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def identify_model(name: str, device: str) -> 'ModelIdentity':
    """What the provenance of a file says about the model: its name, file and device."""
    from nemo_audio_restore.reporting import ModelIdentity

    return ModelIdentity(name, fetch_model(name), find_device(device))


def find_device(name: str) -> str:
    """The device behind a name; auto takes cuda, else mps, else cpu.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.

    Returns:
        A name that torch knows.

    Raises:
        UsageError: the name is unknown or this machine has no such device.
    """
    import torch

    devices = ['cpu']
    if torch.backends.mps.is_available():
        devices.append('mps')
    if torch.cuda.is_available():
        devices += ['cuda', *(f'cuda:{index}' for index in range(torch.cuda.device_count()))]
    if name == 'auto':
        return 'cuda' if 'cuda' in devices else devices[-1]
    if name not in devices:
        raise UsageError(f'--device {name} is not available; this machine has: {", ".join(devices)}')
    return name
