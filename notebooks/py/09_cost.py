# %% [markdown]
# # What it costs
#
# The model of [06](06_inverse_graphics.ipynb) samples a 3-D scene from one picture. Where do the time and the memory go:
# into the networks that read the pictures, or into the rendering? And what can be done about it?
#
# **What you will see.** First the operations of one training step and of one sample, computed from the shapes of the
# layers and compared with PyTorch's own counter. Then the memory, which grows with the number of points along the
# rays, and activation checkpointing, which takes time in place of memory. Then sampling, where each step costs the same
# again; training on several GPUs; and how far all of this is from the peak of a card.
#
# **What you need.** [06](06_inverse_graphics.ipynb), sections 4 to 7. A *live* number is measured here, on a CPU, for one
# scene. A *recorded* number was measured once, on a GPU, and is loaded.
#
# **What it rebuilds.** No figure of the paper. The paper's own model is about a hundred times as large (table in the
# [README](../README.md#the-paper-and-this-repository)); the method's parts are the same.

# %% tags=["setup"] cellView="form"
# @title Set-up for Google Colab (elsewhere idle)
import os, runpy, subprocess, sys

if "google.colab" in sys.modules:
    address, folder = "https://github.com/fwdiff-lite/fwdiff-lite", "/content/fwdiff-lite"
    if not os.path.isdir(folder):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, folder], check=True)
    runpy.run_path(f"{folder}/fwdiff_lite/pipeline/colab_setup.py", run_name="__main__")

# %% tags=["parameters"]
PROFILE = "cpu"

# %% tags=["setup", "nbval-ignore-output"]
import json
from dataclasses import replace
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.inverse_graphics import benchmark, cost, variants
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.figures import cost as figures
from fwdiff_lite.pipeline.notebook import Run

run = Run("09_cost", PROFILE)
# run.pick chooses a value by profile (smoke: seconds, for tests; cpu; gpu).
# run.record, run.must_show, run.claim note the page's numbers for README and tests.
SIDE = run.pick(smoke=16, cpu=64, gpu=64)  # pixels along each side of a picture
RAYS = run.pick(smoke=64, cpu=320, gpu=320)  # of each picture in the loss
SAMPLES = 32  # points along each ray
STEPS = 32  # of sampling
run.header()

# %% [markdown]
# ## 1. The operations of one scene
#
# A training step has five parts, which [06](06_inverse_graphics.ipynb) builds in sections 4 and 5:
#
# 1. the *context's encoder*, a U-Net, makes a feature map of the context;
# 2. the *deterministic render*: the field of the context alone, rendered by the target's camera at half the resolution;
# 3. the *target's encoder*, the same U-Net, makes a feature map of the noisy target;
# 4. the field of both maps at the points along the *target's rays* (Eq. 8);
# 5. and along the *novel view's rays* (Eq. 9).
#
# Nearly all operations are those of matrix products. The product of an $n \times a$ and an $a \times b$ matrix has
# $n\,a\,b$ multiplications and as many additions: $2\,n\,a\,b$ operations. A linear layer is one such product, with a row
# for each point. A convolution with $3 \times 3$ pixels is one with a row for each output pixel, and $a = 9\,c$ for $c$
# input channels. Self-attention has two more products, each of pixels, channels and pixels: queries with keys, then
# weights with values.

# %% tags=["idea"]
def linear(rows, a, b):  # the product of a (rows, a) and an (a, b) matrix
    return 2 * rows * a * b


def convolution(pixels, a, b, kernel=3):  # `pixels` of the output; a and b: input and output channels
    return linear(pixels, kernel**2 * a, b)


def attention(pixels, c):  # to queries, keys and values, and back; all pixels with all pixels, twice
    return linear(pixels, c, 3 * c) + linear(pixels, c, c) + 2 * linear(pixels, c, pixels)


def residual_block(pixels, a, b, time_features, attends):
    skip = linear(pixels, a, b) if a != b else 0
    layers = convolution(pixels, a, b) + convolution(pixels, b, b) + linear(1, time_features, 2 * b)
    return skip + layers + (attention(pixels, b) if attends else 0)


def unet(side, c_in, c_out, widths, num_attention_levels, num_freqs=6):  # one block a level, down and up
    time_features = 4 * widths[0]
    time = linear(1, 2 * num_freqs, time_features) + linear(1, time_features, time_features)
    total = time + convolution(side**2, c_in, widths[0]) + convolution(side**2, widths[0], c_out)  # first, last layer
    for level, c in enumerate(widths):
        pixels, coarser = (side // 2**level) ** 2, (side // 2 ** (level + 1)) ** 2
        attends = level + num_attention_levels >= len(widths)
        total += residual_block(pixels, c, c, time_features, attends)
        if level + 1 < len(widths):  # to the next level and back
            wider = widths[level + 1]
            total += convolution(coarser, c, wider) + convolution(pixels, wider, c)
            total += residual_block(pixels, 2 * c, c, time_features, attends)
    return total

# %% [markdown]
# The field's network handles a point for each view, takes a weighted mean over the views, and has four more layers
# (06, section 4). Its cost is that of one point times the number of points: rays times samples a ray.

# %% tags=["idea"]
WIDTH, NUM_FEATURES, NUM_FREQS = 64, 16, 6  # of the model of 06
COORDINATES = 3 * (1 + 2 * NUM_FREQS)  # a point, with sines and cosines of NUM_FREQS frequencies
INPUTS = 3 + (5 + NUM_FEATURES) + 6 + 1  # of the encoder: colours, the deterministic render, the pixel's ray, a flag


def encoder(side):
    return unet(side, INPUTS, WIDTH, (64, 128, 192, 256), num_attention_levels=2) + linear(side**2, WIDTH, WIDTH)


def place(points, views):  # where the points are, as each view sees them and in the world
    return views * linear(points, COORDINATES + 1, WIDTH) + linear(points, COORDINATES, WIDTH)


def look(points, views):  # two layers, which join this with the features of each view's picture
    return views * 2 * linear(points, WIDTH, WIDTH)


def fuse(points, views):  # the weighted mean over views, four layers, and the output
    return views * linear(points, WIDTH, 1) + 4 * linear(points, WIDTH, WIDTH) + linear(points, WIDTH, 4 + NUM_FEATURES)


def field(points, views):
    return place(points, views) + look(points, views) + fuse(points, views)


def training_parts(side, rays, samples):  # operations of the forward pass for one scene
    return {
        "context's encoder": encoder(side),
        "deterministic render": field((side // 2) ** 2 * samples, views=1),
        "target's encoder": encoder(side),
        "target's rays": field(rays * samples, views=2),
        "novel view's rays": field(rays * samples, views=2),
    }

# %% [markdown]
# The same parts with the library's model. Its weights are random, since the cost does not depend on them, nor on what the
# pictures show.

# %% tags=["idea"]
settings = variants.Settings(side=SIDE)
model = variants.build_model(settings, samples_per_ray=SAMPLES)
net, renderer = model.denoiser, model.forward_model
images = benchmark.noise_images(1, 3, SIDE, torch.device("cpu"))
context, target, novel = (images.select([i]) for i in range(3))
t = torch.tensor([0.5])
random = torch.Generator().manual_seed(0)
pixels, novel_pixels = (torch.randint(SIDE**2, (1, 1, RAYS), generator=random) for _ in range(2))
scene = net.encode_context(context)
condition = net.condition(context, target.params)
signal = net(condition, target.value, t)

library_parts = {
    "context's encoder": lambda: net.encode_context(context),
    "deterministic render": lambda: net.render_context(scene, target.params),
    "target's encoder": lambda: net.encode_targets(condition, target.value, t),
    "target's rays": lambda: renderer(signal, target.params, pixels),
    "novel view's rays": lambda: renderer(signal, novel.params, novel_pixels),
}

# %% tags=["idea", "agreement"]
def counted(call):  # operations, by PyTorch; its counter does not know fused attention on CPUs, so the math kernel runs
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


page_counts = training_parts(SIDE, RAYS, SAMPLES)
library_counts = {part: counted(call) for part, call in library_parts.items()}
assert page_counts == library_counts

# %% [markdown]
# The page's formulas and PyTorch's counter agree exactly, in every part. Now the backward pass. The gradient of a matrix
# product is two products of the same size, one for each factor. So a training step has about three times the operations
# of its forward pass.

# %% tags=["idea"]
noise = torch.randn(target.value.shape, generator=random)


def training_step():
    losses = model.loss(context, target, t, noise, novel, pixels, novel_pixels)
    losses["loss"].backward()


with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
    training_step()
forward = sum(page_counts.values())
backward_factor = counter.get_total_flops() / forward
print(f"forward pass: {forward / 1e9:.1f} billion operations; training step: {backward_factor:.2f} times as many")

# %% [markdown]
# Operations are not all. Time and memory are costs, too. For the backward pass, a part keeps its *activations*: the
# inputs of every layer whose gradient needs them. `count_memory` follows the bytes of all tensors that operations make.

# %% tags=["idea", "nbval-ignore-output"]
CPU = torch.device("cpu")
step_costs = {}
for part, call in library_parts.items():
    with torch.no_grad():
        seconds = benchmark.measure(call, CPU, repeats=run.pick(smoke=1, cpu=3, gpu=3), warmup=1)["seconds"]
    kept = benchmark.count_memory(call)["left_megabytes"]
    step_costs[part] = {"gigaflop": page_counts[part] / 1e9, "seconds": seconds, "megabytes": kept}


def seconds_of(call):
    with torch.no_grad():
        return benchmark.measure(call, CPU, repeats=1, warmup=1)["seconds"]


def encoder_share(key):
    encoders = sum(step_costs[part][key] for part in step_costs if "encoder" in part)
    return encoders / sum(costs[key] for costs in step_costs.values())


def sampling_parts(side, samples, steps):  # operations of one sample; see section 4
    points = side**2 * samples
    once = place(points, views=1) + look(points, views=1) + place(points, views=1)  # of the context; of the target
    return {
        "context's encoder": encoder(side),
        "deterministic render": field((side // 2) ** 2 * samples, views=1),
        "target's encoder": steps * encoder(side),
        "target's rays": once + steps * (look(points, views=1) + fuse(points, views=2)),
    }

# %% tags=["idea", "nbval-ignore-output"]
model.eval()  # as in sampling; in training, the points along a ray differ from step to step
with torch.no_grad():
    condition = net.condition(context, target.params)
    start = net.prepare_sampling(condition)
    step_signal = net(start, target.value, t)
sampling_seconds = {part: step_costs[part]["seconds"] for part in ("context's encoder", "deterministic render")}
sampling_seconds["target's encoder"] = STEPS * step_costs["target's encoder"]["seconds"]
render_seconds = seconds_of(lambda: renderer(step_signal, target.params))
sampling_seconds["target's rays"] = seconds_of(lambda: net.prepare_sampling(condition)) + STEPS * render_seconds
sampling_costs = {
    part: {"gigaflop": count / 1e9, "seconds": sampling_seconds[part]}
    for part, count in sampling_parts(SIDE, SAMPLES, STEPS).items()
}

# %% tags=["setup"]
run.record(
    formula_over_counter=sum(page_counts.values()) / sum(library_counts.values()),
    backward_factor=backward_factor,
    encoder_share_gigaflop=encoder_share("gigaflop"),
    field_share_megabytes=1 - encoder_share("megabytes"),
    sample_gigaflop=sum(costs["gigaflop"] for costs in sampling_costs.values()),
)

# %% tags=["drawing", "nbval-ignore-output"]
panels = {
    f"a training step, forward pass: {RAYS} rays of each picture, {SAMPLES} samples a ray": step_costs,
    f"a sample with {STEPS} steps: all {SIDE} x {SIDE} rays of the target, in every step": sampling_costs,
}
run.savefig(figures.plot_parts(panels), "parts")

# %% [markdown]
# Each bar is one cost, and each colour a part of the model. In training, the two encoders have most of the operations.
# But most of the memory is the field's. The field keeps hundreds of numbers for each point, and does few operations with
# each number. The deterministic render keeps more than any other part, since it renders a quarter of the picture's pixels,
# and the losses use fewer. In sampling, all rays of the target are rendered, in every step. So most operations and, on a
# CPU, most of the time are those of the target's rays. The time of a sample is an estimate here: that of one step, as
# often as there are steps. (Section 4 says what is computed once, and measures samples.)
#
# ## 2. Memory grows with rays times samples
#
# The rays of one picture, rendered with their backward pass: peak memory for different numbers of rays and of samples a
# ray. Only their product matters.

# %% tags=["idea", "nbval-ignore-output"]
def copy_of(field):  # the same radiance field, whose feature maps are leaves of the graph
    return replace(field, feature_maps=field.feature_maps.detach().requires_grad_())


def backward_from(observe, rays, samples=SAMPLES):  # the gradients of a render's mean square, for maps and network
    field = copy_of(signal)
    observation = observe(field, replace(renderer, samples_per_ray=samples), rays)
    return torch.autograd.grad(observation.square().mean(), [field.feature_maps, *net.field.parameters()])


def plain(field, renderer, rays):
    return renderer(field, target.params, rays)


all_rays = torch.randint(SIDE**2, (1, 1, 2 * RAYS), generator=random)
sweep = {
    (rays, samples): benchmark.count_memory(partial(backward_from, plain, all_rays[..., :rays], samples))
    for rays in (RAYS // 2, RAYS, 2 * RAYS)
    for samples in (SAMPLES // 2, SAMPLES)
}
kilobytes_a_point = [1e3 * c["peak_megabytes"] / (rays * samples) for (rays, samples), c in sweep.items()]
print("kilobytes a point:", " ".join(f"{x:.1f}" for x in kilobytes_a_point))

# %% [markdown]
# ## 3. Time in place of memory
#
# *Activation checkpointing* ([Chen et al. 2016](https://arxiv.org/abs/1604.06174)) keeps the inputs of a part of the
# network only. In the backward pass, the part is computed again. That costs one more forward pass: about a third more
# operations. One checkpoint around the whole render saves nothing at the peak, since the backward pass then needs all
# activations at once. So the rays are rendered in *chunks*, each with a checkpoint of its own: in the backward pass, only
# one chunk's activations exist at a time. The gradients stay the same. (The model of 06 was trained without checkpoints:
# it fits a card. A model of the size of the paper's needs them, see `paper_size` in the README.)

# %% tags=["idea", "nbval-ignore-output"]
def in_chunks(count):
    def observe(field, renderer, rays):
        chunks = [
            checkpoint(renderer, field, target.params, chunk, use_reentrant=False) for chunk in rays.chunk(count, 2)
        ]
        return torch.cat(chunks, 3)

    return observe


def cost_of(observe):
    call = partial(backward_from, observe, all_rays)
    return benchmark.count_memory(call) | benchmark.measure(
        call, CPU, repeats=run.pick(smoke=1, cpu=2, gpu=2), warmup=0
    )


CHUNKS = run.pick(smoke=(16,), cpu=(4, 16, 64), gpu=(4, 16, 64))
plain_cost, checkpointed_cost = cost_of(plain), cost_of(in_chunks(1))
chunked_costs = {count: cost_of(in_chunks(count)) for count in CHUNKS}
assert_close(backward_from(in_chunks(16), all_rays), backward_from(plain, all_rays))
memory_ratio = plain_cost["peak_megabytes"] / chunked_costs[16]["peak_megabytes"]
run.record(kilobytes_a_point=kilobytes_a_point, peak_over_16_chunks=memory_ratio)
print(f"peak memory without checkpoints over that with 16 chunks: {memory_ratio:.1f}")
print(f"time with 16 chunks over that without: {chunked_costs[16]['seconds'] / plain_cost['seconds']:.2f}")

# %% tags=["drawing", "nbval-ignore-output"]
run.savefig(figures.plot_memory(sweep, chunked_costs, plain_cost, checkpointed_cost), "memory")

# %% [markdown]
# Left: the peak grows in proportion to rays times samples, whichever of the two grows. Middle: with more chunks the peak
# falls. The rest is feature maps and gradients, which chunks do not change. Right: checkpoints add the second forward
# pass. And each chunk has costs of its own, such as a gradient of the whole feature maps, so many small chunks take
# longer. So the chunks should be as large as the memory allows.
#
# Sampling keeps no activations. There, chunks alone bound the memory, and nothing is computed twice.
#
# ## 4. A sample: one start, then the steps
#
# The sampler calls the target's encoder and renders the target in each step: the noisy target has changed, so its feature
# map and the field have, too. All else is computed once: the context's feature map, the deterministic render, what the
# context says of the points along the target's rays, and where these points are for the target. The points are the same
# in each step, so these two parts of the field are kept (`prepare_sampling`): 64 numbers a point for each part.
# `sampling_parts` of section 1 is this count, and PyTorch's counter agrees again.

# %% tags=["idea", "nbval-ignore-output"]
library_count = counted(benchmark.sampling_call(model, 1, 2, CPU))
assert library_count == sum(sampling_parts(SIDE, SAMPLES, steps=2).values())
points = SIDE**2 * SAMPLES
one_render = counted(lambda: renderer(step_signal, target.params))
assert one_render == look(points, views=1) + fuse(points, views=2)  # all that the target's picture does not change is kept
once = seconds_of(lambda: net.prepare_sampling(net.condition(context, target.params)))
one_step = seconds_of(lambda: renderer(net(start, target.value, t), target.params))
whole_samples = {steps: seconds_of(benchmark.sampling_call(model, 1, steps, CPU)) for steps in (2, 3, 4)}
print(f"once {once:.2f} s, one step {one_step:.2f} s; {STEPS} steps would take {once + STEPS * one_step:.0f} s")

# %% tags=["drawing", "nbval-ignore-output"]
run.savefig(figures.plot_sampling_time(whole_samples, once, one_step), "sampling")

# %% [markdown]
# The dots are whole samples, each measured once; the line is the sum of the two parts. So the number of steps sets the
# time of a sample.

# %% tags=["setup", "nbval-ignore-output"]
results = harness.load_results(cost.EXPERIMENT)
costs = json.loads(str(results.arrays["settings"]))
scaling, sampling = (cost.recorded_parts(results, name) for name in ("scaling", "sampling"))
for name, numbers in to_flat(results.rows).items():
    run.record(**{f"{name}_{key}": value for key, value in numbers.items()})

# %% tags=["drawing", "nbval-ignore-output"]
if sampling:
    run.savefig(figures.plot_quality(sampling, cost.SAMPLING_ANGLES, cost.ETAS), "quality")
    print(
        "Recorded: the time of a sample, for several numbers of steps, and the energy score of targets over that "
        "of true draws (1 is perfect), with 95 % intervals over scenes."
    )

# %% [markdown]
# ## 5. Several GPUs
#
# The loss is a mean over scenes. So its gradient is the mean of the scenes' gradients. Each of N processes has a GPU and a
# part of the batch, and computes the gradient of the mean loss of this part. Then one *all-reduce* replaces every
# process's gradient by the mean of all. Each process makes the same step of the optimiser, so the weights stay equal
# without being sent. In the next cell a small model and a batch of four scenes stand for four processes.

# %% tags=["idea"]
small = variants.build_model(replace(settings, side=16), samples_per_ray=4, width=16, widths=(8, 16)).double()
for weights in small.parameters():  # new networks begin with zeros in places, where all gradients would be zero
    torch.nn.init.normal_(weights, std=0.3, generator=random)
views = benchmark.noise_images(4, 3, 16, CPU).to(torch.float64)
times, noises = torch.rand(4, generator=random).double(), torch.randn(4, 1, 3, 16, 16, generator=random).double()


def gradient(rows):  # of the mean loss of these rows, over all weights
    context_rows, target_rows, novel_rows = (views.select([i])[rows] for i in range(3))
    loss = small.loss(context_rows, target_rows, times[rows], noises[rows], novel_rows)["loss"]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(small.parameters()))])


own_gradients = [gradient(slice(i, i + 1)) for i in range(4)]
all_reduced = torch.stack(own_gradients).mean(0)
assert_close(all_reduced, gradient(slice(0, 4)))
message = 4 * sum(w.numel() for w in net.parameters()) / 1e6
print(f"the all-reduce of the model of 06: {message:.0f} MB a step, whatever the batch")

# %% [markdown]
# Four costs limit the gain. First, the all-reduce: `fit` sends one message after the backward pass, and waits for it. The
# message is as large as the model, not as the batch. So it counts less if a GPU has more scenes in a step; between the
# GPUs of one host it is fast, between hosts it may not be. Second, every process waits for the slowest one. Third, work
# that is done in every process: Python, and the drawing of the batch. Row $i$ of a batch depends only on the seed, the
# step and $i$. So each process draws its own rows only. Fourth, compiling, once a training: the first step waits for it,
# unless the code is in a cache.

# %% tags=["drawing", "nbval-ignore-output"]
if scaling:
    run.savefig(figures.plot_scaling(scaling), "scaling")
    print(
        "Recorded on the GPUs of one host, the same number of scenes a step on each. The table: a step's time, that of "
        "drawing its batch and of its all-reduce alone, and the first step, which compiles or reads the cache."
    )

# %% tags=["setup"]
figures.scaling_table(scaling) if scaling else print("The rates on several GPUs are not recorded yet.")

# %% [markdown]
# `python -m fwdiff_lite.experiments cost evaluate scaling_unet` measures a training on 1, 2, 4, ... GPUs of a host.
#
# ## 6. How far from the peak
#
# A card has two limits: how many operations of matrix products it can do in a second, and how many bytes it can move
# between its memory and its cores. A program meets the first limit only if it does enough operations with each byte. The
# recorded training on an H100 has this *arithmetic intensity*:

# %% tags=["idea", "nbval-ignore-output"]
device = results.evaluations["settings"]["hardware"].removeprefix("one ")
batch, step = costs["batch"], costs["training_counted"]
peak, bandwidth = benchmark.PEAK_GIGAFLOP_A_SECOND[device], benchmark.PEAK_GIGABYTES_A_SECOND[device]
rate = batch / costs["training"]["seconds"]
share_of_peak = rate * step["gigaflop"] / batch / peak
intensity = step["gigaflop"] / step["gigabytes_moved"]
print(f"{device}: at most {peak / 1e3:,.0f} trillion operations and {bandwidth / 1e3:.2f} trillion bytes a second")
print(f"operations a byte: the card {peak / bandwidth:.0f}, the training {intensity:.0f}")
print(f"share of the peak: {share_of_peak:.1%}; if nothing were fused, at most {intensity * bandwidth / peak:.1%}")
print(f"bytes a second, if nothing is fused: {rate * step['gigabytes_moved'] / batch / 1e3:.1f} trillion")
speed = {
    "training_scenes_a_second": rate,
    "sampling_ms_in_a_batch": 1e3 * costs["sampling_64"]["seconds"] / 64,
    "sampling_seconds_alone": costs["sampling_1"]["seconds"],
}
run.record(**speed, share_of_peak=share_of_peak, operations_a_byte=intensity)
for name, value in speed.items():
    print(f"{name.replace('_', ' '):26}{value:8.3g}")

# %% tags=["setup"]
recorded_rows = [
    {
        "name": "the model of 06, 640 rays, 40 samples a ray",
        "device": device,
        "gpus": 1,
        "rate": rate,
        "gigaflop": step["gigaflop"] / batch,
        "peak_gigaflop_a_second": peak,
        "gigabytes": costs["training"]["gigabytes"],
    }
]
for name, record in scaling.items():
    for count, gpu_run in figures.gpu_runs(record).items():
        recorded_rows.append(
            {
                "name": figures.VARIANT_NAMES[name],
                "device": gpu_run["device"],
                "gpus": count,
                "rate": gpu_run["rate"],
                "gigaflop": record["operations"]["gigaflop"],
                "gigabytes": gpu_run["gigabytes"],
                "peak_gigaflop_a_second": benchmark.PEAK_GIGAFLOP_A_SECOND.get(gpu_run["device"]),
            }
        )
for timing in json.loads(str(results.arrays["paper_size"])):
    ending = "" if timing["compiled"] else ", not compiled"
    recorded_rows.append(
        {
            "name": f"a model of the paper's size, batch {timing['batch']}{ending}",
            "device": timing["hardware"].removeprefix("one "),
            "gpus": timing["processes"],
            "rate": timing["signals_a_second"],
            "gigaflop": 3e3 * timing["teraflop_forward"],
            "gigabytes": timing["gigabytes_allocated"],
            "peak_gigaflop_a_second": 1e3 * timing["peak_teraflops"],
        }
    )
figures.rate_table(recorded_rows)

# %% [markdown]
# The training of the model of 06 does too few operations with each byte. So the memory is the limit, not the products. A
# layer of its field has 64 channels, in bfloat16, of two bytes a value. A value takes part in 64 multiplications and 64
# additions, while two bytes are read and two are written: 32 operations a byte. The activation function between two
# layers reads and writes each value, and has no matrix product. A compiler helps: it makes one kernel of the operations
# between two products. If it did not, this training would move more bytes a second than the card can (the printed line
# "if nothing is fused"). So the compiled step moves fewer bytes than are counted. Wider layers would raise the share of
# the peak, and the time of a step, too.
#
# The last rows are a model of the size of the paper's released code: 686 million weights, 128 samples along each of 1,152
# rays, in bfloat16. (The library's module `paper_size` says where it differs.) Its layers are wide. But its rays are
# rendered in chunks, and a chunk has few points of each scene, so its kernels are short. A larger batch has as many chunks
# with more points in each. So the share of the peak grows with the batch. The [released
# code](https://github.com/ayushtewari/DFM) trained at 7.9 scenes a second when we ran it on one H200, on random tensors in
# place of images of 64 x 64 pixels, in batches of three and in TF32, a format of 19 bits. Card, batch, format and details of
# the model are others here, so the rates show the order of magnitude only.
#
# The same in one figure: the cost of an uncompiled training step per scene, recorded with 16 scenes in a step. Operations
# are those of matrix products and convolutions. The bytes moved are those that all operations read and write. Operations
# and bytes are counted; time and memory are measured. A row is a cost, and a column is a setting. One setting is varied at
# a time; the others are 640 rays a picture, 40 samples a ray, one context view and 64 pixels a side. (The large model of
# 06 was trained with 320 rays a picture and 32 samples a ray.)

# %% tags=["setup", "nbval-ignore-output"]
per_scene = figures.costs_per_scene(costs["sweep"], benchmark.SWEEPS)
run.record(**{f"cost_{name}_{key}": values for name, lines in per_scene.items() for key, values in lines.items()})
smaller = benchmark.DEFAULT | {"side": 32}
with sdpa_kernel(SDPBackend.MATH):
    recounted = benchmark.count_operations(benchmark.training_step(1, **smaller, device=CPU))["gigaflop"]
print(
    f"billion operations of a scene of 32 x 32 pixels: {recounted:.2f} here, {per_scene['side']['gigaflop'][0]:.2f} recorded"
)
moved = per_scene["views"]["gigabytes_moved"][0] / per_scene["views"]["milliseconds"][0]
print(f"with one context view, the uncompiled step moves {moved:.1f} trillion bytes a second")

# %% tags=["drawing", "nbval-ignore-output"]
run.savefig(figures.plot_costs(per_scene, benchmark.SWEEPS), "cost")

# %% [markdown]
# Bytes predict the time better than operations do. From 40 to 80 samples a ray, the operations grow by a factor of 1.3,
# the bytes by 1.9 and the time by 1.6. From 32 to 64 pixels a side, the operations grow by 2.5, the bytes by 1.5 and the
# time by 1.1. But the uncompiled step of 16 scenes moves only a third of the bytes a second that the card could. Another
# limit remains: Python starts hundreds of kernels in each step, however small they are, and the card waits for it. So a
# larger batch and compiled code help. Memory grows with rays and samples as in section 2.
#
# ## 7. Move it
#
# The operations of section 1 for any number of rays, from the page's own formulas. Without a running Python, the slider shows
# one value only; the figure of section 1 has the shares for the training of 06.

# %% tags=["drawing", "nbval-ignore-output"]
from ipywidgets import IntSlider, interact

slider = interact(
    lambda rays: figures.show_parts({part: n / 1e9 for part, n in training_parts(64, rays, SAMPLES).items()}),
    rays=IntSlider(RAYS, min=64, max=4096, step=64),
)

# %% [markdown]
# ## 8. What held, and what did not
#
# **Held.** The operations follow from shapes alone: the page's formulas and PyTorch's counter agree to the last one. A
# training step has about three times the operations of its forward pass. The peak of a render's memory is proportional to
# rays times samples. Checkpoints in chunks lower it several times and leave the gradients as they are. A sample takes
# one start, and the time of a step for each step.
#
# **Did not.** The training is far from the peak of the card: at about 5 %. Its layers are narrow, so that moving
# activations takes much of the time. The recorded milliseconds of a sample are those of a sampler that did not keep the
# context's part of the field yet. We did not make one kernel of the field's layers, as others do ([Müller et al.
# 2022](https://arxiv.org/abs/2201.05989)). Bytes were counted for the uncompiled step, not for the compiled one. The time
# of each part was measured on a CPU, not on a GPU.
#
# **What helps.** Out of memory: chunks with checkpoints. A slow training: compile, and a larger batch. A slow sample: fewer
# steps. Many samples: all at once.
#
# **What the paper reports.** The released recipe trains on eight GPUs. Times of sampling are quoted in the table of the
# [README](../README.md#the-paper-and-this-repository), beside ours.
#
# ## 9. On your own
#
# 1. In `training_parts`, at how many rays do the field's operations equal those of the two encoders? Compute it, then try
#    the slider of section 7.
# 2. How much memory do the kept parts of the field take for all rays of a picture, and which share of the operations of
#    32 steps do they save?
# 3. Two GPUs are compared with one. What may stay fixed: the scenes a GPU, or the scenes in all? What does each comparison
#    measure?
#
# <details><summary>Answers</summary>
#
# 1. `encoder(64)` twice, less the deterministic render, over `field(32, 2)` for the target's and the novel view's ray
#    each: about 2,000 rays.
# 2. Kept are twice 64 numbers a point: 131,072 points of a picture take 67 MB in single precision. In 31 of the 32 steps,
#    `place(n, 2) + look(n, 1)` of `encoder(64) + field(n, 2)` are saved, nearly a quarter.
# 3. The same scenes a GPU (*weak scaling*, as in section 5), which measures what communication costs. Or the same scenes
#    in all (*strong scaling*), where each GPU has half the work and the message stays as large: the same training, sooner.
#
# </details>
#
# **Further reading.** Chen et al. (2016), *Training deep nets with sublinear memory cost*, [arXiv
# 1604.06174](https://arxiv.org/abs/1604.06174). Williams et al. (2009), *Roofline: an insightful visual performance model
# for multicore architectures*. Goyal et al. (2017), *Accurate, large minibatch SGD*, [arXiv
# 1706.02677](https://arxiv.org/abs/1706.02677).

# %% tags=["setup"]
text = (
    "What the training and the samples of 06 cost. The operations of a training step, computed from shapes, are those that PyTorch "
    "counts: {encoder_share_gigaflop:.0%} of them in the encoders, while {field_share_megabytes:.0%} of what is kept for the "
    "backward pass is the field's. Checkpoints in 16 chunks of rays divide a render's peak memory by "
    "{peak_over_16_chunks:.0f}. One H100 trains {training_scenes_a_second:.0f} scenes a second, at {share_of_peak:.0%} of its "
    "peak, and samples a scene in {sampling_ms_in_a_batch:.0f} ms, many at once."
)
run.must_show(
    formula_over_counter=(1.0, 1.0),
    backward_factor=(2.5, 3.0),
    peak_over_16_chunks=(5.0, None),
    share_of_peak=None,
    training_scenes_a_second=(800, None),
    sampling_ms_in_a_batch=(0.0, 25.0),
    sampling_seconds_alone=(0.0, 0.6),
)
speedup = "scaling_unet_speedup_4"
if speedup in run.numbers:
    text += " Four GPUs train {" + speedup + ":.1f} times as many scenes as one."
    run.must_show(**{speedup: (3.6, None)})
run.claim(text, thumbnail="parts.png")
run.finish()
