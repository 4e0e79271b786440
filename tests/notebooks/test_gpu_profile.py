"""The profile "gpu" of the notebooks that load weights: the same cells, after a training of three seconds.

Sizes that the profile shares with "cpu" are those of "smoke" here: `make test` runs the profile "cpu", too.
"""

import pytest
import torch

from fwdiff_lite.pipeline import reproduce
from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.pairs import read_source
from fwdiff_lite.storage.files import read_json, repo_root

pytestmark = pytest.mark.slow
# "live_apart" compares samples with recorded ones. It is large for other weights alone only if both have the same noise
# and the same 32 steps. The noise of a scene of 03 depends on the number of its samples, unless it is the first scene.
# With the recorded weights, its first four samples differ from the recorded ones by 0.0006 pixels; in another order, by
# 3.6 pixels.
COMPARED_SAMPLES = {
    "03_motion_warping": {
        "n = min(NUM_SCENES, experiment.NUM_SCENES)\n": (
            "kept = NUM_SAMPLES, test_set, samples\n"
            "n, NUM_SAMPLES, test_set = 1, 4, experiment.make_test_set(test_textures, 1)\n"
            "samples = experiment.sample_posterior(model, test_set, NUM_SAMPLES, 32)\n"
        ),
        "run.record(live_epe=": "NUM_SAMPLES, test_set, samples = kept\nrun.record(live_epe=",
    },
    "04_gan_inversion": {
        "NUM_SAMPLES, STEPS = run.pick(smoke=(2, 2, 2),": "NUM_SAMPLES, STEPS = run.pick(smoke=(2, 2, 32),",
        "live_apart = (same_noise": "STEPS = 2  # of the samples below\nlive_apart = (same_noise",
    },
}
SMALL_SIZES = """run.pick = lambda *, smoke, cpu, gpu: smoke if gpu == cpu else gpu
from fwdiff_lite.experiments import harness
train = harness.train
harness.train = lambda *words, **options: train(*words, **({} if len(words) > 4 else {"batch_size": 8}) | options)
"""


def small_source(name):
    """The source of a notebook in which `run.pick` gives the profile "gpu" the sizes that "smoke" has.

    A size of "gpu" that is not that of "cpu" stays. A training has batches of 8 where the page gives no batch size.
    """
    opening = f'run = Run("{name}", PROFILE)\n'
    notebook = read_source(name)
    for old, new in {opening: opening + SMALL_SIZES, **COMPARED_SAMPLES.get(name, {})}.items():
        (cell,) = (cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)
    return notebook


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    monkeypatch.setattr(reproduce, "read_source", small_source)


@pytest.mark.skipif("03_motion_warping" not in notebook_names(), reason="no 03_motion_warping yet")
def test_motion_is_trained_anew(tmp_path):
    parameters = {"MINUTES": "0.05", "SCENES": "6", "FOLDER": str(tmp_path / "training")}
    options = [word for name, value in parameters.items() for word in ("-p", name, value)]
    output, costs = tmp_path / "output", repo_root() / "figures" / "provenance.json"
    stated = read_json(costs)
    assert reproduce.main(["--profile", "gpu", "--only", "03_motion_warping", "--output", str(output), *options]) == 0
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
    assert reproduce.main(["--profile", "gpu", "--only", "04_gan_inversion", "--output", str(output), *options]) == 0
    assert read_json(tmp_path / "training" / "generator.json")["steps"] >= 1
    numbers = read_json(output / "metrics.json")["04_gan_inversion"]
    assert numbers["live_apart"] > 0.1, "networks of some seconds are not those that were loaded"


@pytest.mark.skipif("07_ablations" not in notebook_names(), reason="no 07_ablations yet")
def test_an_ablation_is_trained_anew(tmp_path):
    parameters = {"MINUTES": "0.05", "BATCH": "2", "FOLDER": str(tmp_path / "training")}
    options = [word for name, value in parameters.items() for word in ("-p", name, value)]
    command = ["--profile", "gpu", "--only", "07_ablations", "--output", str(tmp_path / "output"), *options]
    assert reproduce.main(command) == 0
    record = read_json(tmp_path / "training" / "no_depth.json")
    assert record["steps"] >= 1 and record["minutes"] >= 0.05 and record["batch"] == 2
