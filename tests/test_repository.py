"""The checkout as a whole: small, self-contained, said the same everywhere, with imports that run one way."""

import ast
import functools
import importlib.metadata
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch
import yaml

from fwdiff_lite.observations import Observations
from fwdiff_lite.pipeline.colab_setup import missing_packages
from fwdiff_lite.pipeline.notebook import badges, colab_setup_cell, pyproject
from fwdiff_lite.pipeline.readme import MOVING_PICTURE, render
from fwdiff_lite.storage.checkpoints import ALL_MB
from fwdiff_lite.storage.files import read_json, repo_root

ROOT = repo_root()
METHOD = {"protocols", "diffusion", "sampling", "model_checks", "model_file", "schedule", "observations", "backbones"}
METHOD |= {"training", "training_state", "training_checks", "batches", "processes", "row_random", "validation", "muon"}
METHOD |= {"interrupts"}
HELPERS = {"checks", "diagnostics", "devices", "crops", "colours", "command_line", "plotting", "metrics", "datasets"}
HELPERS |= {"storage"}
PACKAGE = sorted((ROOT / "fwdiff_lite").rglob("*.py"))


def tracked() -> list[Path]:
    """Every file that is or would be committed."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def megabytes(paths) -> float:
    return sum(path.stat().st_size for path in paths) / 1e6


def test_sizes():
    files = tracked()
    assert megabytes(files) <= 62
    assert megabytes(path for path in files if path.parent == ROOT / "figures") <= 12
    assert megabytes(path for path in files if path.parent == ROOT / "checkpoints") <= ALL_MB + 1


def test_speaks_of_itself_alone():
    """No path of some machine, no package index, no note that only its writer can follow."""
    hosts = [
        "py" + "pi.org",
        "python" + "hosted",
        "download.py" + "torch",
        "registry.np" + "mjs",
        "/simp" + "le/",
    ]
    paths = ["/wo" + "rk/", "/ro" + "ot/", "/tmp" + "/w/", "/opt" + "/wheels"]
    notes = ["DESI" + "GN.md", "measur" + "ing.md", "FAC" + "TS.md", "seed" + ".txt", "issue" + " 2"]
    words = re.compile("|".join(map(re.escape, [*hosts, *paths, *notes])))
    for path in tracked():
        if path.suffix in (".png", ".gif", ".safetensors", ".npz"):
            continue
        text = re.sub(r'"image/(png|gif)": "[^"]*"', "", path.read_text(encoding="utf-8"))
        assert not (names := words.search(text)), f"{path.relative_to(ROOT)} says {names[0]}"


def imports(path: Path) -> set[str]:
    """The modules that a file imports, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).with_suffix("").parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [package, node.module]))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    """Notebooks -> figures -> experiments -> problems -> method and helpers; no problem imports another.

    A command line of a helper may import problems, too.
    """
    layer, *rest = path.relative_to(ROOT / "fwdiff_lite").with_suffix("").parts
    modules = [name.split(".")[1:] for name in imports(path) if name.startswith("fwdiff_lite.")]
    layers = {module[0] for module in modules}
    allowed = METHOD | HELPERS
    if path.name == "__main__.py":
        allowed |= {"problems"}
    if layer == "problems":
        allowed |= {"problems"}
        others = {module[1] for module in modules if module[0] == "problems" and len(module) > 1}
        assert others <= {rest[0]}, "no problem imports another"
    elif layer == "experiments":
        allowed |= {"problems", "experiments"}
    elif layer == "figures":
        allowed |= {"problems", "experiments", "figures"}
    elif layer == "pipeline":
        allowed |= {"pipeline", "figures"}
    elif layer in METHOD:
        allowed = METHOD | {"checks", "devices", "storage"}
    assert layer == "__init__" or layers <= allowed, layers - allowed
    assert not any(name.split(".")[0] in ("notebooks", "tests") for name in imports(path))


def names_from_elsewhere(path: Path) -> set[str]:
    """The names that a file takes from a module of experiments/ that itself imports them, as MODULE.NAME."""
    tree, modules, used = ast.parse(path.read_text(encoding="utf-8")), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fwdiff_lite.experiments"):
            used |= {(node.module, alias.name) for alias in node.names}
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            used.add((modules[node.value.id], node.attr))
    files = {module: ROOT / Path(*module.split(".")).with_suffix(".py") for module, _ in used}
    return {
        f"{module}.{name}" for module, name in used if files[module].is_file() and name in imported_names(files[module])
    }


@functools.cache
def imported_names(path: Path) -> set[str]:
    """The names that a module imports from other modules of the package."""
    nodes = [x for x in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(x, ast.ImportFrom)]
    return {
        alias.asname or alias.name for x in nodes if (x.module or "").startswith("fwdiff_lite") for alias in x.names
    }


def test_a_name_is_taken_from_the_module_that_defines_it(tmp_path):
    sources = [*PACKAGE, *sorted((ROOT / "notebooks" / "py").glob("*.py"))]
    assert not {path.name: names for path in sources if (names := names_from_elsewhere(path))}
    module = "fwdiff_lite.experiments.inverse_graphics"
    control = tmp_path / "control.py"
    control.write_text(
        f"from {module} import cost\nfrom {module}.evaluation import K, MAIN_SAMPLER\ncost.variants, cost.Parts\n"
    )
    assert names_from_elsewhere(control) == {f"{module}.evaluation.K", f"{module}.cost.variants"}


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_an_import_loads_only_what_it_needs():
    assert "matplotlib" not in modules_after("import fwdiff_lite.problems.inverse_graphics.tabletop")
    assert not {"accelerate", "matplotlib", "scipy", "skimage"} & modules_after("import fwdiff_lite")
    assert "matplotlib" in modules_after("import fwdiff_lite.plotting"), "the control"


def requirement(line: str) -> tuple[str, str]:
    """'numpy>=1.26' -> ('numpy', '1.26')"""
    name, _, bound = line.partition(">=")
    return name, bound


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def test_conda_says_what_pip_says():
    project = pyproject()
    wanted = dict(map(requirement, project["dependencies"] + project["optional-dependencies"]["notebooks"]))
    wanted["pytorch"] = wanted.pop("torch")  # its name there
    given = dict(map(requirement, yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]))
    python = next(name for name in given if name.startswith("python="))
    assert version(python) >= version(project["requires-python"])
    assert {name: bound for name, bound in given.items() if name not in ("pip", python)} == wanted


def test_binder_builds_that_environment():
    assert (ROOT / ".binder" / "environment.yml").read_text() == (ROOT / "environment.yml").read_text()
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    assert "pip install --no-deps" in (ROOT / ".binder" / "postBuild").read_text()


def test_jupyter_is_told_of_the_pairs_wherever_it_is_installed():
    for path in ("Makefile", "environment.yml", ".binder/postBuild"):
        assert "python -m fwdiff_lite.pipeline.contents" in (ROOT / path).read_text(), path


def test_badges_open_what_make_lab_serves():
    """The server's root is the checkout, so that notebooks/ is part of the address."""
    recipe = re.search(r"^lab:.*\n(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert "--ServerApp.root_dir=. " in recipe
    assert "/lab/tree/notebooks/00_one_page.ipynb" in recipe
    assert "/lab/tree/notebooks/00_one_page.ipynb)" in badges("00_one_page")


def test_binder_accepts_it():
    pytest.importorskip("repo2docker", reason="jupyter-repo2docker is not installed")
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", ROOT]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0 and ".binder/environment.yml" in run.stdout + run.stderr


def test_lock_pins_every_dependency():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line) for line in lines), "exact, no local tags"
    pins = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    project = pyproject()
    extras = project["optional-dependencies"]
    for name, bound in map(requirement, project["dependencies"] + extras["notebooks"] + extras["dev"]):
        assert version(pins[name]) >= version(bound), name
    assert pins["torch"] == "2.13.0"
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {requirement(line)[0] for line in build} <= set(pins), "installed without build isolation"


def test_environment_is_the_lock():
    """What runs here is what is pinned, where make made the environment."""
    if not list(Path(sys.prefix).glob("ready-*")):
        pytest.skip("this environment was not made by make")
    from importlib.metadata import version as installed

    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.startswith("#"):
            name, pin = line.split("==")
            assert installed(name).split("+")[0] == pin, name


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text()
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["check"]
    assert {"lint", "test", "smoke"} <= set(steps["strategy"]["matrix"]["target"])


def root_conftest():
    """The conftest.py of the checkout as a module: pytest gives that name to several."""
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fast_tests_come_first_then_the_longest():
    recorded = {"a.py::1": 9, "a.py::2": 14, "b.py::1": 19, "d.py::1": 31, "d.py::2": 4}
    recorded |= {"of_old.py::1": 99, "n/c.ipynb": 70}
    nodes = ["n/c.ipynb::Cell 0", "n/c.ipynb::Cell 1", "a.py::1", "a.py::2", "new.py::1", "b.py::1"]
    nodes += ["d.py::1", "d.py::2"]
    in_order = root_conftest().fast_files_first([(node, node) for node in nodes], recorded)
    assert in_order == [*nodes[4:6], *nodes[:2], *nodes[6:], *nodes[2:4]]
    assert root_conftest().fast_files_first([(node, node) for node in nodes], {}) == nodes


def test_what_make_check_leaves_out_is_recorded():
    """A test is slow by its measured duration; a long list of fast ones would make no difference."""
    recorded = read_json(ROOT / "tests" / "durations.json")
    assert recorded and min(recorded.values()) >= 1
    recipe = re.search(r"^check:.*\n(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert '-m "not slow" tests' in recipe and "nbval" not in recipe


def test_pytest_needs_no_plugin():
    """Without nbval pytest still ends well; it collects one file here that holds no tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:nbval", "-p", "no:xdist", "-p", "no:cacheprovider"]
    run = subprocess.run([*command, ROOT / "conftest.py"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED and "Error" not in run.stdout + run.stderr


def test_make_lists_its_targets():
    text = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    for target in ("reproduce", "check", "test", "lab", "smoke", "lint", "clean", "browser-test", "help"):
        assert f"make {target} " in text


def test_lint():
    run = subprocess.run([sys.executable, "-m", "ruff", "check", ROOT], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


def test_address_stands_once():
    """The repository's address is settled in pyproject; everything else is generated from it."""
    url = pyproject()["urls"]["Repository"]
    assert url in colab_setup_cell() and url.removeprefix("https://github.com/") in badges("01_toy_proof")
    for path in tracked():
        if (
            path.suffix in (".py", ".md", ".yml", ".toml")
            and path.name != "pyproject.toml"
            and "py" != path.parent.name
        ):
            text = re.sub("<!-- generated: .*?<!-- end -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert url not in text, path
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == url and citation["version"] == pyproject()["version"]
    assert citation["references"][0]["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


def pretend_colab(monkeypatch, commands):
    """Pretends to be Google Colab with a clone of this checkout: its module is there, commands are noted, not run."""
    clone, run_path = f"/content/{pyproject()['name']}", runpy.run_path
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(runpy, "run_path", lambda path, **kw: run_path(path.replace(clone, str(ROOT)), **kw))
    monkeypatch.setattr(os, "chdir", lambda folder: commands.append(["cd", folder]))
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_set_up_on_colab(monkeypatch):
    commands = []
    pretend_colab(monkeypatch, commands)
    missing = {"jaxtyping", "torch", "numpy"}
    installed = [x for x in importlib.metadata.distributions() if x.metadata["Name"] not in missing]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: installed)
    exec(colab_setup_cell(), {})
    clone, install, cd = commands
    assert clone[:2] == ["git", "clone"] and "--depth" in clone
    assert clone[-2:] == [pyproject()["urls"]["Repository"], f"/content/{pyproject()['name']}"]
    assert "--no-deps" in install and install[-2:] == ["-e", str(ROOT)]
    assert "jaxtyping" in install and "tqdm" not in install, "only what is missing"
    assert not {"torch", "numpy"} & set(install)
    assert cd == ["cd", ROOT / "notebooks"] and sys.path[0] == str(ROOT)


def test_colab_lacks_every_package_but_torch_and_numpy(monkeypatch):
    """pip installs no dependency of a dependency, so jaxtyping's own is named, too."""
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [])
    names = {re.match("[a-z-]+", line)[0] for line in pyproject()["dependencies"]}
    assert set(missing_packages(ROOT)) == (names | {"wadler-lindig"}) - {"torch", "numpy"}


def test_set_up_imports_nothing_that_colab_may_lack():
    tree = ast.parse((ROOT / "fwdiff_lite" / "pipeline" / "colab_setup.py").read_text(encoding="utf-8"))
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_set_up_is_idle_elsewhere(monkeypatch):
    commands = []
    pretend_colab(monkeypatch, commands)
    monkeypatch.delitem(sys.modules, "google.colab")
    exec(colab_setup_cell(), {})
    assert commands == []


def test_readme_is_up_to_date():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == render(text), "make readme"
    opening = text[: text.index("<!-- generated: picture -->")]
    words = re.sub("<!-- generated: badges -->.*?<!-- end -->", "", opening, flags=re.DOTALL)  # badges are one line
    assert len(words) < 1000, "on the first screen"
    for file in re.findall(r'(?:src="|\]\()(?!http)([^")#]+)', text):
        assert (ROOT / file).exists(), f"README.md points to {file}"


def test_readme_moves():
    if not (ROOT / "figures" / "metrics.json").exists():
        pytest.skip("no results yet: make reproduce")
    assert list((ROOT / "figures").glob(MOVING_PICTURE)), MOVING_PICTURE


def readme_example() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"<!-- example -->\n```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture
def readme_classes():
    """Window and Denoiser of the README's example; nothing is trained."""
    names: dict = {}
    exec(compile(readme_example().partition("window, noise_std")[0], "README.md", "exec"), names)
    return names["Window"], names["Denoiser"]


def test_readme_denoiser_ignores_masked_measurements(readme_classes):
    Window, Denoiser = readme_classes
    window, generator = Window(4), torch.Generator().manual_seed(0)
    start = torch.randint(-3, 16, (8, 9, 1), generator=generator).float()
    params = torch.cat([start, torch.full_like(start, 0.1)], 2)
    observations = Observations(torch.randn(8, 9, generator=generator), params)
    given, noisy_target, t = observations.select(slice(0, 3)), observations.value[:, 3:], torch.full((8,), 0.5)
    denoiser, missing = Denoiser(window), torch.arange(6) >= 4
    masked = given.mask_out((torch.arange(3) >= 1).expand(8, 3))
    condition = denoiser.condition(masked, params[:, 3:], ~missing.expand(8, 6))
    signal = denoiser(condition, noisy_target.masked_fill(missing, 0), t)
    few = denoiser(denoiser.condition(given.select([0]), params[:, 3:7]), noisy_target[:, :4], t)
    torch.testing.assert_close(signal, few)


def test_readme_example_makes_its_tensors_on_the_device_of_its_inputs(readme_classes):
    Window, Denoiser = readme_classes
    observations = Observations(torch.zeros(8, 3), torch.zeros(8, 3, 2)).to("meta")
    denoiser = Denoiser(Window(4)).to("meta")
    condition = denoiser.condition(observations, observations.params)
    signal = denoiser(condition, observations.value, torch.zeros(8, device="meta"))
    assert signal.shape == (8, 16) and signal.device.type == "meta"


@pytest.mark.parametrize("width, tolerance", [(4, 0.15), (1, 0.3)])  # single values leave more of the walk open
def test_readme_example(width, tolerance):
    """The README's forward model: at most 45 lines; its samples are right, and so are those of another operator."""
    source = readme_example()
    assert len([line for line in source.splitlines() if line.strip()]) <= 45
    assert source.count("Window(4)") == 1 and source.count("steps=500") == 1
    source = source.replace("Window(4)", f"Window({width})").replace("steps=500", "steps=500, progress=False")
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(source, "README.md", "exec"), names)
    walks, batch = names["walks"], names["test"]
    assert walks.shape == (256, 16)
    context, generator = batch["context"], torch.Generator().manual_seed(2)
    residual = names["window"](walks, context.params) - context.value
    assert residual.std() == pytest.approx(names["noise_std"], rel=0.3), "samples agree with contexts up to their noise"
    assert names["check_samples"](names["model"], batch, generator=generator) == []
    truth = torch.randn(4096, 16, generator=generator).cumsum(1) / 4
    assert torch.allclose(walks.std(0), truth.std(0), rtol=0.25), "as wide as the truth, at every place"
    steps = walks.diff(dim=1).std()
    assert abs(steps / truth.diff(dim=1).std() - 1) < tolerance, "and as rough: a walk, not its mean"
