"""Identifiers are the field's terms: names that were retired do not come back (glossary in CONTRIBUTING.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwdiff_lite.storage.files import repo_root

ROOT = repo_root()
SOURCES = sorted(path for folder in ("fwdiff_lite", "notebooks/py", "tests") for path in (ROOT / folder).rglob("*.py"))
# Retired in every sense. Strings are exempt: keys of metrics.json and of recorded runs keep their names.
RETIRED = set(
    """
    crossed_targets draw_scenes draw_cameras draw_front_cameras draw_camera_path bilinear_sample
    _coarser _descend _modulated _threshold _WayDown _whereabouts across Adversaries answer Answer answered answers
    Answers ARM arm Arm arms ARMS ask asked away bank Bank bank_weights Bench blind bootstrap_text carried coaches
    compiled complain Dense DENSEST drawn endless enters exam Exam examine exams factor_scene_rms favoured fitted
    floors found gathered go_round gone guesses harvest HELD home homes IN_CACHE into inverse_pieces judge judged
    Keyhole keyhole keyholes kind kinds leaky lean leans Lesson LESSON likelier longer looks lot lots
    mean_mse misfit misfits natural odds OFF opaque optical panel passed PATIENCE pieces places PLASTIC point_score
    PROVES quick REACH reader Reader Recorded redraw redraw_hidden redrawn refuse_foreign reveal revealed roughness
    sat send settled sharing ship shipped SHOWN sit spread_of squares STALLED stoppable surprise taught there
    thinned TOLD told told_apart torn turned Unavailable unstoppable untrained Verdict waves way whole
    with_deviation with_weights without_error
    """.split()
)
# Retired in one module, where the word had a second meaning.
RETIRED_IN = {
    "fwdiff_lite/diffusion.py": {"draw", "estimate", "at", "seen", "places", "fresh", "kept"},
    "fwdiff_lite/observations.py": {"take", "drop", "window", "merge"},
    "fwdiff_lite/training.py": {"average_weights", "done", "share", "origin", "Fit"},
    "fwdiff_lite/storage/files.py": {"root", "commit"},
    "fwdiff_lite/backbones.py": {
        "enter",
        "leave",
        "first",
        "last",
        "row",
        "inputs",
        "outputs",
        "pairs",
        "coarser",
        "finer",
    },
    "fwdiff_lite/problems/inverse_graphics/volume.py": {
        "clip",
        "cast",
        "within",
        "through",
        "light",
        "depth",
        "rays_per_side",
    },
    "fwdiff_lite/problems/inverse_graphics/viewspace.py": {
        "paint",
        "painter",
        "painted",
        "cells",
        "rounds",
        "identity",
    },
    "fwdiff_lite/problems/inverse_graphics/cameras.py": {
        "on_image",
        "inverse",
        "coordinates",
        "at",
        "camera_to_world",
        "world_to_camera",
    },
    "fwdiff_lite/problems/inverse_graphics/pixelnerf.py": {"camera_to_world", "world_to_camera"},
    "fwdiff_lite/problems/inverse_graphics/tabletop.py": {
        "start",
        "first",
        "surface",
        "take",
        "unseen",
        "cast",
        "depth",
        "antialias",
        "rays_per_side",
    },
    "fwdiff_lite/problems/inverse_graphics/ray_tracing.py": {
        "start",
        "away",
        "first",
        "surface",
        "take",
        "inverse",
        "depth",
    },
    "fwdiff_lite/problems/inverse_graphics/disocclusion.py": {
        "start",
        "first",
        "surface",
        "unseen",
        "reader",
        "read",
        "antialias",
    },
    "fwdiff_lite/problems/inverse_graphics/flatland.py": {"before", "above", "look", "rays_per_pixel"},
    "fwdiff_lite/problems/motion/warping.py": {"take", "fields", "share"},
    "fwdiff_lite/problems/toy/mixture.py": {"gain", "observe", "given", "joint"},
    "fwdiff_lite/problems/toy/projections.py": {"gain", "observe", "given", "joint", "finite"},
    "fwdiff_lite/problems/toy/noisy_projections.py": {"measure"},
    "fwdiff_lite/datasets/realestate10k.py": {"cut", "middle", "bad", "lens", "lenses"},
}


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every identifier: names, attributes, arguments, keywords, functions, classes, imports."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                for part in name.split("."):
                    yield getattr(node, "lineno", 0), part


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_retired_names_do_not_come_back(path):
    retired = RETIRED | RETIRED_IN.get(str(path.relative_to(ROOT)), set())
    names = identifiers(ast.parse(path.read_text(encoding="utf-8")))
    offences = [f"line {line}: {name}" for line, name in names if name in retired]
    assert not offences, ", ".join(dict.fromkeys(offences))


def test_modules_of_the_list_exist():
    assert all((ROOT / path).exists() for path in RETIRED_IN)


def test_the_search_finds_every_sort_of_identifier():
    source = "import told\nfrom a import b as sat\ndef exam(lot, *gone): x.found = judge(kind=1)\nclass Arm: pass"
    found_names = {name for _, name in identifiers(ast.parse(source))}
    assert {"told", "sat", "exam", "lot", "gone", "found", "judge", "kind", "Arm"} <= found_names


def test_the_glossary_has_at_most_40_terms():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.search(r"\| symbol \|.*?\n\n", text, re.DOTALL)[0]
    assert 20 < len(table.strip().splitlines()) - 2 <= 40


def test_documents_name_modules_that_exist():
    """In README, CONTRIBUTING, the Makefile and the notebooks; recorded commands in the manifest name their commit."""
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "Makefile",
        *(ROOT / "notebooks" / "py").glob("*.py"),
    ]:
        for module in re.findall(r"fwdiff_lite(?:[./]\w+)+", path.read_text(encoding="utf-8")):
            parts = re.split("[./]", module.removesuffix(".py"))
            candidates = [Path(*parts[:n]) for n in range(2, len(parts) + 1)]
            exists = [(ROOT / c).is_dir() or (ROOT / c).with_suffix(".py").exists() for c in candidates]
            assert exists[0], f"{path.name} names {module}"
