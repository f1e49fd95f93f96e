"""Models and devices by the names that users type."""

from typing import TYPE_CHECKING

from nemo_audio_restore.apps.inputs import UsageError

if TYPE_CHECKING:
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel


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
    from nemo_audio_restore._nemo import logging
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel

    logging.setLevel(logging.ERROR)  # a program's user has no use for NeMo's own report of what it loaded
    try:
        model = AudioRestoreModel.from_pretrained(name)
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f'the model {name} cannot be loaded: {error}') from error
    return model.to(where).eval()


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
