"""The file of a model: the weights of its denoiser as safetensors, with the model's description as metadata."""

from __future__ import annotations

import json
import math
import os
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from fwdiff_lite.checks import check_interval
from fwdiff_lite.protocols import Schedule
from fwdiff_lite.storage.files import write_tensors

if TYPE_CHECKING:
    from fwdiff_lite.diffusion import ForwardDiffusion

KEY = "fwdiff_lite"  # of the description in the metadata


def save(model: ForwardDiffusion, path: str | os.PathLike) -> None:
    """Writes the file, complete or not at all; weights keep their precision. ValueError if the path is a folder."""
    if Path(path).is_dir():
        raise ValueError(f"{path or 'an empty path'} is a folder: name a file in it")
    state = model.denoiser.state_dict()
    weights = {_eager_name(name): x.detach().cpu().contiguous().clone() for name, x in state.items()}
    description = _describe(model) | {"observation_scale": model.observation_scale}
    write_tensors(Path(path), weights, {KEY: json.dumps(description)})


def load(model: ForwardDiffusion, path: str | os.PathLike) -> ForwardDiffusion:
    """The model with the file's weights and observation_scale. ValueError, before anything is changed."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no model file {path}: write it with model.save(path)")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if "fit" in metadata:
                raise ValueError("it is a checkpoint of fit: resume it there")
            description = json.loads(metadata[KEY])
            weights = {_eager_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        scale = description.pop("observation_scale")
        check_interval(0, math.inf, observation_scale=scale)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no file of a model ({error}): write it with model.save(path)") from None
    for name, value in _describe(model).items():
        if description.get(name) != value:
            raise ValueError(
                f"{path} has the {name} {description.get(name)}, this model {value}: build it as it was saved"
            )
    own = {_eager_name(name): x for name, x in model.denoiser.state_dict().items()}
    for name in sorted(own.keys() | weights.keys()):
        x, y = weights.get(name), own.get(name)
        if x is None or y is None or x.shape != y.shape or x.is_floating_point() != y.is_floating_point():
            sizes = ["nothing" if w is None else f"{w.dtype} {tuple(w.shape)}" for w in (x, y)]
            raise ValueError(f"{path} is of another network: {name} is {sizes[0]} there and {sizes[1]} here")
        if not torch.isfinite(x).all():
            raise ValueError(f"{path} holds NaN or infinite values in {name}: save a model that trained well")
    model.denoiser.load_state_dict({name: weights[_eager_name(name)] for name in model.denoiser.state_dict()})
    model.set_observation_scale(scale)
    return model


def _eager_name(name: str) -> str:
    """The name of a tensor as it was before torch.compile wrapped the denoiser or a part of it."""
    return name.replace("_orig_mod.", "")


def _describe(model: ForwardDiffusion) -> dict[str, str]:
    """What a model and its file must have in common besides the network."""
    return {"model": type(model).__name__, "schedule": describe_schedule(model.schedule)}


def describe_schedule(schedule: Schedule) -> str:
    """The class of a schedule, with the fields of a dataclass."""
    return repr(schedule) if is_dataclass(schedule) else type(schedule).__name__
