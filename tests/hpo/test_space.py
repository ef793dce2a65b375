"""What is searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfmpot.hpo.protocol import Protocol
from gfmpot.hpo.settings import dotted, joined, nested, settings_of
from gfmpot.hpo.space import OWN, build_space
from gfmpot.models import available_backbones
from gfmpot.training.config import TrainConfig


def test_tunable_fields_of_all_parts() -> None:
    space = {p.name: p for p in build_space("painn").parameters}
    assert space["backbone.hidden"].range == "100 to 1000"
    assert space["backbone.hidden"].kind == "int"
    assert space["backbone.cutoff"].kind == "float"
    assert space["loss.kind"].choices == ("mae", "mse", "huber")
    assert space["optim.learning_rate"].log
    assert {"head.branch_width", "optim.method"} <= set(space)


def test_where_ranges_are_from() -> None:
    source = {p.name: p.source for p in build_space("painn").parameters}
    assert source["backbone.hidden"] == source["backbone.layers"] == source["head.branch_width"] == "paper, Table III"
    assert source["backbone.radial_basis"] == "paper, Table IV"
    assert source["backbone.cutoff"] == "its field"
    assert all("ours" in source[name] for name in OWN)
    assert {p.name: p.range for p in build_space("painn").parameters}["loss.forces"] == "10 to 1000, log"


@pytest.mark.parametrize("backbone", available_backbones())
def test_every_backbone_has_a_space(backbone: str) -> None:
    space = build_space(backbone, which="paper")
    assert {"backbone.cutoff", "head.branch_layers", "head.branch_width", *OWN} < set(space.names)
    assert not {"loss.energy", "optim.method"} & set(space.names)
    assert all(p.kind == "choice" or p.low < p.high for p in space.parameters)


STRANGER = """
from dataclasses import dataclass
from gfmpot.config import tunable
from gfmpot.models.backbone import Backbone, BackboneConfig

@dataclass(frozen=True)
class Config(BackboneConfig):
    hidden: int = tunable(32, 10, 50)
    gate: str = tunable("soft", choices=("soft", "hard"))

class Stranger(Backbone):
    Config = Config
"""


def test_a_new_backbone_brings_its_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gfmpot.models import backbones

    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path)])
    found = {p.name: p.range for p in build_space("stranger", ["backbone.cutoff=6"]).parameters}
    assert found["backbone.hidden"] == "10 to 50"
    assert found["backbone.gate"] == "soft, hard"


def test_narrowing_and_fixing() -> None:
    fix = ["backbone.cutoff=5", "loss.*", "optim.method=muon", "batch.structures=8", "precision=fp64"]
    ranges = ["backbone.hidden=32:128", "loss.kind=mae,mse", "optim.weight_decay=1e-6:1e-2:log", "backbone.layers=2,4"]
    space = build_space("painn", fix[:1] + fix[2:], ranges)
    found = {p.name: p for p in space.parameters}
    assert (found["backbone.hidden"].low, found["backbone.hidden"].high) == (32, 128)
    assert found["optim.weight_decay"].log
    assert found["backbone.layers"].choices == (2, 4)
    assert space.fixed["optim.method"] == "muon"
    assert space.start["backbone.hidden"] == 128
    assert space.start["loss.forces"] == 10.0  # the default is below the range
    assert space.start["backbone.layers"] == 2
    assert space.contains(space.start)
    assert space.fixed["backbone.cutoff"] == 5.0
    assert isinstance(space.fixed["backbone.cutoff"], float)
    assert not [name for name in build_space("painn", fix, ranges).names if name.startswith("loss.")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "pain"}, "no backbone 'pain'; did you mean 'painn'"),
        ({"fix": ["backbone.hiden=3"]}, "no setting 'backbone.hiden'; did you mean 'backbone.hidden'"),
        ({"fix": ["hidden=3"]}, "did you mean 'backbone.hidden'"),
        ({"fix": ["backbone.hidden=wide"]}, "backbone.hidden: expected int, got 'wide'"),
        ({"fix": ["loss.kind=maee"]}, "did you mean 'mae'"),
        ({"fix": ["epochs=3"]}, "no setting 'epochs'"),
        ({"ranges": ["backbone.hidden=64"]}, "expected backbone.hidden=LOW:HIGH"),
        ({"ranges": ["backbone.hidden=64:32"]}, "LOW below HIGH"),
        ({"ranges": ["loss.kind=1:2"]}, "of a number, or choices"),
        ({"fix": ["backbone.*", "head.*", "loss.*", "optim.*"]}, "nothing is left to search"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        build_space(**{"backbone": "painn", **arguments})  # type: ignore[arg-type]


def test_settings_of_a_run() -> None:
    known = settings_of("painn")
    run = {"model": {"backbone": {"name": "painn", "hidden": 64}, "repulsion": "none"}, "optim": {"ema": "1e-1"}}
    flat = dotted({**run, "epochs": 5}, known)
    assert flat == {"backbone.hidden": 64, "repulsion": "none", "optim.ema": 0.1}
    assert joined(nested(flat), {"model": {"backbone": {"name": "painn"}}}) == {**run, "optim": {"ema": 0.1}}
    space = build_space("painn", given=flat)
    assert space.defaults["backbone.hidden"] == 64
    assert space.fixed == {"repulsion": "none", "optim.ema": 0.1}


def test_runs_of_configurations(protocol: Protocol) -> None:
    run = protocol.run({**protocol.space.defaults, "optim.learning_rate": 1e-3})
    assert run["model"]["backbone"]["hidden"] == 16
    assert run["optim"]["learning_rate"] == 1e-3
    assert run["sampling"]["balance"] == "oversample"
    # 0.3 of each training split, both branches as large as the larger one, four structures per step
    steps = -(-2 * max(round(0.3 * size) for size in protocol.sizes) // 4)
    assert run["validate_every"] == steps
    assert run["optim"]["warmup_steps"] == max(1, 2 * steps // 20) < TrainConfig({}, (), epochs=1).optim.warmup_steps
    with pytest.raises(ValueError, match="must be at least 1"):
        protocol.run({"batch.structures": 0})


def test_what_nothing_depends_on_is_not_searched() -> None:
    rate = "optim.matrix_learning_rate"
    assert rate in build_space("painn").names
    assert rate in build_space("painn", ["optim.method=muon"]).names
    assert rate not in build_space("painn", ["optim.method=adamw"]).names
    assert rate not in build_space("painn", ["optim.method"]).names
    assert rate in build_space("painn", ["optim.method=adamw"], [f"{rate}=1e-3:1e-2"]).names
