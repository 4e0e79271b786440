"""The one command line of all experiments.

    python -m fwdiff_lite.experiments motion train warp_2 warp_2_mean --minutes 8
    accelerate launch -m fwdiff_lite.experiments motion train warp_2 --minutes 8      # on all devices
    python -m fwdiff_lite.experiments motion time warp_2                             # signals a second and memory
    python -m fwdiff_lite.experiments motion evaluate
    python -m fwdiff_lite.experiments inverse_graphics evaluate ceiling --parts 4    # on each of four devices
    python -m fwdiff_lite.experiments motion export warp_2
    python -m fwdiff_lite.experiments gan_inversion train auxiliary_classifiers --steps 500

All results lie in one folder, --out, which fwdiff_lite/experiments/harness.py describes. The same `train` command
resumes an interrupted training; `evaluate` repeats nothing whose weights and options are those of a recorded run, and
the same `evaluate` command, started once for each GPU with CUDA_VISIBLE_DEVICES, shares the evaluations or, with
--parts, the contexts of named ones.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from fwdiff_lite import experiments
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import num_processes
from fwdiff_lite.experiments import export, harness, timing
from fwdiff_lite.experiments.declaration import Experiment
from fwdiff_lite.experiments.records import COMMAND
from fwdiff_lite.training import INTERRUPTED


def experiment_modules() -> dict[str, str]:
    """The modules that may declare an experiment, by their names without the package."""
    modules = pkgutil.walk_packages(experiments.__path__, f"{experiments.__name__}.")
    names = (module.name for module in modules if module.name != __spec__.name)
    return {name.rpartition(".")[2]: name for name in names}


def find_experiment(name: str) -> Experiment:
    """The experiment of that name, which the module of that name declares. ValueError if there is none."""

    def declared(key: str) -> Experiment | None:
        experiment = getattr(importlib.import_module(modules[key]), "EXPERIMENT", None)
        return experiment if experiment and experiment.name == key else None

    modules = experiment_modules()
    if name in modules and (experiment := declared(name)):
        return experiment
    raise ValueError(f"unknown experiment {name!r}: choose one of {', '.join(key for key in modules if declared(key))}")


def command_parser(experiment: Experiment) -> argparse.ArgumentParser:
    """The parser of an experiment's commands."""
    parser = argparse.ArgumentParser(prog=f"{COMMAND} {experiment.name}")
    commands = parser.add_subparsers(dest="action", required=True)
    train, evaluate, export_command = (commands.add_parser(action) for action in ("train", "evaluate", "export"))
    names = ", ".join([*experiment.assets, *experiment.variants])
    train.add_argument("names", nargs="+", metavar="NAME", help=f"trained one after another, of {names}")
    train.add_argument("--minutes", type=float, help="training time of each of them, earlier calls included")
    train.add_argument("--steps", type=positive_int, help="training steps, earlier calls included")
    train.add_argument("--batch-size", type=positive_int, help="signals a step, over all devices")
    train.add_argument("--init-from", type=Path, help="a .safetensors file of initial weights")
    samplers = ", ".join(experiment.evaluations)
    evaluate.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}, {samplers}; default: all")
    for key, default in experiment.evaluation_options.items():
        evaluate.add_argument(
            f"--{key.replace('_', '-')}", type=positive_int, default=default, help="default: %(default)s"
        )
    evaluate.add_argument("--parts", type=positive_int, default=1, help="measure the contexts in so many parts")
    export_command.add_argument("names", nargs="*", metavar="NAME", help=f"whose weights are exported too, of {names}")
    time = commands.add_parser("time")
    time.add_argument("name", metavar="NAME", help=f"of {', '.join(experiment.variants)}")
    time.add_argument("--batch-size", type=positive_int, help="signals a step, over all devices")
    time.add_argument("--precision", choices=timing.PEAK_TERAFLOPS, help="default: bf16 on a GPU, fp32 on a CPU")
    time.add_argument("--eager", action="store_true", help="compile nothing")
    time.add_argument("--windows", type=positive_int, default=5, help="of steps; default: %(default)s")
    time.add_argument("--window", type=positive_int, default=10, help="steps of a window; default: %(default)s")
    for command in (train, evaluate):
        command.add_argument("--jobs-per-gpu", type=positive_int, default=1, help="such commands that share a GPU")
    for action in ("train", "evaluate"):
        experiment.add_arguments(action, commands.choices[action])
    for command in (train, time, evaluate, export_command):
        command.add_argument("--out", type=Path, default=Path("build", experiment.name), help="default: %(default)s")
    return parser


def check_folder(path: Path) -> None:
    """ValueError if there can be no folder of that path, since it or one of its parents is a file."""
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise ValueError(f"--out {path}: {part} is a file; name a folder")


def run(experiment: Experiment, options: argparse.Namespace) -> None:
    """Runs a command. SystemExit(INTERRUPTED) if a training was interrupted; ValueError on a bad name or file."""
    check_folder(options.out)
    if options.action == "train":
        if options.minutes is None and options.steps is None:
            raise ValueError("a training needs a budget: give --minutes, --steps or both")
        harness.check_trainings(experiment, options.names, options.out)
        experiment = experiment.configure(experiment, options)
        for name in options.names:
            log = harness.train(
                experiment,
                name,
                options.out,
                options.minutes,
                options.steps,
                options.batch_size,
                options.jobs_per_gpu,
                options.init_from,
            )
            if log.interrupted:
                raise SystemExit(INTERRUPTED)
        return
    if options.action == "time":
        names = ("batch_size", "precision", "eager", "windows", "window")
        timing.time_training(experiment, options.name, options.out, **{key: getattr(options, key) for key in names})
        return
    if num_processes() > 1:
        raise ValueError(f"{options.action} runs in one process: start it without `accelerate launch`")
    if options.action == "evaluate":
        experiment = experiment.configure(experiment, options)
        evaluation_options = {key: getattr(options, key) for key in experiment.evaluation_options}
        harness.evaluate(
            experiment, options.names, options.out, evaluation_options, options.jobs_per_gpu, options.parts
        )
    else:
        export.export(experiment, options.names, options.out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. arguments: None: those of the process."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Train, evaluate and export an experiment.")
    parser.add_argument("experiment", metavar="NAME", help="of the experiment, such as motion")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="train|time|evaluate|export ...")
    options = parser.parse_args(arguments)
    try:
        experiment = find_experiment(options.experiment)
    except ValueError as error:
        parser.error(str(error))
    parser = command_parser(experiment)
    try:
        run(experiment, parser.parse_args(options.words))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
