"""An evaluation that is split into parts has the results of one process; parts that do not fit are refused."""

import numpy as np
import pytest

from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results
from fwdiff_lite.experiments.split import Part, PerContext, interleave
from fwdiff_lite.storage.files import exclusive_lock, read_json

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


def test_parts_have_the_results_of_one_process_and_the_last_process_joins_them(toy, tmp_path, capsys):
    single, record_path = toy("split", "whole"), tmp_path / "runs" / "evaluation_split.json"
    with exclusive_lock(part_record := record_path.with_name("evaluation_split.part_1_of_3.json")):
        folder = toy("split --parts 3")  # as if another process measured that part
    output = capsys.readouterr().out
    assert "evaluation_split.part_1_of_3: another process evaluates it" in output
    assert "evaluation_split: other processes measure parts of it; the last one joins all parts" in output
    assert not record_path.exists() and not part_record.exists()
    toy("split --parts 3")  # the other process
    output = capsys.readouterr().out
    assert f"evaluated already; delete {record_path.with_name('evaluation_split.part_0_of_3.json')}" in output
    record, single_record = (read_json(path / "evaluation_split.json") for path in (folder, single))
    assert record["measures"] == single_record["measures"] and record["measures"][0]["value"] == 63.0
    assert record["options"] == single_record["options"] == {"scenes": 7} and record["commit"] == "abc"
    assert record["command"].endswith("toy evaluate split --scenes 7 --parts 3") and ";" not in record["command"]
    with np.load(folder / "evaluation_split.npz") as joined, np.load(single / "evaluation_split.npz") as arrays:
        assert (joined["split_labels"] == arrays["split_labels"]).all() and len(joined["split_labels"]) == 7
    assert set(record["parts"]) == {f"evaluation_split.part_{i}_of_3" for i in range(3)}
    toy("split --parts 3")
    assert f"evaluated already; delete {record_path}" in capsys.readouterr().out


def test_parts_of_other_options_are_measured_again_and_those_of_other_sources_are_refused(toy, capsys, monkeypatch):
    def message(words):
        with pytest.raises(SystemExit):
            toy(words)
        return capsys.readouterr().err

    folder = toy("split --parts 2 --scenes 8")
    toy("split --parts 2")
    assert read_json(folder / "evaluation_split.part_1_of_2.json")["options"] == {"scenes": 7}
    assert read_json(folder / "evaluation_split.json")["measures"][0]["value"] == 63.0
    for name in ("evaluation_split", "evaluation_split.part_1_of_2"):
        (folder / f"{name}.json").unlink()
    monkeypatch.setenv("FWDIFF_COMMIT", "other")
    wanted = "at commits abc, other: delete evaluation_split.part_0_of_2.json, and run the same command at other"
    assert wanted in message("split --parts 2")
    assert not (folder / "evaluation_split.json").exists()
    assert "whole cannot be split into parts: name some of split" in message("--parts 2")
    assert "whole cannot be split into parts: evaluate it without --parts" in message("whole --parts 2")


def test_a_part_is_no_other_part_and_is_complete(toy, capsys):
    """Files of two parts that changed places, and arrays of which the end is missing."""
    folder = toy("split --parts 2 --scenes 6")
    first, second = (folder / f"evaluation_split.part_{i}_of_2.json" for i in (0, 1))
    contents = first.read_bytes()
    first.write_bytes(second.read_bytes())
    toy("split --parts 2 --scenes 6")
    assert first.read_bytes() == contents, "the first part was measured again"
    arrays = second.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:200])
    with pytest.raises(SystemExit):
        toy("split --parts 2 --scenes 6")
    assert f"{arrays} is damaged: delete {second} and run it again" in capsys.readouterr().err
    second.unlink()
    toy("split --parts 2 --scenes 6")
    with np.load(folder / "evaluation_split.npz") as joined:
        assert joined["split_labels"][:, 0].tolist() == list(range(6))


def test_parts_that_were_measured_again_are_joined_again(toy, capsys, monkeypatch):
    folder = toy("split --parts 2")
    path, first, second = (folder / f"evaluation_split{end}.json" for end in ("", ".part_0_of_2", ".part_1_of_2"))
    value = read_json(path)["measures"][0]["value"]
    monkeypatch.setenv("FWDIFF_COMMIT", "later")
    monkeypatch.setitem(measure.__globals__, "SCALE", 2)
    first.unlink()
    with pytest.raises(SystemExit):
        toy("split --parts 2")
    assert "delete evaluation_split.part_1_of_2.json, and run the same command at later" in capsys.readouterr().err
    second.unlink()
    toy("split --parts 2")
    record = read_json(path)
    assert record["measures"][0]["value"] == 2 * value and record["commit"] == "later"

    for file in folder.glob("*part*"):
        file.unlink()
    capsys.readouterr()
    toy("split --parts 2")
    assert f"evaluated already; delete {path}" in capsys.readouterr().out, "the joined record stands without the parts"
    assert not first.exists()


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
