"""The experiment of 09_cost: the time and the memory of training and of sampling 3-D scenes.

    python -m fwdiff_lite.experiments cost evaluate settings         # one GPU: steps with other rays, samples, ...
    python -m fwdiff_lite.experiments cost evaluate scaling_unet     # all GPUs of a host
    python -m fwdiff_lite.experiments cost evaluate sampling_unet    # one GPU; needs unet.safetensors in --out
    python -m fwdiff_lite.experiments cost evaluate paper_size       # reads what `paper_size time dit --out` wrote
    python -m fwdiff_lite.experiments cost export

Every part of an evaluation is written to NAME_parts.json in the folder as soon as it is measured. The same command goes
on with the parts that are missing, if commit, options, weights and hardware are the same. A part takes at most three
minutes on a GPU. `--side 16 --batch-size 2 --training-steps 6 --scenes 2 --samples 2` rehearses scaling and sampling on
a CPU, with two processes in place of several GPUs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fwdiff_lite import metrics
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results
from fwdiff_lite.experiments.harness import RecordedResults, Session, load_model
from fwdiff_lite.experiments.inverse_graphics import benchmark, held_out, posterior_samples, variants
from fwdiff_lite.experiments.inverse_graphics.training_rate import (
    MEASURED_VARIANTS,
    process_environments,
    resize_variant,
    run_processes,
)
from fwdiff_lite.experiments.timing import count_teraflops
from fwdiff_lite.experiments.weights import weights_path
from fwdiff_lite.storage.files import file_sha256, read_json, write_json
from fwdiff_lite.storage.provenance import provenance

SAMPLING_STEPS, ETAS = (4, 8, 16, 32), (0, 1)
SAMPLING_ANGLES = (60, 180)  # of the targets whose samples are scored: one that shows little of what is hidden, one all
SAMPLING_BATCH_SIZE = 64  # scenes that are sampled at once on a GPU, with one ray a pixel; more rays, fewer scenes

# of a timing: the name in the results, and the key in its file
TIMED_MEASURES = {
    "scenes_a_second": "signals_a_second",
    "gigabytes": "gigabytes_allocated",
    "share_of_peak": "model_share",
}


class Parts:
    """The parts of an evaluation, each of which is measured once and written to a file.

    settings: JSON values; parts that were measured with others are measured anew
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        written = read_json(path)
        self.parts: dict[str, Any] = written["parts"] if written.get("settings") == settings else {}

    @classmethod
    def of_session(cls, session: Session, name: str, **settings: Any) -> Parts:
        """The parts of an evaluation in the folder of a session, for its options, commit and hardware.

        settings: further JSON values that the parts depend on
        """
        source = provenance("")
        settings |= dict(session.options) | {key: source[key] for key in ("commit", "hardware")}
        return cls(session.folder / f"{name}_parts.json", settings)

    def measure(self, key: str, call: Callable[[], Any]) -> Any:
        """The part of that name: from the file, or else of `call()`."""
        if key not in self.parts:
            self.parts[key] = call()
            write_json(self.path, {"settings": self.settings, "parts": self.parts})
            print(f"{self.path.stem}, {key}: {json.dumps(self.parts[key])}", flush=True)
        return self.parts[key]

    def results(self, key: str, numbers: dict[str, float]) -> Results:
        """The results of an evaluation whose parts are one JSON text, the array of that name."""
        return Results(numbers, {key: np.array(json.dumps(self.parts))})


def process_counts(device: torch.device) -> list[int]:
    """How many processes train together, one after another: 1, 2, 4, ... up to all GPUs; 1 and 2 on a CPU."""
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    return [2**i for i in range(count.bit_length()) if 2**i <= count]


def evaluate_scaling(name: str, session: Session) -> Results:
    """The rate of a variant's training on 1, 2, 4, ... GPUs of this host, with the same scenes a step on each GPU.

    cold: one GPU, with an empty cache of compiled code; gpus_N: N GPUs, with the cache of `cold`. Nothing else may run
    on the GPUs. operations: of a training step for one scene, forward and backward
    """
    options, parts = session.options, Parts.of_session(session, f"scaling_{name}")
    folder = session.folder / f"scaling_{name}"
    cache_folder, record_path = folder / "compiled", folder / "record.json"

    def train(count: int) -> dict:
        words = ["--variant", name, *("--side", str(options["side"])), *("--batch-size", str(options["batch_size"]))]
        arguments = [str(record_path), *words, "--steps", str(options["training_steps"])]
        run_processes(arguments, process_environments(count, cache_folder), folder / f"{count}")
        return read_json(record_path)

    def train_with_empty_cache() -> dict:
        shutil.rmtree(cache_folder, ignore_errors=True)
        return train(1)

    operations = parts.measure("operations", lambda: count_training_operations(name, options["side"]))
    parts.measure("cold", train_with_empty_cache)
    runs = [parts.measure(f"gpus_{count}", partial(train, count)) for count in process_counts(session.device)]
    rates = {run["processes"]: run["rate"] for run in runs}
    numbers = {f"training_scenes_a_second_{count}": rate for count, rate in rates.items()}
    numbers |= {f"speedup_{count}": rate / rates[1] for count, rate in rates.items() if count > 1}
    numbers["gigaflop_a_scene"] = operations["gigaflop"]
    return parts.results(f"scaling_{name}", numbers)


def count_training_operations(name: str, side: int) -> dict[str, float]:
    """The operations of a training step for one scene of a variant, forward and backward, without the optimiser."""
    variant, device = resize_variant(MEASURED_VARIANTS[name], side), torch.device("cpu")
    counts = count_teraflops(variant.build_model(), variant.batches(device, 1), slice(1), device, bf16=False)
    return {"gigaflop": 1e3 * counts["teraflop_step"]}


def evaluate_sampling(name: str, session: Session) -> Results:
    """Milliseconds of a sample and its energy score over that of true draws, for few and for many sampling steps.

    seconds_STEPS: of `batch` scenes at once, with the networks compiled on a GPU; one scene on a CPU
    eta_ETA_steps_STEPS: for each of SAMPLING_ANGLES, the ratio with its interval over the scenes
    """
    options, device, test_set = session.options, session.device, make_test_set(name, session)
    weights_digest = file_sha256(weights_path(name, session.folder))
    parts = Parts.of_session(session, f"sampling_{name}", weights=weights_digest)
    resized = {name: resize_variant(MEASURED_VARIANTS[name], options["side"])}
    experiment = replace(session.experiment, variants=session.experiment.variants | resized)
    model = load_model(experiment, name, session.folder, device)
    if device.type == "cuda":
        variants.compile_networks(model)
    renderer = model.forward_model
    rays_per_pixel = renderer.supersampling**2 if renderer.supersample_observations else 1
    batch_size = SAMPLING_BATCH_SIZE // rays_per_pixel if device.type == "cuda" else 1

    def measure_seconds(steps: int) -> dict:
        call = benchmark.sampling_call(model, batch_size, steps, device)
        return benchmark.measure(call, device, 3, 1) | {"batch": batch_size}

    def score(eta: int, steps: int) -> dict[str, list[float]]:
        sampling = posterior_samples.Sampling(k=options["samples"], steps=steps, eta=eta, chunk_size=batch_size)
        with posterior_samples.autocast(device):
            samples = posterior_samples.sample_posterior(model, test_set, sampling, SAMPLING_ANGLES)
        return {str(angle): energy_over_true(test_set, samples[:, :, i, 0], angle) for i, angle in
                enumerate(SAMPLING_ANGLES)}  # fmt: skip

    numbers = {}
    for steps in SAMPLING_STEPS:
        cost = parts.measure(f"seconds_{steps}", partial(measure_seconds, steps))
        numbers[f"sampling_ms_{steps}"] = 1e3 * cost["seconds"] / cost["batch"]
        for eta in ETAS:
            ratios = parts.measure(f"eta_{eta}_steps_{steps}", partial(score, eta, steps))
            for angle, (value, low, high) in ratios.items():
                key = f"eta_{eta}_steps_{steps}_energy_over_true_{angle}"
                numbers |= {key: value, f"{key}_low": low, f"{key}_high": high}
    return parts.results(f"sampling_{name}", numbers)


def energy_over_true(test_set: held_out.TestSet, samples: torch.Tensor, angle: int) -> list[float]:
    """The energy score of targets (c, k, 3, h, w) at an angle over that of true draws, with its 95 % interval."""
    d = held_out.TARGET_ANGLES.index(angle)
    truth, draws = test_set.truth[:, d, 0].cpu(), test_set.posterior_draws[:, :, d, 0].cpu()
    scores = metrics.energy_score(samples.float().cpu(), truth), metrics.energy_score(draws, truth)
    return [float(x) for x in metrics.energy_ratio(*scores, torch.Generator().manual_seed(0))]


def evaluate_settings(session: Session) -> Results:
    """The costs of sampling, of training, and of training steps with other settings of the full model."""
    costs = benchmark.measure_cost(session.device, Parts.of_session(session, "settings").measure)
    return Results({}, {"settings": np.array(json.dumps(costs))})


def read_timings(session: Session) -> list[dict[str, Any]]:
    """The records that `paper_size time dit` wrote to the folder, sorted by processes, batch and precision.

    ValueError if the folder has none, or if they are of several commits.
    """
    records = [read_json(path) for path in sorted(session.folder.glob("time_dit_*.json"))]
    if not records:
        raise ValueError(
            f"{session.folder} has no time_dit_*.json: run first "
            f"`python -m fwdiff_lite.experiments paper_size time dit --out {session.folder}`"
        )
    if len(commits := sorted({record["commit"] for record in records})) > 1:
        several = f"of several commits: {', '.join(commits)}"
        raise ValueError(f"the files time_dit_*.json in {session.folder} are {several}; delete those of all but one")
    return sorted(records, key=lambda x: (x["processes"], x["batch"], x["precision"], -x["compiled"]))


def evaluate_paper_size(session: Session) -> Results:
    """The trainings of the model of the paper's size, from the records of `read_timings`."""
    records = read_timings(session)
    numbers = {}
    for record in records:
        eager = "" if record["compiled"] else "_eager"
        suffix = f"processes_{record['processes']}_batch_{record['batch']}_{record['precision']}{eager}"
        # a CPU has no record of its peak memory, and the peak of most cards is not known
        numbers |= {f"{name}_{suffix}": record[key] for name, key in TIMED_MEASURES.items() if key in record}
    return Results(numbers, {"paper_size": np.array(json.dumps(records))})


def recorded_parts(results: RecordedResults, evaluation: str) -> dict[str, dict]:
    """The parts of an exported evaluation, "scaling" or "sampling", of each variant for which it was recorded."""
    texts = {name: results.arrays.get(f"{evaluation}_{name}") for name in MEASURED_VARIANTS}
    return {name: json.loads(str(text)) for name, text in texts.items() if text is not None}


def make_test_set(name: str, session: Session) -> held_out.TestSet:
    """The first held-out scenes, with as many true draws of each as there are samples, in the images of a variant."""
    options, batch_options = session.options, MEASURED_VARIANTS[name].batches.keywords
    images = {"side": options["side"], "supersampling": batch_options.get("supersampling", held_out.SUPERSAMPLING)}
    return session.cached(
        ("test set", images["supersampling"]),
        lambda: held_out.make_test_set(options["scenes"], options["samples"], device=session.device, **images),
    )


EXPERIMENT = Experiment(
    name="cost",
    results_name="09_cost",
    weights_name_template="06_inverse_graphics_{variant}",
    seed=0,  # of the benchmark's images and of the samples
    variants=MEASURED_VARIANTS,
    evaluations={
        "settings": Evaluation(evaluate_settings, on_request=True),
        "paper_size": Evaluation(evaluate_paper_size, on_request=True, read_records=read_timings),
    }
    | {
        f"scaling_{name}": Evaluation(partial(evaluate_scaling, name), on_request=True)
        for name in MEASURED_VARIANTS
    }
    | {f"sampling_{name}": Evaluation(partial(evaluate_sampling, name), name) for name in MEASURED_VARIANTS},
    evaluation_options={
        "scenes": 64,
        "samples": 8,
        "side": variants.SIDE,
        "batch_size": variants.BATCH_SIZE,  # scenes a step on each GPU
        "training_steps": 120,
    },
)  # fmt: skip
