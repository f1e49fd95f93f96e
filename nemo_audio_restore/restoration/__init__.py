"""File-level restoration: any length in bounded memory, plain torch; sees a model only through ``Restorer``."""

from nemo_audio_restore.restoration.engine import output_rate, restore_array, restore_file
from nemo_audio_restore.restoration.protocol import (
    RestorationError,
    RestorationReport,
    Restorer,
    SamplerSettings,
)

__all__ = [
    'RestorationError',
    'RestorationReport',
    'Restorer',
    'SamplerSettings',
    'output_rate',
    'restore_array',
    'restore_file',
]
