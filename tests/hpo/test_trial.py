"""Trials: what they train on, what they say, and how they end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretended import COMPLETES

from gfmpot.config import from_mapping
from gfmpot.hpo import trial
from gfmpot.hpo.launching import Ended, Launcher, conduct, end_orphan, judge
from gfmpot.hpo.protocol import Protocol
from gfmpot.hpo.records import (
    END,
    PROGRESS,
    RESULT,
    SPEC,
    STOP,
    TrialResult,
    TrialSpec,
    Validation,
    add_progress,
    read_progress,
    read_record,
    write_record,
)
from gfmpot.hpo.training import PartTrainer, chosen, weighted_loss
from gfmpot.training.config import TrainConfig


@pytest.fixture
def spec(protocol: Protocol, tmp_path: Path) -> TrialSpec:
    values = {**protocol.space.defaults, "optim.method": "adamw", "optim.learning_rate": 2e-3}
    made = TrialSpec(3, values, protocol.run(values), protocol.fraction, protocol.seed, protocol.weights, device="cpu")
    write_record(tmp_path / SPEC, made)
    return made


def run(folder: Path) -> TrialResult:
    arguments = ["--spec", str(folder / SPEC), "--out", str(folder / RESULT)]
    code = trial.main(arguments)
    result = read_record(TrialResult, folder / RESULT)
    assert code == (0 if result.status in ("completed", "stopped", "timeout") else 1)
    return result


def test_result_and_its_file(spec: TrialSpec, tmp_path: Path) -> None:
    assert read_record(TrialSpec, tmp_path / SPEC) == spec
    result = run(tmp_path)
    assert (result.trial, result.status, result.reason) == (3, "completed", "")
    assert set(result.errors) == {"solids-emt", "molecules-emt"}
    assert result.validation_loss == pytest.approx(weighted_loss(result.errors, spec.weights))
    assert result.objective == -result.validation_loss
    assert result.epochs == pytest.approx(2.0, abs=0.3)
    measured = (result.seconds_per_epoch, result.structures_per_second, result.peak_memory_gib, result.core_seconds)
    assert all(value is not None and value > 0 for value in measured)
    assert result.parameters is not None
    assert result.parameters > 1000
    assert result.peak_gpu_memory_gib is None
    epochs = [validation.epoch for validation in read_progress(tmp_path)]
    assert [round(epoch) for epoch in epochs] == [1, 2]
    assert not (tmp_path / "run" / "state").exists()
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_all_trials_have_the_same_structures(protocol: Protocol, spec: TrialSpec, tmp_path: Path) -> None:
    trainer = PartTrainer(from_mapping(TrainConfig, spec.run), Path(), tmp_path / "run", 0.3, 0)
    whole = [corpus.splits["train"] for corpus in trainer.corpora]
    parts = [[round(0.3 * len(data)), len(data)] for data in whole]
    assert [[len(part), len(data)] for part, data in zip(trainer._trained_on, whole, strict=True)] == parts
    own = chosen(len(whole[0]), 0.3, 0)
    assert np.array_equal(trainer._trained_on[0].atoms_per_structure, whole[0].atoms_per_structure[own])
    one = trainer._trained_on[0].subset([2]).positions
    assert np.array_equal(one, whole[0].subset([own[2]]).positions)
    assert not np.array_equal(own, chosen(len(whole[0]), 0.3, 1))


def test_bad_configurations_and_missing_data_are_failures(spec: TrialSpec, tmp_path: Path) -> None:
    model = {**spec.run["model"], "backbone": {**spec.run["model"]["backbone"], "layers": 0}}
    write_record(tmp_path / SPEC, replace(spec, run={**spec.run, "model": model}))
    result = run(tmp_path)
    assert result.status == "failed"
    assert result.objective == "F_failed"
    assert "must be at least 1" in result.reason
    gone = {**spec.run, "branches": [{**spec.run["branches"][0], "files": ["gone.npz"]}]}
    write_record(tmp_path / SPEC, replace(spec, run=gone))
    assert "gone.npz" in run(tmp_path).reason


def test_out_of_memory_is_told_from_other_errors(spec: TrialSpec, tmp_path: Path) -> None:
    full = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ...")
    for error in (full, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        assert trial.failure(spec, tmp_path, error).status == "out_of_memory"
    assert trial.failure(spec, tmp_path, RuntimeError("mat1 and mat2 shapes")).status == "failed"


def test_predictions_that_are_not_finite_are_no_success(
    spec: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics leave them out, and a loss that counts them as zero would be the best of all."""
    monkeypatch.setattr("gfmpot.training.trainer.validation_errors", lambda *_: {"solids-emt": {"structures": 6.0}})
    result = run(tmp_path)
    assert result.status == "failed"
    assert "not finite" in result.reason
    assert read_progress(tmp_path)[0].loss is None


def test_stopped_and_late(spec: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / STOP).touch()
    stopped = run(tmp_path)
    assert stopped.status == "stopped"
    assert stopped.epochs < 1
    (tmp_path / STOP).unlink()
    write_record(tmp_path / SPEC, replace(spec, minutes=1.0))
    monkeypatch.setattr(trial, "BEGUN", time.monotonic() - 3600)
    monkeypatch.setattr(trial, "LEAST", 1e-3)
    late = run(tmp_path)
    assert (late.status, late.objective) == ("timeout", "F_timeout")
    assert "within 1.0 minutes" in late.reason


def test_a_signal_leaves_no_result_and_the_trial_goes_on(
    spec: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    advance = PartTrainer._train_on

    def counted(self: PartTrainer, *arguments: object, **options: object) -> object:
        steps.append(self.step)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        return advance(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PartTrainer, "_train_on", counted)
    assert trial.main(["--spec", str(tmp_path / SPEC), "--out", str(tmp_path / RESULT)]) == trial.ENDED
    assert not (tmp_path / RESULT).exists()
    before = steps[-1]
    assert run(tmp_path).status == "completed"
    assert before + 1 in steps
    assert steps.count(0) == 1


def test_progress_survives_a_torn_line(tmp_path: Path) -> None:
    for epoch, loss in ((1.0, 3.0), (2.0, 2.0), (2.0, float("nan"))):
        add_progress(tmp_path, Validation(epoch, loss, 1.0, {"a": {"energy_mae": 1.0}}))
    with (tmp_path / PROGRESS).open("a") as file:
        file.write('{"epoch": 3.0, "lo')
    assert [(v.epoch, v.loss) for v in read_progress(tmp_path)] == [(1.0, 3.0), (2.0, None)]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (COMPLETES, "completed", ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", "out_of_memory", "killed by SIGKILL, as the kernel does"),
        ("os.abort()", "failed", "ended by signal SIGABRT without a result"),
        ("sys.exit(3)", "failed", "ended by exit code 3 without a result"),
        ("out.write_text('{')", "failed", "not JSON"),
        ("time.sleep(60)", "timeout", "did not end within 0.002 minutes"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", "timeout", "did not end"),
    ],
)
def test_however_a_process_ends(
    spec: TrialSpec, tmp_path: Path, pretending: Callable[..., Launcher], body: str, status: str, reason: str
) -> None:
    limit = 0.002 if "sleep" in body else None
    folder = tmp_path / "trials" / "0003"
    folder.mkdir(parents=True)
    write_record(folder / SPEC, replace(spec, minutes=limit))
    add_progress(folder, Validation(1.0, 7.0, 2.0, {}))
    begun = time.monotonic()
    conduct(pretending(body, minutes=limit, grace=0.7), folder, 0)
    assert time.monotonic() - begun < 20
    result = read_record(TrialResult, folder / RESULT)
    assert (result.trial, result.status) == (3, status)
    assert reason in result.reason
    if status == "timeout":
        assert (result.validation_loss, result.epochs) == (7.0, 1.0)


def test_no_such_launcher(spec: TrialSpec, tmp_path: Path) -> None:
    conduct(Launcher("no-such-launcher -n {ranks}"), tmp_path, 0)
    assert "no-such-launcher" in read_record(TrialResult, tmp_path / RESULT).reason


def test_the_kernels_count_of_kills(spec: TrialSpec, tmp_path: Path) -> None:
    texts = [judge(spec, tmp_path, Ended(137, kills=kills)) for kills in (0, 1, None)]
    reasons = [text.reason for text in texts if text is not None]
    assert [reason.rpartition(" ")[2] for reason in reasons] == ["rise", "rose", "out"]
    assert judge(spec, tmp_path, Ended(-15, wanted=True)) is None


def test_commands_and_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial_of = ["-m", "gfmpot.hpo.trial", "--spec", str(tmp_path / SPEC), "--out", str(tmp_path / RESULT)]
    assert Launcher().command(tmp_path)[1:] == trial_of
    assert "--nproc-per-node=2" in Launcher(ranks=2).command(tmp_path)
    srun = Launcher("srun --exact -N 16 -n {ranks}", ranks=128)
    assert srun.command(tmp_path)[:6] == ["srun", "--exact", "-N", "16", "-n", "128"]
    assert srun.command(tmp_path)[7:] == trial_of
    assert srun.environment(3) == {}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    first, second = (Launcher(ranks=2, concurrent=2).environment(slot) for slot in (0, 1))
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("4,5", "6,7")
    assert int(first["OMP_NUM_THREADS"]) >= 1


def test_what_a_killed_campaign_left_running_is_ended(
    spec: TrialSpec, tmp_path: Path, pretending: Callable[..., Launcher]
) -> None:
    folder = tmp_path / "trials" / "0003"
    folder.mkdir(parents=True)
    write_record(folder / SPEC, spec)
    orphan = subprocess.Popen(pretending("time.sleep(60)").command(folder), start_new_session=True)
    (folder / "process.json").write_text(json.dumps({"pid": orphan.pid, "host": socket.gethostname()}))
    threading.Thread(target=orphan.wait).start()  # as init does for orphans
    end_orphan(folder, grace=5.0)
    assert orphan.wait(5) == -signal.SIGTERM
    assert not (folder / "process.json").exists()
    # a process of another program that has got the number meanwhile is none of our business
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (folder / "process.json").write_text(json.dumps({"pid": other.pid, "host": socket.gethostname()}))
    end_orphan(folder, grace=1.0)
    assert other.poll() is None
    other.terminate()
    other.wait()
    assert not (folder / END).exists()


def test_processor_time_after_a_kill_is_that_of_all_epochs() -> None:
    from gfmpot.hpo.trial import _of_all_epochs

    assert _of_all_epochs(30.0, 0.0, 6.0) == 30.0
    assert _of_all_epochs(10.0, 4.0, 6.0) == 30.0
    assert _of_all_epochs(1.0, 6.0, 6.0) is None
