"""Questions about recordings, in batches and one at a time, and the memory of a long recording, as markdown.

    python benchmarks/ask.py                                    # the size of a laptop model, random weights
    python benchmarks/ask.py --model audio_flamingo2_small      # a model by name or path
    python benchmarks/ask.py --config audio_flamingo2_0.5b      # the size of a published one, random weights
    python benchmarks/ask.py --restore audio_flamingo2_0.5b     # memory of restoring a .nemo file of that size
    python benchmarks/ask.py --threads 2 --tokens 16 --minutes  # as many cores as that must be free; no memory

Batches and single questions take turns. Clips per second are by the clock, on cores that must be free; beside their
ratio stands that of processor time, all threads together, which others on the machine disturb less. Single questions
are asked as in a batch, with a cache and with nothing computed twice; only the company is missing. Answers have a
given number of tokens; uneven ones have half as many to one and a half times as many, and the batch is timed once more
with ended answers kept in it until the last ends. A model by name is also asked questions of its own kind, whose
answers end where the model ends them. Recordings are noise. Memory is what a process needs at its peak beyond what it
had when the model was loaded, each length in a process of its own, on one thread.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_audio_restore.data.question_words import TASKS
from nemo_audio_restore.models.conversations import HeardRecording
from nemo_audio_restore.models.text_decoding import TextSettings, write_text
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.window_towers import HtsatTower

CONF = Path(__file__).parents[1] / 'conf'
NO_STOP, STOP, PADDING = -1, 0, 0
WINDOWS_AT_ONCE = 8
LONGEST_FREE = 64


@dataclass
class Listener:
    """Audio tower, transform and a language model that hears, as in AudioLanguageModel."""

    tower: torch.nn.Module
    transform: torch.nn.Module
    cross_attention: CrossAttentionLayers
    language_model: torch.nn.Module
    window_s: float = 10.0

    def __post_init__(self):
        for part in (self.tower, self.transform, self.cross_attention, self.language_model):
            part.eval()

    @torch.no_grad()
    def answer(
        self, windows: torch.Tensor, ids: torch.Tensor, tokens: int, *, stop: int = NO_STOP, drop: bool = True
    ) -> list[list[int]]:
        """Answers of at most ``tokens`` tokens to questions (B, S), or to one (1, S), about recordings (B, W, T)."""
        features = torch.cat([self.tower(some) for some in windows.flatten(0, 1).split(WINDOWS_AT_ONCE)])
        audio = features.unflatten(0, windows.shape[:2]).flatten(1, 2)
        mask = torch.ones(audio.shape[:2], dtype=torch.bool)
        with self.cross_attention.hearing(self.transform(audio, mask), mask):
            return write_text(
                self.language_model,
                ids,
                torch.ones_like(ids),
                stop_id=stop,
                padding_id=PADDING,
                settings=TextSettings(max_new_tokens=tokens),
                copies=len(windows) // len(ids),
                on_drop=self.cross_attention.keep if drop else None,
            )

    @contextmanager
    def counting_down(self) -> Iterator[None]:
        """Each answer counts down from the last token of its question to STOP; the work is the same."""

        def say(model: torch.nn.Module, args: tuple, given: dict, output: 'torch.nn.Module') -> None:
            kept = given['input_ids'][:, -output.logits.shape[1] :, None]
            output.logits.zero_().scatter_(2, (kept - 1).clamp_min(STOP), 1.0)  # ended ones may be kept

        hook = self.language_model.register_forward_hook(say, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def recordings(self, batch: int, windows: int) -> torch.Tensor:
        """Noise (B, W, T)."""
        generator = torch.Generator().manual_seed(0)
        samples = round(self.window_s * self.tower.sample_rate)
        return torch.randn(batch, windows, samples, generator=generator).clamp(-1, 1)

    def questions(self, batch: int, words: int) -> torch.Tensor:
        """Numbers of tokens (B, S)."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(self.language_model.config.vocab_size, (batch, words), generator=generator)


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
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )
    cross_attention.attach(language_model)
    return Listener(tower, transform, cross_attention, language_model)


def configured_model(name: str, overrides: Sequence[str]) -> 'torch.nn.Module':
    """A model with random weights, of the size that a file in conf/ describes."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from nemo_audio_restore import AudioLanguageModel

    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(name, overrides=list(overrides)).model
    return AudioLanguageModel(OmegaConf.merge(config, {'train_ds': None, 'validation_ds': None}))


def listener_of(model: 'torch.nn.Module') -> Listener:
    """The networks of an AudioLanguageModel."""
    return Listener(
        model.audio_tower, model.audio_transform, model.cross_attention, model.language_model, model.listening.window_s
    )


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call: by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def in_turns(*works: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Medians of both kinds of seconds of each work; the works take turns."""
    turns = [[seconds(work) for work in works] for _ in range(repeats)]
    return [tuple(statistics.median(kind) for kind in zip(*times, strict=True)) for times in zip(*turns, strict=True)]


def print_row(
    name: str, tokens: float | str, times: Sequence[tuple[float, float]], same: Sequence[bool], clips: int
) -> None:
    """A row of the table; times of one by one and of together."""
    single, together = times
    print(
        f'| {name} | {tokens} | {clips / single[0]:.2f} | {clips / together[0]:.2f} | {single[0] / together[0]:.1f} '
        f'| {single[1] / together[1]:.1f} | {sum(same)} of {clips} |',
        flush=True,
    )


def compare(listener: Listener, *, clips: int, words: int, lengths: Sequence[int], repeats: int) -> None:
    """Prints clips per second, together and one at a time."""
    windows, ids = listener.recordings(clips, 1), listener.questions(clips, words)

    def one_by_one(asked: torch.Tensor, tokens: int, **options: int) -> list[list[int]]:
        rows = range(clips)
        return [listener.answer(windows[row : row + 1], asked[row : row + 1], tokens, **options)[0] for row in rows]

    for tokens in lengths:
        for name, asked in (('one for all', ids[:1]), ('all different', ids)):
            alone = asked.expand(clips, -1)
            found = listener.answer(windows, asked, tokens), one_by_one(alone, tokens)
            times = in_turns(
                lambda: one_by_one(alone, tokens),  # noqa: B023
                lambda: listener.answer(windows, asked, tokens),  # noqa: B023
                repeats=repeats,
            )
            print_row(name, tokens, times, [a == b for a, b in zip(*found, strict=True)], clips)
        if tokens < 2:
            continue
        uneven = ids.clone()
        spread = torch.linspace(tokens // 2, tokens + tokens // 2, clips).round().long()
        uneven[:, -1] = spread[torch.randperm(clips, generator=torch.Generator().manual_seed(0))]
        most = int(uneven[:, -1].max())
        with listener.counting_down():
            found = listener.answer(windows, uneven, most, stop=STOP), one_by_one(uneven, most, stop=STOP)
            single, kept, dropped = in_turns(
                lambda: one_by_one(uneven, most, stop=STOP),  # noqa: B023
                lambda: listener.answer(windows, uneven, most, stop=STOP, drop=False),  # noqa: B023
                lambda: listener.answer(windows, uneven, most, stop=STOP),  # noqa: B023
                repeats=repeats,
            )
        same = [a == b for a, b in zip(*found, strict=True)]
        print_row('all different, uneven answers, ended ones kept', tokens, (single, kept), same, clips)
        print_row('all different, uneven answers', tokens, (single, dropped), same, clips)


def compare_free(model: 'torch.nn.Module', listener: Listener, *, clips: int, repeats: int) -> None:
    """The same for different questions in words, with answers that end by themselves."""
    every = [question for task in TASKS.values() for question in task.questions]
    asked = [every[(row * len(every)) // clips] for row in range(clips)]
    heard = [HeardRecording(windows) for windows in listener.recordings(clips, 1)]
    settings = TextSettings(max_new_tokens=LONGEST_FREE)

    def answers(rows: Sequence[int]) -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # noise gets answers without an end
            return model.generate(
                prompts=[asked[row] for row in rows], audios=[heard[row] for row in rows], settings=settings
            )

    def one_by_one() -> list[str]:
        return [answers([row])[0] for row in range(clips)]

    together, alone = answers(range(clips)), one_by_one()
    tokens = statistics.mean(len(model.questions.answer(text)) for text in together)
    times = in_turns(one_by_one, lambda: answers(range(clips)), repeats=repeats)
    same = [a == b for a, b in zip(together, alone, strict=True)]
    print_row('all different, in words, answers end by themselves', f'{tokens:.1f} on average', times, same, clips)


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _peak_of(listener: Listener, windows: int, tokens: int, answer: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)  # a fork of a process with threads has none of them
    before = peak_mb()
    listener.answer(listener.recordings(1, windows), listener.questions(1, 16), tokens)
    answer.put(peak_mb() - before)


def memory(listener: Listener, *, minutes: list[float], tokens: int) -> None:
    """Prints peak memory for several lengths."""
    print('| length | MB beyond the loaded model |')
    print('|---|---|')
    for length in minutes:
        windows = max(1, round(length * 60 / listener.window_s))
        print(f'| {length:g} min | {_in_a_process("fork", _peak_of, listener, windows, tokens):.0f} |', flush=True)
    print()


def _restored(path: str, answer: multiprocessing.Queue) -> None:
    from nemo_audio_restore import AudioLanguageModel

    before = peak_mb()
    model = AudioLanguageModel.restore_from(path)
    weights = sum(x.numel() * x.element_size() for x in {id(p): p for p in model.parameters()}.values()) / 2**20
    loaded = peak_mb() - before
    # Pages of the file count when they are needed: every weight is.
    _ = sum(float(parameter.sum()) for parameter in model.parameters())
    answer.put((weights, loaded, peak_mb() - before))


def restoring(name: str, overrides: Sequence[str]) -> None:
    """Prints the memory of restoring a file with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/model.nemo'
        _in_a_process('spawn', _write, name, overrides, path)
        weights, loaded, used = _in_a_process('spawn', _restored, path)
    print('| weights, MB | peak of restoring, MB | peak when every weight was used, MB |')
    print('|---|---|---|')
    print(f'| {weights:.0f} | {loaded:.0f} | {used:.0f} |\n')


def _write(name: str, overrides: Sequence[str], path: str, answer: multiprocessing.Queue) -> None:
    configured_model(name, overrides).save_to(path)
    answer.put(None)


def _in_a_process(method: str, work: Callable[..., None], *arguments: object) -> object:
    context = multiprocessing.get_context(method)
    answer = context.Queue()
    process = context.Process(target=work, args=(*arguments, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--model', help='name or .nemo file; default: random weights of laptop size')
    source.add_argument('--config', help='name of a file in conf/, for random weights of that size')
    source.add_argument('--restore', metavar='CONFIG', help='measure the memory of restoring a model of that size')
    parser.add_argument(
        '--override', nargs='*', default=[], metavar='KEY=VALUE', help='changes to --config, --restore'
    )
    parser.add_argument('--clips', type=int, default=16)
    parser.add_argument('--words', type=int, default=24, help='tokens of a question')
    parser.add_argument('--tokens', type=int, nargs='+', default=[4, 16, 64], help='tokens of an answer')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--minutes', type=float, nargs='*', default=[0.5, 5.0])
    parser.add_argument('--threads', type=int, help="default: torch's")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f'{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n')
    if arguments.restore:
        restoring(arguments.restore, arguments.override)
        return
    model = None
    if arguments.model:
        from nemo_audio_restore import AudioLanguageModel

        model = AudioLanguageModel.from_pretrained(arguments.model)
    elif arguments.config:
        model = configured_model(arguments.config, arguments.override)
    listener = random_listener() if model is None else listener_of(model)
    if arguments.minutes:
        # Before anything is computed: a forked process inherits no threads.
        memory(listener, minutes=arguments.minutes, tokens=16)
    clips, repeats = arguments.clips, arguments.repeats
    print(f'{clips} clips of {listener.window_s:g} s, questions of {arguments.words} tokens where none are said\n')
    print('| questions | tokens of an answer | one at a time, clips/s | together, clips/s | ratio ', end='')
    print('| ratio, processor time | same answers |\n|---|---|---|---|---|---|---|')
    compare(listener, clips=clips, words=arguments.words, lengths=arguments.tokens, repeats=repeats)
    if arguments.model:
        compare_free(model, listener, clips=clips, repeats=repeats)


if __name__ == '__main__':
    main()
