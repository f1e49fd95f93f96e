"""Low-rank adapters of the language model inside an audio-language model, also of one that is stored elsewhere."""

from typing import ClassVar

from torch import Tensor, nn

from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.lora import LoraMixin
from nemo_audio_restore.networks.low_rank import LowRankSettings, adapter_layers

_OWN = 'language_adapters.'


class LanguageLoraMixin(LoraMixin):
    """Adapters of the language model; they learn beside the parts that ``training.trained`` names.

    Where the language model is loaded from elsewhere, the adapters are all of it that is saved: as
    ``language_adapters``.
    """

    adapted_prefix: ClassVar[str] = 'language.model.'

    @property
    def adapted(self) -> nn.Module:
        """The language model."""
        return self.language_model

    def merge_lora(self) -> None:
        """Makes the adapters, at their present strength, part of the language model's weights.

        Raises:
            ConfigError: the language model is loaded from elsewhere, so that merged weights could not be saved.
        """
        if not self.language.stored:
            raise ConfigError(
                'language_model.weights keeps the language model out of saved models, so merged adapters would be '
                'lost: keep them beside it, or pass them on with save_lora'
            )
        super().merge_lora()

    def _with_adapters(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.language.stored:
            return super()._with_adapters(state)
        own = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(_OWN)}
        return {**own, **state}

    def _inject(self, settings: LowRankSettings) -> None:
        if 'language_model' in self.training_settings.trained:
            raise ConfigError(
                'training.trained names language_model, but with adapters its own weights are frozen: leave one out'
            )
        super()._inject(settings)
        if not self.language.stored:
            # The same modules by another name, since the language model is no submodule. Names hold no dots.
            self.language_adapters = nn.ModuleDict(
                {
                    name.replace('.', '/'): nn.ModuleDict({'down': layer.lora_A, 'up': layer.lora_B})
                    for name, layer in adapter_layers(self.adapted)
                }
            )

    def _after_merge(self) -> None:
        if not self.language.stored:
            del self.language_adapters
        self._freeze()

    def _train_adapters(self, mode: bool) -> None:
        """Their dropout acts in training, though the language model around them stays in evaluation mode."""
        for _, layer in adapter_layers(self.adapted):
            layer.lora_dropout.train(mode)
