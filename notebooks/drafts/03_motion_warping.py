# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two motions for one still
#
# A photograph of a pendulum shows where it can swing. It does not show which way it is about to. Can a model that never
# sees a motion, only pairs of frames, learn to draw all the motions that fit one still?
#
# **What you will see.** Small scenes of things that can move: a pendulum, a bead on a rail, a disc that breathes, a
# wheel. The model samples a field of displacements, one after another, and each plays as a clip. A deterministic model
# trained in the same way answers with no motion at all, or with one. Because we made the scenes, the true distribution
# of motions is known, and the samples are counted against it. The count finds a bias that theory predicts, and its
# remedy.
#
# **What you need.** The toy proof (`01_toy_proof`), or its last section, where the bias is explained. The weights were
# trained on a GPU and are loaded; a few training steps run live. The scenes are made here, with textures cut from the
# photographs in scikit-image's wheel. Nothing is downloaded.
#
# **What it rebuilds.** Section 4.2 of *Diffusion with Forward Models* (Tewari et al., NeurIPS 2023,
# [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)): motion from a single image, through warping. No code of it was
# released; the scenes and the measures are ours.

# %%
# (the cell of fwdiff_lite.notebook.bootstrap_text comes here)

# %% tags=["parameters"]
PROFILE = "cpu"

# %% tags=["nbval-ignore-output"]

import matplotlib.pyplot as plt
import numpy as np
import torch

from fwdiff_lite import Observations, fit, plotting
from fwdiff_lite.notebook import Run
from fwdiff_lite.pretrained import load_pretrained, read_manifest
from fwdiff_lite.problems.motion import warping as problem
from fwdiff_lite.problems.motion import scenes
from fwdiff_lite.problems.motion import study

run = Run("03_motion_warping", PROFILE)
N, K = run.pick(smoke=6, cpu=8, gpu=256), run.pick(smoke=2, cpu=8, gpu=16)  # held-out scenes, samples of each
DENOISING = run.pick(smoke=2, cpu=16, gpu=32)  # steps of sampling
run.opening()

# %% [markdown]
# ## 1. What can move, and what will
#
# A row is one scene. The still comes first; then the frames of what happens, and on the right what could have happened
# as well. Each sprite shows what it *can* do: a peg, a rail, a ring to grow to, spokes. What it *will* do is a sign and
# an amount. The amount is uniform. The sign depends on the badge, and on nothing else: white is a fair coin, orange
# means 80 % one way (right, larger, clockwise), blue 70 % the other way. A model has to find that out from frames.

# %%
held_out = scenes.textures(scenes.HELD_OUT)
exam = study.exam(held_out, N, K)  # held-out textures; N scenes, what happens in each, and what else could have


def rgb(frames):
    """Frames (..., 3, H, W) in [-1, 1] as pictures."""
    return torch.as_tensor(frames).float().movedim(-3, -1).clamp(-1, 1) / 2 + 0.5


def still(i):
    return exam.context.value[i, 0]


tau = torch.linspace(0, 1, 4)
some = exam.scenes[torch.arange(5)]
happens = scenes.render(some, exam.motion[:5], tau.expand(5, 4), held_out)
otherwise = scenes.render(some, -exam.motion[:5], torch.ones(5, 1), held_out)
fig = plotting.image_grid(
    torch.cat([rgb(happens), rgb(otherwise)], 1), size=1.1,
    col_titles=["still, $\\tau = 0$", *(f"$\\tau = {t:.2g}$" for t in tau[1:]), "or"],
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
#   covers the other; where none arrives there is a hole.
#
# Below, both get the *true* field. Warping tears the sprite at its front, since the field is zero there; a field that
# suits warping must reach ahead of the thing. Splatting gets it right, but for the shadow and the hole behind.

# %%
i = 0
truth = exam.frames[i, -1]
pictures, titles = [rgb(still(i)), rgb(truth)], ["still", "true frame"]
before = 5.0 * exam.moving[i : i + 1, None]  # sprites are more important than what lies behind
signal = problem.motion(still(i)[None], exam.field[i : i + 1], before)
for kind, forward_model in problem.FORWARD_MODELS.items():
    frame = forward_model(signal, torch.ones(1, 1, 1))[0, 0]
    pictures += [rgb(frame), ((frame - truth).abs().mean(0, keepdim=True) / 2).expand(3, -1, -1).movedim(0, -1)]
    titles += [kind, "its error"]
holes = problem.SoftmaxSplat().holes(signal, torch.ones(1, 1, 1))[0, 0]
pictures.append((~holes)[..., None].expand(-1, -1, 3).float())
there = exam.near[i].any(0).nonzero()  # a closer look at where something moves
top, left = (there.min(0).values - 3).clamp(0, 64 - 32).tolist()
close = torch.stack(pictures)[None, :, top : top + 32, left : left + 32]
fig = plotting.image_grid(close, col_titles=[*titles, "no hole"], size=1.35)
run.savefig(fig, "forward_models")
plt.show()

# %% [markdown]
# How well can each forward model show these scenes at all? The squared error of a still that does not move is 1. The
# best-fit field was sought by gradient descent on the true frames themselves.

# %% tags=["nbval-ignore-output"]
measured, recorded = study.recorded()
for kind in problem.FORWARD_MODELS:
    floor, here = measured[kind], study.floors(exam, kind, fits=run.pick(smoke=2, cpu=40, gpu=300))
    print(
        f"{kind:6} true field {floor['floor_true_field'] / floor['floor_still']:.2f}   "
        f"best fit {floor['floor_best_fit'] / floor['floor_still']:.3f}   "
        f"(here, {N} scenes: true field {here['floor_true_field'] / here['floor_still']:.2f})"
    )
    run.record(**{
        f"{kind}_floor_true_field": floor["floor_true_field"] / floor["floor_still"],
        f"{kind}_floor_best_fit": floor["floor_best_fit"] / floor["floor_still"],
        f"{kind}_floor_best_fit_epe": floor["floor_best_fit_epe"],
    })

# %% [markdown]
# ## 3. The denoiser
#
# Eq. 4 is a U-Net. It sees the still, one noisy frame, the time $\tau$ of that frame and the noise level $t$, and answers
# with the field,
#
# $$S = \mathrm{denoise}(I, O^{trgt}_t; t, \tau). \tag{4}$$
#
# The losses compare two frames that it makes, the target's and one at another time, with the true ones (Eq. 8 and 9). No
# field is ever given. Here are a few steps of that training, from the loaded weights.

# %% tags=["nbval-ignore-output"]
ARM = read_manifest()["03_motion_warping.safetensors"]["arm"]
model = study.arm(ARM)
model.denoiser.load_state_dict(load_pretrained("03_motion_warping"))
batch = scenes.batches(scenes.textures(scenes.TRAIN), run.pick(smoke=2, cpu=8, gpu=128))
steps = run.pick(smoke=2, cpu=8, gpu=100)
live = study.arm(ARM)
live.denoiser.load_state_dict(model.denoiser.state_dict())
curve = fit(live, batch, steps=steps, learning_rate=1e-5, warmup=1, progress=False).curve
model.denoiser.eval()
print(f"{ARM}: {sum(w.numel() for w in model.denoiser.parameters()) / 1e6:.1f} million weights")
print(f"mean losses of {steps} live steps: target {np.mean(curve['target']):.4f}, novel {np.mean(curve['novel']):.4f}")

# %% [markdown]
# ## 4. One still, many motions
#
# We start from a noisy frame at $\tau = 1$ and iterate Eq. 4, 5 and 6. Each sample is a field: colour is direction, as in
# the wheel, and depth of colour is length. The frame below it is the still moved by it. The deterministic baseline is
# the same network, trained as long through the same forward model, without the noisy frame; its answers are recorded.

# %% tags=["nbval-ignore-output"]
answers = study.answer(model, exam, K, DENOISING)


def field_rgb(field):
    """A field (2, H, W) in colours; full colour at 7 pixels."""
    return torch.as_tensor(plotting.flow_to_rgb(torch.as_tensor(field).float().movedim(0, -1), largest=7.0))


baseline = {key: torch.from_numpy(recorded[f"{ARM}_mean_{key}"]) for key in ("field", "frames")}
shown, draws = [0, 1, 2, 3], min(4, K)
rows, labels = [], []
for i in shown:
    blank = torch.full((64, 64, 3), float("nan"))
    fields = [*answers.field[i, :draws], baseline["field"][i, 0].float(), exam.field[i]]
    rows.append([rgb(still(i)), *map(field_rgb, fields)])
    mean = rgb(baseline["frames"][i, 0] / 127.5 - 1)
    rows.append([blank, *(rgb(answers.frames[i, j, -1]) for j in range(draws)), mean, rgb(exam.frames[i, -1])])
    labels += ["field", "frame"]
fig = plotting.image_grid(
    torch.stack([torch.stack(row) for row in rows]), row_labels=labels, size=1.05,
    col_titles=["still", *[f"sample {j + 1}" for j in range(draws)], "determ.", "truth"],
)
for r, i in enumerate(shown):
    for c, field in enumerate([*answers.field[i, :draws], baseline["field"][i, 0].float(), exam.field[i]]):
        y, x = np.mgrid[3:64:6, 3:64:6]
        u, v = (field[k, 3::6, 3::6].numpy() for k in (0, 1))
        far = np.hypot(u, v) > 1.5
        ax = fig.axes[2 * r * (draws + 3) + c + 1]
        ax.quiver(x[far], y[far], u[far], v[far], angles="xy", scale_units="xy", scale=0.7, width=0.012, color="0.15")
    key = fig.axes[(2 * r + 1) * (draws + 3)]
    if r == 0:
        key.imshow(plotting.flow_wheel(), extent=(0.15, 0.85, 0.15, 0.85), transform=key.transAxes)
        key.set(xlim=(0, 1), ylim=(0, 1))
run.savefig(fig, "samples")
plt.show()

# %% [markdown]
# The same samples as clips: the field is applied at every $\tau$ from 0 to 1 and back.

# %% tags=["nbval-ignore-output"]
clip = torch.cat([torch.linspace(0, 1, 9), torch.linspace(1, 0, 9)[1:]])
shown = [0, 1, 2]


def played(field, i):
    """The still of scene i moved by tau times a field, for every tau of the clip: (T, 3, H, W)."""
    signal = problem.motion(still(i)[None], field[None].float())
    return problem.BackwardWarp()(signal, clip[None, :, None])[0]


clips = [
    [*(played(answers.field[i, j], i) for j in range(min(3, K))), played(baseline["field"][i, 0], i)] for i in shown
]
truths = [scenes.render(exam.scenes[[i]], exam.motion[[i]], clip[None], held_out)[0] for i in shown]
frames = []
for k in range(len(clip)):
    rows = [torch.stack([*(rgb(c[k]) for c in row), rgb(truth[k])]) for row, truth in zip(clips, truths, strict=True)]
    fig = plotting.image_grid(
        torch.stack(rows), size=1.3, col_titles=[*["sample"] * min(3, K), "deterministic", "truth"]
    )
    frames.append(plotting.frames_from_figure(fig))
    plt.close(fig)
run.save_gif(frames, "clips", fps=10)

# %% [markdown]
# ## 5. Do the samples follow the true distribution?
#
# Here it is known, so it can be counted: 256 held-out scenes, 16 samples of each, recorded from a GPU run. A sign is read
# from a sampled field by projecting it on the sprite's motion. Bars show how often samples take a sprite's likelier
# sign; the line says how often they should. (At even odds, "likelier" means positive.)
#
# A model with *one* field cannot show a thing that is half here and half there. But that is the mean of two motions, and
# while it is open which motion it is, the mean is what the squared loss asks for. The nearest frame that one field can
# make shows one motion, the likelier one, and the sampler follows it: the bias that `01_toy_proof` proves. With *two*
# fields blended pixel by pixel the mean has a signal,
#
# $$O = w \odot \mathrm{move}(I, \tau F_1) + (1 - w) \odot \mathrm{move}(I, \tau F_2),$$
#
# at every $\tau$ at once, and the reason for the bias is gone.

# %%
arms = [name for name in study.ARMS if f"{name}_eta_0" in measured]
cues = [50, 70, 80]
fig, axes = plt.subplots(1, len(arms), figsize=(2.6 * len(arms), 2.8), sharey=True, squeeze=False)
for ax, name in zip(axes[0], arms, strict=True):
    for eta, color in ((0, plotting.SAMPLES), (1, plotting.TARGET)):
        heights = [100 * measured[f"{name}_eta_{eta}"][f"likelier_sign_{cue}"] for cue in cues]
        ax.bar(np.arange(3) + 0.36 * eta - 0.18, heights, 0.34, color=color, label=("DDIM", "ancestral")[eta])
    for x, cue in enumerate(cues):
        ax.plot([x - 0.4, x + 0.4], [cue, cue], color="k", lw=2, label="truth" if x == 0 else None)
    kind, fields = name.split("_")
    ax.set(xticks=range(3), xticklabels=["50/50", "70/30", "80/20"], ylim=(0, 100), xlabel="the badge's odds",
           title=f"{kind}, {'one field' if fields == '1' else 'two fields'}")
axes[0, 0].set_ylabel("likelier sign (%)")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
run.savefig(fig, "signs")
plt.show()

# %% [markdown]
# All measures, of every arm, on the same scenes. `factor_tv` compares pooled frequencies of the likelier sign,
# `factor_scene_rms` those of each sprite; `epe` is the endpoint error in pixels on the sprites; `energy_skill` is the
# share of the way from the deterministic baseline's score to that of true redraws, on frames at two times; a
# `spread_skill` of 1 is calibrated. One sample is not better than no motion, since its sign is wrong as often as not:
# the best of 16 tells whether the truth was among them.

# %% tags=["nbval-ignore-output"]
columns = {"factor_tv": "tv", "factor_scene_rms": "rms", "mode_coverage": "modes", "epe_best_of_16": "epe best",
           "epe_deterministic": "epe det.", "energy_skill": "skill", "spread_skill": "spread", "psnr_best": "PSNR"}
print(f"{'':19}" + "".join(f"{title:>9}" for title in columns.values()))
for name in arms:
    for eta in (0, 1):
        row = measured[f"{name}_eta_{eta}"]
        print(f"{name:9}{('DDIM', 'ancestral')[eta]:10}" + "".join(f"{row[column]:9.3g}" for column in columns))
best = measured[f"{ARM}_eta_0"]
print(f"\nno motion at all: epe {best['epe_zero']:.2f}; exact draws cover {best['mode_coverage_of_exact_draws']:.2f} of modes")
run.record(**best, arm=ARM)
for name in arms:
    for eta in (0, 1):
        run.record(**{f"{name}_eta_{eta}_{key}": measured[f"{name}_eta_{eta}"][key] for key in columns})

# %% [markdown]
# ### The same, here and now
#
# The first of these scenes, sampled on this machine, against the recorded samples of the same scenes.

# %% tags=["nbval-ignore-output"]
there = exam.scenes.there
kept = {key: torch.from_numpy(recorded[f"{ARM}_eta_0_{key}"][:N]).float() for key in ("epe", "labels")}
m = min(N, len(kept["epe"]))
here_labels = study.read_field(answers.field, exam).float()
live_epe, recorded_epe = study.endpoint_error(answers.field, exam)[:m].mean(), kept["epe"][:m].mean()
live_sign, recorded_sign = here_labels[:m][there[:m]].mean(), kept["labels"][:m][there[:m]].mean()
print(f"endpoint error of a sample: {live_epe:.2f} pixels here, {recorded_epe:.2f} recorded")
print(f"likelier sign: {100 * live_sign:.0f} % here, {100 * recorded_sign:.0f} % recorded")
run.record(live_epe=live_epe, recorded_epe=recorded_epe, live_sign=live_sign, recorded_sign=recorded_sign)

# %% [markdown]
# ## 6. Where it stops: photographs
#
# The model has seen sprites on blurred textures and nothing else. What does it do with a photograph? Nothing sensible:
# it has no idea what can move there. Its fields are small, or follow some round thing that looks like a sprite.

# %% tags=["nbval-ignore-output"]
names = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"]
photographs = []
for name in names:
    image = scenes.photograph(name)
    side = min(image.shape[1:])
    image = image[None, :, :side, -side:]
    photographs.append(torch.nn.functional.interpolate(image, (64, 64), mode="bilinear", antialias=True)[0])
photographs = torch.stack(photographs)
context = Observations(photographs[:, None], torch.zeros(len(names), 1, 1))
step = model.sample(context, torch.ones(len(names), 1, 1), steps=DENOISING, generator=torch.Generator().manual_seed(0))
rows = [torch.stack([rgb(photographs[i]), field_rgb(step.signal.field[i]), rgb(step.observation[i, 0])]) for i in range(4)]
fig = plotting.image_grid(torch.cat(rows)[None].unflatten(1, (2, 6)).squeeze(0), size=1.15,
                          col_titles=["photograph", "field", "frame"] * 2)
run.savefig(fig, "photographs")
plt.show()
run.record(photographs_move=step.signal.field.norm(dim=1).mean())

# %% [markdown]
# ## 7. Move it
#
# Choose a scene and a sample, and sweep $\tau$; beyond 1 the field is stretched further than any frame was. The clips of
# section 4 are the same for readers without a kernel.

# %% tags=["nbval-ignore-output"]
from ipywidgets import interact


def look(scene=0, sample=0, tau=1.0):
    signal = problem.motion(still(scene)[None], answers.field[scene, sample][None])
    frame = problem.BackwardWarp()(signal, torch.tensor([[[tau]]]))[0, 0]
    plotting.image_grid(
        torch.stack([rgb(still(scene)), field_rgb(answers.field[scene, sample]), rgb(frame)])[None],
        size=2.2, col_titles=["still", "field", f"frame at {tau:.1f}"],
    )
    plt.show()


moving = interact(look, scene=(0, N - 1), sample=(0, K - 1), tau=(-1.0, 1.5, 0.1))

# %%
run.finish()
