# %% [markdown]
# # A forward model of your own
#
# You have measurements $y = A x + \text{noise}$ and never the signals $x$ behind them. How do you sample the signals
# that one new measurement leaves possible, and how do you know that the samples are right?
#
# **What you will see.** A forward model in ten lines, with noise. A denoiser that takes any forward model, linear or
# not, without a change. A training from files on disk, stopped and resumed. Samples beside a posterior in closed form.
# Then the same denoiser for another linear operator, and for a sensor that saturates.
#
# **What you need.** [00](00_one_page.ipynb) for the method. Nothing is downloaded, and everything trains while you
# watch, on one CPU core.
#
# **What it rebuilds.** Equations 4, 5, 6, 8 and 9 of *Diffusion with Forward Models* (Tewari et al., NeurIPS 2023,
# [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)), for a problem that is not in the paper.

# %% tags=["setup"]
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
SEED = 0

# %% tags=["setup", "nbval-ignore-output"]
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from fwdiff_lite import ForwardDiffusion, ForwardRegression, Observations, check_samples, collate, fit, metrics
from fwdiff_lite.backbones import MLP
from fwdiff_lite.diagnostics import live_gain
from fwdiff_lite.figures import own_forward_model as figures
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.schedule import CosineSchedule
from fwdiff_lite.validation import validation_loss

run = Run("08_your_own_forward_model", PROFILE)
FILES, STEPS = run.pick(smoke=(200, 20), cpu=(2000, 500), gpu=(2000, 500))  # recordings on disk, training steps
CONTEXTS, K, SAMPLING_STEPS = run.pick(smoke=(32, 4, 4), cpu=(256, 16, 64), gpu=(256, 16, 64))  # of the test set
run.header()

# %% [markdown]
# ## 1. The forward model
#
# A problem of your own has three parts: a **forward model**, a **denoiser**, and **batches** of observations.
# [protocols.py](../fwdiff_lite/protocols.py) states the contract in types. Nothing has to inherit from a class.
#
# | part | must have | may have |
# |---|---|---|
# | forward model | `forward_model(signal, params)`, differentiable | `noise_std(params)`: the noise; `support(params)`: a crop |
# | denoiser | `condition(context, target_params, target_mask)`, `forward(condition, noisy_target, t)` | `schedule`, `observation_scale`: the model sets both; `loss_weight` |
# | batch | `"context"`, `"target"`: `Observations(value, params, mask)` | `"novel"` for Eq. 9 |
#
# Here the signal is a Gaussian random walk of 16 values: each step is normal, with a standard deviation of 0.25. A sensor
# measures the mean of `width` neighbouring values, with Gaussian noise of known standard deviation. At `width=1` the
# sensor measures single values. The parameters $\phi$ of a measurement are the first index and the noise's standard
# deviation. At the ends of the walk, the sensor counts the outermost value several times.

# %% tags=["idea"]
SIZE, STEP_STD, NOISE_STD = 16, 0.25, 0.08  # values of a walk; standard deviations of its steps and of the noise


class MovingAverage:
    """The mean of `width` neighbouring values. params (B, M, 2): the first index, the noise's standard deviation."""

    def __init__(self, width):
        self.width = width

    def __call__(self, signal, params):  # (B, 16), (B, M, 2) -> (B, M), without noise: Eq. 5
        indices = (params[..., :1].long() + torch.arange(self.width)).clamp(0, SIZE - 1)
        return signal[:, None].expand(-1, indices.shape[1], -1).gather(2, indices).mean(2)

    def noise_std(self, params):  # (B, M, 2) -> (B, M)
        return params[..., 1]


# %% [markdown]
# The method `noise_std` tells the library that observations are measurements. Contexts and targets then hold noise, and
# signals come out without noise. A measured data set looks like this: of each walk some measurements, at random places.

# %% tags=["idea"]
def draw_walks(count, generator):  # (count, 16); only the simulated instrument sees them, no model does
    return STEP_STD * torch.randn(count, SIZE, generator=generator).cumsum(1)


def measure(sensor, walks, count, generator):  # `count` measurements of each walk, at random places
    start = torch.randint(1 - sensor.width, SIZE, (len(walks), count, 1), generator=generator).float()
    params = torch.cat([start, torch.full_like(start, NOISE_STD)], 2)
    noise = NOISE_STD * torch.randn(len(walks), count, generator=generator)
    return Observations(sensor(walks, params) + noise, params)


example_walk = draw_walks(1, torch.Generator().manual_seed(12))
points, averages = MovingAverage(1), MovingAverage(4)
examples = {
    "width 1": measure(points, example_walk, 12, torch.Generator().manual_seed(3)),
    "width 4": measure(averages, example_walk, 12, torch.Generator().manual_seed(3)),
}

# %% tags=["drawing", "nbval-ignore-output"]
run.savefig(figures.draw_measurements(example_walk, examples, {"width 1": 1, "width 4": 4}), "measurements")

# %% [markdown]
# **Check the forward model first.** PyTorch has a moving average, too: `avg_pool1d` after replicated padding.

# %% tags=["idea", "agreement"]
for width in (1, 4):
    walks8 = torch.randn(8, SIZE)
    starts = torch.arange(1.0 - width, SIZE)  # all places that overlap the walk
    params8 = torch.stack([starts, torch.zeros_like(starts)], 1).expand(8, -1, -1)
    padded = functional.pad(walks8, (width - 1, width - 1), mode="replicate")
    assert_close(MovingAverage(width)(walks8, params8), functional.avg_pool1d(padded, width, stride=1))

# %% [markdown]
# ## 2. The denoiser
#
# A denoiser predicts the signal from the context and the noisy target (Eq. 4). It **must use**
#
# - the parameters of context and targets: where was measured;
# - the masks: which measurements exist;
# - the noise, both known kinds: `noise_std` of every measurement, and the diffusion's noise at time $t$.
#
# It **must not assume** a number of measurements, their order or their places, nor the inverse of one operator. The
# quick start in the README writes the context's values into the signal. This works for `width=1` without noise, and
# fails for a mean of four values: no value of the signal equals a measurement.
#
# So the denoiser below asks the forward model itself. It takes the derivative of all observations by all values of the
# signal, the Jacobian $A$, from automatic differentiation. Measurements $y$ with variances $v$ then say of the signal,
# up to a constant,
#
# $$\log p(y \mid S) = b^\top S - \tfrac12 S^\top Q\, S, \qquad Q = \sum_m A_m A_m^\top / v_m, \quad
#   b = \sum_m A_m\, y_m / v_m .$$
#
# $Q$ and $b$ have one size for any number of measurements, and $b$ is the adjoint $A^\top$ of the weighted measurements:
# no inverse of $A$ is taken. A noisy target counts as a measurement, too: $O_t / \alpha_t$ has the variance
# $v + \sigma_t^2 / \alpha_t^2$. For a forward model that is not linear, $A$ is the derivative at an estimate of the signal.

# %% tags=["idea"]
def jacobian(forward_model, signal, params):
    """The derivative of all observations by all values of the signal, (B, M, 16). For a linear model: its matrix."""

    def derivative(direction):
        return torch.func.jvp(lambda s: forward_model(s, params), (signal,), (direction.expand_as(signal),))[1]

    return torch.func.vmap(derivative)(torch.eye(SIZE).to(signal)).permute(1, 2, 0)


def information(forward_model, signal, params, value, variance, mask):
    """Q (B, 16, 16) and b (B, 16) of measurements, with the forward model linearised at a signal."""
    A = jacobian(forward_model, signal, params)
    weight = torch.where(mask, 1 / variance, 0)
    linear_part = value - forward_model(signal, params) + torch.einsum("bmd,bd->bm", A, signal)
    return (A * weight[..., None]).mT @ A, torch.einsum("bmd,bm->bd", A, weight * linear_part)


def gaussian_posterior(Q, b, factor):
    """Mean and variances (B, 16) of S = factor z, for a standard normal z, given Q and b."""
    lower = torch.linalg.cholesky(factor.T @ Q @ factor + torch.eye(SIZE))
    root = torch.linalg.solve_triangular(lower, factor.T.expand_as(Q), upper=False)  # covariance = root^T root
    return torch.einsum("bji,bjk,bk->bi", root, root, b), root.square().sum(1)


# %% [markdown]
# The network itself has two parts. The first is a learnt matrix `factor`: how the values of a signal vary together. It
# starts as a multiple of the identity, so the network is not told that signals are walks. The second is a small MLP. It
# corrects the first part's mean, in units of its standard deviation, where signals or sensors are not Gaussian or
# linear. Its last layer starts at zero.

# %% tags=["idea"]
class LinearisingDenoiser(nn.Module):
    """A denoiser for any differentiable forward model of 16 values, with or without noise."""

    def __init__(self, forward_model, linearisations=1):  # 1 is enough for a linear forward model
        super().__init__()
        self.forward_model, self.linearisations = forward_model, linearisations
        self.schedule, self.observation_scale = CosineSchedule(), 1.0  # the model sets both
        self.factor = nn.Parameter(torch.eye(SIZE) / 2)
        self.net = MLP(in_features=4 * SIZE, out_features=SIZE, width=64)
        for weights in self.net.layers[-1].parameters():
            nn.init.zeros_(weights)

    def condition(self, context, target_params, target_mask=None):  # once per sample
        target_mask = torch.ones(target_params.shape[:2], dtype=torch.bool) if target_mask is None else target_mask
        return context, target_params, target_mask

    def information(self, condition, noisy_target, t, signal):
        (context, target_params, target_mask), scale = condition, self.observation_scale
        params, mask = torch.cat([context.params, target_params], 1), torch.cat([context.mask, target_mask], 1)
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        value = scale * torch.cat([context.value, noisy_target / alpha], 1)
        diffusion_std = torch.cat([0 * context.value, (scale * sigma / alpha).expand_as(noisy_target)], 1)
        variance = self.forward_model.noise_std(params).square() + diffusion_std.square()
        return information(self.forward_model, signal, params, value, variance, mask)

    def forward(self, condition, noisy_target, t):  # at every step: Eq. 4
        scale, mean = self.observation_scale, noisy_target.new_zeros(len(noisy_target), SIZE)
        for _ in range(self.linearisations):
            Q, b = self.information(condition, noisy_target, t, mean.detach())
            mean, variance = gaussian_posterior(Q, b, scale * self.factor)
        precision, std = scale**2 * Q.diagonal(dim1=1, dim2=2), variance.sqrt()
        features = [mean / scale, (std / scale).log(), scale * b / precision.clamp(min=1), precision.log1p()]
        return torch.addcmul(mean, std, self.net(torch.cat(features, 1), torch.zeros_like(t)))

    def loss_weight(self, condition, t):  # the inverse of about the error that is to be expected
        no_target, no_signal = torch.zeros_like(condition[1][..., 0]), torch.zeros(len(t), SIZE)
        Q, b = self.information(condition, no_target, t, no_signal)  # Q depends on no value
        _, variance = gaussian_posterior(Q, b, self.observation_scale * torch.eye(SIZE) / 2)
        noise_variance = self.forward_model.noise_std(condition[1]).square().mean(1)
        return self.observation_scale**2 / torch.maximum(variance.mean(1), noise_variance)


# %% [markdown]
# **Check it.** A denoiser that only has its first part must equal the regression with a Gaussian process on the same
# measurements, here by scikit-learn. Half of the measurements are noisy targets at time $t$, some are masked, and the
# unit is another one (`observation_scale`).

# %% tags=["idea", "agreement"]
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

scale8, t8, factor8 = 3.0, torch.linspace(0.1, 0.9, 8), torch.randn(SIZE, SIZE)
params8 = torch.stack([torch.randint(-3, SIZE, (8, 12)), torch.full((8, 12), 0.5)], 2)
value8, mask8 = torch.randn(8, 12), torch.rand(8, 12) < 0.8  # columns 0 to 5: context; 6 to 11: noisy target
sensor8 = MovingAverage(4)
denoiser8 = LinearisingDenoiser(sensor8, linearisations=2)
denoiser8.observation_scale, denoiser8.factor.data = scale8, factor8
condition8 = denoiser8.condition(Observations(value8[:, :6], params8[:, :6], mask8[:, :6]), params8[:, 6:], mask8[:, 6:])
signal8 = denoiser8(condition8, value8[:, 6:], t8).detach()
for i in range(8):
    rows, schedule = mask8[i], CosineSchedule()
    operator = sensor8(torch.eye(SIZE), params8[i].expand(SIZE, -1, -1)).T  # (12, 16): columns are unit signals
    alpha = torch.cat([torch.ones(6), schedule.alpha(t8[i]).expand(6)])
    variance = 0.5**2 + (scale8 * torch.cat([torch.zeros(6), schedule.sigma(t8[i]).expand(6)]) / alpha) ** 2
    process = GaussianProcessRegressor(DotProduct(0.0, "fixed"), alpha=variance[rows].numpy(), optimizer=None)
    process.fit((operator @ (scale8 * factor8))[rows], (scale8 * value8[i] / alpha)[rows])
    expected = torch.from_numpy(process.predict(scale8 * factor8)).float()
    assert_close(signal8[i], expected, rtol=1e-3, atol=1e-3)

# %% [markdown]
# Two more checks find most mistakes in a denoiser. The order of measurements does not matter, and masked measurements do
# not matter. A third check looks at the forward model: do all observations together determine the signal? Proposition 1
# ([01](01_toy_proof.ipynb#Proposition-1)) needs this.

# %% tags=["idea"]
order = torch.randperm(6)
shuffled = Observations(value8[:, :6], params8[:, :6], mask8[:, :6]).select(order)
assert_close(denoiser8(denoiser8.condition(shuffled, *condition8[1:]), value8[:, 6:], t8), signal8, rtol=1e-3, atol=1e-3)
wrong_where_masked = Observations(torch.where(mask8, value8, 99.0)[:, :6], params8[:, :6], mask8[:, :6])
masked_signal = denoiser8(denoiser8.condition(wrong_where_masked, *condition8[1:]), value8[:, 6:], t8)
assert_close(masked_signal, signal8, rtol=1e-3, atol=1e-3)
for sensor in (points, averages):
    starts = torch.arange(1.0 - sensor.width, SIZE)
    everything = torch.stack([starts, torch.zeros_like(starts)], 1)[None]
    assert torch.linalg.matrix_rank(jacobian(sensor, torch.zeros(1, SIZE), everything)[0]) == SIZE

# %% [markdown]
# ## 3. The loss
#
# The losses compare observations, never signals:
#
# $$L^{trgt} = \| O^{trgt} - \mathrm{forward}(S, \phi^{trgt}) \|^2 \tag{8}$$
# $$L^{novel} = \| O^{novel} - \mathrm{forward}(S, \phi^{novel}) \|^2 \tag{9}$$
#
# **What noise changes.** The target is a measurement $y = O + n$, and the noisy target $\alpha y + \sigma\epsilon$
# says something about $n$. Given the signal, the expected measurement is
#
# $$\mathbb{E}[y \mid S, O_t] = O + g\,(O_t - \alpha O), \qquad g = \alpha v / (\alpha^2 v + \sigma^2). $$
#
# Eq. 8 uses this expectation in place of $O$. Otherwise the loss would ask for signals that explain the noise, too.
# Novel measurements are no input of the network, so Eq. 9 stays as it is.

# %% tags=["idea"]
def expected_measurement(observation, noisy_target, variance, t):
    alpha, sigma = torch.cos(torch.pi / 2 * t)[:, None], torch.sin(torch.pi / 2 * t)[:, None]
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return observation + gain * (noisy_target - alpha * observation)


def mean_square(difference, mask):  # over the measurements of each signal that exist
    return torch.where(mask, difference, 0).square().sum(1) / mask.sum(1)


def loss(denoiser, forward_model, context, target, novel, t, noise):
    alpha, sigma = torch.cos(torch.pi / 2 * t)[:, None], torch.sin(torch.pi / 2 * t)[:, None]
    noisy_target = torch.where(target.mask, alpha * target.value + sigma * noise, 0)
    condition = denoiser.condition(context, target.params, target.mask)
    signal = denoiser(condition, noisy_target, t)  # Eq. 4
    observation, variance = forward_model(signal, target.params), forward_model.noise_std(target.params) ** 2  # Eq. 5
    expected = expected_measurement(observation, noisy_target, variance, t)
    loss_target = mean_square(target.value - expected, target.mask)  # Eq. 8
    loss_novel = mean_square(novel.value - forward_model(signal, novel.params), novel.mask)  # Eq. 9
    return (denoiser.loss_weight(condition, t) * (loss_target + loss_novel)).mean()


# %% [markdown]
# **Check it.** The library's call is `model.loss`, and a model is made of the two parts.

# %% tags=["idea", "agreement"]
model8 = ForwardDiffusion(LinearisingDenoiser(MovingAverage(4)), MovingAverage(4))
parts8 = [
    Observations(torch.randn(8, m), torch.stack([torch.randint(-3, SIZE, (8, m)), torch.full((8, m), 0.5)], 2))
    for m in (3, 6, 2)
]
context8, target8, novel8 = (part.mask_out(torch.arange(part.mask.shape[1]) >= torch.randint(1, 7, (8, 1))) for part in parts8)
t8, noise8 = model8.sample_time_and_noise(target8, torch.Generator().manual_seed(1))
library_loss = model8.loss(context8, target8, t8, noise8, novel8)["loss"]
assert_close(loss(model8.denoiser, model8.forward_model, context8, target8, novel8, t8, noise8), library_loss)

# %% [markdown]
# ## 4. Data on disk, a training that stops and goes on
#
# A data set of your own lies in files. Here each file is one recording: the values and places of 24 to 72 measurements
# of one walk. The walk itself is not stored.

# %% tags=["idea"]
def write_recordings(folder, sensor, count, generator):
    folder.mkdir()
    for i, walk in enumerate(draw_walks(count, generator).split(1)):
        recording = measure(sensor, walk, int(torch.randint(24, 73, (), generator=generator)), generator)
        np.savez(folder / f"{i:05}.npz", value=recording.value[0], params=recording.params[0])


@cache  # small files stay in memory
def read_recording(path):
    with np.load(path) as file:
        return Observations(torch.from_numpy(file["value"])[None], torch.from_numpy(file["params"])[None])


class Recordings(Dataset):
    """One example a file: its measurements in a new order, as context (1 to 4), novel (4) and target (all others)."""

    def __init__(self, folder):
        self.paths = sorted(folder.glob("*.npz"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        recording = read_recording(self.paths[i])
        recording = recording.select(torch.randperm(recording.mask.shape[1]))
        n = int(torch.randint(1, 5, ()))
        parts = {"context": slice(n), "novel": slice(n, n + 4), "target": slice(n + 4, None)}
        return {name: recording.select(part) for name, part in parts.items()}


folder = Path(tempfile.mkdtemp())
write_recordings(folder / "train", points, FILES, torch.Generator().manual_seed(SEED))
write_recordings(folder / "validation", points, 128, torch.Generator().manual_seed(1000))

# %% [markdown]
# Recordings have different lengths, so the batches need padding. `collate` pads with masked observations. `fit` takes
# the `DataLoader` as it is.

# %% tags=["idea"]
def make_loader(name, batch_size=128):
    return DataLoader(Recordings(folder / name), batch_size, shuffle=True, drop_last=True, collate_fn=collate)


loader = make_loader("train")
batch = next(iter(loader))
print({name: tuple(part.value.shape) for name, part in batch.items()})
print("measurements that exist, of the first walks:", batch["target"].mask.sum(1)[:8].tolist())

# %% [markdown]
# **Stop and go on.** A cluster's time limit or the stop button ends a training early. With `checkpoint=`, `fit` writes
# the whole state: weights, optimiser, averages, random numbers, and the place in the epoch. The same call goes on where
# the training stopped. Below, one training runs through. Another is interrupted after 7 steps, as by the stop button,
# and goes on. Both have the same weights, bit for bit.

# %% tags=["idea", "nbval-ignore-output"]
def make_model(sensor, linearisations=1, scale=1.0):
    torch.manual_seed(SEED)  # of the initial weights
    return ForwardDiffusion(LinearisingDenoiser(sensor, linearisations), sensor, observation_scale=scale)


def train_shortly(checkpoint, **options):
    model = make_model(points)
    log = fit(model, make_loader("train", 32), steps=16, seed=SEED, checkpoint=checkpoint, progress=False, **options)
    return model, log


def press_stop(model):
    raise KeyboardInterrupt


through, _ = train_shortly(folder / "through.checkpoint")
_, first_log = train_shortly(folder / "stopped.checkpoint", validate=press_stop, validate_every=7)
resumed, second_log = train_shortly(folder / "stopped.checkpoint")
print(f"stopped after {first_log.steps} steps, went on to {second_log.steps}")
for weights, same in zip(through.denoiser.parameters(), resumed.denoiser.parameters(), strict=True):
    assert torch.equal(weights, same)

# %% [markdown]
# A budget in seconds is stopped and resumed the same way: `fit(..., seconds=3600, checkpoint=...)`. Its learning rate
# follows the clock, so its weights are not the same bit for bit.
#
# **The training itself.** `validation_loss` makes a function for `validate=`: the loss on held-out files, with the same
# noise at every call.

# %% tags=["idea", "nbval-ignore-output"]
points_model, untrained_model = make_model(points), make_model(points)
validation = list(make_loader("validation", 64))
points_log = fit(
    points_model,
    loader,
    steps=STEPS,
    learning_rate=1e-2,
    ema=0.99,
    seed=SEED,
    validate=lambda model: validation_loss(model, validation),
    validate_every=max(1, STEPS // 10),
    progress=False,
)
