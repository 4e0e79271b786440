"""Bad input to fwdiff_lite.training and to what it trains on: options, models, batches, checkpoints."""

import json
import math
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from fwdiff_lite.batches import collate
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import ShiftedCosineSchedule
from fwdiff_lite.training import fit
from fwdiff_lite.validation import validation_loss


class Denoiser(nn.Module):
    """A signal of two numbers, from three: the noisy target, the context and the time."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def condition(self, context, target_params, target_mask=None):
        return torch.where(context.mask, context.value, 0).sum(1, keepdim=True)

    def forward(self, condition, noisy_target, t):
        return self.linear(torch.cat([noisy_target[:, :1], condition, t[:, None]], 1))


def project(signal, params):
    return (signal[:, None] * params).sum(-1)


def build_model(**options):
    torch.manual_seed(0)
    return ForwardDiffusion(Denoiser(), project, **options)


def observations(b=4, m=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Observations(3 * torch.randn(b, m, generator=generator), torch.ones(b, m, 2))


def make_batch(generator=None, **changes):
    """A batch; changes: other entries, None for one that is left out."""
    batch = {"context": observations(), "target": observations(seed=1), "novel": observations(seed=2)} | changes
    return {name: x for name, x in batch.items() if x is not None}


def train(model=None, batches=make_batch, **options):
    return fit(model or build_model(), batches, **{"steps": 2, "progress": False} | options)


def train_on(**changes):
    return train(batches=lambda generator: make_batch(**changes))


# --- models ---


def wrong_model(change):
    model = build_model()
    change(model)
    return train(model)


def half(model):
    model.denoiser.half()


def add_complex(model):
    model.denoiser.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


def freeze(model):
    model.denoiser.requires_grad_(False)


def empty(model):
    model.denoiser.linear = nn.Identity()


def spoil(model):
    model.denoiser.linear.weight.data[0, 0] = torch.nan


class Outside:
    """A forward model whose observations lie outside of the canvas."""

    __call__ = staticmethod(project)

    def support(self, params):
        return torch.zeros(params.shape[:2])


class TrainableForwardModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, signal, params):
        return self.gain * project(signal, params)


def train_forward_model(frozen):
    train(ForwardDiffusion(Denoiser(), TrainableForwardModel().requires_grad_(not frozen)))


class WrongLosses(nn.Module):
    """A model whose forward returns something else than losses."""

    def __init__(self, losses):
        super().__init__()
        self.denoiser, self.losses = Denoiser(), losses

    def sample_time_and_noise(self, target, generator):
        return ()

    def forward(self, context, target, novel):
        return self.losses(self.denoiser.linear.weight)


# --- checkpoints ---


@cache
def saved():
    """Tensors and record of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        train(checkpoint=path)
        with safe_open(path, "pt") as file:
            return load_file(path), json.loads(file.metadata()["fit"])


def resume(tensors=None, record=None, model=None, batches=make_batch, raw=None, **options):
    """Goes on with the checkpoint after its tensors and its record were changed: None leaves one out."""
    good_tensors, good_record = saved()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        changed = {name: x for name, x in (good_tensors | (tensors or {})).items() if x is not None}
        metadata = {"fit": json.dumps(good_record | (record or {}))} if raw is None else raw
        save_file({name: x.clone() for name, x in changed.items()}, path, metadata=metadata)
        return train(model, batches, checkpoint=path, **{"steps": 4} | options)


def log(**changes):
    return {"log": saved()[1]["log"] | changes}


def checkpoint_at(make):
    with tempfile.TemporaryDirectory() as folder:
        return train(checkpoint=make(Path(folder)))


def file_at(path, content=b""):
    path.write_bytes(content)
    return path


def saved_model(folder):
    build_model().save(folder / "a")
    return folder / "a"


def other_network():
    model = build_model()
    model.denoiser.linear = nn.Linear(3, 2, bias=False)
    return model


def with_nan(x):
    x = x.clone()
    x.view(-1)[0] = torch.nan
    return x


class Loader(list):
    """A list with a sampler, as a DataLoader has one."""

    sampler = DistributedSampler([0, 1], num_replicas=2, rank=0)


nan, inf = math.nan, math.inf
wide = Observations(torch.zeros(4, 1, 3), torch.ones(4, 1, 2))
double = observations().to(torch.float64)
nans = Observations(torch.full((4, 1), nan), torch.ones(4, 1, 2))
masked = observations().mask_out(torch.ones(4, 1, dtype=torch.bool))
images = Observations(torch.rand(4, 1, 3, 2, 2), torch.ones(4, 1, 2))
flat = Observations(images.value.flatten(3), images.params)
with_images = {"target": images, "novel": images}
pixels = torch.zeros(4, 1, 5, dtype=torch.long)
OPTIONS = [
    ("steps", (0, -1, 2.5, "10", nan, True), "got steps = .*, wanted a whole number of at least 1"),
    ("seconds", (0, -1.0, nan, inf), "got seconds = .*, wanted a finite number above 0"),
    ("learning_rate", (0, -1e-3, nan, inf, None, "fast"), "learning_rate is .*: wanted above 0"),
    ("weight_decay", (-0.1, nan, inf, None), "weight_decay is .*: wanted 0 or more"),
    ("warmup", (-1, 1.5, nan, None), "got warmup = .*, wanted a whole number of at least 0"),
    ("clip", (0, -1, nan, None), "clip is .*: wanted above 0; math.inf clips nothing"),
    ("ema", (-0.1, 1, 1.1, nan, None), "ema is .*: wanted from 0 to below 1"),
    ("seed", (1.5, None, "0"), "got seed = .*, wanted a whole number"),
    ("checkpoint", (5, 1.5), "checkpoint is .*: wanted a path, or None"),
    ("checkpoint_every", (0, -1, 1.5, None), "got checkpoint_every = .*, wanted a whole number of at least 1"),
    ("checkpoint_minutes", (0, -1, nan, inf), "checkpoint_minutes is .*: wanted above 0, or None"),
    ("resume", ("no", True, None), 'resume is .*: wanted "check" or "ignore"'),
    ("validate", (1, "loss"), "validate is .*: wanted a function of the model"),
    ("validate_every", (0, 1.5), "got validate_every = .*, wanted a whole number of at least 1"),
    ("accelerator", ("cuda", 1), "accelerator is .*: wanted an accelerate.Accelerator"),
    ("warmup", (0,), None),
    ("clip", (inf,), None),
    ("ema", (0,), None),
]
HARMLESS_BATCHES = [
    ("no novel", {"novel": None}),
    ("empty contexts", {"context": masked}),
    ("novel masked", {"novel": masked}),
    ("one target masked", {"target": observations().mask_out(torch.eye(4, 1, dtype=torch.bool))}),
    ("more contexts than targets", {"context": observations(m=3)}),
]
BATCHES = [
    ("no target", {"target": None}, 'has no "target", but .context., .novel.: wanted a dict'),
    ("no context", {"context": None}, 'has no "context"'),
    ("unknown key", {"masks": torch.ones(4)}, 'unknown key "masks": the model takes context, target, novel'),
    ("key of a random number", {"t": torch.ones(4)}, 'unknown key "t"'),
    ("tensor as target", {"target": torch.ones(4, 1)}, 'a Tensor as "target": wanted Observations'),
    ("list as pixel indices", {"pixel_indices": [1]}, 'a list as "pixel_indices": wanted Observations or a tensor'),
    ("number as pixel indices", {"pixel_indices": torch.tensor(1)}, "a Tensor without an axis"),
    ("other B", {"context": observations(3)}, 'has 3 signals in "context" and 4 in "target"'),
    ("other B of novel", {"novel": observations(5)}, 'has 5 signals in "novel" and 4 in "target"'),
    ("B = 0", {name: observations(0) for name in ("context", "target", "novel")}, "at least one"),
    ("float64", {"target": double}, "has torch.float64 values in .target., the denoiser has weights of torch.float32"),
    ("float64 context", {"context": double}, "has torch.float64 values in .context."),
    ("other phi", {"context": Observations(torch.ones(4, 1), torch.ones(4, 1, 3))}, "shape .3,. in .context. and .2,."),
    ("other phi of novel", {"novel": Observations(torch.ones(4, 1), torch.ones(4, 1))}, "params of shape"),
    ("other canvas of novel", {"novel": wide}, "observations of shape .3,. in .novel. and .. in .target."),
    ("NaN in the target", {"target": nans}, "target holds 4 NaN"),
    (
        "NaN in phi",
        {"target": Observations(torch.ones(4, 1), torch.full((4, 1, 2), nan))},
        "target has NaN or infinite",
    ),
    ("all targets masked", {"target": masked}, "the batch at step 0: no target exists, .* is the mask inverted"),
    ("float indices", with_images | {"pixel_indices": pixels.float()}, 'torch.float32 .* as "pixel_indices": wanted'),
    ("indices of other M", with_images | {"pixel_indices": pixels.repeat(1, 2, 1)}, r"wanted integers \(4, 1, n\)"),
    ("negative indices", with_images | {"pixel_indices": pixels - 1}, "from -1 to -1: the observations .* 4 pixels"),
    ("indices too large", with_images | {"pixel_indices": pixels + 4}, "from 4 to 4: the observations in .target."),
    ("indices of flat images", {"target": flat, "novel": flat, "pixel_indices": pixels + 4}, "4: .* have 4 pixels"),
    ("novel indices too large", with_images | {"novel_pixel_indices": pixels + 9}, "from 9 to 9"),
    ("indices without novel", {"novel": None, "novel_pixel_indices": pixels}, 'has "novel_pixel_indices" without'),
]
SOURCES = [
    ("None", None, "fit got a NoneType as batches: give a function batch.generator., a DataLoader, or a list"),
    ("a number", 5, "fit got a int as batches"),
    ("one batch", make_batch(), r"fit got a dict as batches: .*\[batch\]"),
    ("a text", "batches", "fit got a str as batches"),
    ("an empty list", [], "the list of batches is empty"),
    ("an iterator that ends", iter([make_batch()]), "the list_iterator of batches is empty, or can be read only once"),
    ("a list of tuples", [(1, 2)], "the batch at step 0 .number 0 of epoch 0. is a tuple: wanted a dict"),
    ("a function without a generator", lambda: make_batch(), "the batch function takes .*: fit calls batch.generator."),
    ("a function of two", lambda generator, n: make_batch(), "the batch function takes"),
    ("a function that returns None", lambda generator: None, "the batch at step 0 is a NoneType: wanted a dict"),
    ("a function that returns a tuple", lambda generator: (1, 2), "the batch at step 0 is a tuple"),
    ("a function without a batch left", lambda generator: next(iter(())), "raised StopIteration"),
    ("a distributed sampler", Loader([make_batch()]), "leave the sampler out"),
    ("a list of one batch", [make_batch()], None),
    ("batches of another B", [make_batch(), {name: x[:3] for name, x in make_batch().items()}], None),
]
MODELS = [
    ("a bare denoiser", lambda: train(Denoiser()), "fit trains a model with a denoiser, .* got Denoiser"),
    ("no model", lambda: train("model"), "fit trains a model with a denoiser, .* got str"),
    ("half precision", partial(wrong_model, half), "weights of torch.float16: train float32 weights"),
    ("frozen", partial(wrong_model, freeze), "no parameter that requires a gradient"),
    ("without weights", partial(wrong_model, empty), "no parameter that requires a gradient"),
    ("complex weights", partial(wrong_model, add_complex), "denoiser's phase is complex: store its real and imaginary"),
    ("without gradients", torch.no_grad()(train), r"fit was called under torch.no_grad\(\)"),
    ("in inference mode", torch.inference_mode()(train), "or torch.inference_mode.*: call it outside"),
    ("a support of zeros", lambda: train(ForwardDiffusion(Denoiser(), Outside())), "support is 0 in all targets"),
    ("NaN weights", partial(wrong_model, spoil), "linear.weight holds NaN"),
    ("trainable forward model", partial(train_forward_model, False), "forward_model.gain requires a gradient"),
    ("frozen forward model", partial(train_forward_model, True), None),
    ("no dict of losses", lambda: train(WrongLosses(lambda w: w.sum())), "returned a Tensor: wanted a dict"),
    ("no loss", lambda: train(WrongLosses(lambda w: {"target": w.sum()})), "returned keys .'target'.: wanted a dict"),
    ("vector loss", lambda: train(WrongLosses(lambda w: {"loss": w.sum(1)})), r"the loss loss is \(2,\): wanted"),
    ("detached loss", lambda: train(WrongLosses(lambda w: {"loss": w.sum().detach()})), "depend on any weight"),
    ("missing option", lambda: train(WrongLosses(None), lambda g: make_batch(novel=None)), 'has no "novel", which the'),
    ("validation text", lambda: train(validate=lambda model: "good"), "validate returned good: wanted a number"),
    ("validation None", lambda: train(validate=lambda model: None), "validate returned None: wanted a number"),
    ("validation steps", lambda: train(validate=lambda model: {"steps": 1}), 'without "steps"'),
    ("no validation batch", lambda: validation_loss(build_model(), []), "there is no validation batch"),
    ("wrong validation batch", lambda: validation_loss(build_model(), [{}]), 'validation batch 0 has no "context"'),
    (
        "NaN validation",
        lambda: validation_loss(build_model(), [make_batch(target=nans)]),
        "batch 0: target holds 4 NaN",
    ),
    ("collate nothing", lambda: collate([]), "collate got no examples: give at least one"),
    (
        "collate Observations",
        lambda: collate([wide, wide]),
        "example 0 of a batch is a Observations: wanted a dict with",
    ),
    ("collate other keys", lambda: collate([{"a": torch.ones(1)}, {}]), "example 1 of a batch has .., example 0 has"),
    ("collate other shapes", lambda: collate([{"a": observations()}, {"a": wide}]), '"a" of example 1 .* has rows of'),
    ("collate numbers", lambda: collate([{"a": 1}]), "an example holds a int: wanted Observations or tensors"),
    ("a tuple from a DataLoader", lambda: train(batches=DataLoader([(1, 2)])), "is a list: wanted a dict"),
]
CHECKPOINTS = [
    ("unchanged", resume, None),
    ("empty file", lambda: checkpoint_at(lambda f: file_at(f / "a")), "a cannot be read .*; name another file$"),
    ("data", lambda: checkpoint_at(lambda f: file_at(f / "a", b"x" * 99)), "no checkpoint of fit; name another file$"),
    ("a saved model", lambda: checkpoint_at(saved_model), "a is a model that model.save wrote: name another file$"),
    ("a folder", lambda: checkpoint_at(lambda f: f), "is a folder: name a file in it"),
    ("a file as folder", lambda: checkpoint_at(lambda f: file_at(f / "a") / "b"), "cannot be written"),
    ("other network", lambda: resume(model=other_network()), "is of another network: it has .* as average.1"),
    ("missing weight", lambda: resume({"weights.0": None}), "has nothing as weights.0, wanted torch.float32 .2, 3."),
    ("missing average", lambda: resume({"average.1": None}), "has nothing as average.1"),
    ("missing optimiser", lambda: resume({"optimizer.0.exp_avg": None}), "has nothing as optimizer.0.exp_avg"),
    ("missing step", lambda: resume({"optimizer.1.step": None}), "has nothing as optimizer.1.step"),
    ("missing random", lambda: resume({"random.torch": None}), "has nothing as random.torch"),
    ("extra tensor", lambda: resume({"extra": torch.ones(1)}), "as extra, wanted nothing"),
    ("extra weight", lambda: resume({"weights.2": torch.ones(1)}), "as weights.2, wanted nothing"),
    ("wrong shape", lambda: resume({"weights.0": torch.ones(3, 2)}), r"torch.float32 \(3, 2\) as weights.0"),
    ("wrong moment", lambda: resume({"optimizer.0.exp_avg": torch.ones(1)}), r"\(1,\) as optimizer.0.exp_avg"),
    ("wrong type", lambda: resume({"average.1": torch.ones(2).half()}), "torch.float16 .2,. as average.1"),
    ("whole numbers", lambda: resume({"average.1": torch.ones(2).long()}), "torch.int64 .2,. as average.1"),
    ("NaN weights", lambda: resume({"weights.1": with_nan(torch.ones(2))}), "impossible numbers in weights.1"),
    ("NaN average", lambda: resume({"average.1": with_nan(torch.ones(2))}), "impossible numbers in average.1"),
    ("NaN moment", lambda: resume({"optimizer.1.exp_avg": with_nan(torch.ones(2))}), "in optimizer.1.exp_avg"),
    ("negative square", lambda: resume({"optimizer.1.exp_avg_sq": -torch.ones(2)}), "in optimizer.1.exp_avg_sq"),
    ("negative Adam step", lambda: resume({"optimizer.1.step": -torch.ones(())}), "in optimizer.1.step"),
    ("short random state", lambda: resume({"random.batch": torch.ones(9).byte()}), "as random.batch, wanted"),
    ("wrong random state", lambda: resume({"random.batch": torch.ones(5056).byte()}), "no state of a generator"),
    ("no metadata", lambda: resume(raw={}), "is no checkpoint of fit: name another file$"),
    ("broken JSON", lambda: resume(raw={"fit": "{"}), "cannot be read .*: delete it to start anew"),
    ("a list as record", lambda: resume(raw={"fit": "[]"}), "cannot be read"),
    ("an earlier record", lambda: resume(raw={"fit": json.dumps(saved()[1]["log"])}), "cannot be read"),
    ("negative steps", lambda: resume(record=log(steps=-3)), "cannot be read .got steps = -3, wanted"),
    ("half a step", lambda: resume(record=log(steps=1.5)), "cannot be read .got steps = 1.5"),
    ("steps as text", lambda: resume(record=log(steps="2")), "cannot be read"),
    ("other number of losses", lambda: resume(record=log(steps=7)), "cannot be read .2 losses of 7 steps"),
    ("NaN seconds", lambda: resume(record=log(seconds=nan)), "cannot be read .got seconds = nan"),
    ("negative seconds", lambda: resume(record=log(seconds=-1.0)), "cannot be read"),
    ("no curve", lambda: resume(record=log(curve={})), "cannot be read .0 losses of 2 steps"),
    ("text in the curve", lambda: resume(record=log(curve={"loss": ["a", "b"]})), "cannot be read .loss is no list of"),
    ("curve as list", lambda: resume(record=log(curve=[1, 2])), "cannot be read"),
    ("unknown entry", lambda: resume(record=log(loss=1)), "cannot be read"),
    ("no settings", lambda: resume(record={"settings": None}), "cannot be read .settings None"),
    ("negative position", lambda: resume(record={"position": [0, -1]}), "cannot be read .*position"),
    ("position as text", lambda: resume(record={"position": "ab"}), "cannot be read"),
    ("other seed", lambda: resume(seed=1), "was trained with seed 0; this call has seed 1: give the same, .*ignore"),
    (
        "other learning rate",
        lambda: resume(learning_rate=1e-2),
        "learning_rate 0.001; this call has learning_rate 0.01",
    ),
    (
        "other EMA and clip",
        lambda: resume(ema=0.9, clip=2.0),
        "with clip 1.0, ema 0.999; this call has clip 2.0, ema 0.9",
    ),
    (
        "other B",
        lambda: resume(batches=lambda g: make_batch(**{n: observations(8) for n in make_batch()})),
        "batch_size 4",
    ),
    (
        "other problem",
        lambda: resume(batches=lambda g: make_batch(novel=None)),
        "with shapes .*novel.*; this call has shapes",
    ),
    (
        "list, not function",
        lambda: resume(batches=[make_batch()]),
        "batches from a function; this call has batches from",
    ),
    ("ignored", lambda: resume(seed=1, learning_rate=1e-2, resume="ignore"), None),
    *(
        (f"other {name}", lambda x=x, name=name: resume(model=build_model(**{name: x})), f"this call has {name} {text}")
        for name, x, text in (
            ("observation_scale", 0.5, "0.5"),
            ("novel_weight", 9, "9.0"),
            ("schedule", ShiftedCosineSchedule(0.1), r"ShiftedCosineSchedule\(scale=0.1\)"),
        )
    ),
    (
        "other forward model",
        lambda: resume(model=ForwardDiffusion(Denoiser(), lambda s, p: project(s, p))),
        "forward_model",
    ),
]
CASES = [
    *((f"{name} {value}", partial(train, **{name: value}), message) for name, xs, message in OPTIONS for value in xs),
    ("no budget", lambda: fit(build_model(), make_batch), "fit needs a budget: give steps, seconds or both"),
    *((name, partial(train_on, **changes), message) for name, changes, message in BATCHES),
    *((name, partial(train_on, **changes), None) for name, changes in HARMLESS_BATCHES),
    *((name, partial(train, batches=batches), message) for name, batches, message in SOURCES),
    *MODELS,
    *((f"checkpoint: {name}", call, message) for name, call, message in CHECKPOINTS),
]
