# %% [markdown]
# # Two motions for one still
#
# A photograph of a pendulum shows where it can swing. It does not show which way it is about to. Can a model that never
# sees a motion, only stills and what they looked like later, learn to draw all the motions that fit one still?
#
# **What you will see.** Small scenes of things that can move: a pendulum, a bead on a rail, a disc that breathes, a
# wheel. The model samples how they move, and each sample plays as a clip. A deterministic model trained in the same
# way answers with a ghost of both motions. Because we made the scenes, the true distribution of motions is known, and
# the samples are counted against it. The count finds a bias that theory predicts, and a remedy for most of it.
#
# **What you need.** The toy proof (`01_toy_proof`), or its section on means that cannot be reached. The weights were
# trained on a GPU and are loaded; a few training steps run live. The scenes are made here, with textures cut from the
# photographs in scikit-image's wheel. Nothing is downloaded.
#
# **What it rebuilds.** Section 4.2 of *Diffusion with Forward Models* (Tewari et al., NeurIPS 2023,
# [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)): motion from a single image, through warping. No code for it was
# released; the scenes and the measures are ours.

# %%
# On Google Colab: fetches the repository and the light packages it lacks. Elsewhere: idle.
try:
    import google.colab  # noqa: F401
except ImportError:
    pass
else:
    import importlib.metadata, os, subprocess, sys

    folder = "/content/fwdiff-lite"
    if not os.path.isdir(folder):
        address = "https://github.com/fwdiff-lite/fwdiff-lite"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, folder], check=True)
    there = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
    light = "accelerate einops imageio jaxtyping matplotlib safetensors scikit-image scikit-learn scipy tqdm wadler-lindig".split()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, *(name for name in light if name not in there), "-e", folder], check=True)
    sys.path.insert(0, folder)
    os.chdir(f"{folder}/notebooks")

# %% tags=["parameters"]
PROFILE = "cpu"
# The profile "gpu" trains the weights anew, and goes on where an earlier run stopped.
MINUTES = 8.0  # of training
FOLDER = "../build/03_motion_warping"  # for its weights
SCENES = 256  # that are sampled then, at least 6

# %% tags=["nbval-ignore-output"]
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from fwdiff_lite import Observations, fit, plotting
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.storage.checkpoints import load_pretrained, read_manifest
from fwdiff_lite.problems.motion import warping as problem
from fwdiff_lite.experiments import motion as experiment
from fwdiff_lite.problems.motion import scenes

run = Run("03_motion_warping", PROFILE)
N, K = run.pick(smoke=6, cpu=6, gpu=SCENES), run.pick(smoke=2, cpu=experiment.K, gpu=experiment.K)  # held-out scenes, samples of each
DENOISING = run.pick(smoke=2, cpu=32, gpu=32)  # steps of sampling
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHUNK = 512 if device.type == "cuda" else 8  # samples at once
run.opening()

# %% [markdown]
# ## 1. What can move, and what will
#
# A row is one scene. The still comes first; then the frames of what happens, and on the right what it would look like if
# every sprite had gone the other way. Each shows what it *can* do: a pendulum hangs from a peg, a bead sits on a rail, a
# disc has a ring to grow to, a wheel has spokes. What it *will* do is a sign and an amount. The amount is uniform between
# a half and one. The sign depends on the colour of the *badge*, the dot in its middle, and on nothing else: white is a
# fair coin, orange means 80 % one way (right, larger, clockwise), blue 70 % the other way. Signs are independent, so
# three sprites have eight ways to move. A model has to find all that out from frames.

# %%
held_out = scenes.textures(scenes.HELD_OUT)
exam = experiment.exam(held_out, N)  # N scenes in held-out textures: what happens in each, and what else could have


def rgb(frames):
    """Frames (..., 3, H, W) in [-1, 1] as pictures."""
    return torch.as_tensor(frames).float().movedim(-3, -1).clamp(-1, 1) / 2 + 0.5


def still(i):
    return exam.context.value[i, 0]


shown, tau = torch.tensor([4, 1, 2, 5]), torch.linspace(0, 1, 4)
happens = scenes.render(exam.scenes[shown], exam.motion[shown], tau.expand(4, 4), held_out)
otherwise = scenes.render(exam.scenes[shown], -exam.motion[shown], torch.ones(4, 1), held_out)
fig = plotting.image_grid(
    torch.cat([rgb(happens), rgb(otherwise)], 1), size=1.4,
    col_titles=["still, $\\tau = 0$", *(f"$\\tau = {t:.2g}$" for t in tau[1:]), "all reversed, $\\tau = 1$"],
)
run.savefig(fig, "scenes")
plt.show()

# %% [markdown]
# ## 2. The forward model: a still and a field make a frame
#
# The signal is a still with a field $F$ over its pixels, $S = (I, F)$. An observation is another frame,
#
# $$O = \mathrm{forward}(S; \tau) = I \text{ moved by } \tau F ,$$
#
# so the still is the observation at $\tau = 0$: it is the context. There are two ways to move a picture.
#
# - **Backward warping** asks, at each pixel $x$ of the frame, where its colour came from: $O(x) = I(x - \tau F(x))$. It
#   is smooth and leaves no hole, but it reads the field where the frame looks, not where the thing was.
# - **Forward splatting** sends each pixel where it goes, $x + \tau F(x)$. Where several arrive, the more important one
#   covers the other, so an importance map is part of its signal; where none arrives there is a hole.
#
# Below, both get the *true* field. Warping cuts the sprite off at its front, since the field is zero there; a field that
# suits warping must reach ahead of the thing. Splatting keeps it whole; its rim is a little blurred, and its shadow and
# the hole behind are wrong. To use one instead of the other is one argument: `FORWARD_MODELS["warp"]` or
# `FORWARD_MODELS["splat"]`.

# %%
i = 0
truth = exam.frames[i, -1]
pictures, titles = [rgb(still(i)), rgb(truth)], ["still", "true frame"]
before = 5.0 * exam.moving[i : i + 1, None]  # sprites are more important than what lies behind
signal = problem.motion(still(i)[None], exam.field[i : i + 1], before)
for kind, forward_model in problem.FORWARD_MODELS.items():
    frame = forward_model(signal, torch.ones(1, 1, 1))[0, 0]
    pictures += [rgb(frame), (frame - truth).abs().mean(0, keepdim=True).expand(3, -1, -1).movedim(0, -1)]
    titles += [kind, "its error (white: 1)"]
holes = problem.SoftmaxSplat().holes(signal, torch.ones(1, 1, 1))[0, 0]
pictures.append((~holes)[..., None].expand(-1, -1, 3).float())
there = exam.near[i].any(0).nonzero()  # a closer look at where something moves
top, left = (there.min(0).values - 3).clamp(0, 64 - 32).tolist()
close = torch.stack(pictures)[None, :, top : top + 32, left : left + 32]
fig = plotting.image_grid(close, col_titles=[*titles, "holes (black)"], size=1.35)
fig.axes[-1].spines[:].set(visible=True)
run.savefig(fig, "forward_models")
plt.show()

# %% [markdown]
# How well can each forward model show these scenes at all? Below is the squared error of its frames, as a share of that
# of a still that does not move. The best fit, one field for each scene, was sought by gradient descent on the true frames
# themselves, on 256 scenes on a GPU: so much one field can do. It is not the true field either: where a sprite has no
# texture, many fields make the same frames.

# %% tags=["nbval-ignore-output"]
measured, recorded = experiment.recorded()
for kind in problem.FORWARD_MODELS:
    floor, here = measured[kind], experiment.floors(exam, kind, fits=1)
    share = {key: floor[f"floor_{key}"] / floor["floor_still"] for key in ("true_field", "best_fit")}
    print(
        f"{kind:6} true field {share['true_field']:.2f} ({here['floor_true_field'] / here['floor_still']:.2f} on the "
        f"{N} scenes here)   best fit {share['best_fit']:.3f}, {floor['floor_best_fit_epe']:.2f} pixels from the true field"
    )
    run.record(**{f"{kind}_floor_{key}": value for key, value in share.items()})
    run.record(**{f"{kind}_floor_epe": floor["floor_best_fit_epe"]})

# %% [markdown]
# ## 3. The denoiser
#
# Eq. 4 is a U-Net. It sees the still, one noisy frame, the time $\tau$ of that frame and the noise level $t$, and answers
# with the signal,
#
# $$S = \mathrm{denoise}(I, O^{\text{trgt}}_t; t, \tau). \tag{4}$$
#
# The losses compare two frames that this signal makes, that of the target and one at another time, the novel one, with
# the true frames (Eq. 8 and 9). No field is ever given.
#
# One thing is added to the paper's signal, and section 5 shows why: a frame may be a blend of *two* fields, pixel by
# pixel,
#
# $$\mathrm{forward}(S; \tau) = w \odot \mathrm{move}(I, \tau F_1) + (1 - w) \odot \mathrm{move}(I, \tau F_2) .$$
#
# Here are a few steps of that training, from the loaded weights.

# %% tags=["nbval-ignore-output"]
entry = read_manifest()["03_motion_warping.safetensors"]
ARM = entry["arm"]
if PROFILE == "gpu":
    experiment.train(ARM, Path(FOLDER), MINUTES)
    model = experiment.trained(ARM, Path(FOLDER), device)
else:
    model = experiment.arm(ARM)
    model.denoiser.load_state_dict(load_pretrained("03_motion_warping"))
model.to(device).denoiser.eval()

trainee = experiment.arm(ARM)
trainee.denoiser.load_state_dict(model.denoiser.state_dict())
batch = scenes.batches(scenes.textures(scenes.TRAIN), run.pick(smoke=2, cpu=8, gpu=8))
steps = run.pick(smoke=2, cpu=8, gpu=8)
curve = fit(trainee, batch, steps=steps, learning_rate=1e-5, warmup=1, progress=False).curve
print(f"{sum(w.numel() for w in model.denoiser.parameters()) / 1e6:.1f} million weights, arm {ARM}")
print(f"loaded: {entry['steps']} steps of {study.BATCH} on {entry['hardware']}, {entry['gpu_minutes']} GPU-minutes")
print(f"mean losses of {steps} live steps: target {np.mean(curve['target']):.4f}, novel {np.mean(curve['novel']):.4f}")
print(f"a still that does not move: {measured['splat']['floor_still']:.4f}")

# %% [markdown]
# ## 4. One still, many motions
#
# We start from a noisy frame at $\tau = 1$ and iterate: the signal (Eq. 4), its frame (Eq. 5), a frame with less noise
# (Eq. 6). Each sample is a signal. Its upper row shows how far the still's pixels go by $\tau = 1$: colour is direction, as
# in the wheel, full colour is 5 pixels, and arrows stand where it is more than 1.5. (Of two fields, each counts as far as
# it shows.) The frame that the signal makes is below.
#
# The deterministic baseline is the same network, trained as long through the same forward model, without the noisy frame.
# It fails as it must: its answer, recorded, is the mean of all motions, a ghost. No one field is shown for it, since its
# two fields go opposite ways.

# %% tags=["nbval-ignore-output"]
answers = experiment.answer(model, exam, K, DENOISING, chunk=CHUNK)
forward_model = model.forward_model


def sampled(i, j):
    """Sample j for scene i."""
    return problem.take(answers.signal, [i * K + j])


def field_rgb(field):
    """A field (2, H, W) in colours; full colour at 5 pixels."""
    return torch.as_tensor(plotting.flow_to_rgb(torch.as_tensor(field).float().movedim(0, -1), largest=5.0))


def picture(frames, i, j=0):
    """A recorded frame."""
    return torch.from_numpy(recorded[frames][i, j]).movedim(0, -1).float() / 255


shown, draws = [4, 2, 3], min(6, K)
rows = []
for i in shown:
    blank = torch.full((64, 64, 3), float("nan"))
    fields = [*answers.field[i, :draws], exam.field[i]]
    rows.append([rgb(still(i)), *map(field_rgb, fields[:-1]), blank, field_rgb(fields[-1])])
    frames = [rgb(answers.frames[i, j, -1]) for j in range(draws)]
    rows.append([blank, *frames, picture(f"{ARM}_mean_frames", i), rgb(exam.frames[i, -1])])
fig = plotting.image_grid(
    torch.stack([torch.stack(row) for row in rows]), row_labels=["field", "frame"] * len(shown), size=1.05,
    col_titles=["still", *[f"sample {j + 1}" for j in range(draws)], "determ.", "truth"],
)
columns = draws + 3
for r, i in enumerate(shown):
    for c, field in zip([*range(1, draws + 1), draws + 2], [*answers.field[i, :draws], exam.field[i]], strict=True):
        y, x = np.mgrid[3:64:6, 3:64:6]
        u, v = (field[k, 3::6, 3::6].numpy() for k in (0, 1))
        far = np.hypot(u, v) > 1.5
        fig.axes[2 * r * columns + c].quiver(
            x[far], y[far], u[far], v[far], angles="xy", scale_units="xy", scale=0.7, width=0.012, color="0.15"
        )
key = fig.axes[columns]
key.imshow(plotting.flow_wheel(), extent=(0.15, 0.85, 0.15, 0.85), transform=key.transAxes)
key.set(xlim=(0, 1), ylim=(0, 1))
key.set_title("direction", loc="center", fontsize=8, pad=2)
run.savefig(fig, "samples")
plt.show()

# %% [markdown]
# The same samples as clips: each signal goes through the forward model at every $\tau$ from 0 to 1, and back. The
# deterministic answer (recorded) is a signal too, and plays as one: things dissolve into both motions at once.

# %% tags=["nbval-ignore-output"]
clip = torch.cat([torch.linspace(0, 1, 9), torch.linspace(1, 0, 9)[1:]])
parts = [torch.from_numpy(recorded[f"{ARM}_mean_{part}"]).float() for part in ("fields", "share", "importance")]
deterministic = problem.Motion(exam.context.value[: experiment.EXAMPLES, 0], *parts)
clips = []  # rows of scenes, each of samples, the deterministic answer and the truth
for i in shown[:2]:
    signals = [*(sampled(i, j) for j in range(min(4, K))), problem.take(deterministic, [i])]
    played = [forward_model(signal, clip[None, :, None])[0] for signal in signals]
    clips.append([*played, scenes.render(exam.scenes[[i]], exam.motion[[i]], clip[None], held_out)[0]])
frames = []
for k in range(len(clip)):
    fig = plotting.image_grid(
        torch.stack([torch.stack([rgb(played[k]) for played in row]) for row in clips]), size=1.3,
        col_titles=[*(f"sample {j + 1}" for j in range(min(4, K))), "deterministic", "truth"],
    )
    frames.append(plotting.frames_from_figure(fig))
    plt.close(fig)
run.save_gif(frames, "clips", fps=10)

# %% [markdown]
# ## 5. Do the samples follow the true distribution?
#
# Here it is known, so it can be counted: 256 held-out scenes, 16 samples of each, recorded from a GPU run. A sign is read
# from a sample by projecting its field on the sprite's motion. Bars show how often samples take a sprite's likelier sign,
# with 95 % intervals over sprites; the black line says how often they should. (At even odds, "likelier" means positive.)
# There are two samplers: DDIM is deterministic once the first noise is drawn, ancestral sampling adds noise at every step.
#
# A model with *one* field cannot show a thing that is half here and half there. But that is the mean of two motions, and
# while it is open which motion it is, the mean is what the squared loss asks for. The nearest frame that one field can
# make shows one motion, the likelier one, and the sampler follows it: the bias that `01_toy_proof` proves. With *two*
# fields the mean of the two signs has a signal, at every $\tau$ at once, and that reason for the bias is gone. (The mean
# over all amounts, a smear, is still out of reach.) With fair coins none of this would show.

# %%
arms = [name for name in experiment.ARMS if f"{name}_eta_0" in measured]
names = {"warp_1": "warping, one field", "splat_1": "splatting, one field",
         "warp_2": "warping, two fields", "splat_2": "splatting, two fields"}
odds = [50, 70, 80]
recorded_scenes, _ = experiment.exam_scenes(experiment.COUNT, len(held_out))
rates = {
    (name, eta): experiment.likelier(torch.from_numpy(recorded[f"{name}_eta_{eta}_labels"]).long(), recorded_scenes)
    for name in arms for eta in (0, 1)
}
fig, axes = plt.subplots(1, len(arms), figsize=(2.6 * len(arms), 2.9), sharey=True, squeeze=False)
for ax, name in zip(axes[0], arms, strict=True):
    for eta, color in ((0, plotting.SAMPLES), (1, plotting.TARGET)):
        heights, halves = 100 * np.array([rates[name, eta][each] for each in odds]).T
        ax.bar(np.arange(3) + 0.36 * eta - 0.18, heights, 0.34, color=color, label=("DDIM", "ancestral")[eta],
               yerr=halves, error_kw={"elinewidth": 1, "ecolor": "0.25"})
    for x, each in enumerate(odds):
        ax.plot([x - 0.4, x + 0.4], [each, each], color="k", lw=2, label="truth" if x == 0 else None)
    ax.set(xticks=range(3), xticklabels=["50/50", "70/30", "80/20"], ylim=(0, 100), xlabel="the badge's odds",
           title=names[name])
axes[0, 0].set_ylabel("likelier sign (%)")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
run.savefig(fig, "signs")
plt.show()
for name in arms:
    for eta in (0, 1):
        excess = {each: 100 * rates[name, eta][each][0] - each for each in odds}
        both = (excess[70] + excess[80]) / 2
        run.record(**{f"{name}_eta_{eta}_excess": both})
        print(f"{names[name]:21} {('DDIM', 'ancestral')[eta]:10} likelier sign, points too often: {both:+5.1f}", end="")
        print(f"   (70/30: {excess[70]:+.1f}, 80/20: {excess[80]:+.1f})")

# %% [markdown]
# The recorded answers of the four deterministic baselines to one still say the same in pictures. With one field the best
# that they can do is a sprite torn apart, or bent towards one side; with two it is both motions at once, each as strong
# as it is likely. Below each, two samples of the diffusion model, and below the truth two redraws.

# %%
i = 4
rows = [[rgb(still(i)), *(picture(f"{name}_mean_frames", i) for name in arms), rgb(exam.frames[i, -1])]]
for j in (0, 1):
    rows.append([torch.full((64, 64, 3), float("nan")), *(picture(f"{name}_frames", i, j) for name in arms),
                 rgb(exam.redrawn[i, j, -1])])
fig = plotting.image_grid(
    torch.stack([torch.stack(row) for row in rows]), size=1.45, row_labels=["determ.", "sample 1", "sample 2"],
    col_titles=["still", *(names[name].replace(", ", "\n") for name in arms), "truth,\nand redrawn"],
)
run.savefig(fig, "arms")
plt.show()

# %% [markdown]
# All measures, on the same 256 scenes (recorded, also in the profile "gpu"). Each arm was trained once, for as long as the
# others; `steps` says how far it came, its baseline came as far within a few per cent.
#
# - `tv`, `rms`: how far the frequencies of the likelier sign are from the true ones, pooled and sprite by sprite; best 0.
# - `modes`: the share of the possible combinations of signs that 16 samples hit, in scenes of one or two sprites.
# - `epe best`, `epe det.`: endpoint error in pixels on the sprites, of the best of 16 samples and of the baseline.
# - `skill`: the share of the way from the baseline's energy score, a distance between samples and truth that only the
#   true distribution minimises, to that of true redraws, on frames at two times; best 1.
# - `spread`: standard deviation of the samples over the error of their mean, where something moves; calibrated at 1.
# - `PSNR`: what the best of 16 frames gains over the baseline's, in dB.

# %% tags=["nbval-ignore-output"]
columns = {"factor_tv": "tv", "factor_scene_rms": "rms", "mode_coverage": "modes", "epe_best_of_16": "epe best",
           "epe_deterministic": "epe det.", "energy_skill": "skill", "spread_skill": "spread", "psnr_gain": "PSNR"}
intervals = ["factor_tv_high", "factor_scene_rms_high", "energy_skill_low", "spread_skill_low", "spread_skill_high"]
for row in measured.values():
    if "psnr_best" in row:
        row |= {"psnr_gain": row["psnr_best"] - row["psnr_deterministic"],
                "epe_ratio": row["epe_best_of_16"] / row["epe_deterministic"],
                "deterministic_over_zero": row["epe_deterministic"] / row["epe_zero"]}
trained_steps = json.loads(str(recorded["steps"]))
print(f"{'':18}" + "".join(f"{title:>9}" for title in columns.values()) + "    steps")
for name in arms:
    for eta in (0, 1):
        row = measured[f"{name}_eta_{eta}"]
        print(f"{name:8}{('DDIM', 'ancestral')[eta]:10}" + "".join(f"{row[column]:9.3g}" for column in columns) + f"{trained_steps[name]:9}")
        run.record(**{f"{name}_eta_{eta}_{key}": row[key] for key in [*columns, *intervals]})
best = measured[f"{ARM}_eta_0"]
print(f"\nendpoint error of no motion {best['epe_zero']:.2f}, of one sample of {ARM} {best['epe_sample']:.2f}: one sample's sign")
print(f"is often wrong. Static pixels move by {best['static_pixels_move']:.2f}. Exact draws hit ", end="")
print(f"{best['mode_coverage_of_exact_draws']:.2f} of the modes.")
low, high = best["spread_skill_low"], best["spread_skill_high"]
print(f"{ARM}, 95 % intervals: skill from {best['energy_skill_low']:.2f}, spread {low:.2f} to {high:.2f}, ", end="")
print(f"tv up to {best['factor_tv_high']:.3f}, rms up to {best['factor_scene_rms_high']:.3f}")
print(f"Why spread is below 1: where things move, its frames' variance is {best['variance_over_true']:.2f} times that of true")
print(f"redraws, and the squared error of their mean {best['mean_error_over_true']:.2f} times.")
run.record(**best, arm=ARM)

# %% [markdown]
# ### The same, here and now
#
# The first of these scenes, sampled on this machine from the same noise, against the recorded samples. Half precision
# and another machine's arithmetic are all that differs.

# %% tags=["nbval-ignore-output"]
there, n = exam.scenes.there, min(N, experiment.COUNT)
kept = {key: torch.from_numpy(recorded[f"{ARM}_eta_0_{key}"][:n, ..., :K]).float() for key in ("epe", "labels")}
live = {"epe": experiment.endpoint_error(answers.field, exam)[:n], "labels": experiment.read_field(answers.field, exam)[:n]}
apart = (live["epe"] - kept["epe"]).abs().mean()
same = (live["labels"] == kept["labels"])[there[:n]].float().mean()
print(f"{n} scenes, {K} samples of each: endpoint error {live['epe'].mean():.2f} pixels here, {kept['epe'].mean():.2f} recorded,")
print(f"sample by sample {apart:.1g} pixels apart; {100 * same:.0f} % of the signs are the same")
run.record(live_epe=live["epe"].mean(), recorded_epe=kept["epe"].mean(), live_apart=apart, live_same_signs=same)

# %% [markdown]
# ## 6. Where it stops: photographs
#
# The model has seen sprites on blurred textures and nothing else. What does it do with photographs of which it has not
# even seen the texture? Nothing sensible: it has no idea what can move there, and takes a few round things for sprites.

# %% tags=["nbval-ignore-output"]
files, photographs = scenes.HELD_OUT, []
for file in files:
    image = scenes.photograph(file)
    side = min(image.shape[1:])
    photographs.append(scenes.resized(image[:, :side, -side:]))
photographs = torch.stack(photographs)
context = Observations(photographs[:, None], torch.zeros(len(files), 1, 1)).to(device)
target = torch.ones(len(files), 1, 1, device=device)
step = model.sample(context, target, steps=DENOISING, generator=torch.Generator().manual_seed(0))
fields = forward_model.displacement(step.signal).cpu()
rows = [rgb(photographs), torch.stack([*map(field_rgb, fields)]), rgb(step.observation[:, 0].cpu())]
fig = plotting.image_grid(torch.stack(rows), row_labels=["photograph", "field", "frame"], size=1.5)
run.savefig(fig, "photographs")
plt.show()
run.record(photographs_move=fields.norm(dim=1).mean())

# %% [markdown]
# ## 7. Move it
#
# Choose a scene and a sample, and sweep $\tau$; below 0 the motion runs the other way, and beyond 1 no frame of the
# training went. The clips of section 4 show the same to readers without a kernel.

# %% tags=["nbval-ignore-output"]
from ipywidgets import FloatSlider, IntSlider, interact


def look(scene, sample, tau):
    frame = forward_model(sampled(scene, sample), torch.tensor([[[tau]]]))[0, 0]
    plotting.image_grid(
        torch.stack([rgb(still(scene)), field_rgb(answers.field[scene, sample]), rgb(frame)])[None],
        size=2.2, col_titles=["still", "field", f"frame at {tau:.1f}"],
    )
    plt.show()


moving = interact(look, scene=IntSlider(4, min=0, max=N - 1), sample=IntSlider(0, min=0, max=K - 1),
                  tau=FloatSlider(1.0, min=-1.0, max=1.5, step=0.1))

# %% [markdown]
# ## What held, and what did not
#
# **Held.** From stills and later frames alone, without a single field, the model learnt what each sprite can do and how
# likely each way is. Its samples hit nearly all modes that exact draws hit; the best of 16 is far nearer to the truth than
# the deterministic answer, whose mean motion is about as wrong as no motion, as the paper says.
#
# **A finding.** With one field per still, as in the paper, the samples follow the likelier motion too often, with both
# forward models, and less so under ancestral sampling: the bias of a mean that cannot be reached. Two fields take away
# nearly all of it under DDIM. Ancestral sampling, which helps one field, is of no use to two: they score a little worse
# with it. Whoever trains on fair coins alone would see none of this.
#
# **Did not, quite.** The samples are a little over-confident: `spread` is below 1, because the sampled frames vary less than
# true redraws do, while their mean is as good. The signs are right, so it is the amounts, and edges at which a network
# that is not sure blends its two fields. A longer training is the first thing to try. The mean over all amounts, a smear,
# stays out of reach of two fields. And warping has a higher error floor than splatting, as section 2 shows.
#
# **Not claimed.** These are made scenes, in which all motion is affine and what can move is marked. On photographs the
# model is lost, as section 6 shows. To train on clips of your own, `fwdiff_lite.datasets.videos` reads a folder of them
# into the same tuples.
#
# ## On your own
#
# 1. Make all badges fair coins in `scenes.CUES` and train one field anew: `python -m fwdiff_lite.experiments.motion
#    train warp_1 warp_1_mean --minutes 5`, then `... study examine`. What is left of the bias?
# 2. Sample with `eta=1`, and with 8 or 16 steps: `study.answer(model, exam, 16, steps=8)`. What moves, the signs or the
#    amounts?
# 3. Let the signal bring new pixels where something is uncovered. What has to change?
#
# <details><summary>Answers</summary>
#
# 1. Nothing that pooled signs could show: at even odds the two motions are equally near to the mean, the nearest reachable
#    frame shows either, and the samples stay fair on average. The mean is as far out of reach as before.
# 2. With two fields the signs stay about as they are; they are decided early, at large $t$. What few steps cost is
#    variance, so `spread`. `study.judge` gives all numbers.
# 3. `Motion` gets a picture of new pixels and a mask for it, `MotionDenoiser` four more outputs, and a forward model that
#    blends the picture in by the mask joins `FORWARD_MODELS`. Losses and sampler stay as they are.
#
# </details>
#
# **Further reading.** The paper, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719), section 4.2. Niklaus and Liu,
# [arXiv 2003.05534](https://arxiv.org/abs/2003.05534), on softmax splatting. Jaderberg et al.,
# [arXiv 1506.02025](https://arxiv.org/abs/1506.02025), on bilinear sampling as a layer. Gneiting and Raftery (2007),
# *Strictly proper scoring rules, prediction, and estimation*, on the energy score. The photographs:
# [scikit-image's data](https://scikit-image.org/docs/stable/api/skimage.data.html). Before: `01_toy_proof`, whose last
# sections prove the bias.

# %%
run.finish()
