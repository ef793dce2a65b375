"""Models of properties: symmetries, sizes, elements, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from property_samples import DEFECT, GAP, METAL, SYMBOLS, TARGETS, ZPVE, small_model, small_potential, structures
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

from gfmpot import GFMCalculator
from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.models import (
    CheckpointError,
    PropertyConfig,
    PropertyModel,
    Scaling,
    Target,
    UnsupportedElementsError,
    fingerprint,
    kind_of,
    load,
    load_property,
    save,
)
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.checkpoint import _digest
from gfmpot.models.property_head import Features

named = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def answers(model: PropertyModel, *atoms: Atoms, **options: bool) -> torch.Tensor:
    graphs = [graph_from_atoms(a, cutoff=model.cutoff) for a in atoms]
    with torch.no_grad():
        return model(AtomGraph.batch(graphs), **options)


@named
def test_rotation_reflection_translation_permutation(target: Target) -> None:
    model = small_model(target).double()
    for seed, atoms in enumerate(structures()):
        before, moved = answers(model, atoms), atoms.copy()
        turn = -Rotation.random(random_state=seed).as_matrix()
        moved.set_cell(atoms.cell.array @ turn)
        moved.positions = atoms.positions @ turn + 0.3
        moved = moved[np.random.default_rng(seed).permutation(len(atoms))]
        moved.info = atoms.info
        torch.testing.assert_close(answers(model, moved), before, rtol=1e-8, atol=1e-9)


@named
def test_a_batch_equals_its_structures(target: Target) -> None:
    model = small_model(target).double()
    alone = torch.cat([answers(model, atoms) for atoms in structures()])
    assert alone.dtype == torch.float64
    assert len(alone.unique()) == len(alone)
    torch.testing.assert_close(answers(model, *structures()), alone, rtol=1e-10, atol=1e-10)


@named
def test_supercells(target: Target) -> None:
    model, atoms = small_model(target).double(), structures()[0]
    factor = 6 if target.kind == "extensive" else 1
    torch.testing.assert_close(answers(model, atoms * (3, 2, 1)), factor * answers(model, atoms), rtol=1e-9, atol=1e-9)


@named
def test_two_copies_far_apart(target: Target) -> None:
    model, one = small_model(target).double(), molecule("CH3CH2OH")
    other = one.copy()
    other.positions += 50.0
    factor = 2 if target.kind == "extensive" else 1
    torch.testing.assert_close(answers(model, one + other), factor * answers(model, one), rtol=1e-9, atol=1e-9)


@named
def test_kernels_say_the_same(target: Target) -> None:
    model = small_model(target).double()
    graph = AtomGraph.batch([graph_from_atoms(a, cutoff=model.cutoff) for a in structures()])
    kernels = model.backbone.kernels(torch.float64)
    if kernels is None:
        pytest.skip("kernels are not compiled here")
    with torch.no_grad():
        torch.testing.assert_close(model(graph, evaluate=kernels), model(graph), rtol=1e-10, atol=1e-10)


def test_lone_atoms_and_huge_attention() -> None:
    model = small_model(DEFECT).double()
    assert answers(model, Atoms("Cu"), bulk("Cu")).isfinite().all()
    rows = torch.tensor([[1e8], [-1e8], [3.0]]).expand(3, 16).double()
    features = Features(rows, torch.tensor([2, 1]), torch.zeros(2).double())
    shares = model.head._shares(rows, features)
    assert shares.tolist()[2] == 1.0
    torch.testing.assert_close(features.sums(shares), torch.ones(2).double())
    loud = rows.clone().requires_grad_()
    model.head(Features(loud, features.counts, features.baseline)).sum().backward()
    assert loud.grad is not None
    assert loud.grad.isfinite().all()


def test_attention_listens_to_single_atoms() -> None:
    model, plain = small_model(DEFECT).double(), small_model(GAP).double()
    plain.head.network.load_state_dict(model.head.network.state_dict())
    mixed = molecule("CH3CH2OH")
    assert answers(model, mixed) != answers(plain, mixed)
    torch.testing.assert_close(answers(model, bulk("Cu")), answers(plain, bulk("Cu")))  # all atoms are alike


def test_pooled_features_say_what_those_of_atoms_do() -> None:
    model = small_model(GAP).double()
    graphs = [graph_from_atoms(a, cutoff=model.cutoff) for a in structures()]
    with torch.no_grad():
        features = model.features(AtomGraph.batch(graphs))
        model.head.standardise(features)
        assert model.head.is_standardised
        before = model.of_features(features)
        torch.testing.assert_close(model.of_features(features.pooled()), before)
        order = torch.tensor([3, 0, 3])
        torch.testing.assert_close(model.of_features(features.subset(order)), before[order])
        torch.testing.assert_close(model.of_features(Features.join([features, features])), before.repeat(2))


def test_neutral_singlets_are_like_unstated_ones() -> None:
    model, water, stated, triplet = small_model().double(), *(molecule("H2O") for _ in range(3))
    stated.info["spin"], triplet.info["spin"] = 1, 3
    assert answers(model, stated) == answers(model, water)
    assert answers(model, triplet) != answers(model, water)


def test_classes_are_probabilities() -> None:
    model = small_model(METAL).double()
    graph = AtomGraph.batch([graph_from_atoms(a, cutoff=model.cutoff) for a in structures()])
    with torch.no_grad():
        logits, before = model.raw(graph), model(graph)
        torch.testing.assert_close(before, torch.sigmoid(logits))
        torch.testing.assert_close(model.with_temperature(2.5)(graph), torch.sigmoid(logits / 2.5))


def test_unknown_elements() -> None:
    model = small_model(ZPVE)
    with pytest.raises(UnsupportedElementsError, match=r"zpve was not trained on Fe; it knows H, C.*allow_unsupported"):
        answers(model, bulk("Fe"))
    assert answers(model, bulk("Fe"), allow_unsupported=True).isfinite().all()


def test_beginning_with_a_potential() -> None:
    potential = small_potential(seed=5)
    tuned, scratch = small_model(seed=1, potential=potential), small_model(seed=1)
    for name, tensor in tuned.state_dict().items():
        shared = name.startswith(("backbone", "embedding"))
        assert torch.equal(tensor, (potential if shared else scratch).state_dict()[name]), name
        if shared and tensor.ndim > 1:
            assert not torch.equal(tensor, scratch.state_dict()[name]), name
    assert not torch.equal(small_model(seed=2).head.network[0].weight, scratch.head.network[0].weight)
    other = PropertyConfig(PaiNNConfig(hidden=32))
    with pytest.raises(ValueError, match=r"use PropertyConfig\.of\(potential\)"):
        PropertyModel.begun_with(potential, other, GAP, Scaling(SYMBOLS))


def test_the_global_random_numbers_stay() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    small_model(potential=small_potential())
    assert torch.equal(torch.get_rng_state(), before)


def test_scaling_of_each_kind() -> None:
    composition = np.zeros((4, 118))
    composition[:, 0], composition[:, 7] = [2, 4, 2, 0], [1, 2, 0, 2]
    gap = Scaling.fitted(GAP, composition, np.array([1.0, 2.0, 4.0, 101.0]))
    assert (gap.elements, gap.offset, gap.scale) == (("H", "O"), 3.0, 25.5)
    zpve = Scaling.fitted(ZPVE, composition, composition @ np.linspace(1, 2, 118))
    assert zpve.references["H"] == pytest.approx(1.0, abs=1e-3)
    assert zpve.references["O"] == pytest.approx(1 + 7 / 117, abs=1e-3)
    metal = Scaling.fitted(METAL, composition, np.ones(4))
    assert metal.offset == pytest.approx(np.log(5))
    assert Scaling.fitted(GAP, composition, np.ones(4)).scale == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("unit", "eV", "intensive"), "got the name 'unit'"),
        (("a", "eV", "class"), "a class has no unit, got 'eV'"),
        (("a", "eV", "extensive", "attention"), "needs no pooling"),
    ],
)
def test_targets_that_make_no_sense(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target(*arguments)  # type: ignore[arg-type]


def test_energies_are_for_potentials() -> None:
    with pytest.raises(ValueError, match="train a Potential on it"):
        small_model(Target("energy", "eV", "energy"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(small_model(METAL).with_temperature(1.5), tmp_path / "metal.safetensors")


@named
def test_file_round_trip(target: Target, tmp_path: Path) -> None:
    model = small_model(target)
    model.metadata["name"] = "mini"
    with torch.no_grad():
        model.head.width.uniform_(1.0, 2.0)
    loaded = load_property(save(model, tmp_path / "m.safetensors"))
    assert (loaded.config, loaded.target, loaded.scaling) == (model.config, model.target, model.scaling)
    assert loaded.metadata == model.metadata
    assert fingerprint(loaded) == fingerprint(model) == fingerprint(tmp_path / "m.safetensors")
    assert torch.equal(answers(loaded, *structures()), answers(model, *structures()))
    assert not list(tmp_path.glob("*.partial"))


def test_precision_and_temperature_are_kept(tmp_path: Path, file: Path) -> None:
    assert load_property(file).scaling.temperature == 1.5
    assert load_property(save(small_model().double(), tmp_path / "d.safetensors")).dtype == torch.float64


def test_a_property_is_no_potential(file: Path, tmp_path: Path) -> None:
    potential = save(small_potential(), tmp_path / "p.safetensors")
    assert (kind_of(file), kind_of(potential), kind_of("default")) == ("property", "potential", "potential")
    with pytest.raises(CheckpointError, match=r"model of a property \(is_metal\).*predict_property.*gfmpot predict"):
        load(file)
    with pytest.raises(CheckpointError, match=r"model of a property \(is_metal\), not a potential"):
        GFMCalculator(file)
    with pytest.raises(CheckpointError, match=r"is a potential.*GFMCalculator"):
        load_property(potential)


def test_damaged_files(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_property(file)
    file.write_bytes(whole.replace(b"is_metal", b"is_mutal"))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_property(file)
    (tmp_path / "x.safetensors").write_text("no model at all, just text")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        kind_of(tmp_path / "x.safetensors")


def rewritten(file: Path, version: str | None = None, **changes: object) -> Path:
    """The file with another header, and a matching digest."""
    from safetensors import safe_open

    with safe_open(str(file), "pt") as opened:
        meta = dict(opened.metadata())
    meta["header"] = json.dumps({**json.loads(meta["header"]), **changes})
    meta["version"] = version or meta["version"]
    tensors = load_file(file)
    meta["sha256"] = _digest(meta["header"], tensors)
    save_file(tensors, file, meta)
    return file


def test_files_of_version_2_see_lengths_as_they_are(file: Path) -> None:
    config = small_model(METAL).config.to_mapping()
    assert config["backbone"].pop("saturation") > 0
    before = load_property(rewritten(file, version="2", config=config))
    assert before.config.backbone.saturation == 0
    assert before.saturation is None


def test_strange_headers(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing head\.gate"):
        load_property(rewritten(file, target={"name": "a", "unit": "", "kind": "class", "pooling": "attention"}))
    with pytest.raises(CheckpointError, match="did you mean 'class'"):
        load_property(rewritten(file, target={"name": "a", "unit": "", "kind": "classes"}))
