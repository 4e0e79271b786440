"""Export: writes weights and results from the folder of an experiment to checkpoints/, with their provenance."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.torch import load_file

from fwdiff_lite.experiments.declaration import Experiment, needed_assets
from fwdiff_lite.experiments.harness import RESULT_KEYS
from fwdiff_lite.experiments.measurements import Measurement, to_flat
from fwdiff_lite.experiments.weights import weights_path
from fwdiff_lite.storage.checkpoints import CheckpointFile, arrays_file, save, weights_file
from fwdiff_lite.storage.files import file_sha256, read_json
from fwdiff_lite.storage.provenance import merge_provenance


def export(experiment: Experiment, names: Sequence[str], folder: Path) -> None:
    """Writes weights and the results of the whole folder to checkpoints/: all of them, or, if one cannot be, none.

    names: of the variants and assets whose weights are written; the results are those that `exported_arrays` selects
        by the first
    ValueError if weights or records are missing, if two weights have one name in checkpoints/, if the folder holds no
    evaluation or one of other weights, or if a file is too large.
    """
    check_weights_names(experiment, names)
    paths = {name: weights_path(name, folder) for name in names}
    records = read_records(experiment, folder)
    files = [exported_weights(experiment, name, path, records) for name, path in paths.items()]
    save([*files, exported_results(experiment, names[0] if names else "", folder, records)])


class Records(NamedTuple):
    """The records of all trainings and of all evaluations in a folder, by name."""

    trainings: dict[str, dict]
    evaluations: dict[str, dict]


def read_records(experiment: Experiment, folder: Path) -> Records:
    """The records of a folder. ValueError if an evaluation used other weights than those that are in the folder now."""
    names = [*experiment.assets, *experiment.variants]
    trainings = {name: record for name in names if (record := read_json(folder / f"{name}.json"))}
    evaluations = {
        name: record for name in experiment.evaluations if (record := read_json(folder / f"evaluation_{name}.json"))
    }
    for name, record in evaluations.items():
        for variant, digest in record["weights"].items():
            if file_sha256(weights_path(variant, folder)) != digest:
                raise ValueError(f"evaluation {name} used other weights of {variant}: evaluate it again")
    return Records(trainings, evaluations)


def preceding_trainings(experiment: Experiment, name: str) -> list[str]:
    """The assets that a training needs, and those that their trainings need, each after those that it needs."""
    needs = needed_assets(experiment.declaration(name))
    names = [key for need in needs for key in (*preceding_trainings(experiment, need), need)]
    return list(dict.fromkeys(names))


def check_weights_names(experiment: Experiment, names: Sequence[str]) -> None:
    """ValueError if a name is unknown, or two variants or assets have one name in checkpoints/.

    The second would replace the first.
    """
    exported: dict[str, str] = {}
    for name in names:
        experiment.declaration(name)
        first = exported.setdefault(experiment.weights_name(name), name)
        if first != name:
            raise ValueError(
                f"{first} and {name} are both {experiment.weights_name(name)} in checkpoints/: export one of them"
            )


def exported_weights(experiment: Experiment, name: str, path: Path, records: Records) -> CheckpointFile:
    """The weights of a variant or an asset as a file of checkpoints/.

    Their manifest entry has their provenance, with that of the assets that they need, and the measures of their first
    evaluation. ValueError if the record of one of these trainings is missing.
    """
    trainings = [*preceding_trainings(experiment, name), name]
    if missing := [key for key in trainings if key not in records.trainings]:
        raise ValueError(f"there is no {path.with_name(missing[0])}.json, the record of a training: train it again")
    *needs, record = (records.trainings[key] for key in trainings)
    numbers = to_flat(Measurement(**row) for part in records.evaluations.values() for row in part["measures"])
    main_sampler = next((key for key, x in experiment.evaluations.items() if x.variant == name), None)
    measures = numbers.get(main_sampler, {})
    parts = [part for part in (record["parent"], record) if part]
    return weights_file(
        experiment.weights_name(name),
        load_file(path),
        variant=name,
        steps=sum(part["steps"] for part in parts),
        metrics={key: round(measures[key], 4) for key in experiment.headline if key in measures},
        **merge_provenance([*needs, *parts]),
    )


def exported_results(experiment: Experiment, name: str, folder: Path, records: Records) -> CheckpointFile:
    """The results of the whole folder as a file of checkpoints/; name: the variant that `exported_arrays` selects by.

    Their seed is that of the last training, or without a training that of the experiment. ValueError if there is
    neither, or the folder holds no evaluation or lacks the arrays of one, or two evaluations differ in an array.
    """
    if not records.evaluations:
        raise ValueError(f"{folder} holds no evaluation: evaluate some variant first")
    arrays, sources = {}, {}
    for evaluation in records.evaluations:
        if not (path := folder / f"evaluation_{evaluation}.npz").is_file():
            raise ValueError(f"there is no {path}: evaluate {evaluation} again")
        with np.load(path) as saved_arrays:
            own_arrays = dict(saved_arrays)
        for key in sorted(arrays.keys() & own_arrays):
            pair = arrays[key], own_arrays[key]
            may_have_nan = all(np.issubdtype(x.dtype, np.floating) for x in pair)  # NaN of text is an error
            if not np.array_equal(*pair, equal_nan=may_have_nan):
                raise ValueError(f"{sources[key]} and {evaluation} have different arrays {key}: rename one of them")
        arrays |= own_arrays
        sources |= dict.fromkeys(own_arrays, evaluation)
    rows = [row for record in records.evaluations.values() for row in record["measures"]]
    evaluations = {
        key: {name: value for name, value in record.items() if name != "measures"}
        for key, record in records.evaluations.items()
    }
    arrays = experiment.exported_arrays(name, arrays)
    content = zip(RESULT_KEYS, (rows, records.trainings, evaluations), strict=True)
    arrays |= {key: np.array(json.dumps(x)) for key, x in content}
    numbers = to_flat(Measurement(**row) for row in rows)
    headline = {
        sampler: round(measures[key], 4)
        for sampler, measures in numbers.items()
        for key in experiment.headline[:1]
        if key in measures
    }
    trainings = records.trainings.values()
    parents = [record["parent"] for record in trainings if record["parent"]]
    source = merge_provenance([*parents, *trainings, *evaluations.values()])
    if "seed" not in source:
        if experiment.seed is None:
            raise ValueError(f"{folder} holds no training, whose seed is recorded: give {experiment.name} a `seed`")
        source["seed"] = experiment.seed
    return arrays_file(experiment.results_name, arrays, metrics=headline, **source)
