"""The rate of a training, alone and on several processes; the energy score of samples over that of true draws."""

import json
import math
import multiprocessing
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import save_file

from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import harness, timing
from fwdiff_lite.experiments.declaration import Evaluation, Results
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics import cost, held_out, training_rate
from fwdiff_lite.experiments.inverse_graphics.variants import VARIANTS
from fwdiff_lite.row_random import RowBatches
from fwdiff_lite.storage.checkpoints import read_manifest
from fwdiff_lite.storage.files import read_json, write_json
from tests.experiments.inverse_graphics.small_variants import small_variant

OPTIONS = {"scenes": 2, "samples": 2, "side": 16, "batch_size": 2, "training_steps": 6}


@pytest.fixture
def session(monkeypatch, tmp_path):
    """A session of toy size in the folder tmp_path."""
    monkeypatch.setenv("FWDIFF_COMMIT", "abc")
    return Session(cost.EXPERIMENT, tmp_path, OPTIONS)


class ForkedProcess:
    """A stand-in for Popen: a copy of this process runs the module's command line, and imports nothing anew."""

    def __init__(self, command, stdout, stderr, env):
        assert command[:3] == [sys.executable, "-m", training_rate.__name__] and stdout is stderr
        self.process = multiprocessing.get_context("fork").Process(target=self.run, args=(command[2:], stdout, env))
        self.process.start()

    @staticmethod
    def run(words, output, environment):
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.environ |= environment
        for state in (PartialState, AcceleratorState, GradientState):
            state._reset_state()  # of a training that an earlier test ran alone
        sys.argv = words
        training_rate.main()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def kill(self):
        self.process.kill()

    def wait(self):
        self.process.join()


def test_a_variant_of_another_size_differs_in_its_images_alone():
    variant = VARIANTS["unet"]
    assert training_rate.resize_variant(variant, 64) is variant
    small = training_rate.resize_variant(variant, 16)
    batch = small.batches(torch.device("cpu"), 2)(torch.Generator().manual_seed(0))
    assert batch["target"].value.shape[-2:] == (16, 16) and batch["pixel_indices"].shape == (2, 1, 64)
    weights, small_weights = (v.build_model().denoiser.state_dict() for v in (variant, small))
    assert all(torch.equal(w, small_weights[name]) for name, w in weights.items())


def test_rates_are_those_of_whole_windows(monkeypatch):
    """Requests at 0, 1, 3, 6, 10, ... seconds; three steps are the warm-up, and the last window is not full."""
    clock = iter([-5, *(i * (i + 1) / 2 for i in range(11))])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timer = timing.StepTimer(torch.device("cpu"), 3, warmup=3)
    batches = RowBatches(4, lambda random: {"target": torch.zeros(len(random))})
    timed = timing.timed_batches(batches, timer.start_step)
    for _ in range(11):
        assert timed.draw_rows(torch.Generator(), slice(1, 4))["target"].shape == (3,)
    measures = timer.measures(4)
    assert measures["signals_a_second_of_windows"] == [4 * 3 / (21 - 6), 4 * 3 / (45 - 21)]
    assert measures["warmup_seconds"] == 6 + 5 and measures["first_step_seconds"] == 1


def test_every_process_sees_one_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RANK", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (alone,) = training_rate.process_environments(1, tmp_path)
    assert alone["CUDA_VISIBLE_DEVICES"] == "0" and "RANK" not in alone and "WORLD_SIZE" not in alone
    pair = training_rate.process_environments(2, tmp_path)
    assert [e["RANK"] + e["CUDA_VISIBLE_DEVICES"] for e in pair] == ["00", "11"]
    assert all(e["WORLD_SIZE"] == "2" and e["LOCAL_RANK"] == "0" for e in pair)
    assert pair[0]["MASTER_PORT"] == pair[1]["MASTER_PORT"] and "ACCELERATE_USE_CPU" not in alone
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in training_rate.process_environments(2, tmp_path)] == ["5", "3"]


def test_a_process_that_fails_ends_the_others(monkeypatch, tmp_path):
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$RANK"\nif [ "$RANK" = 1 ]; then exit 3; fi\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setattr(training_rate.sys, "executable", str(program))
    environments = training_rate.process_environments(2, tmp_path)
    with pytest.raises(ValueError, match=r"a training ended with status 3: .*logs/2_1.log says why"):
        training_rate.run_processes([], environments, tmp_path / "logs" / "2")
    assert (tmp_path / "logs" / "2_1.log").read_text() == "1\n"
    monkeypatch.setattr(training_rate, "LIMIT_SECONDS", 0.3)
    with pytest.raises(ValueError, match=r"took more than 0.3 seconds: .*2_0.log says how far it came"):
        training_rate.run_processes([], environments[:1], tmp_path / "logs" / "2")


def test_a_part_is_measured_once_for_the_same_settings(tmp_path, capsys):
    path, calls = tmp_path / "a_parts.json", []
    parts = cost.Parts(path, {"batch": 2})
    assert parts.measure("one", lambda: calls.append(1) or 5) == 5
    with pytest.raises(ZeroDivisionError):
        parts.measure("two", lambda: 1 / 0)
    assert cost.Parts(path, {"batch": 2}).measure("one", lambda: calls.append(1) or 6) == 5 and calls == [1]
    assert "two" not in read_json(path)["parts"] and capsys.readouterr().out == "a_parts, one: 5\n"
    assert cost.Parts(path, {"batch": 3}).measure("one", lambda: 7) == 7, "of other settings"


def test_two_processes_train_on_twice_the_scenes(session, capsys, monkeypatch):
    """The parts of one process are those of an earlier call, so only the operations and two processes are measured."""
    for module in (cost, training_rate):
        monkeypatch.setattr(module, "MEASURED_VARIANTS", {"unet": small_variant("unet")})
    monkeypatch.setattr(training_rate.subprocess, "Popen", ForkedProcess)
    session.options = OPTIONS | {"side": 8}
    settings = session.options | {"commit": "abc", "hardware": cost.provenance("")["hardware"]}
    alone = {"processes": 1, "rate": 0.5}
    write_json(
        session.folder / "scaling_unet_parts.json",
        {"settings": settings, "parts": {"cold": alone, "gpus_1": alone}},
    )
    results = cost.evaluate_scaling("unet", session)
    parts = json.loads(str(results.arrays["scaling_unet"]))
    pair = parts["gpus_2"]
    assert (pair["processes"], pair["batch"], pair["steps"], len(pair["window_rates"])) == (2, 2, 7, 5)
    assert min(pair["window_rates"]) <= pair["rate"] <= max(pair["window_rates"])
    assert pair["all_reduce_seconds"] > 0 and math.isfinite(pair["loss"])
    assert results.numbers["speedup_2"] == pair["rate"] / 0.5
    assert parts["cold"] == alone and "gpus_2" in capsys.readouterr().out


def test_samples_are_timed_and_scored(session, monkeypatch):
    small = {"unet": small_variant("unet")}
    monkeypatch.setattr(cost, "MEASURED_VARIANTS", small)
    monkeypatch.setattr(cost, "SAMPLING_STEPS", (1,))
    save_file(small["unet"].build_model().denoiser.state_dict(), session.folder / "unet.safetensors")
    numbers, arrays = cost.evaluate_sampling("unet", session)
    parts = json.loads(str(arrays["sampling_unet"]))
    assert parts.keys() == {"seconds_1", "eta_0_steps_1", "eta_1_steps_1"} and parts["seconds_1"]["batch"] == 1
    assert numbers["sampling_ms_1"] == 1e3 * parts["seconds_1"]["seconds"]
    assert numbers["eta_0_steps_1_energy_over_true_60"] == parts["eta_0_steps_1"]["60"][0] > 1
    weights = {key: 1.5 * w for key, w in small["unet"].build_model().denoiser.state_dict().items()}
    save_file(weights, session.folder / "unet.safetensors")
    again = json.loads(str(cost.evaluate_sampling("unet", session).arrays["sampling_unet"]))
    assert again["eta_0_steps_1"] != parts["eta_0_steps_1"], "parts of other weights are measured again"
    test_set = cost.make_test_set("unet", session)
    draws = test_set.posterior_draws[:, :, held_out.TARGET_ANGLES.index(180), 0]
    assert cost.energy_over_true(test_set, draws, 180) == [1.0] * 3, "true draws are as good as true draws"
    assert cost.energy_over_true(test_set, draws + 0.1, 180)[0] > 1


def test_the_exported_record_states_what_every_entry_of_the_manifest_states(tmp_path, monkeypatch):
    evaluation = Evaluation(lambda session: Results({}, {"settings": np.array("{}")}))
    harness.evaluate(replace(cost.EXPERIMENT, evaluations={"settings": evaluation}), [], tmp_path / "runs")
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    command_line.main(["cost", "export", "--out", str(tmp_path / "runs")])
    entry = read_manifest()["09_cost.npz"]
    assert {"command", "commit", "gpu_minutes", "hardware", "licence", "metrics"} <= set(entry) and entry["seed"] == 0


TIMING = {  # a record of `paper_size time dit`
    "processes": 1, "batch": 8, "precision": "bf16", "compiled": True, "signals_a_second": 13.2, "gpu_minutes": 1.2,
    "command": "python -m fwdiff_lite.experiments paper_size time dit", "commit": "abc", "hardware": "one H100",
}  # fmt: skip


def test_the_exported_record_of_timings_names_the_commit_and_the_card_that_measured_them(tmp_path, monkeypatch):
    for batch in (8, 32):
        write_json(tmp_path / "runs" / f"time_dit_{batch}.json", TIMING | {"batch": batch})
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    monkeypatch.setenv("FWDIFF_COMMIT", "later")
    for words in (["evaluate", "paper_size"], ["export"]):
        command_line.main(["cost", *words, "--out", str(tmp_path / "runs")])
    entry = read_manifest()["09_cost.npz"]
    assert (entry["commit"], entry["hardware"], entry["gpu_minutes"]) == ("abc", "one H100", 2.4)
    assert entry["command"].startswith(f"{TIMING['command']}; {TIMING['command']}; ")
    assert "cost evaluate paper_size" in entry["command"]


def test_timings_that_were_measured_later_are_read_by_the_same_command(tmp_path, capsys):
    outputs = []
    for batch in (8, 32, 32):  # the third command finds nothing new
        write_json(tmp_path / f"time_dit_{batch}.json", TIMING | {"batch": batch})
        command_line.main(["cost", "evaluate", "paper_size", "--out", str(tmp_path)])
        outputs.append(capsys.readouterr().out)
    measured = [output.count("scenes_a_second_processes_1_batch") for output in outputs]
    assert measured == [1, 2, 0] and "evaluated already" in outputs[2]


def test_timings_of_the_model_of_the_papers_size_are_read_from_the_folder(session):
    with pytest.raises(
        ValueError, match=r"no time_dit_\*.json: run first `python -m fwdiff_lite.experiments paper_size"
    ):
        cost.evaluate_paper_size(session)
    record = {
        "processes": 1, "batch": 8, "precision": "bf16", "compiled": True, "signals_a_second": 13.2,
        "gigabytes_allocated": 18.8, "model_share": 0.06, "commit": "abc",
    }  # fmt: skip
    eager = record | {"compiled": False, "signals_a_second": 8.9}
    for name, written in {"eager": eager, "large": record | {"batch": 32}, "small": record}.items():
        write_json(session.folder / f"time_dit_{name}.json", written)
    results = cost.evaluate_paper_size(session)
    assert json.loads(str(results.arrays["paper_size"])) == [record, eager, record | {"batch": 32}]
    assert results.numbers["scenes_a_second_processes_1_batch_8_bf16"] == 13.2
    assert results.numbers["scenes_a_second_processes_1_batch_8_bf16_eager"] == 8.9
    write_json(session.folder / "time_dit_later.json", record | {"commit": "def"})
    with pytest.raises(ValueError, match="are of several commits: abc, def"):
        cost.evaluate_paper_size(session)
