"""Questions about recordings, in batches and one at a time, and the memory of a long recording, as markdown.

    python benchmarks/ask.py                                   # the size of a laptop model, random weights
    python benchmarks/ask.py --model audio_flamingo2.nemo --clips 16 --tokens 16

Batches and single questions take turns; time is that of the processor, all threads together. Weights are random unless
a model is named: they cost the same. Memory is what a process needs at its peak beyond what it had when the model was
loaded, each length in a process of its own.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch

from nemo_audio_restore.models.text_decoding import TextSettings, write_text
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.window_towers import HtsatTower

VOCABULARY, NO_STOP, PADDING = 49152, -1, 0
WINDOW_S = 10


class Listener:
    """Audio tower, transform and a language model that hears, as in AudioLanguageModel."""

    def __init__(
        self,
        tower: torch.nn.Module,
        transform: torch.nn.Module,
        cross_attention: CrossAttentionLayers,
        language_model: torch.nn.Module,
    ):
        self.tower, self.transform = tower, transform
        self.cross_attention, self.language_model = cross_attention, language_model

    @torch.no_grad()
    def answer(self, windows: torch.Tensor, ids: torch.Tensor, tokens: int) -> list[list[int]]:
        """Answers of exactly ``tokens`` tokens to questions (B, S) about recordings (B, W, T)."""
        features = torch.cat([self.tower(some) for some in windows.flatten(0, 1).split(8)])
        audio = features.unflatten(0, windows.shape[:2]).flatten(1, 2)
        mask = torch.ones(audio.shape[:2], dtype=torch.bool)
        with self.cross_attention.hearing(self.transform(audio, mask), mask):
            return write_text(
                self.language_model,
                ids,
                torch.ones_like(ids),
                stop_id=NO_STOP,
                padding_id=PADDING,
                settings=TextSettings(max_new_tokens=tokens),
            )


def random_listener() -> Listener:
    """A laptop model: HTSAT of 2.7 M, SmolLM2's 135 M, cross-attention in front of the last six layers."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    tower = HtsatTower(embed_dim=32, depths=(2, 2, 4, 2), num_heads=(2, 4, 8, 16), fusion=False)
    transform = AudioTransform(dim=256, num_layers=2, num_heads=4, inner_dim=256)
    cross_attention = CrossAttentionLayers(
        dim=576, audio_dim=256, layers=range(24, 30), num_heads=4, head_dim=64, ff_mult=1
    )
    language_model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )
    return _ready(tower, transform, cross_attention, language_model)


def named_listener(name: str) -> Listener:
    """The networks of a model by name or path."""
    from nemo_audio_restore import AudioLanguageModel

    model = AudioLanguageModel.from_pretrained(name)
    return Listener(model.audio_tower, model.audio_transform, model.cross_attention, model.language_model)


def _ready(
    tower: torch.nn.Module,
    transform: torch.nn.Module,
    cross_attention: CrossAttentionLayers,
    language_model: torch.nn.Module,
) -> Listener:
    cross_attention.attach(language_model)
    return Listener(*(part.eval() for part in (tower, transform, cross_attention, language_model)))


def noise(batch: int, windows: int, generator: torch.Generator) -> torch.Tensor:
    """Recordings (B, W, T)."""
    return torch.randn(batch, windows, WINDOW_S * 16000, generator=generator).clamp(-1, 1)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(listener: Listener, *, clips: int, words: int, tokens: int, repeats: int) -> None:
    """Prints clips per second of processor time, together and one at a time."""
    generator = torch.Generator().manual_seed(0)
    windows = noise(clips, 1, generator)
    ids = torch.randint(VOCABULARY, (clips, words), generator=generator)

    def one_by_one() -> list[list[int]]:
        rows = range(clips)
        return [listener.answer(windows[row : row + 1], ids[row : row + 1], tokens)[0] for row in rows]

    same = sum(a == b for a, b in zip(listener.answer(windows, ids, tokens), one_by_one(), strict=True))
    times: dict[str, list[float]] = {'together': [], 'one at a time': []}
    for _ in range(repeats):
        times['together'].append(cpu_seconds(lambda: listener.answer(windows, ids, tokens)))
        times['one at a time'].append(cpu_seconds(one_by_one))
    print(f'| {clips} clips of {WINDOW_S} s, {words} + {tokens} tokens | clips/s of processor time | ratio |')
    print('|---|---|---|')
    base = statistics.median(times['one at a time'])
    for name, values in times.items():
        print(f'| {name} | {clips / statistics.median(values):.3f} | {base / statistics.median(values):.2f} |')
    print(f'\n{same} of {clips} answers are the same token by token.\n')


def _peak_of(listener: Listener, windows: int, tokens: int, answer: multiprocessing.Queue) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = torch.Generator().manual_seed(0)
    listener.answer(noise(1, windows, generator), torch.randint(VOCABULARY, (1, 16), generator=generator), tokens)
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory(listener: Listener, *, minutes: list[float], tokens: int) -> None:
    """Prints peak memory for several lengths."""
    print('| length | MB beyond the loaded model |')
    print('|---|---|')
    context = multiprocessing.get_context('fork')
    for length in minutes:
        answer = context.Queue()
        process = context.Process(target=_peak_of, args=(listener, max(1, round(length * 6)), tokens, answer))
        process.start()
        print(f'| {length:g} min | {answer.get():.0f} |', flush=True)
        process.join()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', help='name or .nemo file; default: random weights of laptop size')
    parser.add_argument('--clips', type=int, default=16)
    parser.add_argument('--words', type=int, default=24, help='tokens of a question')
    parser.add_argument('--tokens', type=int, default=16, help='tokens of an answer')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--minutes', type=float, nargs='*', default=[0.5, 5.0])
    arguments = parser.parse_args()
    print(f'{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n')
    listener = named_listener(arguments.model) if arguments.model else random_listener()
    # Before anything is computed: a forked process inherits no threads.
    memory(listener, minutes=arguments.minutes, tokens=arguments.tokens)
    print()
    compare(
        listener,
        clips=arguments.clips,
        words=arguments.words,
        tokens=arguments.tokens,
        repeats=arguments.repeats,
    )


if __name__ == '__main__':
    main()
