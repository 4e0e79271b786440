"""The figures of 08_your_own_forward_model draw the arrays that they are given."""

import matplotlib as mpl
import numpy as np
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from fwdiff_lite.figures import own_forward_model as figures  # noqa: E402
from fwdiff_lite.metrics import Interval  # noqa: E402
from fwdiff_lite.observations import Observations  # noqa: E402


def context():
    """Two measurements of one walk, the second one masked."""
    params = torch.tensor([[[3.0, 0.1], [5.0, 0.1]]])
    return Observations(torch.tensor([[0.5, 9.0]]), params, torch.tensor([[True, False]]))


def test_a_panel_draws_every_sample_the_exact_band_and_no_masked_measurement():
    fig, ax = plt.subplots()
    samples, mean, std = torch.randn(4, 16), torch.zeros(16), torch.full((16,), 0.5)
    figures.plot_posterior(ax, samples, context(), None, mean, std)
    curves = [line.get_ydata() for line in ax.lines]
    assert all(any(np.array_equal(sample, y) for y in curves) for sample in samples.numpy())
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.allclose([band.min(), band.max()], [-0.98, 0.98])
    assert all(9.0 not in segment for path in ax.collections[1:] for segment in path.get_segments())
    plt.close(fig)


def test_the_path_has_a_legend_of_all_that_it_draws():
    path = [(t, torch.randn(3, 16)) for t in (1.0, 0.5, 0.0)]
    (legend,) = figures.draw_path(path, context(), torch.zeros(16)).legends
    assert [text.get_text() for text in legend.get_texts()] == ["predicted signals", "true walk", "measurement"]
    plt.close("all")


def test_a_table_and_its_keys_hold_the_same_numbers():
    row = {"energy_gap": Interval(0.012, 0.001, 0.023), "spread": Interval(0.98, 0.9, 1.06), "c2st": 0.512}
    results = {"samples": row, "spread x 0.8": row}
    numbers = figures.to_metrics(results, "points")
    assert numbers["points_energy_gap_high"] == 0.023 and numbers["points_spread_08_c2st"] == 0.512
    assert set(numbers) == {
        f"points{sampler}_{key}"
        for sampler in ("", "_spread_08")
        for key in ("c2st", *(f"{m}{end}" for m in ("energy_gap", "spread") for end in ("", "_low", "_high")))
    }
    text = figures.results_table(results).data
    assert "| samples | 1.2 % (0.1 to 2.3) | 0.98 (0.90 to 1.06) | 0.512 |" in text
    zero = figures.results_table({"samples": {"energy_gap": Interval(-0.0002, -0.02, 0.019)}}).data
    assert "| 0.0 % (-2.0 to 1.9) |" in zero
