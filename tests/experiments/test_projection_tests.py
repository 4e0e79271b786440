"""Samplers of the tests of 01_toy_proof, and the verdicts of its report."""

import numpy as np
import pytest
import torch

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments import projection_tests
from fwdiff_lite.experiments.projections import PRIOR
from fwdiff_lite.problems.toy import projections


def test_negative_controls_are_wrong_in_the_way_their_names_say():
    _, context = projections.make_test_set(PRIOR, 3, 0)
    model = ForwardDiffusion(projections.IdealDenoiser(PRIOR), projections.project)
    v = projection_tests.run_samplers(model, context, 4000, torch.Generator().manual_seed(0))
    assert set(v) == set(projection_tests.SAMPLERS)
    mean = projections.nullspace_coordinate(PRIOR.posterior(context).mean(), context)
    torch.testing.assert_close(v["mean"], mean[:, None].expand(3, 4000))
    for name, factor in (("learnt", 1.0), ("x0.8", 0.8), ("x1.2", 1.2)):
        torch.testing.assert_close(v[name].mean(1), mean, atol=0.06, rtol=0)
        assert v[name].var(1).mean() == pytest.approx(factor * float(v["exact"].var(1).mean()), rel=0.06)
    torch.testing.assert_close(v["shuffled"].mean(1), mean.roll(1), atol=0.06, rtol=0)
    prior_mean = projections.nullspace_coordinate(PRIOR.mean().expand(3, 2), context)
    torch.testing.assert_close(v["prior"].mean(1), prior_mean, atol=0.08, rtol=0)


def test_a_limit_is_four_standard_deviations_above_the_mean():
    assert projection_tests.upper_limit(np.array([0.49, 0.51])) == pytest.approx(0.5 + 4 * 0.02 / 2**0.5)


def test_a_report_names_the_controls_that_a_test_should_have_rejected():
    tests, samplers = projection_tests.TESTS, projection_tests.SAMPLERS
    scores = {test: dict.fromkeys(samplers, 0.5) for test in tests}
    rejected = {test: {name: name in projection_tests.CONTROLS for name in samplers} for test in tests}
    rejected["energy gap"]["x0.8"] = rejected["W1 ratio"]["prior"] = False
    x = torch.zeros(2)
    report = projection_tests.Report({}, x, x, x, {}, scores, rejected, (0.5, 0.01), 0.54, 1.4, 0.0)
    assert report.missed() == ["W1 ratio: prior"]
    numbers = report.as_metrics()
    assert numbers["controls_missed"] == ["W1 ratio: prior"] and numbers["joint_c2st"] == 0.5
    assert {"c2st_exact", "w1_x0.8", "sbc_p_mean", "tarp_prior", "energy_gap_upper_shuffled"} <= set(numbers)
