"""What one iteration of score distillation costs, part by part, as markdown.

    python benchmarks/distill.py                                        # the model that ships, one second
    python benchmarks/distill.py --model stable_audio_44k_small --seconds 2 --draws 4 --threads 2

Parts are timed in turns, processor time of all threads, medians. Whole iterations are measured, too: what they have
beyond the sum of their parts is Adam and bookkeeping. The prior's parts run without gradient, as they do in a fit; the
second table says what that saves. There bfloat16 stands with the error of the clean estimate against float32; on
processors without bfloat16 units it is emulated, and slower.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nemo_audio_restore.distillation.distances import MultiScaleSpectralDistance, half_squared_error
from nemo_audio_restore.distillation.objectives import latent_objective, prompt_objective
from nemo_audio_restore.distillation.prior import add_noise
from nemo_audio_restore.distillation.renderers import FMSynthesizer, ImpactSynthesizer, Renderer
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.sources import LatentSources
from nemo_audio_restore.evaluation.report import markdown_table
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.models.latent_diffusion_prior import LatentDiffusionPrior

PROMPTS = ('kick drum hit', 'slow strings melody')


def timed(parts: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median processor time of each part in milliseconds; the parts take turns, the first turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repeats + 1):
        for name, part in parts.items():
            begin = time.process_time()
            part()
            if turn:
                taken[name].append(1e3 * (time.process_time() - begin))
    return {name: statistics.median(values) for name, values in taken.items()}


def backward(make: Callable[[], Tensor]) -> Callable[[], None]:
    """Makes a tensor and goes back through it."""
    return lambda: make().square().mean().backward()


def iteration(renderer: Renderer, objective: Callable) -> Callable[[], None]:
    """One step of a fit."""
    optimizer = torch.optim.Adam(renderer.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad()
        sum(objective(renderer, generator).values()).backward()
        optimizer.step()

    return step


def parts_of(prior: LatentDiffusionPrior, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    samples = round(options.seconds * prior.sample_rate)
    generator = torch.Generator().manual_seed(0)
    fm, impact = (
        kind.random(sample_rate=prior.sample_rate, generator=generator) for kind in (FMSynthesizer, ImpactSynthesizer)
    )
    conditions = [prior.condition([prompt], seconds=options.seconds) for prompt in PROMPTS]
    with torch.no_grad():
        audio = fm(samples).expand(prior.channels, -1)[None].contiguous()
        latents = prior.encode(audio)
        estimate = prior.decode(latents, num_samples=samples)
    several = latents.expand(options.draws, -1, -1).contiguous()
    times = torch.full((options.draws,), 0.5)
    noised = add_noise(prior, several, times, torch.randn(several.shape, generator=generator))
    distance = MultiScaleSpectralDistance()
    targets = distance.features(estimate)
    leaf, latent_leaf = audio.clone().requires_grad_(), latents.clone().requires_grad_()
    sources = LatentSources.from_mixture(prior, audio[0], 2, spread=0.3, generator=generator)

    @torch.no_grad()
    def without_gradient(call: Callable[[], object]) -> object:
        return call()

    def loss(mode: str) -> ScoreDistillation:
        return ScoreDistillation(
            prior,
            mode=mode,
            draws=options.draws,
            micro_batch=options.draws,
            denoising_steps=2,
            level_db=-16.0,
            guidance=4.0,
        )

    objectives = {
        mode: prompt_objective(loss(mode), conditions[0], num_samples=samples) for mode in ('encoder', 'decoder')
    }
    separation = latent_objective(
        loss('encoder'), conditions, audio[0], gamma=1.0, distance=MultiScaleSpectralDistance((512, 2048))
    )
    return {
        'render FM, forward and backward': backward(lambda: fm(samples)),
        'render impact, forward and backward': backward(lambda: impact(samples)),
        'encode': lambda: without_gradient(lambda: prior.encode(audio)),
        'encode, forward and backward (encoder mode)': backward(lambda: prior.encode(leaf)),
        'denoise with guidance, all draws, once': lambda: without_gradient(
            lambda: prior.denoise(noised, times, conditions[0], guidance=4.0)
        ),
        'decode, all draws (decoder mode)': lambda: without_gradient(
            lambda: prior.decode(several, num_samples=samples)
        ),
        'decode one sound, forward and backward (separation)': backward(
            lambda: prior.decode(latent_leaf, num_samples=samples)
        ),
        'spectral distance, forward and backward (decoder mode)': lambda: half_squared_error(
            distance.features(leaf), targets
        ).backward(),
        'whole iteration, FM, encoder mode': iteration(fm, objectives['encoder']),
        'whole iteration, FM, decoder mode': iteration(fm, objectives['decoder']),
        'whole iteration, impact, encoder mode': iteration(impact, objectives['encoder']),
        'whole iteration, separation of two': iteration(sources, separation),
    }


def precision_rows(prior: LatentDiffusionPrior, options: argparse.Namespace) -> list[dict[str, str]]:
    """The denoiser with gradient, without, and in bfloat16: time and error."""
    coarse = LatentDiffusionPrior(prior.model, denoiser_dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    condition = prior.condition(PROMPTS[:1], seconds=options.seconds)
    with torch.no_grad():
        shape = prior.encode(torch.zeros(1, prior.channels, round(options.seconds * prior.sample_rate))).shape
    noised = torch.randn(options.draws, *shape[1:], generator=generator)
    times = torch.full((options.draws,), 0.5)

    def plain() -> Tensor:
        with torch.no_grad():
            return prior.denoise(noised, times, condition, guidance=4.0)

    def with_gradient() -> None:
        prior.denoise(noised.clone().requires_grad_(), times, condition, guidance=4.0).square().mean().backward()

    def bfloat16() -> Tensor:
        with torch.no_grad():
            return coarse.denoise(noised, times, condition, guidance=4.0)

    taken = timed({'float32': plain, 'float32, with gradient': with_gradient, 'bfloat16': bfloat16}, options.repeats)
    error = float((bfloat16() - plain()).norm() / plain().norm())
    notes = {'bfloat16': f'{error:.1e} of the estimate'}
    return [{'denoise': name, 'ms': f'{value:.0f}', 'error': notes.get(name, '-')} for name, value in taken.items()]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='stable_audio_44k_small')
    parser.add_argument('--seconds', type=float, default=1.0)
    parser.add_argument('--draws', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--threads', type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prior = LatentDiffusionPrior(LatentDiffusionModel.from_pretrained(options.model))
    taken = timed(parts_of(prior, options), options.repeats)
    whole = taken['whole iteration, FM, encoder mode']
    rows = [{'part': name, 'ms': f'{value:.0f}', 'of the first whole iteration': f'{value / whole:.0%}'}
            for name, value in taken.items()]  # fmt: skip
    capability = torch.backends.cpu.get_cpu_capability()
    print(
        f'{options.model}, {options.seconds:g} s, {options.draws} draws, {options.threads} threads, '
        f'{platform.processor() or platform.machine()} ({capability}), torch {torch.__version__}\n'
    )
    print(markdown_table(rows))
    print()
    print(markdown_table(precision_rows(prior, options)))


if __name__ == '__main__':
    main()
