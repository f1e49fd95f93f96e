"""AF-CLAP: the contrastive model whose audio tower Audio Flamingo 2 listens with; likeness of audio and text."""

from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.window_towers import HtsatTower


class AudioFlamingoClap(nn.Module):
    """Windows and texts to one space.

    Parameter names are those of the published files.

    Args:
        audio_branch: tower of windows.
        text_branch: a T5 encoder of `transformers`.
        embedding_dim: E of the space.

    Source: Audio Flamingo 2 (arXiv 2503.03983), section 3.1.
    """

    def __init__(self, *, audio_branch: HtsatTower, text_branch: nn.Module, embedding_dim: int = 512):
        super().__init__()
        self.audio_branch, self.text_branch = audio_branch, text_branch
        self.audio_projection = _projection(audio_branch.feature_dim, embedding_dim)
        self.text_projection = _projection(text_branch.config.d_model, embedding_dim)

    def embed_audio(self, windows: Tensor) -> Tensor:
        """Embeddings of windows.

        Args:
            windows: (M, T) samples in [-1, 1].

        Returns:
            (M, E) of unit length.
        """
        return self.embed_features(self.audio_branch(windows))

    def embed_features(self, features: Tensor) -> Tensor:
        """Embeddings (M, E) of unit length of what the tower gives (M, N, D)."""
        return functional.normalize(self.audio_projection(features.mean(dim=1)), dim=-1)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings of texts.

        The mean is taken over all positions, padding included, as the published weights were trained: pad every
        text to the length of training, 77 tokens.

        Args:
            input_ids: (B, S) numbers of tokens.
            attention_mask: (B, S), 0 for padding.

        Returns:
            (B, E) of unit length.
        """
        states = self.text_branch(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return functional.normalize(self.text_projection(states.mean(dim=1)), dim=-1)

    def similarity(self, windows: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """How well texts describe windows.

        Args:
            windows: (M, T) samples in [-1, 1].
            input_ids: (B, S) numbers of tokens.
            attention_mask: (B, S), 0 for padding.

        Returns:
            Cosines (M, B).
        """
        return self.embed_audio(windows) @ self.embed_text(input_ids, attention_mask).T


def _projection(from_dim: int, to_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(from_dim, to_dim), nn.ReLU(), nn.Linear(to_dim, to_dim))
