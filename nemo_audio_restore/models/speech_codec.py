"""SpeechCodecModel: a low-frame-rate codec with finite scalar quantisation as a NeMo model. Wiring only."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch import Trainer
from nemo.collections.tts.modules.audio_codec_modules import GroupFiniteScalarQuantizer
from nemo.collections.tts.parts.utils.tts_dataset_utils import resample_batch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from typing_extensions import Self

from nemo_audio_restore._nemo import SaveRestoreConnector, logging
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.codec.engine import decode_file, encode_file
from nemo_audio_restore.codec.protocol import DecodeReport, EncodeReport, OnProgress
from nemo_audio_restore.codec.streaming import DEFAULT_CHUNK_FRAMES, MINIMUM_FRAMES
from nemo_audio_restore.models.adversarial_training import AdversarialTrainingMixin
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.codec_context import decoder_context_frames, encoder_context_frames
from nemo_audio_restore.models.nemo_codec_file import (
    is_nemo_codec,
    nemo_codec_card,
    nemo_codec_config,
    read_nemo_codec,
)
from nemo_audio_restore.models.with_audio_data import AudioDataMixin


class SpeechCodecModel(AdversarialTrainingMixin, AudioDataMixin, BaseModel):
    """Turns speech into a few integers for each frame, and back.

    Config blocks, each named like the attribute that it builds:

    - ``sample_rate`` in Hz and ``samples_per_frame``
    - ``audio_encoder``: ``_target_`` and arguments of a network ``encoder(audio=(B, T), audio_len=(B,))`` to
      ``(encoded (B, D, N), encoded_len (B,))``
    - ``vector_quantizer``: arguments of NeMo's :class:`GroupFiniteScalarQuantizer`
    - ``audio_decoder``: ``_target_`` and arguments of a network ``decoder(inputs=(B, D, N), input_len=(B,))`` to
      ``(audio (B, T), audio_len (B,))``
    - for training: ``discriminator`` (``_target_`` and arguments; built only when training begins), ``loss``
      (:class:`CodecLossSettings`), ``training`` (:class:`CodecTrainingSettings`), ``optim``, ``discriminator_optim``
      (without it, ``optim``), ``train_ds``, ``validation_ds``, ``card``

    Source: Low Frame-rate Speech Codec (arXiv 2409.12117); FSQ (arXiv 2309.15505).
    """

    config_blocks: ClassVar[tuple[str, ...]] = (
        'sample_rate',
        'samples_per_frame',
        'audio_encoder',
        'vector_quantizer',
        'audio_decoder',
        *AdversarialTrainingMixin.training_config_blocks,
    )
    tags: ClassVar[tuple[str, ...]] = ('speech', 'audio-codec', 'neural-codec', 'finite-scalar-quantization')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        for name in ('sample_rate', 'samples_per_frame'):
            if not isinstance(cfg.get(name), int) or cfg[name] < 1:
                raise ConfigError(f'the model config needs {name}: a positive integer; got {cfg.get(name)!r}')
        encoder = build(cfg.get('audio_encoder'), where='audio_encoder')
        quantizer = build(cfg.get('vector_quantizer'), where='vector_quantizer', default=GroupFiniteScalarQuantizer)
        decoder = build(cfg.get('audio_decoder'), where='audio_decoder')
        # NeMo builds the data loaders inside its constructor, and they need the rate.
        self.sample_rate = cfg.sample_rate
        super().__init__(cfg=cfg, trainer=trainer)
        self.samples_per_frame = cfg.samples_per_frame
        self.audio_encoder = encoder
        self.vector_quantizer = quantizer
        self.audio_decoder = decoder

    @classmethod
    def restore_from(
        cls,
        restore_path: str | Path,
        override_config_path: DictConfig | str | None = None,
        map_location: torch.device | str | None = None,
        strict: bool = True,
        return_config: bool = False,
        save_restore_connector: SaveRestoreConnector | None = None,
        trainer: Trainer | None = None,
        validate_access_integrity: bool = True,
    ) -> Self | DictConfig:
        """Restores one of our files, or one of NeMo's ``AudioCodecModel`` (see :meth:`from_nemo_codec`).

        Args:
            restore_path: file or folder.
            override_config_path: config to use instead of the stored one; only for our files.
            map_location: device of the model; the CPU unless given.
            strict: refuse missing and unexpected weights.
            return_config: return the config alone.
            save_restore_connector: only its packing options are used.
            trainer: for the restored model; only for our files.
            validate_access_integrity: NeMo's; no effect here.

        Returns:
            The model in evaluation mode, or its config.

        Raises:
            ConfigError: options that NeMo's file cannot be restored with.
        """
        path = Path(restore_path).expanduser()
        if path.exists() and is_nemo_codec(path):
            if override_config_path is not None or trainer is not None:
                raise ConfigError(
                    f"{path} is a file of NeMo's AudioCodecModel: it takes no other config and no trainer. "
                    'To train from it, give it as init_from_nemo_model'
                )
            return cls.from_nemo_codec(path, map_location=map_location, return_config=return_config)
        return super(SpeechCodecModel, cls).restore_from(  # noqa: UP008 - see BaseModel.restore_from
            path,
            override_config_path=override_config_path,
            map_location=map_location,
            strict=strict,
            return_config=return_config,
            save_restore_connector=save_restore_connector,
            trainer=trainer,
            validate_access_integrity=validate_access_integrity,
        )

    @classmethod
    def from_nemo_codec(
        cls, path: str | Path, *, map_location: torch.device | str | None = None, return_config: bool = False
    ) -> Self | DictConfig:
        """Takes encoder, quantiser and decoder from a file that NeMo's ``AudioCodecModel`` wrote.

        Discriminators and the speech model inside them are left behind, and nothing is downloaded.

        Args:
            path: of the ``.nemo`` file or unpacked folder.
            map_location: device of the model; the CPU unless given.
            return_config: return the config alone.

        Returns:
            The model in evaluation mode, or its config. Its card says where the weights come from.

        Raises:
            CheckpointError: weights are missing, unexpected or of the wrong size; they are named.
            ConfigError: the codec is of a kind that this package does not have.
            UnsafeFileError: the file holds more than data.
        """
        path = Path(path).expanduser()
        if return_config:
            return OmegaConf.create({**nemo_codec_config(path), 'card': nemo_codec_card(path)})
        found = read_nemo_codec(path)
        model = cls(OmegaConf.create({**found.config, 'card': nemo_codec_card(path)}))
        try:
            model.load_state_dict(found.state_dict)
        except RuntimeError as error:
            raise CheckpointError(f'{path} does not hold the weights that its config describes: {error}') from error
        logging.info(f'{path.name}: left out {", ".join(found.dropped) or "nothing"}')
        return model.to(map_location if map_location is not None else 'cpu').eval()

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.samples_per_frame

    @property
    def num_codebooks(self) -> int:
        """Tokens K of a frame."""
        return self.vector_quantizer.num_codebooks

    @property
    def codebook_size(self) -> int:
        """Values that a token can have."""
        return self.vector_quantizer.codebook_size

    @property
    def bitrate(self) -> float:
        """Bits per second, for ideally packed tokens."""
        return self.frame_rate * self.num_codebooks * math.log2(self.codebook_size)

    @property
    def encode_context_frames(self) -> int:
        """Frames on each side that a frame's tokens depend on."""
        return encoder_context_frames(self.audio_encoder, self.samples_per_frame)

    @property
    def decode_context_frames(self) -> int:
        """Frames on each side that a frame's samples depend on."""
        return decoder_context_frames(self.audio_decoder, self.samples_per_frame)

    @torch.no_grad()
    def encode(self, audio: Tensor, audio_len: Tensor, sample_rate: int | None = None) -> tuple[Tensor, Tensor]:
        """Audio to tokens; the last frame is filled up with silence.

        Args:
            audio: (B, T) samples in [-1, 1].
            audio_len: (B,) valid samples.
            sample_rate: of the audio, in Hz; without it, the model's.

        Returns:
            Tokens (B, K, N), int32 in [0, codebook_size), and the frames of each item (B,).

        Raises:
            ValueError: audio of another shape.
        """
        if audio.ndim != 2:
            raise ValueError(f'audio must be (B, T) mono samples; got the shape {tuple(audio.shape)}')
        if sample_rate is not None and sample_rate != self.sample_rate:
            audio, audio_len = resample_batch(
                audio=audio, audio_len=audio_len, input_sample_rate=sample_rate, output_sample_rate=self.sample_rate
            )
        encoded, encoded_len = self._encoded(*self._whole_frames(audio, audio_len))
        with torch.autocast(audio.device.type, enabled=False):
            tokens = self.vector_quantizer.encode(inputs=encoded.float(), input_len=encoded_len)
        return tokens.transpose(0, 1)[..., : int(encoded_len.max())], encoded_len

    @torch.no_grad()
    def decode(self, tokens: Tensor, tokens_len: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens to audio.

        Args:
            tokens: (B, K, N) in [0, codebook_size).
            tokens_len: (B,) valid frames.

        Returns:
            Audio (B, N * samples_per_frame) in [-1, 1], and the samples of each item (B,).

        Raises:
            ValueError: tokens of another shape, or outside the codebook.
        """
        if tokens.ndim != 3 or tokens.shape[1] != self.num_codebooks:
            raise ValueError(f'tokens must be (B, {self.num_codebooks}, N); got the shape {tuple(tokens.shape)}')
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.codebook_size:
            raise ValueError(
                f'tokens must be at least 0 and less than {self.codebook_size}; got {int(tokens.min())} to '
                f'{int(tokens.max())}: they are of another codec'
            )
        num_frames = tokens.shape[2]
        with torch.autocast(tokens.device.type, enabled=False):
            dequantized = self.vector_quantizer.decode(indices=tokens.transpose(0, 1), input_len=tokens_len)
        inputs = nn.functional.pad(dequantized.to(self.dtype), (0, max(0, MINIMUM_FRAMES - num_frames)))
        audio, audio_len = self.audio_decoder(inputs=inputs, input_len=tokens_len)
        return audio[:, : num_frames * self.samples_per_frame], audio_len

    def encode_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        channels: str = 'mono',
        model_name: str = '',
        chunk_frames: int = DEFAULT_CHUNK_FRAMES,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
    ) -> EncodeReport:
        """Encodes an audio file of any length, rate and number of channels; see :func:`codec.engine.encode_file`.

        Args:
            source: audio file to read.
            target: ``.nac`` file to write.
            channels: 'mono' encodes the mean of all channels, 'each' every channel by itself.
            model_name: what the file says about the codec beside the hash of its weights.
            chunk_frames: frames that are encoded at once; changes memory and speed.
            overwrite: whether an existing target may be replaced.
            on_progress: called with (frames done, frames in all).

        Returns:
            What was done.
        """
        with self._evaluating():
            return encode_file(
                self,
                source,
                target,
                channels=channels,
                model_name=model_name,
                chunk_frames=chunk_frames,
                overwrite=overwrite,
                on_progress=on_progress,
            )

    def decode_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        sample_rate: int | None = None,
        bits: str | None = None,
        chunk_frames: int = DEFAULT_CHUNK_FRAMES,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
    ) -> DecodeReport:
        """Decodes a token file of any length, to exactly the length of what was encoded.

        Args:
            source: ``.nac`` file to read.
            target: ``.wav`` or ``.flac`` to write.
            sample_rate: of the output in Hz; None takes the codec's.
            bits: '16', '24', 'float', or None for float in WAV and 24 in FLAC.
            chunk_frames: frames that are decoded at once; changes memory and speed.
            overwrite: whether an existing target may be replaced.
            on_progress: called with (frames done, frames in all).

        Returns:
            What was done.
        """
        with self._evaluating():
            return decode_file(
                self,
                source,
                target,
                sample_rate=sample_rate,
                bits=bits,
                chunk_frames=chunk_frames,
                overwrite=overwrite,
                on_progress=on_progress,
            )

    def forward(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes, quantises and decodes; gradients pass the rounding unchanged.

        Args:
            audio: (B, T) samples in [-1, 1].
            audio_len: (B,) valid samples.

        Returns:
            Audio (B, N * samples_per_frame), and the samples of each item (B,).
        """
        encoded, encoded_len = self._encoded(*self._whole_frames(audio, audio_len))
        # Rounding needs float32: the steps of bfloat16 are coarser than what decides between two codes.
        with torch.autocast(audio.device.type, enabled=False):
            quantized, _ = self.vector_quantizer(inputs=encoded.float(), input_len=encoded_len)
        return self.audio_decoder(inputs=quantized.to(encoded.dtype), input_len=encoded_len)

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs, outputs and size."""
        return (
            *super().facts(),
            f'works at {self.sample_rate} Hz',
            f'{self.samples_per_frame} samples a frame, {self.frame_rate:.2f} frames a second',
            f'{self.num_codebooks} codebooks of {self.codebook_size} codes: {self.bitrate / 1000:.3f} kbit/s',
        )

    def _whole_frames(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        """Fills every item up to whole frames with silence, and the batch to what networks that reflect can take."""
        per_frame = self.samples_per_frame
        padded_len = torch.div(audio_len + per_frame - 1, per_frame, rounding_mode='floor') * per_frame
        samples = max(int(padded_len.max()), MINIMUM_FRAMES * per_frame)
        return nn.functional.pad(audio, (0, samples - audio.shape[1])), padded_len

    def _encoded(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        return self.audio_encoder(audio=audio, audio_len=audio_len)
