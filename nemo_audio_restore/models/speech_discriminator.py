"""A discriminator that judges speech by the hidden states of a frozen speech model."""

from collections.abc import Callable

import torch
from nemo.collections.audio.parts.utils.transforms import Resample
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from typing_extensions import Self

from nemo_audio_restore.models.speech_models import SPEECH_MODEL_RATE, FrozenSpeechModel

_SLOPE = 0.1


class SpeechModelDiscriminator(nn.Module):
    """Convolutions over the hidden states of all layers of a frozen speech model.

    Its head and its answers are those of NeMo's ``SLMDiscriminator``; but the speech model may be any of
    :mod:`nemo_audio_restore.models.speech_models`, stays in evaluation mode, is seen by no optimizer and is never
    saved, and recordings take no memory for gradients.

    Args:
        speech_model: whose hidden states are judged.
        sample_rate: of the audio, in Hz.
        channels: of the first layer; the others have two and four times as many.

    Source: StyleTTS 2 (arXiv 2306.07691), section 3.2.3; Low Frame-rate Speech Codec (arXiv 2409.12117), section 2.
    """

    def __init__(self, *, speech_model: FrozenSpeechModel, sample_rate: int, channels: int = 64):
        super().__init__()
        # In a tuple the speech model is no submodule: no part of checkpoints, optimizers or DDP.
        self._held = (speech_model,)
        self.resample = Resample(orig_freq=sample_rate, new_freq=SPEECH_MODEL_RATE)
        inputs = speech_model.hidden_size * (speech_model.num_layers + 1)
        self.pre = weight_norm(nn.Conv1d(inputs, channels, 1))
        self.convs = nn.ModuleList(
            [
                weight_norm(nn.Conv1d(channels, 2 * channels, 5, padding=2)),
                weight_norm(nn.Conv1d(2 * channels, 4 * channels, 5, padding=2)),
                weight_norm(nn.Conv1d(4 * channels, 4 * channels, 5, padding=2)),
            ]
        )
        self.conv_post = weight_norm(nn.Conv1d(4 * channels, 1, 3, padding=1))

    @property
    def speech_model(self) -> FrozenSpeechModel:
        """The frozen model."""
        return self._held[0]

    def forward(
        self, audio_real: Tensor, audio_gen: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]], list[list[Tensor]]]:
        """Judges recordings and generated audio.

        Args:
            audio_real: (B, T) samples.
            audio_gen: (B, T) samples; gradients flow through the speech model to them.

        Returns:
            Scores of both, one tensor (B, 1, N) each, and features of both, three tensors (B, D, N, 1) each.
        """
        with torch.no_grad():
            real_states = self._states(audio_real)
        real, real_features = self._judge(real_states)
        generated, generated_features = self._judge(self._states(audio_gen))
        return [real], [generated], [real_features], [generated_features]

    def _states(self, audio: Tensor) -> Tensor:
        """(B, layers * D, N)."""
        with torch.autocast(audio.device.type, enabled=False):
            resampled = self.resample(audio.float())
        return torch.cat(self.speech_model(resampled), dim=-1).transpose(1, 2)

    def _judge(self, states: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, features = self.pre(states), []
        for conv in self.convs:
            x = functional.leaky_relu(conv(x), _SLOPE)
            features.append(x.unsqueeze(-1))
        return self.conv_post(x), features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the speech model along."""
        self.speech_model._apply(fn)
        return super()._apply(fn, recurse)
