"""The trainings behind 04_gan_inversion, each with a budget of minutes; a call that is cut off is gone on with.

    python -m fwdiff_lite.experiments.gan_inversion coaches --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion generator --minutes 10 --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion reader --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion judge --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion wplus --minutes 5 --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion examine --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion ship --out build/gan

`generator` trains a StyleGAN2 on drawn portraits. Networks from several seeds read attributes: the `coaches` teach the
generator how often they occur, the `reader`, which is none of them, judges. `judge` compares what the generator in
the folder makes with what the program draws. The arms of ARMS invert it, `examine` compares them, and `ship` puts the
weights and numbers into checkpoints/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import CUDAGraphCallable, default_device, is_main_process, num_processes
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.problems.gan_inversion import patches, portraits, stylegan2
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule
from fwdiff_lite.storage.checkpoints import load_pretrained, load_recorded, save_pretrained, save_recorded
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import merge_provenance, provenance
from fwdiff_lite.training import INTERRUPTED, TrainingLog, fit

COMMAND = "python -m fwdiff_lite.experiments.gan_inversion"
PORTRAITS = 2**17  # that are drawn to train on
BATCH = 64  # of them a step: many small steps serve a generator better than few large ones
R1 = 0.1  # its gamma, by ADA's rule of thumb for 64 pixels and that batch about 0.013; more is safer
NOISE = 0.1  # on what the discriminator sees, of pictures in [-1, 1]
MIXING = 0.5  # the share of pictures that are made of two styles
LOOK = 100  # steps between looks at the losses: each makes a GPU wait
KEEP = 2000  # steps between states to go on from
LESSON = 1.0  # weight of the coaches' loss: without it, one attribute's odds were 34 points off
COACHES, COACHING = (1, 2, 3), 500  # their seeds, steps of training; one alone was deceived about one mouth in ten
READING = 1500  # steps of training the reader, whose seed is 0
JUDGED = 10_000  # generated portraits that are judged
ARMS = {  # of inversion: the model, the space of its signals, and the weight of Eq. 9
    "w": (ForwardDiffusion, "w", 1.0),
    "wplus": (ForwardDiffusion, "w+", 1.0),
    "wplus_faint": (ForwardDiffusion, "w+", 0.1),
    "deterministic": (ForwardRegression, "w+", 1.0),
}
CONTEXTS = 5  # patches in the context of a training of inversion, at most: what is given, and targets that were sampled
RATE = 1e-3
COUNT, K, STEPS = 256, 16, 32  # pictures of the examination, samples of each, steps of sampling
BANK, EXAMPLES = 20_000, 4  # generated pictures that weigh a posterior; pictures of the examination that are kept
SCALES = [2.0**-i for i in range(6)]  # of the noise, that are tried on a denoiser without error
LIVE = 4  # pictures that a CPU is to sample again
NAME = "04_gan_inversion"
CASES = {  # that are examined: arm, eta, and how many targets one after another; the main one first
    "wplus_eta_1": ("wplus", 1.0, 5),
    "wplus_eta_0": ("wplus", 0.0, 5),
    "wplus_eta_1_one": ("wplus", 1.0, 1),
    "wplus_eta_0_one": ("wplus", 0.0, 1),
    "wplus_faint_eta_1": ("wplus_faint", 1.0, 5),
    "wplus_faint_eta_0": ("wplus_faint", 0.0, 5),
    "w_eta_1": ("w", 1.0, 5),
}

MAIN = next(iter(CASES))
KEPT = (  # of the examination, by how they begin
    "deterministic", "given", "odds_", "live", "w_eta_1", f"{MAIN}_labels", "wplus_eta_0_labels",
)  # fmt: skip

# --- the generator ----------------------------------------------------------------------------------------------------


def drawn(
    count: int, device: torch.device, side: int = 64, seed: int = 7
) -> Callable[[int, torch.Generator], Float[Tensor, "n 3 side side"]]:
    """Any n of so many portraits, which are drawn once and kept on the device in half precision."""
    people = portraits.draw_portraits(count, torch.Generator().manual_seed(seed)).to(device)
    kept = torch.cat([portraits.render(people[rows], side).half() for rows in torch.arange(count).split(1024)])
    return lambda n, generator: kept[to_device(torch.randint(count, (n,), generator=generator), device)].float()


def adversaries(
    device: torch.device, r1: float = R1, noise: float = NOISE, seed: int = 0, **sizes
) -> stylegan2.Adversaries:
    """Untrained ones; sizes: of the generator, in place of those in stylegan2.SMALL, shared by the discriminator."""
    torch.manual_seed(seed)
    sizes = stylegan2.SMALL | sizes
    shared = {key: sizes[key] for key in ("resolution", "channel_base", "channel_max")}
    G, D = stylegan2.Generator(**sizes), stylegan2.Discriminator(**shared)
    return stylegan2.Adversaries(G.to(device), D.to(device), r1=r1, noise=noise, mixing=MIXING)


def train_generator(
    both: stylegan2.Adversaries,
    pictures: Callable[[int, torch.Generator], Float[Tensor, "n 3 side side"]],
    folder: Path,
    size: int = BATCH,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> TrainingLog:
    """Steps of both adversaries within a budget, earlier calls included; leaves a state in the folder to go on from.

    pictures: n real ones, given a generator on the CPU
    ValueError without a budget. The curve holds the means of every LOOK steps.
    """
    if steps is None and seconds is None:
        raise ValueError("a training needs a budget: give steps, seconds or both")
    device = next(both.G.parameters()).device
    home, away = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    done, path = TrainingLog(), folder / "generator.state"
    if path.exists():
        done = _resume(path, both, home, away)
    both.play, both.flatten = CUDAGraphCallable(both.play, away), CUDAGraphCallable(both.flatten, away)
    started, recent = time.monotonic() - done.seconds, []
    while (steps is None or done.steps < steps) and (seconds is None or done.seconds < seconds):
        recent.append(both.step(pictures(size, home), away))
        done.steps += 1
        if done.steps % LOOK == 0 or done.steps == steps:
            for name in recent[0]:
                mean = torch.stack([losses[name] for losses in recent if name in losses]).mean()
                done.curve.setdefault(name, []).append(round(float(mean), 5))
            recent = []
        done.seconds = time.monotonic() - started
        if done.steps % KEEP == 0:
            _save(path, both, home, away, done)
    _save(path, both, home, away, done)
    return done


def _save(path: Path, both: stylegan2.Adversaries, home: torch.Generator, away: torch.Generator, done: TrainingLog) -> None:
    networks = {name: getattr(both, name).state_dict() for name in ("G", "D", "average", "optimise_G", "optimise_D")}
    numbers = {name: getattr(both, name) for name in ("p", "path_mean", "steps", "images")}
    random = {"home": home.get_state(), "away": away.get_state()}
    state = {"networks": networks, "numbers": numbers, "random": random, "done": vars(done)}
    if both.lesson:
        state["lesson"] = both.lesson.mean
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(path: Path, both: stylegan2.Adversaries, home: torch.Generator, away: torch.Generator) -> TrainingLog:
    state = torch.load(path, weights_only=True, map_location=next(both.G.parameters()).device)
    for name, values in state["networks"].items():
        getattr(both, name).load_state_dict(values)
    for name, value in state["numbers"].items():
        setattr(both, name, value)
    home.set_state(state["random"]["home"].cpu())
    away.set_state(state["random"]["away"].cpu())
    if both.lesson:
        both.lesson.mean.copy_(state["lesson"])
    return TrainingLog(**state["done"])


def generated(
    G: stylegan2.Generator, n: int, generator: torch.Generator, truncation: float = 1.0, lot: int = 250
) -> Float[Tensor, "n 3 h w"]:
    """n pictures, `lot` at a time, with the fixed noise; codes are drawn on the CPU."""
    z = torch.randn(n, G.mapping.z_dim, generator=generator).to(G.mapping.w_avg.device)
    with torch.no_grad():
        return torch.cat([G(part, truncation) for part in z.split(lot)])


# --- inversion --------------------------------------------------------------------------------------------------------


def untrained(arm: str, generator: stylegan2.Generator, seed: int = 0, **options) -> ForwardDiffusion:
    """An arm's model with fresh weights; options: of its Encoder. ValueError on an unknown arm."""
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}: choose one of {', '.join(ARMS)}")
    kind, space, novel = ARMS[arm]
    torch.manual_seed(seed)
    forward_model = patches.Patch(generator)
    denoiser = patches.PatchDenoiser(forward_model, patches.w_std(generator), space, **options)
    return kind(denoiser, forward_model, patches.SCHEDULE, novel_weight=novel)


def train_inversion(
    model: ForwardDiffusion,
    pictures: Callable[[int, torch.Generator], Float[Tensor, "n 3 side side"]],
    folder: Path,
    name: str,
    size: int = BATCH,
    contexts: int = CONTEXTS,
    **budget,
) -> TrainingLog:
    """Trains on patches of real pictures within a budget of `steps` or `seconds`, earlier calls included."""
    fast = default_device().type == "cuda"
    state = folder / f"{name}.state"
    batch = patches.batches(pictures, size, contexts)
    return fit(
        model,
        batch,
        learning_rate=RATE,
        bf16=fast,
        compile=fast,
        checkpoint=state,
        checkpoint_every=KEEP,
        progress=False,
        **budget,
    )


# --- what it is worth -------------------------------------------------------------------------------------------------


def frequencies(labels: Tensor) -> list[Float[Tensor, "k"]]:
    """How often each category of each attribute (n, 10) occurs."""
    sizes = [len(categories) for categories in portraits.ATTRIBUTES.values()]
    return [torch.bincount(column, minlength=k) / len(labels) for column, k in zip(labels.T, sizes, strict=True)]


def judge(
    fake: Float[Tensor, "n 3 64 64"], real: Float[Tensor, "n 3 64 64"], reader: portraits.Reader, few: int = 5000
) -> dict[str, float]:
    """Generated pictures against drawn ones: attributes as they are read, and distances of the reader's features.

    worst_binary: the largest difference of frequency of any attribute with two categories; worst: of any category
    few: of each set, for precision and recall, whose cost is quadratic; the floor of the distance is that between
        two halves of the real set
    """
    with torch.no_grad():
        features = [torch.cat([reader.features(lot) for lot in x.split(500)]).cpu() for x in (fake, real)]
    shares = [frequencies(reader.read(x).cpu()) for x in (fake, real)]
    apart = [(a - b).abs().max().item() for a, b in zip(*shares, strict=True)]
    binary = [len(categories) == 2 for categories in portraits.ATTRIBUTES.values()]
    precision, recall = metrics.precision_recall(features[1][:few], features[0][:few])
    half = len(real) // 2
    return {
        "worst": max(apart),
        "worst_binary": max(a for a, two in zip(apart, binary, strict=True) if two),
        **{f"apart_{name}": a for name, a in zip(portraits.NAMES, apart, strict=True)},
        "frechet": metrics.frechet_distance(features[0], features[1]),
        "frechet_floor": metrics.frechet_distance(features[1][:half], features[1][half:]),
        "precision": precision,
        "recall": recall,
    }


# --- the examination of inversion -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exam:
    """c held-out pictures, of each a context patch, targets that cover the picture, and a patch for the energy score.

    pictures: (c, 3, 64, 64); context: M = 1; held: (c, 1, 3)
    targets:  (c, 5, 3) the middle first, since quadrants alone would cut both eyes and decide each bit by itself; then
              the quadrants in random order
    given:    (c, A) which attributes the context shows; of those that it does not, odds[name] (c, k) are the true
              probabilities; None where pictures are the generator's, whose odds a weighted bank tells
    """

    pictures: Float[Tensor, "c 3 h h"]
    context: Observations
    targets: Float[Tensor, "c 5 3"]
    held: Float[Tensor, "c 1 3"]
    given: Bool[Tensor, "c a"] | None = None
    odds: dict[str, Float[Tensor, "c k"]] = field(default_factory=dict)

    def first(self, n: int) -> Exam:
        """Of n pictures."""
        odds, given = {name: p[:n] for name, p in self.odds.items()}, None if self.given is None else self.given[:n]
        return Exam(self.pictures[:n], self.context[:n], self.targets[:n], self.held[:n], given, odds)


def exam(pictures: Float[Tensor, "c 3 h h"], seed: int = 2026) -> Exam:
    """Patches of given pictures; who is in them is not known."""
    (c, _, side, _), generator = pictures.shape, torch.Generator().manual_seed(seed)
    crops = patches.draw_crops(c, 1, generator, patches.CONTEXT, side)
    held = patches.draw_crops(c, 1, generator, patches.TARGET, side)
    corners = torch.cartesian_prod(*2 * (torch.tensor([0.0, side // 2]),))
    quadrants = torch.cat([corners, torch.full((4, 1), side / 2)], 1)[torch.rand(c, 4, generator=generator).argsort(1)]
    middle = torch.tensor([side / 4, side / 4, side / 2]).expand(c, 1, 3)
    return Exam(pictures, patches.observe(pictures, crops), torch.cat([middle, quadrants], 1), held)


def held_out(count: int = COUNT, seed: int = 2026) -> portraits.Portraits:
    """Portraits that no training has seen."""
    return portraits.draw_portraits(count, torch.Generator().manual_seed(seed))


def portrait_exam(people: portraits.Portraits, seed: int = 2026) -> Exam:
    """Their pictures and patches, with the true odds of what the contexts do not show."""
    paper = exam(portraits.render(people), seed)
    inside = patches.patch_mask(paper.context.params[:, 0], paper.pictures.shape[-1])[:, 0] > 0
    given, odds = portraits.shown(people, inside), {}
    for i, name in enumerate(portraits.NAMES):
        others = given.clone()
        others[:, i] = False
        odds[name] = portraits.conditional(people, others, name)
    return replace(paper, given=given, odds=odds)


def answer(
    model: ForwardDiffusion, exam: Exam, k: int = K, targets: int = 5, eta: float = 0.0, seed: int = 0, lot: int = 256
) -> Float[Tensor, "c k 3 h h"]:
    """Whole pictures: k codes sampled for each context, the first of its targets one after another.

    A ForwardRegression gives one answer, asked for the held-out patch: k = 1. They come back to where the exam is.
    """
    G, found, home = model.forward_model.generator, [], exam.pictures.device
    device = G.mapping.w_avg.device
    if isinstance(model, ForwardRegression):
        signal = model.sample(exam.context.to(device), exam.held.to(device)).signal
        return G.synthesis(signal)[:, None].to(home)
    generator, contexts = torch.Generator().manual_seed(seed), exam.context.repeat(k)
    sequence = exam.targets[:, :targets].repeat_interleave(k, 0)
    for rows in torch.arange(len(contexts)).split(lot):
        options = {"steps": STEPS, "eta": eta, "generator": generator}
        step, _ = model.sample_autoregressive(contexts[rows].to(device), sequence[rows].to(device), **options)
        with torch.no_grad():
            found.append(G.synthesis(step.signal).to(home))
    return torch.cat(found).unflatten(0, (-1, k))


def score(
    exam: Exam,
    drawn: Float[Tensor, "c k 3 h h"],
    single: Float[Tensor, "c 1 3 h h"],
    read: Int[Tensor, "c k a"],
    read_single: Int[Tensor, "c 1 a"],
    seed: int = 0,
) -> dict[str, float]:
    """All measures of samples beside those of the deterministic answer, named as in metrics.json.

    read, read_single: the `labels` of both
    Attributes are judged where the context does not show them, those that have odds: `factor_tv` is the largest of
    theirs, since pooling them would let one hide another.
    """
    generator, numbers = torch.Generator().manual_seed(seed), {}

    side = exam.pictures.shape[-1]
    inside = patches.patch_mask(exam.context.params[:, 0], side).expand_as(exam.pictures) > 0
    held = patches.patch_mask(exam.held[:, 0], side).expand_as(exam.pictures) > 0
    unseen = held & ~inside
    numbers["patch_psnr"] = metrics.psnr(drawn[:, 0], exam.pictures, 2, inside)
    numbers["patch_psnr_deterministic"] = metrics.psnr(single[:, 0], exam.pictures, 2, inside)
    within, without = metrics.variance_inside_outside(drawn, inside)
    numbers["diversity_outside_over_inside"] = (without / within) ** 0.5
    truth = exam.pictures * unseen  # what is not scored is alike in all
    scores = metrics.energy_score(drawn * unseen[:, None], truth), metrics.euclidean_error(single[:, 0] * unseen, truth)
    numbers |= metrics.energy_ratio(*scores, generator).named("energy_ratio")
    numbers |= metrics.spread_skill(drawn, exam.pictures, generator, unseen).named("spread_skill")
    for words, found in (("", read), ("deterministic_", read_single)):
        for i, (name, odds) in enumerate(exam.odds.items()):
            open_ = ~exam.given[:, i]
            if open_.sum() < 20:
                continue  # too few pictures hide it
            at, p = found[open_, :, i], odds[open_]
            numbers |= metrics.factor_tv(at, p, generator).named(f"{words}factor_tv_{name}")
            if not words:
                numbers |= metrics.per_context_calibration_rms(at, p, generator).named(f"factor_scene_rms_{name}")
        if each := [numbers[key] for name in exam.odds if (key := f"{words}factor_tv_{name}") in numbers]:
            numbers[f"{words}factor_tv"] = max(each)
    return {name: float(value) for name, value in numbers.items()}


def labels(reader: portraits.Reader, pictures: Float[Tensor, "c k 3 64 64"]) -> Int[Tensor, "c k a"]:
    """The attributes that are read from samples, where the reader is; they come back to where the samples are."""
    there = pictures.flatten(0, 1).to(next(reader.parameters()).device)
    return reader.read(there).unflatten(0, pictures.shape[:2]).to(pictures.device)


def bank_agreement(
    exam: Exam, drawn: Int[Tensor, "c k a"], bank: Float[Tensor, "n 3 h h"], known: Int[Tensor, "n a"]
) -> dict[str, float]:
    """Samples' attributes against those of a bank of the generator's pictures, weighted by agreement with the context.

    Total variation of each attribute, mean over contexts and attributes; the floor: half of the bank against half,
    and what K draws from the bank's own odds would show.
    """
    distances = patches.bank_distances(bank, exam.context)
    weights, _, sizes = patches.bank_weights(distances)
    half = len(bank) // 2
    halves = [patches.bank_weights(part)[0] for part in (distances[:, :half], distances[:, half:])]
    found: dict[str, list[Tensor]] = {"bank_tv": [], "bank_tv_halves": [], "bank_tv_chance": []}
    generator = torch.Generator().manual_seed(0)
    for i, categories in enumerate(portraits.ATTRIBUTES.values()):
        hot = nn.functional.one_hot(known[:, i], len(categories)).double()
        p, (first, second) = weights @ hot, (w @ x for w, x in zip(halves, (hot[:half], hot[half:]), strict=True))
        k = drawn.shape[1]
        chance = torch.multinomial(p.cpu(), k, replacement=True, generator=generator).to(p.device)
        shares = [metrics.label_frequencies(x, len(categories)) for x in (drawn[:, :, i], chance)]
        for name, pair in zip(found, ((shares[0], p), (first, second), (shares[1], p)), strict=True):
            found[name].append((pair[0].to(p) - pair[1]).abs().sum(1) / 2)
    numbers = {name: float(torch.stack(each).mean()) for name, each in found.items()}
    return numbers | {"bank_least_size": float(sizes.min())}


def without_error(
    people: portraits.Portraits, schedule: CosineSchedule, n: int = 1000, steps: int = STEPS, eta: float = 1.0
) -> dict[str, float]:
    """What is lost by sampling in steps alone: Bayes' rule denoises, over a bank of drawn portraits.

    n squares in the middle of a picture are sampled without context, and should be any of the bank's alike.
    spread: their standard deviation over the bank's; tv: how far the frequencies of an attribute are off, of the worst
    """
    bank = portraits.render(people)
    model = ForwardDiffusion(patches.BankDenoiser(bank, schedule), patches.Bank(bank), schedule)
    middle = torch.tensor([[[16.0, 16.0, 32.0]]], device=bank.device).expand(n, -1, -1)
    nothing = patches.observe(bank[:1].expand(n, -1, -1, -1), middle)
    nothing = nothing.mask_out(torch.ones_like(nothing.mask))
    generator = torch.Generator().manual_seed(0)
    step = model.sample(nothing, middle, steps=steps, eta=eta, generator=generator, allow_empty=True)
    inside = patches.patch_mask(middle[:1, 0], bank.shape[-1])
    spreads = [(x * inside).var(0).sum().sqrt() for x in (step.observation[:, 0], bank)]
    shares = [frequencies(people.attributes[rows]) for rows in (step.signal.argmax(1), slice(None))]
    apart = [(a - b).abs().sum() / 2 for a, b in zip(*shares, strict=True)]
    return {"spread": float(spreads[0] / spreads[1]), "tv": float(max(apart))}


# --- the commands -----------------------------------------------------------------------------------------------------


def _small(x: Int[Tensor, "..."]) -> np.ndarray:
    return x.cpu().numpy().astype(np.uint8)


def _weights(network: nn.Module, path: Path) -> None:
    """Kept in half precision."""
    save_file({key: value.half().contiguous().cpu() for key, value in network.state_dict().items()}, path)


def _filled(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    return network.eval().requires_grad_(False)


def _frozen(folder: Path, device: torch.device) -> stylegan2.Generator:
    """The generator in the folder."""
    return _filled(stylegan2.Generator(**stylegan2.SMALL), load_file(folder / "generator.safetensors")).to(device)


def _reading(folder: Path, device: torch.device) -> portraits.Reader:
    """The reader in the folder."""
    return _filled(portraits.Reader(), load_file(folder / "reader.safetensors")).to(device)


def _panel() -> nn.ModuleList:
    """The coaches, untrained."""
    return nn.ModuleList(portraits.Reader() for _ in COACHES)


def _generator(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    both, pictures = adversaries(device, options.r1, options.noise), drawn(options.portraits, device)
    if options.lesson:
        some = pictures(min(JUDGED, options.portraits), torch.Generator().manual_seed(0))
        some = both.shown(some, torch.Generator(device).manual_seed(0))
        panel = _filled(_panel(), load_file(folder / "coaches.safetensors")).to(device)
        both.lesson = portraits.Lesson(panel, some, options.lesson)
    budget = {"steps": options.steps, "seconds": 60 * options.minutes}
    done = train_generator(both, pictures, folder, options.batch, **budget)
    _weights(both.average, folder / "generator.safetensors")
    few = to_uint8(generated(both.average, 64, torch.Generator().manual_seed(1)))
    np.savez_compressed(folder / "generated.npz", pictures=few)
    minutes = done.seconds / 60 / options.sharing
    return {"gpu_minutes": minutes, "images": both.images} | vars(done)


def _taught(reader: portraits.Reader, steps: int, seed: int) -> dict:
    """Trains it where it is; its losses, and how much of what is drawn it reads rightly, by attribute."""
    device = next(reader.parameters()).device
    losses = portraits.train_reader(reader, steps, torch.Generator().manual_seed(seed))
    people = portraits.draw_portraits(2000, torch.Generator().manual_seed(2026)).to(device)
    right = (reader.read(portraits.render(people)) == people.attributes).double().mean(0)
    return {"seed": seed, "curve": losses[::10], "numbers": dict(zip(portraits.NAMES, right.tolist(), strict=True))}


def _reader(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    reader = portraits.Reader().to(device)
    found = _taught(reader, options.steps or READING, 0)
    _weights(reader, folder / "reader.safetensors")
    return found


def _coaches(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    torch.manual_seed(COACHES[0])
    panel = _panel().to(device)
    found = [_taught(coach, options.steps or COACHING, seed) for coach, seed in zip(panel, COACHES, strict=True)]
    _weights(panel, folder / "coaches.safetensors")
    return {"seed": COACHES[0], "coaches": found}


def _judge(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    fake = generated(_frozen(folder, device), options.count or JUDGED, torch.Generator().manual_seed(2))
    people = portraits.draw_portraits(len(fake), torch.Generator().manual_seed(3)).to(device)
    real = torch.cat([portraits.render(people[rows]) for rows in torch.arange(len(fake)).split(500)])
    return {"count": len(fake), "numbers": judge(fake, real, _reading(folder, device))}


def _arm(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    model = untrained(options.what, _frozen(folder, device))
    pictures, budget = drawn(options.portraits, device), {"steps": options.steps, "seconds": 60 * options.minutes}
    done = train_inversion(model, pictures, folder, options.what, options.batch, **budget)
    if done.interrupted:
        raise SystemExit(INTERRUPTED)
    if is_main_process():
        _weights(model.denoiser, folder / f"{options.what}.safetensors")
    parts = {name: np.split(values, range(LOOK, len(values), LOOK)) for name, values in done.curve.items()}
    curve = {name: [round(float(part.mean()), 5) for part in each] for name, each in parts.items()}
    minutes = done.seconds / 60 * num_processes() / options.sharing
    return {"gpu_minutes": minutes, "steps": done.steps, "batch": options.batch, "curve": curve}


def _examine(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    """Every case of CASES on portraits, optimisation on some; the main case beside a bank on generated faces."""
    G, reader, count = _frozen(folder, device), _reading(folder, device), options.count or COUNT
    lot = 1024 if device.type == "cuda" else 128
    models = {}
    for arm in ARMS:
        models[arm] = untrained(arm, G).eval()
        models[arm].denoiser = _filled(models[arm].denoiser, load_file(folder / f"{arm}.safetensors")).to(device)
    paper = portrait_exam(held_out(count))
    first, single, numbers = slice(EXAMPLES), answer(models["deterministic"], paper), {}
    read_single = labels(reader, single)
    kept = {"deterministic": to_uint8(single[first]), "deterministic_labels": _small(read_single)}
    kept |= {"given": paper.given.cpu().numpy()}
    kept |= {f"odds_{name}": p.cpu().numpy().astype(np.float32) for name, p in paper.odds.items()}

    def sat(name: str, samples: Float[Tensor, "c k 3 h h"], began: float) -> None:
        n, read = len(samples), labels(reader, samples)
        numbers[name] = score(paper.first(n), samples, single[:n], read, read_single[:n])
        numbers[name]["seconds_a_sample"] = (time.monotonic() - began) / samples[:, :, 0, 0, 0].numel()
        kept.update({name: to_uint8(samples[first, :2]), f"{name}_labels": _small(read)})
        print(name, json.dumps({key: round(value, 3) for key, value in numbers[name].items()}), flush=True)

    for name, (arm, eta, targets) in CASES.items():
        began = time.monotonic()
        sat(name, answer(models[arm], paper, options.samples, targets, eta, lot=lot), began)
    began = time.monotonic()
    few, forward_model = paper.first(count // 4), models["wplus"].forward_model
    start = patches.styles(G, len(few.pictures) * options.samples, torch.Generator().manual_seed(6))
    codes = patches.optimise(forward_model, few.context.repeat(options.samples).to(device), start)
    with torch.no_grad():
        sat("optimised", G.synthesis(codes).unflatten(0, (-1, options.samples)).cpu(), began)

    theirs = exam(generated(G, count // 4, torch.Generator().manual_seed(4)).cpu())
    bank = generated(G, options.bank, torch.Generator().manual_seed(5))
    arm, eta, targets = CASES[MAIN]
    samples = labels(reader, answer(models[arm], theirs, 4 * options.samples, targets, eta, lot=lot))
    there = replace(theirs, context=theirs.context.to(device))
    numbers["bank"] = bank_agreement(there, samples, bank, reader.read(bank))
    kept["live"] = to_uint8(answer(models[arm], paper.first(LIVE), 2, targets, eta))
    np.savez_compressed(folder / "examination.npz", **kept)
    people, steps = portraits.draw_portraits(options.bank // 5, torch.Generator().manual_seed(8)).to(device), {}
    for scale in SCALES:
        steps[f"{scale:g}"] = without_error(people, ShiftedCosineSchedule(scale), min(len(people), 2000))
    found = {"count": count, "samples": options.samples, "bank": options.bank, "numbers": numbers}
    return found | {"without_error": steps}


def ship(folder: Path) -> None:
    """Puts weights, numbers and examples into checkpoints/, with where they come from."""
    records, arm = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}, CASES[MAIN][0]
    found = records["examine"]["numbers"]
    numbers = {"generator": records["judge"]["numbers"], "reader": records["reader"]["numbers"], arm: found[MAIN]}
    made = {"generator": ("coaches", "generator"), "reader": ("reader",), arm: (arm,)}
    for part, parts in made.items():
        short = {key: round(value, 4) for key, value in numbers[part].items()}
        name, origin_ = NAME + f"_{part}" * (part != arm), merge_provenance([records[each] for each in parts])
        save_pretrained(name, load_file(folder / f"{part}.safetensors"), metrics=short, **origin_)
    with np.load(folder / "examination.npz") as examination:
        arrays = {name: examination[name] for name in examination.files if name.startswith(KEPT)}
    arrays["records"] = np.array(json.dumps(records))
    short = {case: round(found[case]["factor_tv"], 4) for case in CASES if "factor_tv" in found[case]}
    parts = ("reader", "coaches", "generator", "judge", *ARMS, "examine")
    save_recorded(NAME, arrays, metrics=short, **merge_provenance([records[part] for part in parts]))


def _networks(
    generator: dict[str, Tensor], reader: dict[str, Tensor], denoiser: dict[str, Tensor]
) -> tuple[stylegan2.Generator, portraits.Reader, ForwardDiffusion]:
    G = _filled(stylegan2.Generator(**stylegan2.SMALL), generator)
    model = untrained(CASES[MAIN][0], G).eval()
    model.denoiser = _filled(model.denoiser, denoiser)
    return G, _filled(portraits.Reader(), reader), model


def shipped() -> tuple[stylegan2.Generator, portraits.Reader, ForwardDiffusion]:
    """The generator, the reader and the model that inverts the generator, from checkpoints/."""
    return _networks(*(load_pretrained(name) for name in (f"{NAME}_generator", f"{NAME}_reader", NAME)))


def trained(folder: Path) -> tuple[stylegan2.Generator, portraits.Reader, ForwardDiffusion]:
    """The same, as the commands left them in a folder."""
    return _networks(*(load_file(folder / f"{part}.safetensors") for part in ("generator", "reader", CASES[MAIN][0])))


def recorded() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """What `ship` kept: the record of every command, and the examples."""
    arrays = load_recorded(NAME)
    return json.loads(str(arrays.pop("records"))), arrays


COMMANDS = {
    "reader": _reader,
    "coaches": _coaches,
    "generator": _generator,
    "judge": _judge,
    **dict.fromkeys(ARMS, _arm),
    "examine": _examine,
}


def main(words: Sequence[str] | None = None) -> None:
    """The command line, or these words of it."""
    parser = argparse.ArgumentParser(description="Train and examine what 04_gan_inversion loads.")
    parser.add_argument("what", choices=(*COMMANDS, "ship"))
    parser.add_argument("--out", type=Path, default=Path("build/gan"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of training a generator, or an arm")
    parser.add_argument("--steps", type=positive_int, help="of training, where they end before the minutes do")
    parser.add_argument("--portraits", type=positive_int, default=PORTRAITS, help="that are drawn to train on")
    parser.add_argument("--r1", type=float, default=R1, help="gamma of the generator's training")
    parser.add_argument("--noise", type=float, default=NOISE, help="on what its discriminator sees")
    parser.add_argument("--lesson", type=float, default=LESSON, help="weight of the coaches' loss")
    parser.add_argument("--batch", type=positive_int, default=BATCH, help="portraits a step")
    parser.add_argument("--count", type=positive_int, help=f"pictures: {JUDGED} are judged, {COUNT} are in the examination")
    parser.add_argument("--samples", type=positive_int, default=K, help="of each picture in the examination")
    parser.add_argument("--sharing", type=positive_int, default=1, help="how many commands have the device at once")
    parser.add_argument("--bank", type=positive_int, default=BANK, help="generated pictures that weigh a posterior")
    options = parser.parse_args(words)
    if options.what == "ship":
        return ship(options.out)
    if num_processes() > 1 and options.what not in ARMS:
        parser.error(f"{options.what} runs in one process: start it without `accelerate launch`")
    options.out.mkdir(parents=True, exist_ok=True)
    device = default_device()
    torch.backends.cudnn.benchmark = device.type == "cuda"
    began, command = time.monotonic(), f"{COMMAND} {options.what}"
    if options.what in ("generator", *ARMS):
        command += f" --minutes {options.minutes:g} --batch {options.batch}"
    if options.what == "generator":
        command += f" --r1 {options.r1:g} --noise {options.noise:g} --lesson {options.lesson:g}"
    if options.sharing > 1:
        command += f" --sharing {options.sharing}"
    record = provenance(command) | {"seed": 0}
    found = COMMANDS[options.what](options.out, device, options)
    minutes = (time.monotonic() - began) / 60 / options.sharing if device.type == "cuda" else 0.0
    if not is_main_process():
        return
    record |= {"gpu_minutes": minutes} | found
    write_json(options.out / f"{options.what}.json", record)
    shown = {key: value for key, value in record.items() if key not in ("curve", "command")}
    print(options.what, json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
