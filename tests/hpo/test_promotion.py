"""Promotion: who is trained, for how long, and who wins."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from pretended import COMPLETES

from gfmpot.config import from_mapping, from_yaml
from gfmpot.hpo.campaign import Budget, Campaign
from gfmpot.hpo.folder import CampaignFolder
from gfmpot.hpo.launching import Launcher
from gfmpot.hpo.promotion import Candidate, candidates, promote
from gfmpot.hpo.protocol import Protocol
from gfmpot.ranks.launch import Launch
from gfmpot.training.config import TrainConfig
from gfmpot.training.trainer import Trainer

pytest.importorskip("deephyper")
CPU = torch.device("cpu")


@pytest.fixture
def searched(protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]) -> Path:
    body = f"number == 1 and sys.exit(1)\n{COMPLETES}"
    Campaign(protocol, Budget(5), pretending(body), tmp_path / "search").run()
    return tmp_path / "search"


def test_who_is_promoted(searched: Path, protocol: Protocol) -> None:
    found = candidates([searched], 2, 7, baseline=True, ranks=2)
    losses = sorted(
        (t.result.validation_loss, t.spec.trial)
        for t in CampaignFolder(searched).trials()
        if t.result is not None and t.result.validation_loss is not None
    )
    assert [c.name for c in found] == [*(f"search-{trial:04d}" for _, trial in losses[:2]), "search-default"]
    assert [c.searched_loss for c in found] == [losses[0][0], losses[1][0], None]
    runs = [from_mapping(TrainConfig, c.run) for c in found]
    assert {run.epochs for run in runs} == {7.0}
    whole = -(-2 * max(protocol.sizes) // (4 * 2))  # all data, both branches, two ranks of four structures
    assert {run.validate_every for run in runs} == {whole}
    assert runs[-1].optim.learning_rate == TrainConfig({}, (), epochs=1).optim.learning_rate
    other = candidates([searched], 1, 7, lambda p: replace(p, space=replace(p.space, fixed={"optim.method": "muon"})))
    assert other[0].run["optim"]["method"] == "muon"
    with pytest.raises(ValueError, match="different names"):
        candidates([searched, searched], 1, 7)


@pytest.fixture
def two(protocol: Protocol) -> list[Candidate]:
    """One that learns and one that hardly does."""
    longer = replace(protocol, fraction=1.0, epochs=3)
    rates = {"good": 3e-3, "bad": 1e-7}
    values = {**protocol.space.defaults, "optim.method": "adamw"}
    return [
        Candidate(name, longer.run({**values, "optim.learning_rate": rate}), longer.weights)
        for name, rate in rates.items()
    ]


def test_ranking_and_winner(two: list[Candidate], tmp_path: Path) -> None:
    ranking = promote(two[::-1], 1.0, tmp_path, Launch(), CPU)
    assert ranking is not None
    assert [one.name for one in ranking] == ["good", "bad"]
    assert all(one.complete and one.epochs >= 3 for one in ranking)
    assert [one["name"] for one in json.loads((tmp_path / "ranking.json").read_text())] == ["good", "bad"]
    written = yaml.safe_load((tmp_path / "winner.yaml").read_text())
    assert set(written["optim"]) == {"learning_rate", "warmup_steps", "ema"}  # what is the default is left out
    winner = from_yaml(TrainConfig, tmp_path / "winner.yaml")
    assert winner == from_mapping(TrainConfig, two[0].run)
    assert Trainer(winner, tmp_path, tmp_path / "good").done >= 1.0  # goes on with the promoted run
    before = (tmp_path / "good" / "log.jsonl").read_text()
    assert promote(two, 1.0, tmp_path, Launch(), CPU) == ranking
    assert (tmp_path / "good" / "log.jsonl").read_text() == before


def test_a_signal_stops_it_and_the_same_call_goes_on(
    two: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    advance = Trainer._train_on

    def counted(self: Trainer, *arguments: object, **options: object) -> object:
        steps.append(self.step)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGUSR1)
        return advance(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_train_on", counted)
    assert promote(two[:1], 1.0, tmp_path, Launch(), CPU) is None
    assert not (tmp_path / "ranking.json").exists()
    assert promote(two[:1], 1.0, tmp_path, Launch(), CPU)
    assert steps == list(range(len(steps)))


def test_the_budget_ends_it_and_a_larger_one_goes_on(two: list[Candidate], tmp_path: Path) -> None:
    short = promote(two[:1], 1e-7, tmp_path, Launch(), CPU)
    assert short is not None
    assert 0 < short[0].epochs < 1
    assert short[0].validation_loss is not None
    again = promote(two[:1], 1e-7, tmp_path, Launch(), CPU)
    assert again == short
    longer = promote(two[:1], 1.0, tmp_path, Launch(), CPU)
    assert longer is not None
    assert longer[0].epochs >= 3


def test_a_run_that_diverges_is_last(two: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Trainer.fit

    def diverging(self: Trainer, **options: object) -> bool:
        if self.folder.name == "good":
            raise FloatingPointError("step 3: the norm of the gradient is nan")
        return fit(self, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "fit", diverging)
    ranking = promote(two, 1e-7, tmp_path, Launch(), CPU)
    assert ranking is not None
    assert [(one.name, one.reason) for one in ranking] == [
        ("bad", ""),
        ("good", "step 3: the norm of the gradient is nan"),
    ]
