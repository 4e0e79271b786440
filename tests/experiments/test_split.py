"""An evaluation that is split into parts has the results of one process; parts that do not fit are refused."""

import numpy as np
import pytest

from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments.harness import Evaluation, Experiment, Results
from fwdiff_lite.experiments.split import Part, PerContext, interleave
from fwdiff_lite.storage.files import read_json

SCALE = 1


def measure(session):
    contexts = np.arange(session.options["scenes"])[session.part.rows]
    return {"score": SCALE * contexts**2.0, "labels": np.stack([contexts, -contexts], 1)}


def summarise(session, arrays):
    assert session.part == Part(), "the summary is of all contexts"
    order = np.arange(len(arrays["score"]))  # a weighted mean, which sees the order of the contexts
    return Results({"energy": float((order * arrays["score"]).mean())}, {"split_labels": arrays["labels"]})


TOY = Experiment(
    name="toy",
    results_name="90_toy",
    variants={},
    evaluations={
        "split": Evaluation(PerContext(measure, summarise)),
        "whole": Evaluation(lambda session: Results({"count": 1.0}, {})),
    },
    evaluation_options={"scenes": 7},
)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "find_experiment", lambda name: TOY)
    monkeypatch.setenv("FWDIFF_COMMIT", "abc")

    def run(words, folder="runs"):
        command_line.main(["toy", "evaluate", *words.split(), "--out", str(tmp_path / folder)])
        return tmp_path / folder

    return run


def test_parts_in_any_order_have_the_results_of_one_process(toy, capsys):
    single = toy("split", "whole")
    for part in (2, 0, 1):
        folder = toy(f"split --part {part} --parts 3")
    toy("split --part 1 --parts 3")
    assert f"evaluated already; delete {folder / 'evaluation_split.part_1_of_3.json'}" in capsys.readouterr().out
    assert not (folder / "evaluation_split.json").exists()
    toy("split --parts 3")
    record, single_record = (read_json(path / "evaluation_split.json") for path in (folder, single))
    assert record["measures"] == single_record["measures"] and record["measures"][0]["value"] == 63.0
    assert record["options"] == single_record["options"] == {"scenes": 7} and record["commit"] == "abc"
    commands = record["command"].split("; ")
    assert len(commands) == 4 and commands[2].endswith("toy evaluate split --scenes 7 --part 2 --parts 3")
    with np.load(folder / "evaluation_split.npz") as joined, np.load(single / "evaluation_split.npz") as arrays:
        assert (joined["split_labels"] == arrays["split_labels"]).all() and len(joined["split_labels"]) == 7


def test_parts_that_do_not_fit_are_refused(toy, capsys, monkeypatch):
    def message(words):
        with pytest.raises(SystemExit):
            toy(words)
        return capsys.readouterr().err

    folder = toy("split --part 0 --parts 2")
    missing = folder / "evaluation_split.part_1_of_2.json"
    assert f"there is no {missing} of these weights and options: run it with --part 1" in message("split --parts 2")
    toy("split --part 1 --parts 2 --scenes 8")
    assert f"there is no {missing} of these weights and options" in message("split --parts 2")
    monkeypatch.setenv("FWDIFF_COMMIT", "other")
    toy("split --part 1 --parts 2")
    assert "was measured at commit other, not abc: delete it and run it again" in message("split --parts 2")
    assert "--part 2 --parts 2: give a part from 0 to 1" in message("split --part 2 --parts 2")
    assert "--part 1 is one of several parts: give their number, such as --parts 4" in message("split --part 1")
    assert "whole cannot be split into parts: name some of split" in message("--part 0 --parts 2")
    assert "whole cannot be split into parts: evaluate it without --parts" in message("whole --parts 2")
    assert not (folder / "evaluation_split.json").exists()


def test_a_part_is_no_other_part_and_is_complete(toy, capsys):
    """Files of two parts that changed places, and arrays of which the end is missing."""

    def message():
        with pytest.raises(SystemExit):
            toy("split --parts 2 --scenes 6")
        return capsys.readouterr().err.splitlines()[-1]

    for part in (0, 1):
        folder = toy(f"split --part {part} --parts 2 --scenes 6")
    first, second = (folder / f"evaluation_split.part_{i}_of_2.json" for i in (0, 1))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    assert f"there is no {first} of these weights and options: run it with --part 0 --parts 2" in message()
    first.write_bytes(contents[0])
    arrays = second.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:200])
    assert f"{arrays} is damaged: delete {second} and run it again" in message()
    second.unlink()
    toy("split --part 1 --parts 2 --scenes 6")
    toy("split --parts 2 --scenes 6")
    with np.load(folder / "evaluation_split.npz") as joined:
        assert joined["split_labels"][:, 0].tolist() == list(range(6))


def test_parts_that_were_measured_again_are_joined_again(toy, capsys, monkeypatch):
    toy("split")  # in one process
    for part in (0, 1):
        folder = toy(f"split --part {part} --parts 2")
    path = folder / "evaluation_split.json"
    joined = [toy("split --parts 2") and read_json(path)]
    assert set(joined[0]["parts"]) == {f"evaluation_split.part_{i}_of_2" for i in (0, 1)}
    capsys.readouterr()
    toy("split --parts 2")
    assert f"evaluated already; delete {path}" in capsys.readouterr().out

    monkeypatch.setenv("FWDIFF_COMMIT", "later")
    monkeypatch.setitem(measure.__globals__, "SCALE", 2)
    (folder / "evaluation_split.part_0_of_2.json").unlink()
    toy("split --part 0 --parts 2")
    with pytest.raises(SystemExit):
        toy("split --parts 2")
    assert "was measured at commit abc, not later" in capsys.readouterr().err
    (folder / "evaluation_split.part_1_of_2.json").unlink()
    toy("split --part 1 --parts 2")
    joined.append(toy("split --parts 2") and read_json(path))
    values = [record["measures"][0]["value"] for record in joined]
    assert values[1] == 2 * values[0] and joined[1]["commit"] == "later"

    for file in folder.glob("*part*"):
        file.unlink()
    capsys.readouterr()
    toy("split --parts 2")
    assert "evaluated already" in capsys.readouterr().out, "the joined record stands without the parts"


def test_rows_that_are_no_partition_are_refused():
    parts = [{"score": np.arange(3)[Part(i, 2).rows]} for i in range(2)]
    assert interleave(parts)["score"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"the parts have \[1, 2\] rows of score, wanted \[2, 1\]"):
        interleave(parts[::-1])
    for other in ({}, {"labels": parts[1]["score"]}, {"score": np.zeros((1, 2), int)}, {"score": np.zeros(1)}):
        with pytest.raises(ValueError, match="parts 0 and 1 have different rows of score: measure all parts again"):
            interleave([parts[0], other])
    with pytest.raises(ValueError, match="parts 0 and 1 have different rows of labels"):
        interleave([parts[0], parts[1] | {"labels": parts[1]["score"]}])
