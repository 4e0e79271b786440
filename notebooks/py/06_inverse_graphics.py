# %% [markdown]
# # One picture, many scenes
#
# A picture of a table shows the front of things. What stands behind the screen? What is painted on the far side of the
# box? A model that has never seen a scene, only pictures, learns to draw whole scenes that fit one picture.
#
# **What you will see.** Radiance fields sampled from a single picture of 64 x 64 pixels, seen from behind and from all
# around. What a picture hides here has known probabilities, so the frequencies of the samples are compared with them. One
# scene is sampled while you wait, and a slider walks around it.
#
# **What you need.** `05_flatland`, which shows every part of this at work in the plane. The weights were trained on a
# GPU and are loaded. Nothing is downloaded.
#
# **What it rebuilds.** Section 4.1 and figures 2 to 4 of *Diffusion with Forward Models* (Tewari et al., NeurIPS 2023,
# [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)), on scenes that we make ourselves.

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
    installed = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
    light = "accelerate imageio jaxtyping matplotlib pillow safetensors scikit-image scikit-learn scipy tqdm wadler-lindig".split()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, *(name for name in light if name not in installed), "-e", folder], check=True)
    sys.path.insert(0, folder)
    os.chdir(f"{folder}/notebooks")

# %% tags=["parameters"]
PROFILE = "cpu"
# The profile "gpu" trains the weights anew, and resumes an earlier run.
MINUTES = 13.0  # of training
BATCH = 128  # scenes a step
FOLDER = "../build/06_inverse_graphics"  # for its weights

# %% tags=["nbval-ignore-output"]
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from fwdiff_lite import fit, plotting
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.storage.checkpoints import read_manifest
from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.experiments.inverse_graphics import benchmark
from fwdiff_lite.experiments.inverse_graphics import evaluation
from fwdiff_lite.experiments.inverse_graphics import variants
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import rays

run = Run("06_inverse_graphics", PROFILE)
N, K = run.pick(smoke=2, cpu=4, gpu=4), run.pick(smoke=2, cpu=4, gpu=4)  # held-out scenes shown; posterior draws of each
DENOISING = run.pick(smoke=2, cpu=24, gpu=24)  # steps of sampling
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
run.header()

# %% [markdown]
# ## 1. What a picture hides
#
# On every table stand a screen and a box. Behind the screen there may be a body, orange or violet, and on the box's far
# sides there is a decal, red, yellow or blue, low or high. From the front no sliver of either can be seen, nor a shadow,
# since the light comes from behind. All else that stands on the table hides nothing.
#
# The colour of the screen determines the probabilities of the body behind it, the colour of the box those of its decal.
# So given a picture, what it hides has a known distribution. Left, pictures from the front; then the same scenes from
# three other sides; right, exact draws from the posterior: other scenes that look exactly the same from the front.

# %%
test_set = evaluation.make_test_set(N, K, device=device)


def rgb(images):
    """Images (..., 3, H, W), in [-1, 1] or in 256 levels, for matplotlib."""
    images = torch.as_tensor(images)
    values = images / 255 if images.dtype == torch.uint8 else images / 2 + 0.5
    return values.float().movedim(-3, -1).clamp(0, 1).cpu()


BACK = evaluation.TARGET_ANGLES.index(180)
context, truth, draws = test_set.context.value, test_set.truth[:, :, 0], test_set.posterior_draws[:, :2, BACK, 0]
rows = [torch.cat([rgb(context[i]), rgb(truth[i]), rgb(draws[i])]) for i in range(N)]
angles = [f"{angle}°" for angle in evaluation.TARGET_ANGLES]
fig = plotting.image_grid(
    torch.stack(rows), col_titles=["front", *angles, "180°, draw 1", "180°, draw 2"], size=1.25
)
run.savefig(fig, "scenes")
plt.show()

for (name, categories), cues, table in zip(
    tabletop.FACTORS.items(), tabletop.CUES.values(), tabletop.FACTOR_PROBABILITIES, strict=True
):
    print(f"{name:10}" + "".join(f"{category:>9}" for category in categories) + "   entropy")
    for cue, probabilities in zip(cues, table, strict=True):
        bits = float(-(probabilities * probabilities.log2()).sum())
        print(f"  {cue:8}" + "".join(f"{float(p):9.2f}" for p in probabilities) + f"{bits:8.2f} bits")

# %% [markdown]
# The hidden body's shape, position, size and orientation and the decal's height are random too. We know their
# distribution. No model is given it: in training, a model sees pictures of a scene only, one from the front and two from
# anywhere around.
#
# ## 2. The denoiser
#
# The signal is a radiance field, and the forward model is volume rendering (Eq. 12). A U-Net turns the context's picture
# and the noisy target's into feature maps, and each point of space looks up its features in both (Eq. 10, 14):
#
# $$S = S\big(\cdot \mid \mathrm{enc}(O^\text{ctxt}; 0),\ \mathrm{enc}(O_t^\text{trgt}, O^\text{det}; t)\big).$$
#
# Beside colours, the encoder gets the ray of each pixel in Plücker coordinates. The encoder of the target is
# *conditioned* on a prediction from the context alone (figure 2): a deterministic render $O^\text{det}$ of the target's
# view at half the resolution, with colour, depth, opacity and features. Where nothing is hidden, this render is right.
# Of hidden parts it shows the average.

# %% tags=["nbval-ignore-output"]
if PROFILE == "gpu":
    harness.train(evaluation.EXPERIMENT, "unet", Path(FOLDER), MINUTES, batch_size=BATCH)
    model = harness.load_model(evaluation.EXPERIMENT, "unet", Path(FOLDER), device)
else:
    model = harness.load_model(evaluation.EXPERIMENT, evaluation.FULL_MODEL, None, device)
entry = read_manifest()[f"{variants.PRETRAINED}.safetensors"]
results = harness.load_results(evaluation.EXPERIMENT)
all_numbers, recorded = to_flat(results.rows), results.arrays
print(f"{sum(w.numel() for w in model.denoiser.parameters()) / 1e6:.1f} million weights")
print(f"loaded: {entry['steps']} steps on {entry['hardware']}, {entry['gpu_minutes']} GPU-minutes")

shown = list(range(min(3, N)))
with torch.no_grad():
    rendered = model.denoiser.condition(test_set.context, test_set.cameras[:, BACK, :1]).rendered_cond[:, 0]
colour, depth, opacity = rendered[:, :3], rendered[:, 3], rendered[:, 4]
surface = torch.where(opacity > 0.5, depth, torch.inf)
depth_rgb = torch.as_tensor(plotting.depth_to_rgb(surface.cpu())).float().movedim(-1, 1) * 2 - 1
opacity_rgb = 2 * opacity[:, None].expand(-1, 3, -1, -1) - 1
columns = [test_set.context.value[:, 0], test_set.truth[:, BACK, 0], colour, depth_rgb, opacity_rgb]
fig = plotting.image_grid(
    torch.stack([rgb(column.cpu()[shown]) for column in columns], 1), size=1.25,
    col_titles=["context", "true target", "render: colour", "render: depth", "render: opacity"],
)
run.savefig(fig, "told")
plt.show()

# %% [markdown]
# The losses compare pictures: 320 pixels of the target (Eq. 8), 320 pixels of a novel view that the network does not get
# as input (Eq. 9), and the deterministic render. The curve shows the last part of the training, which resumed from
# earlier weights; the dots are a few more steps, taken here.

# %% tags=["nbval-ignore-output"]
resumed = variants.VARIANTS["unet"].build_model().to(device)
resumed.denoiser.load_state_dict(model.denoiser.state_dict())
batch_size, steps = run.pick(smoke=(1, 1), cpu=(1, 12), gpu=(16, 4))
batch = tabletop.batches(batch_size, 1, variants.PIXELS, device=device)
live = fit(resumed, batch, steps=steps, learning_rate=1e-5, warmup=1, progress=False).curve
record = results.trainings["unet"]
fig, ax = plt.subplots(figsize=(6, 2.6))
for name, color in (("target", plotting.TARGET), ("novel", plotting.SAMPLES), ("deterministic", plotting.MUTED)):
    values = np.array(record["curve"][name])
    smooth = np.convolve(values, np.ones(10) / 10, "valid")
    ax.plot(np.linspace(record["parent"].get("steps", 0), entry["steps"], len(smooth)), smooth, color=color, label=name)
    ax.plot(entry["steps"], np.mean(live[name]), "o", color=color, ms=5)
ax.set(yscale="log", xlabel="training step (recorded; dots: live steps)", ylabel="squared error")
ax.legend()
run.savefig(fig, "training")
plt.show()

# %% [markdown]
# ## 3. One picture, many scenes
#
# Samples for held-out pictures, each with its target behind the table (recorded), beside the single prediction of a
# *deterministic* pixelNeRF: the same network, trained separately, without a noisy target as input. The last columns
# show the same sampled scenes, and the true one, from a novel camera at 135°, which sampling did not use. Samples of one
# row agree with the picture and differ in the hidden parts; the deterministic prediction is a blend of them.

# %%
sampler = evaluation.MAIN_SAMPLER
rows = []
for i in range(4):
    samples = torch.from_numpy(recorded[sampler][i, :4, BACK])
    truth = torch.from_numpy(recorded["truth"][i, BACK])
    prediction = recorded["deterministic"][i, BACK, 0]
    images = [recorded["context"][i], truth[0], prediction, *samples[:, 0], truth[1], *samples[:2, 1]]
    rows.append(torch.stack([rgb(image) for image in images]))
titles = ["context", "truth, 180°", "deterministic"]
titles += [*(f"sample {j + 1}" for j in range(4)), "truth, 135°", *(f"{j + 1}, at 135°" for j in range(2))]
fig = plotting.image_grid(torch.stack(rows), col_titles=titles, size=1.05)
run.savefig(fig, "samples")
plt.show()

baseline_record = results.trainings[variants.BASELINE]
for label, record in (("this model", entry), ("deterministic", baseline_record)):
    print(f"{label:14}{record['steps']:6} steps, {record['gpu_minutes']:.1f} GPU-minutes")

# %% [markdown]
# ## 4. All around
#
# Parts that neither context nor target shows are rendered as an average. So a scene to walk around is sampled
# *autoregressively*: first a target at 120°, which joins the context, then one at 240°. The weights are earlier ones of
# this model, trained for some minutes more with one or two context pictures. Two samples of each of a few scenes,
# recorded, with their depth (bright is near); the true scene is in the first row.

# %% tags=["nbval-ignore-output"]
orbit, orbit_depth = (torch.from_numpy(recorded[f"orbit{part}"]) for part in ("", "_depth"))
count, frames = len(orbit) // 2, orbit.shape[1]
scenes, context_cameras, _ = evaluation.held_out_scenes()
cameras = [tabletop.rotate_about_z(context_cameras[:count], 360 * i / frames) for i in range(frames)]
true_orbit = torch.stack([tabletop.render(scenes[:count], camera)[:, 0] for camera in cameras], 1)  # (c, F, 3, H, W)
near, far = (float(end) for end in orbit_depth[orbit_depth.isfinite()].float().aminmax())


def orbit_frame(scene, frame):
    """One frame of the orbit: truth, two samples and their depth, side by side."""
    samples = [rgb(orbit[2 * scene + j, frame]) for j in range(2)]
    depths = [orbit_depth[2 * scene + j, frame].float() for j in range(2)]
    depths = [torch.as_tensor(plotting.depth_to_rgb(depth, near, far)) for depth in depths]
    return torch.stack([rgb(true_orbit[scene, frame]), *samples, *depths])


names = ["truth", "sample 1", "sample 2", "depth 1", "depth 2"]
strip = range(0, frames, frames // 6)
fig = plotting.image_grid(
    torch.stack([orbit_frame(0, f) for f in strip], 1), row_labels=names,
    col_titles=[f"{360 * f // frames}°" for f in strip], size=1.1,
)
run.savefig(fig, "orbit")
plt.show()

# %% tags=["nbval-ignore-output"]
animation = []
for f in range(frames):
    images = torch.stack([orbit_frame(scene, f)[:4] for scene in range(count)])
    fig = plotting.image_grid(images, col_titles=names[:4], size=1.2)
    animation.append(plotting.figure_to_rgb(fig))
    plt.close(fig)
run.save_gif(animation, "orbit", fps=6)

# %% [markdown]
# ## 5. Where samples differ
#
# Below, the standard deviation of each pixel over the samples, and the disocclusion mask from ray tracing. The mask is
# white at the pixels that show, or could show, a point that the context camera does not see. Samples should differ
# there, where something is uncertain. The table behind the screen is out of sight too, but its pattern is certain.

# %%
rows = []
for i in shown:
    for d in (0, BACK):
        deviation = torch.from_numpy(recorded[f"{sampler}_deviation"][i, d, 0]).float()
        mask = test_set.disocclusion_mask[i, d, 0].cpu().float()
        images = [test_set.context.value[i, 0], recorded["truth"][i, d, 0], recorded[sampler][i, 0, d, 0]]
        panels = [rgb(image) for image in images]
        colours = plt.get_cmap("magma")((deviation / 0.7).clamp(0, 1).numpy())[..., :3]
        panels += [torch.from_numpy(colours).float(), mask[..., None].expand(-1, -1, 3)]
        rows.append(torch.stack(panels))
fig = plotting.image_grid(
    torch.stack(rows), size=1.15, row_labels=[f"{evaluation.TARGET_ANGLES[d]}°" for _ in shown for d in (0, BACK)],
    col_titles=["context", "true target", "sample", "deviation", "disoccluded"],
)
run.savefig(fig, "variance")
plt.show()

# %% [markdown]
# ## 6. Are the probabilities right?
#
# The view of a sample at 180° shows its hidden body and its decal. A classifier compares this view with rendered templates
# of all categories and takes the nearest one. Bars: the frequency of each category in the samples, by the colour of the
# screen and of the box; black lines: the true probabilities.

# %%
labels = torch.from_numpy(recorded[f"{sampler}_labels"]).long()  # (c, 2, K)
cues = scenes[: len(labels)].cue
fig, axes = plt.subplots(2, 3, figsize=(8, 4.2), sharey=True, layout="constrained")
palette = {"nothing": [0.75] * 3}
palette |= dict(zip(tabletop.FACTORS["hidden"][1:], tabletop.BODY_COLOURS[1:].tolist(), strict=True))
palette |= dict(zip(tabletop.FACTORS["decal"], tabletop.DECAL_COLOURS.tolist(), strict=True))
for f, (factor, categories) in enumerate(tabletop.FACTORS.items()):
    for c, cue in enumerate(tabletop.CUES[factor]):
        ax, cue_labels = axes[f, c], labels[cues[:, f] == c, f].flatten()
        ax.bar(categories, [float((cue_labels == k).float().mean()) if len(cue_labels) else 0.0 for k in range(3)],
               color=[palette[category] for category in categories], width=0.7)
        for k, p in enumerate(tabletop.FACTOR_PROBABILITIES[f, c].tolist()):
            ax.plot([k - 0.42, k + 0.42], [p, p], color="k", lw=2)
        ax.set(title=f"{cue} {'screen' if f == 0 else 'box'} ({len(cue_labels)})", ylim=(0, 1))
        ax.grid(axis="x")
for ax, label in zip(axes[:, 0], ("behind the screen", "on the box"), strict=True):
    ax.set_ylabel(label)
run.savefig(fig, "probabilities")
plt.show()

# %% [markdown]
# In brackets, the number of classified samples. `tv`: the total variation between pooled frequencies and probabilities
# (`both`: the larger value of the two factors). `rms`: the deviation of each scene's frequencies from its own
# probabilities, less the part that chance explains (`both`: pooled over the two factors). Both with the upper ends of
# their intervals over scenes. Eta is 1 for ancestral sampling, 0 for DDIM. Beside the model above, one that was trained
# without the novel loss (Eq. 9) and for a shorter time.

# %% tags=["nbval-ignore-output"]
numbers = all_numbers[sampler]
command = results.evaluations[evaluation.MAIN_SAMPLER]["command"]
print(command.split(maxsplit=3)[3])  # without the module
print(f"{'':30}" + "".join(f"{title:>18}" for title in ("tv (up to)", "rms (up to)")))
for name, sampler_numbers in sorted(all_numbers.items(), reverse=True):
    variant, _, eta = name.partition("_eta_")
    label = f"{'no novel loss' if variant == 'no_novel' else 'main model'}, eta {eta}"
    for factor in ("", *(f"{factor}_" for factor in tabletop.FACTORS)):
        keys = [f"{factor}factor_{key}" for key in ("tv", "scene_rms")]
        cells = "".join(f"{sampler_numbers[key]:9.3f} ({sampler_numbers[f'{key}_high']:.3f}) " for key in keys)
        print(f"{label:22}{factor.strip('_') or 'both':8}" + cells)
    keys = ("factor_tv_high", "factor_scene_rms_high", "novel_energy_skill_180")
    run.record(**{f"{name}_{key}": sampler_numbers[key] for key in keys})
run.record(**numbers, examined=len(recorded[f"{sampler}_labels"]))

# %% [markdown]
# ## 7. Are the scenes right?
#
# The energy score is the mean distance of samples from the truth, less half of their mean distance from each other; no
# sampler can beat exact posterior draws. Its *skill* is 0 if samples are no better than the deterministic prediction, and
# 1 if they are as good as exact draws. Left, the skill with intervals over scenes, for the target and for a novel view at
# three quarters of its angle. Middle, the standard deviation of samples over the error of their mean, on disoccluded
# pixels: 1 is calibrated.
#
# Right, the limits of the skill: the difference between exact draws, and the error of one sample on visible pixels. No
# training removes all of this error (dotted). In training, a ray through the centre of a pixel learns the colour of the
# pixel, which is the mean of 2 x 2 rays of the true scene. A render of a sample is the mean of 2 x 2 such rays again, and
# so it is filtered twice.

# %% tags=["nbval-ignore-output"]
angles = evaluation.TARGET_ANGLES
fig, (skill, spread, error) = plt.subplots(1, 3, figsize=(9.5, 2.9), layout="constrained")
for prefix, color, label in (("", plotting.TARGET, "target"), ("novel_", plotting.SAMPLES, "novel view")):
    for ax, key in ((skill, "energy_skill"), (spread, "spread_skill")):
        bounds = [[numbers[f"{prefix}{key}_{d}{end}"] for d in angles] for end in ("", "_low", "_high")]
        value, low, high = map(np.array, bounds)
        x = np.array(angles) + (3 if prefix else -3)
        ax.errorbar(x, value, (value - low, high - value), fmt="o", color=color, label=label, capsize=3)
for ax, lines in ((skill, {0: "deterministic", 1: "exact draws"}), (spread, {1: "calibrated"})):
    for level, text in lines.items():
        ax.axhline(level, color=plotting.MUTED, lw=1)
        ax.annotate(text, (0.29, level), xycoords=("axes fraction", "data"), ha="center", va="bottom", fontsize=8)
skill.set(title="energy skill", ylim=(-0.1, 1.2))
spread.set(title="spread, disoccluded pixels", ylim=(0, 1.2))
spread.legend(loc="lower right")
for key, color, label in (
    ("psnr_redrawn", plotting.TRUE, "difference of exact draws"),
    ("psnr_seen", plotting.TARGET, "error on visible pixels"),
):
    rms = [2 * 10 ** (-numbers[f"{key}_{d}"] / 20) for d in angles]
    error.plot(angles, rms, "o-", color=color, label=label)
half = torch.linspace(0, 1, 129, device=device)  # rays half a pixel apart, those through the pixels' edges included
ray_uv = torch.cartesian_prod(half, half).flip(1)
colours, _ = tabletop.render_rays(test_set.scenes, *rays(test_set.cameras[:, :, 0], ray_uv))
once = torch.nn.functional.avg_pool2d(colours.unflatten(2, (129, 129)).movedim(-1, 2).flatten(0, 1), 2, 1)
twice = torch.nn.functional.avg_pool2d(once, 2).unflatten(0, test_set.cameras.shape[:2])
filtered = (twice - test_set.truth[:, :, 0]).square().mean().sqrt().item()
error.axhline(filtered, color=plotting.TARGET, ls=":", label="filtered twice")
error.set(title="rms, colours in [-1, 1]", ylim=(0, None))
error.legend()
for ax in (skill, spread, error):
    ax.set(xlabel="target angle around the table, degrees", xticks=angles)
run.savefig(fig, "skill")
plt.show()

# %% [markdown]
# More measures of the same samples, as a table.
#
# - `energy`: energy score of samples over that of the deterministic prediction.
# - `image tv`: total variation of samples over that of true pictures; below 1 samples are blurred, above 1 noisy.
# - `var ratio`: variance of samples on disoccluded pixels over that on visible pixels.
# - PSNR: of one sample on visible pixels (`visible`); on all pixels, of the `mean` and the `best` of all samples, and of the
#   deterministic prediction (`determ.`). `mean-det.`: the difference of the two, extrapolated to infinitely many samples.

# %% tags=["nbval-ignore-output"]
columns = {
    "energy_ratio": "energy", "sharpness_ratio": "image tv", "variance_unseen_over_seen": "var ratio",
    "psnr_seen": "visible", "psnr_mean": "mean", "psnr_best": "best", "psnr_deterministic": "determ.",
    "psnr_mean_over_deterministic": "mean-det.",
}
print(f"{'':12}" + "".join(f"{title:>12}" for title in columns.values()))
for prefix in ("", "novel_"):
    for d in evaluation.TARGET_ANGLES:
        cells = "".join(f"{numbers[f'{prefix}{key}_{d}']:12.3g}" for key in columns)
        print(f"{(prefix or 'target').strip('_'):6}{d:4}° {cells}")

# %% [markdown]
# ## 8. A scene, here and now
#
# Two held-out pictures again, and two samples of each, computed on this machine from the noise of the recorded reference
# samples: targets at 60°.

# %% tags=["nbval-ignore-output"]
reference = torch.from_numpy(recorded["live"][:, :, 0, 0]).float()  # (2, 2, 3, H, W)
config = evaluation.REFERENCE | run.pick(smoke={"count": 1, "steps": 2}, cpu={}, gpu={})
small_set = evaluation.make_test_set(config["count"], 1, device=device)
samples = evaluation.sample_posterior(
    model, small_set, evaluation.Sampling(config["k"], config["steps"]), evaluation.TARGET_ANGLES[:1]
)[:, :, 0, 0].cpu()
difference = (samples - reference[: config["count"]]).square().mean().sqrt()
scatter = (reference[:, 0] - reference[:, 1]).square().mean().sqrt()
print(f"this machine against the reference: {difference:.3f} (rms); two samples of one picture: {scatter:.3f}")
run.record(live_apart=difference, live_scatter=scatter)

# %% [markdown]
# And one scene from behind, to walk around. The slider moves the camera through the radiance field; the strip shows six of
# its positions.

# %% tags=["nbval-ignore-output"]
context, target_camera = test_set.context[[1]], test_set.cameras[[1], BACK, :1]
step = model.sample(context, target_camera, steps=DENOISING, generator=torch.Generator().manual_seed(4))
VIEWS = run.pick(smoke=2, cpu=12, gpu=24)
walk = [step.signal.render(tabletop.rotate_about_z(context.params, 360 * i / VIEWS)) for i in range(VIEWS)]


def show_view(view):
    image = walk[view]
    depth = torch.as_tensor(plotting.depth_to_rgb(evaluation.surface_depth(image)[0, 0].cpu())).float()
    plotting.image_grid(torch.stack([rgb(image.rgb[0, 0]), depth])[None], size=2, col_titles=["colour", "depth"])
    plt.show()


strip = walk[:: max(1, VIEWS // 6)]
fig = plotting.image_grid(
    torch.stack([rgb(test_set.context.value[1, 0]), *(rgb(image.rgb[0, 0]) for image in strip)])[None], size=1.2,
    col_titles=["context", *(f"{360 * i // len(strip)}°" for i in range(len(strip)))],
)
run.savefig(fig, "walk")
plt.show()

# %% tags=["nbval-ignore-output"]
from ipywidgets import IntSlider, interact

slider = interact(show_view, view=IntSlider(0, min=0, max=VIEWS - 1))

# %% [markdown]
# ## 9. What it costs
#
# The cost of a training step per scene, recorded on an H100 with 16 scenes in a step: operations and bytes, which are counted,
# beside time and memory, which are measured. Operations are those of matrix products and convolutions; bytes are the
# traffic if every operation reads its inputs and writes its outputs. One setting is varied at a time, from 640 rays a
# picture, 40 samples a ray, one context view and 64 pixels a side.

# %% tags=["nbval-ignore-output"]
costs = json.loads(str(recorded["benchmark"]))
setting_labels = {
    "rays": "rays a picture", "samples": "samples a ray", "views": "context views", "side": "pixels a side"
}
lines = {
    "gigaflop": (plotting.TARGET, "billion operations"), "gigabytes_moved": (plotting.SAMPLES, "GB moved"),
    "milliseconds": (plotting.TRUE, "milliseconds"), "gigabytes": (plotting.MUTED, "GB of memory"),
}
fig, axes = plt.subplots(1, 4, figsize=(9.5, 2.8), sharey=True, layout="constrained")
for ax, (name, values) in zip(axes, benchmark.SWEEPS.items(), strict=True):
    steps = [costs["sweep"][f"{name}_{value}"] for value in values]
    per_scene = [{key: step[key] / step["batch"] for key in step} for step in steps]
    for scene_cost, step in zip(per_scene, steps, strict=True):
        scene_cost["milliseconds"] = 1e3 * step["seconds"] / step["batch"]
    for key, (color, label) in lines.items():
        style = "o-" if key.startswith(("gigaflop", "gigabytes_")) else "s:"
        ax.plot(values, [cost[key] for cost in per_scene], style, color=color, label=label)
        run.record(**{f"cost_{name}_{key}": [cost[key] for cost in per_scene]})
    ax.set(xlabel=setting_labels[name], yscale="log", xticks=values)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
run.savefig(fig, "cost")
plt.show()

small = benchmark.DEFAULT | {"side": 32}
counted = benchmark.count_operations(benchmark.training_step(1, **small, device=torch.device("cpu")))["gigaflop"]
recorded_step = costs["sweep"]["side_32"]
recorded_count = recorded_step["gigaflop"] / recorded_step["batch"]
print(f"billion operations of a scene of 32 x 32 pixels: {counted:.2f} here, {recorded_count:.2f} recorded")
speed = {
    "training_scenes_a_second": costs["batch"] / costs["training"]["seconds"],
    "sampling_ms_in_a_batch": 1e3 * costs["sampling_64"]["seconds"] / 64,
    "sampling_seconds_alone": costs["sampling_1"]["seconds"],
}
for name, value in speed.items():
    print(f"{name.replace('_', ' '):26}{value:8.3g}")
run.record(**speed)

# %% [markdown]
# ## What held, and what did not
#
# **Held.** From pictures alone the model learns to sample scenes. It fills in the hidden parts of one picture with the right
# probabilities, within five points, with eta 1 and 0. Samples differ on disoccluded pixels, and agree with the picture on
# visible pixels. They have as much total variation as true pictures. Their energy score, from the side and from behind,
# comes more than four fifths of the way from the deterministic prediction to exact draws. The mean of many samples is as
# good as that prediction, which is a blend, though its model learns nothing else. A sampled scene can be rendered from all
# sides.
#
# **Ancestral sampling pays.** On visible pixels, samples with eta 0 keep the errors of the first steps: DDIM reuses its own
# noise estimate, errors included. With fresh noise, later steps correct these errors.
#
# **Without the novel loss** the targets are nearly as good, and the frequencies of decals are wrong by eight points where
# these are wrong by five. But the scenes are not as good: from the novel camera they are no better than a blend. The loss
# compared nothing but the target's picture.
#
# **Did not.** We wanted a skill of 0.8 at 60° too, and 0.75 for all novel views; both are reached only farther around, where
# more is hidden. The right panel of section 7 shows the reason. Near the front less is uncertain, while a sample's error at
# the edges of visible things stays the same, and exact draws have no such error. Novel views have less skill than targets
# since no encoder gets them as input. The error of filtering twice is as large as the error that we measure. With one ray a
# pixel, renders would be filtered once and gain some skill, but then samples have more total variation than true pictures.
# More training still helps: after 18 of the GPU-minutes the skill at 60° was lower by a tenth.
#
# **Not quite fair.** The deterministic model had fewer minutes than this one (section 3); by then it had learnt most of
# what it would.
#
# ## On your own
#
# 1. In section 5 the table behind the screen is not visible, and yet samples hardly differ there. Why?
# 2. Follow one sampling with `model.trajectory` and compare each step's picture with the truth on visible pixels. Which
#    step is the nearest?
# 3. Sample the target at 60° first and let it join the context for one at 180° (`sample_autoregressive`). What breaks?
#
# <details><summary>Answers</summary>
#
# 1. It is out of sight, but not uncertain: in all scenes the pattern goes on behind things.
# 2. With eta 1, one in the middle: from there on the network trusts the noisy target more than the context, and the target
#    is its own estimate. The last steps sharpen disoccluded pixels, at the cost of half a decibel on visible ones.
# 3. Thin things: the screen dissolves. The field's network averages over views, and it was never trained with three.
#
# </details>
#
# **Further reading.** The paper, section 4.1. Yu et al. (2021), *pixelNeRF*, [arXiv 2012.02190](https://arxiv.org/abs/2012.02190).
# Mildenhall et al. (2020), *NeRF*, [arXiv 2003.08934](https://arxiv.org/abs/2003.08934). Max (1995), *Optical models for direct
# volume rendering*.

# %%
run.claim(
    "Section 4.1 in 3-D: radiance fields sampled from one picture. On {examined} held-out scenes it draws "
    "what the picture hides within {factor_tv:.2f} of the true probabilities, and samples vary "
    "{variance_unseen_over_seen_180:.0f} times as much where the picture cannot know as where it can. "
    "Behind the table they come {energy_skill_180:.0%} of the way from a deterministic model's energy score "
    "to the truth's, at 60 degrees {energy_skill_60:.0%}.",
    thumbnail="orbit.gif",
)
run.must_show(
    readings_right=(1.0, 1.0),
    examined=(128, 128),
    live_apart=(0.0, 0.05),
    training_scenes_a_second=(800, None),
    sampling_ms_in_a_batch=(0.0, 25.0),
    sampling_seconds_alone=(0.0, 0.6),
)
for d in (60, 120, 180):
    run.must_show(
        **{
            f"energy_skill_{d}": (0.80, None),
            f"energy_skill_{d}_low": (0.70, None),
            f"novel_energy_skill_{d}": (0.75, None),
            f"spread_skill_{d}": (0.85, 1.15),
            f"sharpness_ratio_{d}": (0.95, 1.05),
            f"novel_sharpness_ratio_{d}": (0.9, 1.1),
            f"variance_unseen_over_seen_{d}": (4.0, None),
            f"psnr_mean_over_deterministic_{d}": (-0.2, None),
        }
    )
for sampler in ("", *(f"{variant}_eta_{eta}_" for variant in ("unet", "no_novel") for eta in (0, 1))):
    run.must_show(**{f"{sampler}factor_tv_high": (0.0, 0.10), f"{sampler}factor_scene_rms_high": (0.0, 0.15)})
run.falls_short(
    energy_skill_60="pictures are filtered twice, and little is open",
    energy_skill_60_low="pictures are filtered twice, and little is open",
    novel_energy_skill_60="what neither view shows is a blend",
    novel_energy_skill_120="what neither view shows is a blend",
    no_novel_eta_0_factor_tv_high="decals' probabilities are off by eight points, with the shorter training",
)
run.finish()
