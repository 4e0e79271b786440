"""Trains notebooks with several seeds: `python -m fwdiff_lite.pipeline.seeds --count 5 --only 01 --only 02`.

A notebook that trains has a parameter SEED, which its weights, batches and sampling noise follow from. Runs with the
seeds 0 to COUNT - 1 show how far its numbers vary from training to training. figures/seeds.json holds those that its
claim or the tables of `fwdiff_lite.figures.comparison` state: the values, their mean, standard deviation, minimum and
maximum. Numbers that no seed changes come from recorded runs, and are left out. The README prints the ranges.

A finished run is kept in build/seeds, so an interrupted command, given again, goes on where it was. Seed 0 of the cpu
profile is the committed run. Runs of another version of a notebook's source do not count.
"""

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from fwdiff_lite.checks import check_count
from fwdiff_lite.figures.comparison import fields
from fwdiff_lite.pipeline.claims import claim_keys, is_finite_number, read_claims
from fwdiff_lite.pipeline.execution import NotebookFailed, NotebookRun, Task, finished_runs
from fwdiff_lite.pipeline.folders import CannotWrite, build_folder, check_writable, temporary_folder
from fwdiff_lite.pipeline.notebook import check_profile, notebook_names, to_jsonable
from fwdiff_lite.pipeline.pairs import cell_sources, notebook_path, read_source
from fwdiff_lite.pipeline.readme import update_readme
from fwdiff_lite.pipeline.reproduce import Arguments, changed_parameters, longest_first, provenance, select
from fwdiff_lite.pipeline.signals import Stop, defer_signals, handle_signals
from fwdiff_lite.storage.files import file_sha256, read_json, repo_root, write_json

PARAMETER = "SEED"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, with the exit status of `fwdiff_lite.pipeline.reproduce`."""
    parser = Arguments(prog="python -m fwdiff_lite.pipeline.seeds", description=__doc__.splitlines()[0])
    parser.add_argument("--count", metavar="N", type=int, default=5, help="seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--only", metavar="NN", action="append", help="this notebook only; repeatable")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="notebooks at a time (default: 2)")
    parser.add_argument("--profile", default="cpu", help="cpu (the default) or smoke")
    parser.add_argument("--output", metavar="DIR", type=Path, help="write seeds.json here (default: figures)")
    try:
        given = parser.parse_args(arguments)
        check_count(count=given.count, jobs=given.jobs)
        check_profile(given.profile)
        if given.profile != "cpu" and given.output is None:
            raise ValueError(f"figures/seeds.json is of the cpu profile: give --output DIR for {given.profile}")
        with handle_signals():
            return run_seeds(given.count, given.only, given.jobs, given.profile, given.output)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CannotWrite as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stop as stop:
        print(f"stopped by {stop.signal.name}: finished runs are kept, give the command again", file=sys.stderr)
        return 128 + stop.signal


def run_seeds(count: int, only: Sequence[str] | None, jobs: int, profile: str, output: Path | None) -> int:
    """Runs every notebook that trains with `count` seeds, the longest first. Returns 0 if all ended well, else 1."""
    names = trained(only)
    folder = (output or repo_root() / "figures").resolve()
    check_writable(folder)
    failures, facts = 0, provenance(profile)
    with temporary_folder(build_folder(), "running-") as scratch:
        tasks = [
            Task(name, source, changed_parameters(name, source, profile, {PARAMETER: str(seed)}), profile, place)
            for name in longest_first(names, profile)
            for source in [read_source(name)]
            for seed in range(count)
            for place in [scratch / f"{name}_{seed}"]
            if finished(name, seed, profile) is None
        ]
        for run in finished_runs(tasks, jobs):
            try:
                run.check()
            except NotebookFailed as failure:
                failures += 1
                print(f"{run.name}: FAILED: {failure}", file=sys.stderr, flush=True)
                continue
            with defer_signals():
                keep(run, facts)
                write_summaries(folder / "seeds.json", names, count, profile)
            print(f"{run.folder.name}: done in {run.seconds / 60:.1f} minutes", flush=True)
    write_summaries(folder / "seeds.json", names, count, profile)
    if output is None:
        update_readme()
    return 1 if failures else 0


def trained(only: Sequence[str] | None) -> list[str]:
    """The names of the notebooks that have a parameter SEED. ValueError if one that was asked for has none."""
    names, seeded = select(only), []
    for name in names:
        try:
            changed_parameters(name, read_source(name), "cpu", {PARAMETER: "0"})
            seeded.append(name)
        except ValueError:
            if only:
                raise
    return seeded


# ----- finished runs


def record_path(name: str, seed: int, profile: str) -> Path:
    """Where the numbers of one run are kept."""
    return build_folder() / "seeds" / profile / f"{name}_{seed}.json"


def source_sha256(name: str) -> str:
    """The hash of a notebook's source."""
    return file_sha256(repo_root() / "notebooks" / "py" / f"{name}.py")


def keep(run: NotebookRun, facts: Mapping[str, Any]) -> None:
    """Keeps the numbers of a run with its cost and provenance."""
    seed = int(run.folder.name.rpartition("_")[2])
    record = {
        "numbers": read_json(run.out / f"{run.name}.metrics.json"),
        "claim": read_json(run.out / f"{run.name}.claims.json"),
        "source": source_sha256(run.name),
        "run": run_facts(seed, facts | {"minutes": round(run.seconds / 60, 2)}),
    }
    write_json(record_path(run.name, seed, run.profile), record)


def run_facts(seed: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What seeds.json says of one run."""
    return {
        "seed": seed,
        "cpu": facts["hardware"]["cpu"],
        "commit": facts["commit"],
        "date": facts["date"],
        "minutes": facts["minutes"],
    }


def finished(name: str, seed: int, profile: str) -> dict[str, Any] | None:
    """The kept run of a seed, or the committed run of seed 0; None if there is none of the present source."""
    record = read_json(record_path(name, seed, profile))
    if record and record["source"] == source_sha256(name):
        return record
    figures = repo_root() / "figures"
    facts = read_json(figures / "provenance.json").get(name, {}).get("cpu")
    if seed or profile != "cpu" or not facts or not executed_as_it_is(name):
        return None
    numbers = read_json(figures / "metrics.json").get(name, {})
    return {"numbers": numbers, "claim": read_claims().get(name, {}), "run": run_facts(0, facts)}


def executed_as_it_is(name: str) -> bool:
    """Whether the committed notebook has the cells of its source."""
    path = notebook_path(name)
    return path.exists() and cell_sources(nbformat.read(path, as_version=4)) == cell_sources(read_source(name))


# ----- their summary


def write_summaries(path: Path, names: Iterable[str], count: int, profile: str) -> None:
    """Renews the entries of these notebooks in seeds.json, from their finished runs."""
    known = set(notebook_names())
    summaries = {name: entry for name, entry in read_json(path).items() if name in known}
    for name in names:
        records = [record for seed in range(count) if (record := finished(name, seed, profile))]
        if len(records) > 1:
            in_tables = {key for number, key in fields() if name.startswith(number)}
            summaries[name] = {"numbers": summary(records, in_tables), "runs": [record["run"] for record in records]}
    write_json(path, summaries)


def summary(records: Sequence[Mapping[str, Any]], more_keys: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Values, mean, standard deviation, minimum and maximum of the stated numbers that differ between runs.

    A number is stated by the claim of a run, or named in more_keys.
    """
    keys = set(more_keys) | {key for record in records if record["claim"] for key in claim_keys(record["claim"])}
    result = {}
    for key in sorted(keys):
        values = [record["numbers"].get(key) for record in records]
        if not all(map(is_finite_number, values)) or len(set(values)) == 1:
            continue
        spread = {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}
        result[key] = {"values": values, "min": min(values), "max": max(values)}
        result[key] |= {name: to_jsonable(key, value) for name, value in spread.items()}
    return result


if __name__ == "__main__":
    sys.exit(main())
