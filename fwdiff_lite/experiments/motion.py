"""The trainings of 03_motion_warping, and the examination that all of them sit.

    python -m fwdiff_lite.experiments.motion train warp_2 warp_2_mean --minutes 8 --out build/motion
    python -m fwdiff_lite.experiments.motion examine --out build/motion
    python -m fwdiff_lite.experiments.motion ship warp_2 --out build/motion --hardware "one NVIDIA H200"

An arm is a forward model with its number of fields; `_mean` behind it is the deterministic baseline of the same size.
`train` goes on where an earlier call stopped and leaves each arm's weights and losses in the folder. `examine` draws
samples for held-out scenes from every arm that it finds there and writes all measures to examination.json and
examples to examples.npz. `ship` puts one arm's weights, all measures and the examples into checkpoints/.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import default_device, is_main_process, num_processes
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.motion import scenes as scenes_
from fwdiff_lite.problems.motion.warping import FORWARD_MODELS, Motion, motion, take, untrained
from fwdiff_lite.storage.checkpoints import load_recorded, save_pretrained, save_recorded
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import git_commit
from fwdiff_lite.training import INTERRUPTED, fit

NAME = "03_motion_warping"
COMMAND = "python -m fwdiff_lite.experiments.motion"
HEADLINES = ("factor_tv", "factor_scene_rms", "mode_coverage", "epe_best_of_16", "energy_skill", "spread_skill")
ARMS = tuple(f"{kind}_{fields}{mean}" for mean in ("", "_mean") for fields in (1, 2) for kind in FORWARD_MODELS)
BATCH, RATE = 64, 6e-4
COUNT, K = 256, 16  # scenes of the examination, samples of each
TIMES = (0.5, 1.0)  # of the frames that are examined; the last is the target's
EXAMPLES = 6  # scenes of which pictures are kept
GUESSES = (-1.0, -0.75, -0.5, 0.5, 0.75, 1.0)  # motions that a frame is compared with to read its sign


def arm(name: str, **options) -> ForwardDiffusion:
    """An arm's model with fresh weights; ValueError on an unknown name."""
    if name not in ARMS:
        raise ValueError(f"unknown arm {name!r}: choose one of {', '.join(ARMS)}")
    kind, fields, *mean = name.split("_")
    return untrained(kind, int(fields), ForwardRegression if mean else ForwardDiffusion, **options)


# --- the examination --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exam:
    """Held-out scenes with all that is true of them; c scenes of S sprites, frames at TIMES.

    motion:  (c, S) what happens; redrawn: (c, K, T, 3, H, W) what else could have, as frames
    frames:  (c, T, 3, H, W) what happens; guesses: (c, S, G, 3, H, W) one sprite moving alone, at tau = 1
    field:   (c, 2, H, W) the true displacement; towards: (c, S, 2, H, W) each sprite's at amount 1 in the likelier
             direction (at even odds, the positive one), zero off the sprite
    near:    (c, S, H, W) the pixels that a sprite's motions can change
    bank:    the textures
    """

    scenes: scenes_.Scenes
    motion: Float[Tensor, "c s"]
    context: Observations
    frames: Float[Tensor, "c t 3 h w"]
    redrawn: Float[Tensor, "c k t 3 h w"]
    guesses: Float[Tensor, "c s g 3 h w"]
    field: Float[Tensor, "c 2 h w"]
    towards: Float[Tensor, "c s 2 h w"]
    near: Bool[Tensor, "c s h w"]
    bank: Float[Tensor, "n 3 64 64"]

    @property
    def moving(self) -> Bool[Tensor, "c h w"]:
        """The sprites' pixels in the still."""
        return (self.towards != 0).any(2).any(1)


def exam(bank: Float[Tensor, "n 3 64 64"], count: int = COUNT, k: int = K, seed: int = 2026) -> Exam:
    """Always the same scenes for the same seed and count; a smaller count gives the first of a larger one's."""
    scenes, generators = exam_scenes(count, len(bank), seed)
    motions = torch.stack([
        torch.cat([scenes_.draw_motions(scenes[[i]], generator) for _ in range(1 + k)])
        for i, generator in enumerate(generators)
    ])  # (c, 1 + K, S): what happens, and what else could have  # fmt: skip
    scenes, motions = scenes.to(bank.device), motions.to(bank.device)
    happens, s = motions[:, 0], motions.shape[2]
    tau = torch.tensor([0.0, *TIMES], device=bank.device)

    def frames(rows: scenes_.Scenes, moved: Tensor, times: Tensor) -> Tensor:
        return torch.cat([
            scenes_.render(rows[i : i + 128], moved[i : i + 128], times.expand(len(moved[i : i + 128]), -1), bank)
            for i in range(0, len(moved), 128)
        ])  # fmt: skip

    def every(n: int) -> scenes_.Scenes:
        return scenes[torch.arange(count, device=bank.device).repeat_interleave(n)]

    seen = frames(scenes, happens, tau)
    redrawn = frames(every(k), motions[:, 1:].flatten(0, 1), tau[1:]).unflatten(0, (count, k))
    alone = torch.tensor(GUESSES, device=bank.device)[:, None, None] * torch.eye(s, device=bank.device)  # (G, S, S)
    alone = alone.transpose(0, 1).flatten(0, 1).repeat(count, 1)  # (c S G, S)
    guesses = frames(every(s * len(GUESSES)), alone, tau[-1:])[:, 0].unflatten(0, (count, s, len(GUESSES)))
    guesses = torch.where(scenes.there[:, :, None, None, None, None], guesses, seen[:, None, :1])
    near = ((guesses - seen[:, None, :1]).abs().amax((2, 3)) > 0.02) & scenes.there[..., None, None]
    likelier = scenes.favoured * scenes.there
    towards = [scenes_.true_field(scenes, likelier * one) for one in torch.eye(s, device=bank.device)]
    context = Observations(seen[:, :1], tau[:1].expand(count, 1)[..., None])
    field = scenes_.true_field(scenes, happens)
    return Exam(scenes, happens, context, seen[:, 1:], redrawn, guesses, field, torch.stack(towards, 1), near, bank)


def exam_scenes(count: int, pieces: int, seed: int = 2026) -> tuple[scenes_.Scenes, list[torch.Generator]]:
    """The scenes of an examination, and for each the generator that its motions are drawn from next.

    pieces: how many textures there are
    """
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    return scenes_.join([scenes_.draw_scenes(1, pieces, generator) for generator in generators]), generators


@dataclass(frozen=True)
class Answers:
    """K answers to each of c scenes.

    signal: c K signals, a scene's K one after another; what they show: field (c, K, 2, H, W), the displacement of
    the still's pixels, and frames (c, K, T, 3, H, W)
    """

    signal: Motion
    field: Float[Tensor, "c k 2 h w"]
    frames: Float[Tensor, "c k t 3 h w"]


def answer(
    model: ForwardDiffusion, exam: Exam, k: int = K, steps: int = 32, eta: float = 0.0, seed: int = 0, chunk: int = 512
) -> Answers:
    """k samples for each scene, or with a ForwardRegression its one answer.

    They are drawn on the model's device, `chunk` at once. With eta = 0 they are the same for any chunk, and fewer
    scenes get the first of the samples that more would get.
    """
    mean, home, device = isinstance(model, ForwardRegression), exam.frames.device, next(model.parameters()).device
    k, generator, tau = 1 if mean else k, torch.Generator().manual_seed(seed), torch.tensor(TIMES)[None, :, None]
    options = {} if mean else {"steps": steps, "eta": eta, "generator": generator}
    contexts, parts = exam.context.repeat(k), []
    for i in range(0, len(contexts), chunk):
        context = contexts[slice(i, i + chunk)].to(device)
        times = tau.to(device).expand(len(context), -1, -1)
        signal = model.sample(context, times[:, -1:], **options).signal
        shown = model.forward_model.displacement(signal), model.forward_model(signal, times)
        parts.append([part.to(home) for part in (*signal, *shown)])
    *signal, field, frames = (torch.cat(part) for part in zip(*parts, strict=True))
    return Answers(Motion(*signal), field.unflatten(0, (-1, k)), frames.unflatten(0, (-1, k)))


def read_field(field: Float[Tensor, "c k 2 h w"], exam: Exam) -> Int[Tensor, "c s k"]:
    """1 where a sampled field moves a sprite in its likelier direction: the sign of its projection on that motion."""
    return (torch.einsum("ckdhw,csdhw->csk", field, exam.towards) > 0).long()


def read_frames(frames: Float[Tensor, "c k 3 h w"], exam: Exam) -> Int[Tensor, "c s k"]:
    """The same, read from frames at tau = 1: the sign of the motion whose true picture is nearest around the sprite."""
    nearest = torch.stack([
        ((frames[:, :, None] - guess[:, None]).square().sum(3) * exam.near[:, None]).sum((-1, -2)).transpose(1, 2)
        for guess in exam.guesses.unbind(2)
    ]).argmin(0)  # (c, S, K)  # fmt: skip
    sign = torch.tensor(GUESSES, device=frames.device)[nearest].sign()
    return (sign == exam.scenes.favoured[..., None]).long()


def likelier(labels: Int[Tensor, "c s k"], scenes: scenes_.Scenes) -> dict[int, tuple[float, float]]:
    """How often the likelier sign is drawn, by a badge's odds in per cent, with half a 95 % interval over sprites."""
    found = {}
    for odds in sorted({max(p, 1 - p) for p in scenes_.CUES.values()}):
        rate = labels[scenes.there & ((scenes.odds - odds).abs() < 1e-3)].double().mean(1)  # one for each sprite
        half = 1.96 * rate.std() / len(rate) ** 0.5 if len(rate) > 1 else torch.tensor(1.0)
        found[round(100 * odds)] = float(rate.mean()), float(half)
    return found


def endpoint_error(field: Float[Tensor, "c k 2 h w"], exam: Exam) -> Float[Tensor, "c k"]:
    """Mean distance in pixels between sampled and true displacement, over the sprites' pixels in the still."""
    moving = exam.moving[:, None]
    return ((field - exam.field[:, None]).norm(dim=2) * moving).sum((-1, -2)) / moving.sum((-1, -2))


def coverage(labels: Int[Tensor, "c s k"], scenes: scenes_.Scenes) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Of scenes with one or two sprites: the share of modes (signs of all sprites) hit, and what exact draws hit."""
    few = scenes.there.sum(1) <= 2
    k, odds, there = labels.shape[2], scenes.odds[few][:, :2], scenes.there[few][:, :2]
    mode = (labels[few][:, :2] * there[..., None] * torch.tensor([[1], [2]], device=labels.device)).sum(1)  # (n, K)
    hit = (mode[..., None] == torch.arange(4, device=labels.device)).any(1)  # (n, 4)
    first, second = torch.stack([1 - odds, odds], -1).unbind(1)  # (n, 2): probability of each sign
    second = torch.where(there[:, 1:], second, second.new_tensor([1.0, 0.0]))
    p = (second[:, :, None] * first[:, None]).flatten(1)  # (n, 4), in the order of `mode`
    possible = p > 0
    share = possible / possible.sum(1, keepdim=True)
    return (hit * share).sum(1), ((1 - (1 - p) ** k) * share).sum(1)


def against_redrawn(answers: Answers, exam: Exam) -> dict[str, float]:
    """Why a spread is not 1: variance of the sampled frames, and squared error of their mean, over those of redraws.

    Both on the pixels that can change; 1 for exact samples, up to chance.
    """
    near = exam.near.any(1)[:, None, None]

    def both(frames: Float[Tensor, "c k t 3 h w"]) -> Float[Tensor, "2"]:
        parts = frames.var(1), (frames.mean(1) - exam.frames).square()
        return torch.stack([(part * near).sum() for part in parts])

    ratio = both(answers.frames) / both(exam.redrawn)
    return {"variance_over_true": float(ratio[0]), "mean_error_over_true": float(ratio[1])}


def judge(exam: Exam, answers: Answers, baseline: Answers, seed: int = 0) -> dict[str, float]:
    """All measures of a sampler; `baseline`: a deterministic model's answers. Names as in metrics.json."""
    generator = torch.Generator().manual_seed(seed)
    there, labels = exam.scenes.there, read_field(answers.field, exam)
    odds = torch.stack([1 - exam.scenes.odds, exam.scenes.odds], -1)[there].double().cpu()
    signs = labels[there].cpu()
    tv = metrics.factor_tv(signs, odds, generator)
    rms = metrics.per_context_calibration_rms(signs, odds, generator)
    seen = read_frames(answers.frames[:, :, -1], exam)
    truly = read_frames(exam.frames[:, None, -1], exam)[..., 0]
    hit, perfect = coverage(labels, exam.scenes)
    epe, epe_mean = endpoint_error(answers.field, exam), endpoint_error(baseline.field, exam)[:, 0]
    epe_zero = endpoint_error(torch.zeros_like(baseline.field), exam)[:, 0]
    truth = exam.frames
    scores = {
        "model": metrics.energy_score(answers.frames, truth),
        "mean": metrics.euclidean_error(baseline.frames[:, 0], truth),
        "true": metrics.energy_score(exam.redrawn, truth),
    }
    scores = {name: score.cpu() for name, score in scores.items()}
    ratio = metrics.energy_ratio(scores["model"], scores["mean"], generator)
    skill = metrics.energy_skill(scores["model"], scores["mean"], scores["true"], generator)
    near = exam.near.any(1)
    spread = metrics.spread_skill(answers.frames.cpu(), truth.cpu(), generator, near[:, None, None].cpu())
    best = metrics.best_of(answers.frames[:, :, -1], truth[:, -1])
    psnr = {
        "best": metrics.psnr(best, truth[:, -1], 2),
        "deterministic": metrics.psnr(baseline.frames[:, 0, -1], truth[:, -1], 2),
        "sample": metrics.psnr(answers.frames[:, 0, -1], truth[:, -1], 2),
        "mean_of_samples": metrics.psnr(answers.frames[:, :, -1].mean(1), truth[:, -1], 2),
    }
    still = ~near[:, None].expand(-1, answers.field.shape[1], -1, -1)
    numbers = {
        "factor_tv": tv.value,
        "factor_tv_high": tv.high,
        "factor_scene_rms": rms.value,
        "factor_scene_rms_high": rms.high,
        **{f"likelier_sign_{odds}": rate for odds, (rate, _) in likelier(labels, exam.scenes).items()},
        "readings_agree": (seen == labels)[there].double().mean(),
        "readings_right": (truly == (exam.motion.sign() == exam.scenes.favoured))[there].double().mean(),
        "mode_coverage": hit.mean(),
        "mode_coverage_of_exact_draws": perfect.mean(),
        "epe_zero": epe_zero.mean(),
        "epe_deterministic": epe_mean.mean(),
        "epe_sample": epe.mean(),
        "epe_best_of_16": epe.amin(1).mean(),
        "energy_ratio": ratio.value,
        "energy_ratio_high": ratio.high,
        "energy_skill": skill.value,
        "energy_skill_low": skill.low,
        "spread_skill": spread.value,
        "spread_skill_low": spread.low,
        "spread_skill_high": spread.high,
        **{f"psnr_{name}": value for name, value in psnr.items()},
        "static_pixels_move": answers.field.norm(dim=2)[still].mean(),
        **against_redrawn(answers, exam),
    }
    return {name: float(value) for name, value in numbers.items()}


def floors(exam: Exam, kind: str, fits: int = 300) -> dict[str, float]:
    """What a forward model cannot show: squared errors of frames at four times, per pixel and colour.

    From a still that stays as it is, from the true field (the sprites before what lies behind them), and from the
    field, and importance, that fit the frames best, sought from the true ones by `fits` steps of Adam.
    """
    forward_model, still, field = FORWARD_MODELS[kind], exam.context.value[:, 0], exam.field
    tau = torch.linspace(0.25, 1, 4, device=field.device).expand(len(field), 4)
    truth = scenes_.render(exam.scenes, exam.motion, tau, exam.bank)
    before = 5.0 * exam.moving[:, None]

    def error(field: Tensor, importance: Tensor) -> Tensor:
        return (forward_model(motion(still, field, importance), tau[..., None]) - truth).square().mean()

    best = [field.clone().requires_grad_(), before.clone().requires_grad_()]
    optimizer = torch.optim.Adam(best, lr=0.1)
    for _ in range(fits):
        optimizer.zero_grad()
        error(*best).backward()
        optimizer.step()
    with torch.no_grad():
        apart = endpoint_error(forward_model.displacement(motion(still, *best))[:, None], exam).mean()
        stays = (still[:, None] - truth).square().mean()
        numbers = {"still": stays, "true_field": error(field, before), "best_fit": error(*best), "best_fit_epe": apart}
    return {f"floor_{name}": float(value) for name, value in numbers.items()}


# --- the commands -----------------------------------------------------------------------------------------------------


def train(name: str, folder: Path, minutes: float, size: int = BATCH, sharing: int = 1) -> None:
    """Trains an arm until `minutes` are spent, those of earlier calls included; weights and losses go to the folder.

    A call that is cut off is gone on with. sharing: how many trainings have the device at once, for the record
    """
    device = default_device()
    model = arm(name)
    done = fit(
        model,
        scenes_.batches(scenes_.textures(scenes_.TRAIN).to(device), size),
        seconds=60 * minutes,
        learning_rate=RATE,
        bf16=device.type == "cuda",
        compile=device.type == "cuda",
        checkpoint=folder / f"{name}.state",
        checkpoint_every=100,
        progress=False,
    )
    if done.interrupted:
        raise SystemExit(INTERRUPTED)
    if not is_main_process():
        return
    weights = {key: value.half() for key, value in model.denoiser.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")
    losses = {key: thinned(values) for key, values in done.curve.items()}
    record = {
        "command": f"{COMMAND} train {name} --minutes {minutes:g} --batch {size} --sharing {sharing}",
        "commit": git_commit() or "unknown",
        "steps": done.steps,
        "minutes": done.seconds / 60,
        "gpu_minutes": done.seconds / 60 * num_processes() / sharing,
        "losses": losses,
    }
    write_json(folder / f"{name}.json", record)
    print(f"{name}: {done.steps} steps of {size}, {done.seconds / 60:.1f} minutes, losses {losses['loss']}", flush=True)


def thinned(values: list[float], count: int = 50) -> list[float]:
    """At most `count` averages of successive values."""
    size = -(-len(values) // count)
    return [round(sum(values[i : i + size]) / len(values[i : i + size]), 6) for i in range(0, len(values), size)]


def trained(name: str, folder: Path, device: torch.device) -> ForwardDiffusion:
    """An arm with the weights that `train` left in the folder."""
    model, weights = arm(name), load_file(folder / f"{name}.safetensors")
    model.denoiser.load_state_dict({key: value.float() for key, value in weights.items()})
    return model.to(device).eval()


def examine(folder: Path, count: int = COUNT, k: int = K, steps: int = 32) -> None:
    """Judges every arm in the folder that has a deterministic baseline there; keeps what figures show of them.

    Of all samples their signs and endpoint errors, of the first scenes some frames, and the deterministic signal.
    """
    device = default_device()
    paper = exam(scenes_.textures(scenes_.HELD_OUT).to(device), count, k)
    numbers = {kind: floors(paper, kind) for kind in FORWARD_MODELS}
    examples = {}
    there = {path.stem for path in folder.glob("*.safetensors")}
    for name in [name for name in ARMS if {name, f"{name}_mean"} <= there]:
        baseline = answer(trained(f"{name}_mean", folder, device), paper)
        examples[f"{name}_mean_frames"] = last_frames(baseline)
        examples |= {
            f"{name}_mean_{key}": part.half().cpu().numpy()
            for key, part in take(baseline.signal, slice(EXAMPLES))._asdict().items()
            if key != "still"
        }
        model = trained(name, folder, device)
        for eta in (0, 1):
            answers = answer(model, paper, k, steps, eta)
            numbers[f"{name}_eta_{eta}"] = found = judge(paper, answers, baseline)
            examples[f"{name}_eta_{eta}_labels"] = read_field(answers.field, paper).byte().cpu().numpy()
            examples[f"{name}_eta_{eta}_epe"] = endpoint_error(answers.field, paper).half().cpu().numpy()
            if eta == 0:
                examples[f"{name}_frames"] = last_frames(answers)
            print(name, eta, json.dumps({key: round(value, 3) for key, value in found.items()}), flush=True)
    write_json(folder / "examination.json", numbers)
    np.savez_compressed(folder / "examples.npz", **examples)


def last_frames(answers: Answers, k: int = 3) -> np.ndarray:
    """Up to k last frames of the first scenes, in 64 levels."""
    return to_uint8(answers.frames[:EXAMPLES, :k, -1], 64)


def ship(name: str, folder: Path, hardware: str) -> None:
    """Puts an arm's weights and the whole examination into checkpoints/, with where they come from."""
    record, numbers = read_json(folder / f"{name}.json"), read_json(folder / "examination.json")
    records = {path.stem: read_json(path) for path in sorted(folder.glob("*_[12]*.json"))}
    steps = {arm: each["steps"] for arm, each in records.items()}
    origin = {"hardware": hardware, "seed": 0, "commit": record["commit"]}
    save_pretrained(
        NAME,
        load_file(folder / f"{name}.safetensors"),
        arm=name,
        command=record["command"],
        gpu_minutes=round(record["gpu_minutes"], 1),
        steps=record["steps"],
        metrics={key: round(value, 4) for key, value in numbers[f"{name}_eta_0"].items() if key in HEADLINES},
        **origin,
    )
    arrays = {"numbers": np.array(json.dumps(numbers)), "steps": np.array(json.dumps(steps))}
    with np.load(folder / "examples.npz") as examples:
        signals = {key for key in examples if key.endswith(("_fields", "_share", "_importance"))}
        others = {key for key in signals if not key.startswith(f"{name}_mean_")}  # of no figure
        arrays |= {key: examples[key] for key in examples if key not in others}
    save_recorded(
        NAME,
        arrays,
        command="; ".join([*(each["command"] for each in records.values()), f"{COMMAND} examine"]),
        gpu_minutes=round(sum(each["gpu_minutes"] for each in records.values()), 1),
        metrics={arm: round(found["energy_skill"], 4) for arm, found in numbers.items() if "energy_skill" in found},
        **origin,
    )


def recorded() -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """What `ship` kept: the measures of every arm, and the examples."""
    arrays = load_recorded(NAME)
    return json.loads(str(arrays["numbers"])), arrays


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train and examine the arms of 03_motion_warping.")
    parser.add_argument("what", choices=("train", "examine", "ship"))
    parser.add_argument("arms", nargs="*", help=f"of {', '.join(ARMS)}; `train` with none: all, one after another")
    parser.add_argument("--out", type=Path, default=Path("build/motion"))
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each arm")
    parser.add_argument("--batch", type=positive_int, default=BATCH)
    parser.add_argument("--sharing", type=positive_int, default=1, help="how many trainings have the device at once")
    parser.add_argument("--scenes", type=positive_int, default=COUNT, help="of the examination")
    parser.add_argument("--hardware", default="CPU", help="what `ship` writes down")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "train":
        for name in options.arms or ARMS:
            train(name, options.out, options.minutes, options.batch, options.sharing)
    elif options.what == "examine":
        examine(options.out, options.scenes)
    else:
        for name in options.arms:
            ship(name, options.out, options.hardware)


if __name__ == "__main__":
    main()
