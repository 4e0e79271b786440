"""Results in checkpoints/ that were recorded before the harness: their keys become those of harness.RecordedResults."""

import json

import numpy as np

NUMBERS = dict[str, dict[str, float]]  # the measures of each sampler, in flat form
GAN_INVERSION_NAMES = {"coaches": "auxiliary_classifiers", "reader": "classifier"}  # early name of a network: its name


def convert_early_results(
    arrays: dict[str, np.ndarray],
) -> tuple[NUMBERS, dict[str, dict], dict[str, dict], dict[str, np.ndarray]]:
    """The measures, the records of trainings and of evaluations, and the arrays, from the arrays of an early file."""
    texts = {key: json.loads(str(x)) for key, x in arrays.items() if np.issubdtype(x.dtype, np.str_) and x.shape == ()}
    if "row" in texts:
        return convert_ablations(texts, arrays)
    if "examine" in texts.get("records", {}):
        return convert_gan_inversion(texts["records"], {key: x for key, x in arrays.items() if key not in texts})
    numbers, parts = texts.get("numbers", {}) | convert_digits(arrays), texts.get("parts", {})
    numbers |= {key: {"c2st": float(x)} for key, x in arrays.items() if x.shape == () and key not in texts}
    trainings = texts.get("records") or {name: {"steps": count} for name, count in texts.get("steps", {}).items()}
    for name, curve in texts.get("curves", {}).items():
        trainings[name] |= {"curve": curve, "parent": trainings[name].pop("before")}
    evaluations = {
        sampler: parts[key] for sampler in numbers if (key := f"examination_{sampler.partition('_eta_')[0]}") in parts
    }
    arrays = {key: x for key, x in arrays.items() if key not in texts or key == "benchmark"}
    return numbers, trainings, evaluations, arrays


def convert_digits(arrays: dict[str, np.ndarray]) -> NUMBERS:
    """The measures of the sweep of 02_keyhole_digits: each had an array of its own, with one entry a variant."""
    prefix, measures = "sweep_", ("energy", "spread_skill", "psnr", "energy_one_shot", "spread_skill_one_shot")
    return {
        f"{prefix}{name.replace(' ', '_')}": {measure: float(arrays[prefix + measure][i]) for measure in measures}
        for i, name in enumerate(arrays.get("sweep_name", []))
    }


def convert_ablations(
    texts: dict[str, dict], arrays: dict[str, np.ndarray]
) -> tuple[NUMBERS, dict[str, dict], dict[str, dict], dict[str, np.ndarray]]:
    """The results of 07_ablations: the records of its rows held the scores of every scene, too."""
    rows, orbit = texts["row"], texts["ring"]["views"]
    numbers = {name: record.pop("numbers") for name, record in rows.items()} | {
        "orbit": {"seconds": orbit.pop("seconds")}
    }
    scores = {f"{name}_scores": np.array(json.dumps(record.pop("each"))) for name, record in rows.items()}
    images = {f"{name}_images": arrays[f"row_{name}_pictures"] for name in rows}
    prefix = "ring_views_"
    orbits = {f"orbit_{key.removeprefix(prefix)}": x for key, x in arrays.items() if key.startswith(prefix)}
    return numbers, texts["training"], rows | {"orbit": orbit}, scores | images | orbits


def convert_gan_inversion(
    records: dict[str, dict], arrays: dict[str, np.ndarray]
) -> tuple[NUMBERS, dict[str, dict], dict[str, dict], dict[str, np.ndarray]]:
    """The results of 04_gan_inversion: one record held the measures of all samplers and of all schedules."""
    samplers, generator = records.pop("examine"), records.pop("judge")
    trainings = {GAN_INVERSION_NAMES.get(name, name): record for name, record in records.items()}
    classifier = trainings["classifier"]
    trainings["generator"]["batch"] = trainings["generator"].pop("images") // trainings["generator"]["steps"]
    exact = {f"exact_{scale}": numbers for scale, numbers in samplers.pop("without_error").items()}
    numbers = samplers.pop("numbers") | exact
    numbers["reference_set"] = numbers.pop("bank")
    evaluations = dict.fromkeys(numbers, samplers) | {"generator": generator, "classifier": classifier}
    numbers |= {"generator": generator.pop("numbers"), "classifier": classifier.pop("numbers")}
    return numbers, trainings, evaluations, arrays
