"""Export: writes weights and results from the folder of an experiment to checkpoints/, with their provenance."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from fwdiff_lite.experiments.harness import RESULT_KEYS, Experiment, needed_assets
from fwdiff_lite.experiments.measurements import Measurement, to_flat
from fwdiff_lite.experiments.weights import weights_path
from fwdiff_lite.storage.checkpoints import save_pretrained, save_recorded
from fwdiff_lite.storage.files import file_sha256, read_json
from fwdiff_lite.storage.provenance import merge_provenance


def read_records(experiment: Experiment, folder: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """The records of all trainings and of all evaluations in the folder, by name.

    ValueError if an evaluation used other weights than those that are in the folder now.
    """
    names = [*experiment.assets, *experiment.variants]
    trainings = {name: record for name in names if (record := read_json(folder / f"{name}.json"))}
    evaluations = {
        name: record for name in experiment.evaluations if (record := read_json(folder / f"evaluation_{name}.json"))
    }
    for name, record in evaluations.items():
        for variant, digest in record["weights"].items():
            if file_sha256(weights_path(variant, folder)) != digest:
                raise ValueError(f"evaluation {name} used other weights of {variant}: evaluate it again")
    return trainings, evaluations


def preceding_trainings(experiment: Experiment, name: str) -> list[str]:
    """The assets that a training needs, and those that their trainings need, each after those that it needs."""
    needs = needed_assets(experiment.declaration(name))
    names = [key for need in needs for key in (*preceding_trainings(experiment, need), need)]
    return list(dict.fromkeys(names))


def check_weights_names(experiment: Experiment, names: Sequence[str]) -> None:
    """ValueError if two variants or assets have one name in checkpoints/: the second would replace the first."""
    exported: dict[str, str] = {}
    for name in names:
        first = exported.setdefault(experiment.weights_name(name), name)
        if first != name:
            raise ValueError(
                f"{first} and {name} are both {experiment.weights_name(name)} in checkpoints/: export one of them"
            )


def export_weights(experiment: Experiment, name: str, folder: Path) -> None:
    """Writes the weights of a variant or an asset to checkpoints/.

    Their manifest entry has their provenance, with that of the assets that they need, and the measures of their first
    evaluation. ValueError if they are not trained.
    """
    experiment.declaration(name)
    weights = load_file(weights_path(name, folder))
    trainings, evaluations = read_records(experiment, folder)
    record = trainings[name]
    numbers = to_flat(Measurement(**row) for part in evaluations.values() for row in part["measures"])
    main_sampler = next((key for key, x in experiment.evaluations.items() if x.variant == name), None)
    measures = numbers.get(main_sampler, {})
    parts = [part for part in (record["parent"], record) if part]
    needs = [trainings[need] for need in preceding_trainings(experiment, name)]
    save_pretrained(
        experiment.weights_name(name),
        weights,
        variant=name,
        steps=sum(part["steps"] for part in parts),
        metrics={key: round(measures[key], 4) for key in experiment.headline if key in measures},
        **merge_provenance([*needs, *parts]),
    )


def export_results(experiment: Experiment, name: str, folder: Path) -> None:
    """Writes the results of the whole folder to checkpoints/; name: the variant that `exported_arrays` selects by.

    ValueError if the folder holds no evaluation, or one of other weights.
    """
    trainings, evaluations = read_records(experiment, folder)
    if not evaluations:
        raise ValueError(f"{folder} holds no evaluation: evaluate some variant first")
    rows, arrays = [row for record in evaluations.values() for row in record.pop("measures")], {}
    for evaluation in evaluations:
        with np.load(folder / f"evaluation_{evaluation}.npz") as saved_arrays:
            arrays |= dict(saved_arrays)
    arrays = experiment.exported_arrays(name, arrays)
    arrays |= {key: np.array(json.dumps(x)) for key, x in zip(RESULT_KEYS, (rows, trainings, evaluations), strict=True)}
    numbers = to_flat(Measurement(**row) for row in rows)
    headline = {
        sampler: round(measures[key], 4)
        for sampler, measures in numbers.items()
        for key in experiment.headline[:1]
        if key in measures
    }
    parents = [record["parent"] for record in trainings.values() if record["parent"]]
    parts = [*parents, *trainings.values(), *evaluations.values()]
    save_recorded(experiment.results_name, arrays, metrics=headline, **merge_provenance(parts))
