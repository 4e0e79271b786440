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
    FIT_OPTIONS,
    NUM_HELD_OUT,
    TRAINING_STEPS,
    DigitSplits,
    batches,
    build_model,
    composite_context,
    context_squared_error,
    load_digit_splits,
    make_test_windows,
    predict_deterministic,
    psnr_from_squared_error,
    sample_posterior,
)
from fwdiff_lite.storage.checkpoints import save_recorded
from fwdiff_lite.training import fit

SWEEP_VARIANTS = {  # name: options of the denoiser, of the batches, of fit
    "as in the notebook": ({}, {}, {}),
    "network alone": ({"gaussian_posterior": False, "bounded": False}, {}, {}),
    "not kept in range": ({"bounded": False}, {}, {}),
    "context learnt": ({"context_noise_std": None}, {}, {}),
    "no dropout": ({"dropout": 0.0}, {}, {}),
    "dropout 0.3": ({"dropout": 0.3}, {}, {}),
    "weight decay 0.1": ({}, {}, {"weight_decay": 0.1}),
    "shifts by 1": ({}, {"max_shift": 1}, {}),
    "ink dimmed to 0.7": ({}, {"max_ink_dimming": 0.3}, {}),
}
SWEEP_TRAINING_DIGITS = 1200  # the sweep trains on these, and is evaluated on the other training digits
SWEEP_STEPS = 1500


def run_sweep(data: DigitSplits, steps: int) -> dict[str, np.ndarray]:
    """The measures of each variant on training digits that were set aside, in the order of SWEEP_VARIANTS."""
    train, truth = data.train[:SWEEP_TRAINING_DIGITS], data.train[SWEEP_TRAINING_DIGITS:]
    context = make_test_windows(truth, 1)
    rows = []
    hidden_mask = composite_context(context)[1] == 0
    for name, (denoiser_options, batch_options, fit_options) in SWEEP_VARIANTS.items():
        model = build_model(train, **denoiser_options)
        fit(model, batches(train, **batch_options), steps=steps, progress=False, **(FIT_OPTIONS | fit_options))
        row = []
        for num_windows in (4, 1):
            samples = sample_posterior(model, context, 16, num_windows)
            generator = torch.Generator().manual_seed(0)
            row += [metrics.energy_score(samples, truth).mean()]
            row += [metrics.spread_skill(samples, truth, generator, hidden_mask).value]
            row += [psnr_from_squared_error(context_squared_error(samples, truth, context))]
        rows.append([float(x) for x in row])
        print(f"{name:20}", *(f"{x:.3f}" for x in rows[-1]), flush=True)
    measures = ("energy", "spread_skill", "psnr")
    columns = [*measures, *(f"{measure}_one_shot" for measure in measures)]
    table = np.array(rows, dtype=np.float32)
    return {"name": np.array(list(SWEEP_VARIANTS))} | dict(zip(columns, table.T, strict=True))


def main() -> None:
    """Train the baseline and the variants of the sweep, and write checkpoints/02_keyhole_digits.npz."""
    parser = argparse.ArgumentParser(description="Record the baseline and the sweep that 02_keyhole_digits loads.")
    parser.add_argument("--steps", type=positive_int, default=TRAINING_STEPS, help="training steps of the baseline")
    parser.add_argument(
        "--sweep-steps", type=positive_int, default=SWEEP_STEPS, help="training steps of each variant of the sweep"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    start_time, data = time.process_time(), load_digit_splits()
    baseline = build_model(data.train, ForwardRegression)
    fit(baseline, batches(data.train), steps=options.steps, progress=False, **FIT_OPTIONS)
    windows = make_test_windows(data.held_out)
    arrays = {"windows": windows.params.numpy().astype(np.uint8)}
    for num_windows in range(5):
        drop_mask = torch.arange(4).expand(NUM_HELD_OUT, 4) >= num_windows
        images = predict_deterministic(baseline, windows.mask_out(drop_mask))
        arrays[f"baseline_{num_windows}"] = images.numpy().astype(np.float16)
    arrays |= {f"sweep_{name}": x for name, x in run_sweep(data, options.sweep_steps).items()}
    save_recorded(
        "02_keyhole_digits",
        arrays,
        command="python -m fwdiff_lite.experiments.digits",
        seed=0,
        hardware="2-core CPU, one thread",
        minutes=round((time.process_time() - start_time) / 60, 1),
        gpu_minutes=0.0,
        metrics={name: float(arrays[name][0]) for name in ("sweep_energy", "sweep_spread_skill", "sweep_psnr")},
    )


if __name__ == "__main__":
    main()
