"""The profile "gpu" of the notebooks that load weights: the same cells, after a training of three seconds."""

import pytest
import torch

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.reproduce import main
from fwdiff_lite.storage.files import read_json, repo_root

pytestmark = pytest.mark.slow


@pytest.mark.skipif("03_motion_warping" not in notebook_names(), reason="no 03_motion_warping yet")
def test_motion_is_trained_anew(tmp_path):
    parameters = {"MINUTES": "0.05", "SCENES": "6", "FOLDER": str(tmp_path / "training")}
    options = [word for name, value in parameters.items() for word in ("-p", name, value)]
    output, costs = tmp_path / "output", repo_root() / "figures" / "provenance.json"
    stated = read_json(costs)
    assert main(["--profile", "gpu", "--only", "03_motion_warping", "--output", str(output), *options]) == 0
    record = read_json(tmp_path / "training" / "splat_2.json")
    assert record["steps"] >= 1 and record["minutes"] >= 0.05
    assert torch.cuda.is_available() or read_json(costs) == stated, "a CPU's minutes are no GPU's"
    numbers = read_json(output / "metrics.json")["03_motion_warping"]
    assert numbers["live_apart"] > 0.5, "a network of three seconds is not the one that was loaded"


@pytest.mark.skipif("04_gan_inversion" not in notebook_names(), reason="no 04_gan_inversion yet")
def test_a_generator_is_trained_and_inverted_anew(tmp_path):
    parameters = {"MINUTES": "0.05", "CLASSIFIER_STEPS": "3", "PORTRAITS": "64", "FOLDER": str(tmp_path / "training")}
    options = [word for name, value in parameters.items() for word in ("-p", name, value)]
    output = tmp_path / "output"
    assert main(["--profile", "gpu", "--only", "04_gan_inversion", "--output", str(output), *options]) == 0
    assert read_json(tmp_path / "training" / "generator.json")["steps"] >= 1
    numbers = read_json(output / "metrics.json")["04_gan_inversion"]
    assert numbers["live_apart"] > 0.1, "networks of some seconds are not those that were loaded"


@pytest.mark.skipif("07_ablations" not in notebook_names(), reason="no 07_ablations yet")
def test_an_ablation_is_trained_anew(tmp_path):
    parameters = {"MINUTES": "0.05", "BATCH": "2", "FOLDER": str(tmp_path / "training")}
    options = [word for name, value in parameters.items() for word in ("-p", name, value)]
    assert main(["--profile", "gpu", "--only", "07_ablations", "--output", str(tmp_path / "output"), *options]) == 0
    record = read_json(tmp_path / "training" / "no_depth.json")
    assert record["steps"] >= 1 and record["minutes"] >= 0.05 and record["batch"] == 2
