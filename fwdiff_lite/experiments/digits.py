"""The baseline and the sweep that 02_keyhole_digits loads.

    python -m fwdiff_lite.experiments.digits
"""

import argparse
import time

import numpy as np
import torch

from fwdiff_lite import metrics
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.diffusion import ForwardRegression
from fwdiff_lite.problems.digits import (
    HELD_OUT,
    RATE,
    STEPS,
    Digits,
    batches,
    canvas,
    consistency,
    decibel,
    digits,
    keyholes,
    mean_digits,
    sample_digits,
    untrained,
)
from fwdiff_lite.storage.checkpoints import save_recorded
from fwdiff_lite.training import fit

SWEEP = {  # name: options of the denoiser, of the batches, of fit
    "as in the notebook": ({}, {}, {}),
    "network alone": ({"guess": False, "bounded": False}, {}, {}),
    "not kept in range": ({"bounded": False}, {}, {}),
    "context learnt": ({"tolerance": None}, {}, {}),
    "no dropout": ({"dropout": 0.0}, {}, {}),
    "dropout 0.3": ({"dropout": 0.3}, {}, {}),
    "weight decay 0.1": ({}, {}, {"weight_decay": 0.1}),
    "shifts by 1": ({}, {"shift": 1}, {}),
    "ink dimmed to 0.7": ({}, {"dim": 0.3}, {}),
}
SWEEP_TRAIN, SWEEP_STEPS = 1200, 1500  # the sweep trains on these, and is judged on the other training digits


def sweep(data: Digits, steps: int) -> dict[str, np.ndarray]:
    """Each setting's measures on training digits that were set aside, in SWEEP's order."""
    train, truth = data.train[:SWEEP_TRAIN], data.train[SWEEP_TRAIN:]
    context = keyholes(truth, 1)
    rows = []
    unseen = canvas(context)[1] == 0
    for name, (network, batch, training) in SWEEP.items():
        model = untrained(train, **network)
        fit(model, batches(train, **batch), steps=steps, progress=False, **(RATE | training))
        row = []
        for windows in (4, 1):
            drawn, generator = sample_digits(model, context, 16, windows), torch.Generator().manual_seed(0)
            row += [metrics.energy_score(drawn, truth).mean()]
            row += [metrics.spread_skill(drawn, truth, generator, unseen).value]
            row += [decibel(consistency(drawn, truth, context))]
        rows.append([float(x) for x in row])
        print(f"{name:20}", *(f"{x:.3f}" for x in rows[-1]), flush=True)
    kinds = ("energy", "spread_skill", "psnr")
    columns = [*kinds, *(f"{kind}_one_shot" for kind in kinds)]
    table = np.array(rows, dtype=np.float32)
    return {"name": np.array(list(SWEEP))} | dict(zip(columns, table.T, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Record the baseline and the sweep that 02_keyhole_digits loads."
    )
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="training steps of the baseline")
    parser.add_argument(
        "--sweep-steps", type=positive_int, default=SWEEP_STEPS, help="training steps of each arm of the sweep"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, data = time.process_time(), digits()
    baseline = untrained(data.train, ForwardRegression)
    fit(baseline, batches(data.train), steps=options.steps, progress=False, **RATE)
    seen = keyholes(data.held_out)
    arrays = {"windows": seen.params.numpy().astype(np.uint8)}
    for many in range(5):
        gone = torch.arange(4).expand(HELD_OUT, 4) >= many
        arrays[f"baseline_{many}"] = mean_digits(baseline, seen.mask_out(gone)).numpy().astype(np.float16)
    arrays |= {f"sweep_{name}": x for name, x in sweep(data, options.sweep_steps).items()}
    save_recorded(
        "02_keyhole_digits",
        arrays,
        command="python -m fwdiff_lite.problems.digits",
        seed=0,
        hardware="2-core CPU, one thread",
        minutes=round((time.process_time() - began) / 60, 1),
        gpu_minutes=0.0,
        metrics={name: float(arrays[name][0]) for name in ("sweep_energy", "sweep_spread_skill", "sweep_psnr")},
    )


if __name__ == "__main__":
    main()
