"""Training of properties: it learns, repeats, goes on after a kill, and keeps frozen what is frozen."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from property_samples import DEFECT, GAP, METAL, TARGETS, ZPVE, labelled, small_potential

from gfmpot.finetune.property_data import GraphBatches, PropertyData
from gfmpot.finetune.property_settings import PropertySettings, losses
from gfmpot.finetune.property_training import evaluate_property, predict_values, train_property
from gfmpot.finetune.stopped import Stopped
from gfmpot.finetune.temperature import fit_temperature
from gfmpot.models import PropertyConfig, PropertyModel, Scaling, Target, fingerprint, load_property
from gfmpot.models.backbones.painn import PaiNN
from gfmpot.telemetry import read_records
from gfmpot.training.optim import OptimConfig

Splits = dict[Any, PropertyData]


def learning_curve(folder: Path) -> list[dict[str, Any]]:
    """By epoch, what the log says, once each: ``train`` and ``valid`` loss, ``metrics``."""
    epochs: dict[int, dict[str, Any]] = {}
    for record in read_records(folder / "log.jsonl")[0]:
        if record.get("kind") in ("train", "valid"):
            epoch = epochs.setdefault(record["epoch"], {"epoch": record["epoch"]})
            epoch[record["kind"]] = record["loss"]
            epoch |= {"metrics": record["metrics"]} if "metrics" in record else {}
    return [epochs[number] for number in sorted(epochs)]


@functools.cache
def splits(target: Target = GAP) -> Splits:
    return {"train": labelled(24, target, 0), "valid": labelled(10, target, 1)}


def begun(target: Target = GAP, data: PropertyData | None = None) -> PropertyModel:
    data = data or splits(target)["train"]
    potential = small_potential()
    scaling = Scaling.fitted(target, data.frames.composition(), data.values)
    shape = PropertyConfig.of(potential, head_width=16)
    return PropertyModel.begun_with(potential, shape, target, scaling)


def settings(*, frozen: bool = False, **changes: Any) -> PropertySettings:
    optim = OptimConfig(learning_rate=5e-3, warmup_steps=3, ema=0.9, backbone_learning_rate=0 if frozen else None)
    return dataclasses.replace(PropertySettings(epochs=4, batch_size=8, optim=optim), **changes)


def train(folder: Path, target: Target = GAP, *, frozen: bool = False, **changes: Any) -> PropertyModel:
    return train_property(begun(target), splits(target), settings(frozen=frozen, **changes), folder)


def state(model: PropertyModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_few_structures_are_learnt_by_heart(target: Target, tmp_path: Path) -> None:
    data = labelled(6, target)
    fast = OptimConfig(learning_rate=1e-2, warmup_steps=5, ema=0.9)
    long = settings(epochs=60, batch_size=6, keep_best=False, loss="mse", optim=fast)
    trained = train_property(begun(target, data), {"train": data}, long, tmp_path)
    curve = learning_curve(tmp_path)
    assert len(curve) == 60
    assert curve[-1]["train"] < 0.03 * curve[0]["train"]
    assert "valid" not in curve[0]
    if target.is_class:
        assert np.array_equal(predict_values(trained, data) > 0.5, data.values == 1)
    else:
        assert evaluate_property(trained, data)["r2"] > 0.97


@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
def test_the_same_seed_gives_the_same_bits(frozen: bool, tmp_path: Path) -> None:
    one, two = (train(tmp_path / name, DEFECT, frozen=frozen) for name in "ab")
    assert fingerprint(one) == fingerprint(two)
    assert learning_curve(tmp_path / "a") == learning_curve(tmp_path / "b")
    other = train(tmp_path / "c", DEFECT, frozen=frozen, seed=1)
    assert fingerprint(other) != fingerprint(one)


@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
def test_it_goes_on_after_a_kill(frozen: bool, tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_property_training.py")
    command = [sys.executable, str(script), str(tmp_path / "killed"), "5", "frozen" if frozen else "unfrozen"]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    resumed = train(tmp_path / "killed", frozen=frozen)
    whole = train(tmp_path / "whole", frozen=frozen)
    assert fingerprint(resumed) == fingerprint(whole)
    assert learning_curve(tmp_path / "killed") == learning_curve(tmp_path / "whole")
    starts = [r["step"] for r in read_records(tmp_path / "killed" / "log.jsonl")[0] if r["kind"] == "start"]
    assert starts == [0, 5]


def test_it_stops_when_it_is_told_to(tmp_path: Path) -> None:
    """As a signal of the scheduler does; the same call goes on."""
    asked: list[int] = []

    def ending() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Stopped, match="stopped at"):
        train_property(begun(), splits(), settings(), tmp_path / "stopped", ending=ending)
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    assert fingerprint(train(tmp_path / "stopped")) == fingerprint(train(tmp_path / "whole"))


def test_a_complete_run_is_returned_as_it_is(tmp_path: Path) -> None:
    first = train(tmp_path)
    lines = (tmp_path / "log.jsonl").read_text()
    again = train(tmp_path)
    assert fingerprint(again) == fingerprint(first) == fingerprint(load_property(tmp_path / "model.safetensors"))
    assert (tmp_path / "log.jsonl").read_text() == lines


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"is another run \(settings\.epochs: 1 → 2\); use another folder"):
        train(tmp_path, epochs=2)
    with pytest.raises(ValueError, match=r"begun_with: .* data\.train: "):
        train_property(begun(ZPVE), splits(ZPVE), settings(epochs=1), tmp_path)
    train(tmp_path, epochs=1, threads=1, kept_gigabytes=0.0)  # what changes no result may change


def test_frozen_is_frozen(tmp_path: Path) -> None:
    start = state(begun())
    after = state(train(tmp_path / "a", frozen=True))
    moved = state(train(tmp_path / "b"))
    for name, tensor in start.items():
        shared = name.startswith(("backbone", "embedding"))
        assert torch.equal(after[name], tensor) == shared, name
        if shared and tensor.ndim > 1 and "charge" not in name:
            assert not torch.equal(moved[name], tensor), name


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_kept_features_change_nothing(target: Target, tmp_path: Path) -> None:
    """A backbone that hardly moves takes the other way."""
    optim = dataclasses.replace(settings().optim, backbone_learning_rate=1e-30, clip=1e9)
    slow = state(train(tmp_path / "slow", target, optim=optim, precision="fp64"))
    fixed = dataclasses.replace(optim, backbone_learning_rate=0.0)
    frozen = state(train(tmp_path / "frozen", target, optim=fixed, precision="fp64"))
    for name, tensor in slow.items():
        torch.testing.assert_close(frozen[name], tensor, rtol=1e-6, atol=1e-9)


def test_a_frozen_backbone_is_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(self: PaiNN, initial: torch.Tensor, vectors: torch.Tensor, graph: Any) -> torch.Tensor:
        seen.append(graph.n_structures)
        return forward(self, initial, vectors, graph)

    forward = PaiNN.forward
    monkeypatch.setattr(PaiNN, "forward", counted)
    monkeypatch.setattr(PaiNN, "kernels", lambda self, dense: None)
    train(tmp_path, frozen=True, epochs=20)
    assert sum(seen) == 24 + 10


def test_without_kernels_and_in_parts_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = state(train(tmp_path / "a", precision="fp64"))
    parts = state(train(tmp_path / "b", precision="fp64", max_edges=300, kept_gigabytes=1e-5))
    monkeypatch.setattr(PaiNN, "kernels", lambda self, dense: None)
    plain = state(train(tmp_path / "c", precision="fp64"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(plain[name], tensor, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("precision", "dtype"), [("fp64", torch.float64), ("bf16", torch.float32)])
def test_precisions(precision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    trained = train(tmp_path / precision, precision=precision, epochs=12)
    assert {tensor.dtype for tensor in trained.state_dict().values()} == {dtype}
    curve = learning_curve(tmp_path / precision)
    assert curve[-1]["valid"] < 0.8 * curve[0]["valid"]
    assert curve[0]["train"] == pytest.approx(first_loss(tmp_path / "fp32"), rel=0.02)
    assert curve[0]["train"] != first_loss(tmp_path / "fp32")


def first_loss(folder: Path) -> float:
    train(folder, epochs=12)
    return float(learning_curve(folder)[0]["train"])


def test_the_best_validation_is_kept(tmp_path: Path) -> None:
    wild = dataclasses.replace(settings().optim, learning_rate=0.05, ema=0.0, schedule="constant")
    best = train(tmp_path / "best", optim=wild, epochs=8)
    curve = [entry["metrics"]["mae"] for entry in learning_curve(tmp_path / "best")]
    assert min(curve) < curve[-1]
    assert evaluate_property(best, splits()["valid"])["mae"] == pytest.approx(min(curve), rel=1e-4)
    assert best.metadata["metrics"]["property"]["mae"] == pytest.approx(min(curve))
    last = train(tmp_path / "last", optim=wild, epochs=8, keep_best=False)
    assert evaluate_property(last, splits()["valid"])["mae"] == pytest.approx(curve[-1], rel=1e-4)


class Secret(dict[str, Any]):
    """Splits of which one is not to be looked at."""

    def __getitem__(self, key: str) -> Any:
        assert key != "test"
        return super().__getitem__(key)


def test_the_test_split_is_not_looked_at(tmp_path: Path) -> None:
    with_test = Secret({**splits(), "test": labelled(4, GAP, 2)})
    trained = train_property(begun(), with_test, settings(epochs=1), tmp_path / "a")  # type: ignore[arg-type]
    assert fingerprint(trained) == fingerprint(train(tmp_path / "b", epochs=1))


def test_classes_are_calibrated_on_validation(tmp_path: Path) -> None:
    trained = train(tmp_path, METAL, epochs=6)
    temperature = trained.scaling.temperature
    assert temperature != 1.0
    valid = splits(METAL)["valid"]
    raw = predict_values(trained.with_temperature(1.0), valid)
    assert fit_temperature(np.log(raw / (1 - raw)), valid.values) == pytest.approx(temperature, rel=1e-3)
    assert load_property(tmp_path / "model.safetensors").scaling.temperature == temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_temperature_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-logits))).astype(float)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.05)


def test_perfect_separation_is_no_certainty() -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    assert 1 / (1 + math.exp(-4 / fit_temperature(8 * labels - 4, labels))) == pytest.approx(0.75, abs=0.01)


def test_losses() -> None:
    raw, values = torch.tensor([0.0, 3.0]).double(), torch.tensor([1.0, -1.0]).double()
    assert losses(raw, values, "mae", 2.0).tolist() == [0.5, 2.0]
    assert losses(raw, values, "mse", 2.0).tolist() == [0.25, 4.0]
    assert losses(raw, values, "huber", 2.0).tolist() == [0.125, 1.5]
    assert losses(raw, torch.tensor([1.0, 0.0]).double(), "class").tolist() == pytest.approx(
        [math.log(2), 3 + math.log1p(math.exp(-3))]
    )


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    model = begun()
    with torch.no_grad():
        model.embedding.elements.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"step 0: the loss is nan; lower the learning rate \(0\.0017 now\)"):
        train_property(model, splits(), settings(), tmp_path)


def test_values_that_cannot_be_learnt_are_named() -> None:
    data = labelled(3)
    with pytest.raises(ValueError, match=r"metals0, m1 \(Al4\) has the value nan, and 0 others"):
        PropertyData(data.frames, np.array([0.0, np.nan, 1.0]), data.keys)
    with pytest.raises(ValueError, match=r"expected a value for each of 3 structures, got \(2,\) values"):
        PropertyData(data.frames, np.zeros(2))
    with pytest.raises(ValueError, match=r"metals0, structure 2 \(Cu4\) has the value 0\.5; is_metal is a class"):
        PropertyData(data.frames, np.array([0.0, 1.0, 0.5])).check(METAL)
    assert PropertyData(data.frames, np.arange(3.0), data.keys).subset([2, 0]).values.tolist() == [2.0, 0.0]


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the splits train and valid, got train; without valid, keep_best"):
        train_property(begun(), {"train": splits()["train"]}, settings(), tmp_path)
    with pytest.raises(ValueError, match="expected the splits train, got none"):
        train_property(begun(), {}, settings(keep_best=False), tmp_path)
    copper = splits()["train"].subset([0, 2])
    with pytest.raises(ValueError, match="does not know Al of the training data"):
        train_property(begun(data=copper), splits(), settings(), tmp_path)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        settings(epochs=0)
    assert not list(tmp_path.iterdir())


def test_graphs_are_kept_while_there_is_room() -> None:
    data, shape = splits()["train"], begun().config
    batches = GraphBatches(data, shape, kept_bytes=5e4)
    (one,) = (parts for parts in batches.batches(np.arange(24), 24))
    assert 0 < len(batches._kept) < 24
    (two,) = (parts for parts in GraphBatches(data, shape, max_edges=200).batches(np.arange(24), 24))
    assert len(one) == 1
    assert len(two) > 1
    assert torch.equal(torch.cat([values for _, values in two]), one[0][1])
    assert sum(graph.n_edges for graph, _ in two) == one[0][0].n_edges  # type: ignore[union-attr]


def test_a_bar_on_terminals_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rich
    from rich.console import Console

    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(force_terminal=terminal, file=screen, width=200)
        monkeypatch.setattr(rich, "_console", console)
        train(tmp_path / str(terminal), epochs=2)
        shown = screen.getvalue()
        assert ("epoch 2/2" in shown and "structures/s" in shown and "band_gap" in shown) == terminal
        assert terminal or not shown
