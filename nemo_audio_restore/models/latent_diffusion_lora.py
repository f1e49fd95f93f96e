"""Low-rank adapters of a latent diffusion model: its network has them, and nothing else learns beside them."""

from nemo_audio_restore.models.lora import LoraMixin
from nemo_audio_restore.networks.low_rank import LowRankSettings


class LatentLoraMixin(LoraMixin):
    """Adapters of ``network``; the conditioners are frozen as long as there are any."""

    def _inject(self, settings: LowRankSettings) -> None:
        super()._inject(settings)
        self.conditions.requires_grad_(False)

    def _after_merge(self) -> None:
        self.conditions.requires_grad_(True)
