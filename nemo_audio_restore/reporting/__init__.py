"""What people keep beside a restored file: provenance, picture, page; and facts about the machine."""

from nemo_audio_restore.reporting.documents import Documents, write_documents
from nemo_audio_restore.reporting.environment import describe_environment
from nemo_audio_restore.reporting.generation import clip_provenance, write_clip_provenance
from nemo_audio_restore.reporting.provenance import ModelIdentity, provenance

__all__ = [
    'Documents',
    'ModelIdentity',
    'clip_provenance',
    'describe_environment',
    'provenance',
    'write_clip_provenance',
    'write_documents',
]
