"""MACE: symmetry of its features, smoothness with each radial function, and parity of its parts with mace-torch."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from numpy.typing import NDArray
from packed import write_packed
from torch import Tensor, nn

from gfmpot.config import from_mapping
from gfmpot.data import FrameSet
from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms, plain_operations
from gfmpot.inference.precision import dense_layers_in
from gfmpot.models import available_backbones, backbone_class
from gfmpot.models.backbones import _mace_contraction
from gfmpot.models.backbones._mace_contraction import SymmetricContraction
from gfmpot.models.backbones._mace_harmonics import degrees, harmonics
from gfmpot.models.backbones._mace_neighbours import slots
from gfmpot.models.backbones.mace import MACE, ByOrder, Convolution, Layer, MACEConfig
from gfmpot.models.radial import BesselBasis, bessel, polynomial_envelope
from gfmpot.models.radial_choices import RadialChoice, agnesi, soft
from gfmpot.training.config import TrainConfig
from gfmpot.training.trainer import Trainer

RADIAL = list(itertools.product(("bessel", "gaussian", "chebyshev"), ("none", "agnesi", "soft")))
Parity = dict[str, Tensor]


def test_listing_and_settings_need_no_e3nn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("e3nn", "e3nn.o3"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "mace" in available_backbones()
    config = backbone_class("mace").Config()
    with pytest.raises(ImportError, match=r'pip install "gfmpot\[mace\]"'):
        backbone_class("mace")(config)


@pytest.mark.parametrize("fault", [{"correlation": 4}, {"max_ell": 4}, {"node_max_ell": 5}, {"hidden": 0}])
def test_impossible_settings_are_refused(fault: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(fault))):
        MACEConfig(**fault)  # type: ignore[arg-type]


o3 = pytest.importorskip("e3nn.o3", exc_type=ImportError)


def small(dtype: torch.dtype = torch.float64, **settings: object) -> MACE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MACE(from_mapping(MACEConfig, {"hidden": 8, **settings})).to(dtype)


def sample(*structures: Atoms, dtype: torch.dtype = torch.float64, width: int = 8) -> tuple[Tensor, Tensor, AtomGraph]:
    graph = AtomGraph.batch([graph_from_atoms(atoms, cutoff=5.0) for atoms in structures])
    table = torch.randn(119, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return table[graph.atomic_numbers].to(dtype), edge_vectors(graph).to(dtype), graph


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=0)
    return atoms


def turning(matrix: Tensor, max_ell: int) -> Tensor:
    """(d, d) how harmonics turn with their arguments."""
    points = nn.functional.normalize(torch.randn(100, 3, dtype=torch.float64), dim=1)
    turned: Tensor = torch.linalg.lstsq(harmonics(points, max_ell), harmonics(points @ matrix.T, max_ell)).solution.T
    return turned


def orthogonal(determinant: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    chosen: Tensor = q if torch.linalg.det(q) * determinant > 0 else -q
    return chosen


def test_harmonics_are_those_of_e3nn() -> None:
    units = nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1)
    theirs = o3.spherical_harmonics([0, 1, 2, 3], units, normalize=False, normalization="component")
    torch.testing.assert_close(harmonics(units, 3), theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("settings", [(2, 1, 3), (2, 3, 2), (3, 2, 3)])
def test_hidden_features_turn_along(settings: tuple[int, int, int], determinant: int) -> None:
    max_ell, orders, correlation = settings
    backbone = small(max_ell=max_ell, node_max_ell=orders, correlation=correlation, layers=3)
    initial, vectors, graph = sample(ethanol())
    matrix = orthogonal(determinant)
    before = backbone.features(initial, vectors, graph)
    after = backbone.features(initial, vectors @ matrix.T, graph)
    assert [len(h) for h in before] == [(orders + 1) ** 2, (orders + 1) ** 2, 1]
    for h, turned, highest in zip(before, after, (orders, orders, 0), strict=True):
        assert all(part.abs().max() > 1e-4 for part in torch.split(h, degrees(highest)))
        expected = torch.einsum("ab,bnk->ank", turning(matrix, highest), h)
        torch.testing.assert_close(turned, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "transform"), RADIAL)
def test_two_derivatives_vanish_at_the_cutoff(kind: str, transform: str) -> None:
    backbone = small(radial_type=kind, distance_transform=transform)

    def derivatives(distance: float) -> Tensor:
        d = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        initial, vectors, graph = sample(Atoms("CuAu", [[0, 0, 0], [4.9, 0, 0]]))
        vectors = torch.stack([d, *torch.zeros(2)]) * vectors.sign()
        value = backbone(initial, vectors, graph).sum() - alone
        (first,) = torch.autograd.grad(value, d, create_graph=True)
        (second,) = torch.autograd.grad(first, d)
        return torch.stack([value, first, second]).detach().abs()

    alone = backbone(*sample(Atoms("Cu"), Atoms("Au"))).sum()
    assert (derivatives(3.0) > 1e-4).all()
    near, nearer, beyond = derivatives(5 - 1e-3), derivatives(5 - 1e-5), derivatives(5 + 1e-9)
    assert nearer[2] < 0.02 * near[2] < 0.02 * derivatives(4.0)[2]
    assert nearer[1] < 1e-3 * near[1]
    assert (nearer[:2] < 1e-6).all()
    assert (beyond == 0).all()


@pytest.mark.parametrize(("kind", "transform"), RADIAL)
def test_any_choice_of_radial_functions(kind: str, transform: str) -> None:
    basis = RadialChoice(kind, transform, 6, 5.0).double()  # type: ignore[arg-type]
    _, vectors, graph = sample(ethanol())
    d = vectors.norm(dim=1)
    values = basis(d, graph)
    assert values.shape == (len(d), basis.out_features)
    assert values.abs().max() < 3
    torch.testing.assert_close(values[:, 0], polynomial_envelope(d / 5.0))
    assert torch.linalg.matrix_rank(values) == basis.out_features  # no function says what others have said
    assert all(x.dtype == torch.int32 for x in basis.buffers())  # which no change of precision changes


def test_bessel_functions_are_those_of_the_package() -> None:
    d = torch.linspace(0.5, 5.5, 30, dtype=torch.float64)
    basis = RadialChoice("bessel", "none", 8, 5.0)
    graph = sample(ethanol())[2]
    torch.testing.assert_close(basis(d, graph), BesselBasis(8, 5.0)(d))


def test_distance_transforms() -> None:
    d, radii = torch.linspace(1e-3, 9.0, 400, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    falling = agnesi(d, radii)
    assert (falling.diff() < 0).all()
    assert 0 < falling[-1] < falling[0] <= 1
    torch.testing.assert_close(soft(d[:1], radii), 1.5 * radii.view(1), rtol=1e-3, atol=0)  # a constant
    torch.testing.assert_close(soft(d[-1:], radii), d[-1:], rtol=1e-6, atol=0)  # the distance


def test_slots_hold_each_edge_once() -> None:
    _, vectors, graph = sample(ethanol(), Atoms("He"), bulk("Cu"), molecule("H2O"))
    places = slots(graph)
    assert places.edges is not None
    filled = places.edges[places.edges < graph.n_edges]
    assert torch.equal(filled.sort().values, torch.arange(graph.n_edges))
    assert len(places.edges) < 1.2 * graph.n_edges
    x = torch.randn(graph.n_edges, 4, dtype=torch.float64)
    expected = torch.zeros(graph.n_atoms, 3, 4, dtype=torch.float64)
    expected.index_add_(0, graph.receivers, vectors.unsqueeze(2) * x.unsqueeze(1))
    functions, features = places.fill(vectors).unsqueeze(1), places.fill(x).unsqueeze(1)
    torch.testing.assert_close(places.sum(functions, features), expected)


@pytest.mark.parametrize("structures", [[Atoms("H")], [Atoms("H"), Atoms("O")], [Atoms("H"), ethanol(), Atoms("He")]])
def test_atoms_without_neighbours(structures: list[Atoms]) -> None:
    backbone = small()
    initial, vectors, graph = sample(*structures)
    vectors = vectors.requires_grad_()
    features = backbone(initial, vectors, graph)
    (gradient,) = torch.autograd.grad(features.square().sum(), vectors, create_graph=True)
    loss = features.sum() + (gradient - 0.1).square().sum()
    gradients = torch.autograd.grad(loss, list(backbone.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    single, edges, alone = sample(structures[0])
    torch.testing.assert_close(features[:1], backbone(single, edges, alone))


def test_plain_operations_give_the_same() -> None:
    backbone = small()
    inputs = sample(ethanol(), Atoms("He"), bulk("Cu"))
    with plain_operations():
        plain = backbone(*inputs)
    torch.testing.assert_close(plain, backbone(*inputs), rtol=1e-12, atol=1e-12)


def test_lower_precisions() -> None:
    exact = small()(*sample(ethanol()))
    backbone, inputs = small(torch.float32), sample(ethanol(), dtype=torch.float32)
    vectors = inputs[1].requires_grad_()
    torch.testing.assert_close(backbone(*inputs).double(), exact, rtol=1e-4, atol=1e-4)
    for context in (torch.autocast("cpu", torch.bfloat16), dense_layers_in("bf16")):
        with context:
            features = backbone(*inputs)
            (gradient,) = torch.autograd.grad(features.float().square().sum(), vectors, create_graph=True)
            gradients = torch.autograd.grad(gradient.square().sum(), list(backbone.parameters()))
        assert (features.double() - exact).abs().max() < 0.05 * exact.abs().max()
        assert all(g.isfinite().all() for g in gradients)


def test_constants_depend_on_nothing() -> None:
    def tables() -> dict[str, Tensor]:
        _mace_contraction._independent.cache_clear()
        return dict(SymmetricContraction(2, 1, 3).double().named_buffers())

    state = torch.random.get_rng_state()
    expected = tables()
    torch.set_default_dtype(torch.float64)
    try:
        other = tables()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(state, torch.random.get_rng_state())
    rounded = dict(SymmetricContraction(2, 1, 3).half().float().double().named_buffers())
    assert all(torch.equal(value, other[name]) for name, value in expected.items())
    assert all(torch.equal(value, rounded[name]) for name, value in expected.items())


@pytest.mark.parametrize("settings", list(itertools.product((2, 3), (1, 2, 3), (2, 3))))
def test_no_weight_is_idle(settings: tuple[int, int, int]) -> None:
    max_ell, orders, correlation = settings
    backbone = small(hidden=2, max_ell=max_ell, node_max_ell=orders, correlation=correlation, layers=3)
    loss = backbone(*sample(ethanol(), width=2)).square().sum()
    gradients = torch.autograd.grad(loss, list(backbone.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_messages_follow_the_initial_features() -> None:
    """What is deliberately unlike MACE: weights come from the initial features, not from a table by element."""
    layer = Layer(MACEConfig(hidden=4, species=2), 3, 0, 0).double()
    a = torch.randn(9, 2, 4, dtype=torch.float64)
    layer.convolution.forward = lambda *_: a  # type: ignore[method-assign]
    initial = torch.randn(2, 4, dtype=torch.float64)
    messages = layer(initial.unsqueeze(0), initial, a, a, None) - layer(0 * a[:1], initial, a, a, None)
    torch.testing.assert_close(messages[0], layer.skip(initial.unsqueeze(0))[0] * layer.gates(initial))
    one_hot = torch.eye(2, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.species.weight.copy_(torch.eye(2, 4))
    by_row = layer.contraction(a, [layer.weights[0][:, torch.arange(2)]])
    chosen = layer.contraction(a, [layer.species(one_hot) @ layer.weights[0]])
    torch.testing.assert_close(chosen, by_row)  # one-hot features choose a row of the table each


def npz(path: Path, structures: list[Atoms]) -> None:
    for atoms in structures:
        atoms.calc = EMT()
        atoms.get_forces()
    write_packed(path, FrameSet.from_atoms(structures))


def test_training(tmp_path: Path) -> None:
    structures = [bulk("Cu", cubic=True) for _ in range(60)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.15, seed=seed)
    npz(tmp_path / "cu.npz", structures)
    branch = {"name": "cu-emt", "theory": "EMT", "files": ["cu.npz"], "min_structures_per_element": 5}
    settings = {
        "model": {"backbone": {"name": "mace", "hidden": 8, "cutoff": 4.0}, "head": {"branch_width": 8}},
        "branches": [branch],
        "steps": 40,
        "batch": {"structures": 4},
        "optim": {"learning_rate": 5e-3, "warmup_steps": 5, "ema": 0.9},
        "split": {"valid": 0.2, "test": 0.2},
        "validate_every": 40,
    }
    trainer = Trainer(from_mapping(TrainConfig, settings), tmp_path, tmp_path / "run")
    start = {name: p.clone() for name, p in trainer.potential.backbone.named_parameters()}
    before = trainer.validate()["cu-emt"]["forces_mae"]
    trainer.fit()
    assert trainer.validate()["cu-emt"]["forces_mae"] < 0.7 * before
    assert all(not torch.equal(start[name], p) for name, p in trainer.potential.backbone.named_parameters())


@pytest.fixture(scope="module")
def parity() -> Parity:
    stored: dict[str, NDArray[np.generic]] = dict(np.load(Path(__file__).with_name("mace_parity.npz")))
    return {name: torch.from_numpy(x) for name, x in stored.items() if name != "version"}


def test_radial_functions_as_in_mace(parity: Parity) -> None:
    d = parity["distances"]
    torch.testing.assert_close(bessel(d, 8, 5.0), parity["bessel"])
    torch.testing.assert_close(polynomial_envelope(d / 5.0, 6), parity["envelope"])
    units = nn.functional.normalize(parity["vectors"], dim=1)
    torch.testing.assert_close(harmonics(units, 3), parity["harmonics"])


def test_distance_transforms_as_in_mace(parity: Parity) -> None:
    """The Agnesi coordinate is theirs times the cutoff."""
    numbers = torch.tensor([1, 6, 14, 79])
    d, graph = parity["distances"][:, 0], sample(ethanol())[2]
    ends = torch.stack([parity["senders"], parity["receivers"]])
    pairs = graph.replace(atomic_numbers=numbers, edge_index=ends)
    torch.testing.assert_close(RadialChoice("bessel", "soft", 8, 5.0).coordinates(d, pairs), parity["soft"][:, 0])
    torch.testing.assert_close(
        RadialChoice("bessel", "agnesi", 8, 5.0).coordinates(d, pairs) / 5.0, parity["agnesi"][:, 0]
    )


@pytest.mark.parametrize("correlation", [2, 3])
def test_contraction_as_in_mace(parity: Parity, correlation: int) -> None:
    """Theirs is another basis of the same polynomials, some of them redundant: each is a combination of ours."""
    name = f"contraction{correlation}"
    ours = SymmetricContraction(2, 1, correlation).double()
    a, element = parity[f"{name}_a"].permute(2, 0, 1), parity[f"{name}_element"]
    weights = []
    for order in (0, 1):
        own, theirs = _values_of_both(parity, name, ours, order)
        to_own = torch.linalg.lstsq(own, theirs).solution
        torch.testing.assert_close(own @ to_own, theirs, rtol=1e-9, atol=1e-9)
        by_degree = [parity[f"{name}_w{order}{degree}"] for degree in range(1, correlation + 1)]
        weights.append(torch.einsum("op,epk->oek", to_own, torch.cat(by_degree, dim=1))[:, element])
    messages = torch.stack(ours(a, weights))  # (4, N, K)
    expected = parity[f"{name}_out"]
    torch.testing.assert_close(messages[0], expected[:, :3], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(messages[1:].permute(1, 2, 0).flatten(1), expected[:, 3:], rtol=1e-9, atol=1e-9)


def _values_of_both(parity: Parity, name: str, ours: SymmetricContraction, order: int) -> tuple[Tensor, Tensor]:
    """(points and M, polynomials) of ours and of MACE's, at random A."""
    a = torch.randn(9, 200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = ours.polynomials(a)
    own = torch.cat([values[order, m][..., 0].T for m in range(2 * order + 1)])
    theirs = []
    for degree in range(1, ours.correlation + 1):
        key = f"{name}_u{order}{degree}"
        u = torch.zeros(parity[f"{key}_shape"].tolist(), dtype=torch.float64)
        u[tuple(parity[f"{key}_where"].long().T)] = parity[f"{key}_value"]
        u = u if order else u.unsqueeze(0)
        value = u.unsqueeze(-1).expand(*u.shape, 200)
        for _ in range(degree):
            value = torch.einsum("mi...n,in->m...n", value, a[..., 0])
        theirs.append(value.transpose(1, 2).flatten(0, 1))
    return own, torch.cat(theirs, dim=1)


def test_linear_map_after_the_contraction_as_in_mace(parity: Parity) -> None:
    mix = ByOrder(3, 1).double()
    _copy(mix.maps, [weight.T * 3**-0.5 for weight in parity["product_linear"].view(2, 3, 3)])
    found = mix(by_order(parity["product_messages"])) + by_order(parity["product_skipped"])
    torch.testing.assert_close(found, by_order(parity["product_out"]))


def by_order(h: Tensor) -> Tensor:
    """e3nn's (N, 3 + 9) of three scalars and three vectors to (4, N, 3)."""
    return torch.cat([h[:, :3].unsqueeze(2), h[:, 3:].view(-1, 3, 3)], dim=2).permute(2, 0, 1)


def test_convolution_as_in_mace(parity: Parity) -> None:
    """But for the square root of the number of neighbours."""
    width, mean = 3, 7.0
    convolution = Convolution(width, 4, 2, 1, mean).double()
    edges, vectors = parity["edges"], parity["edge_vectors"]
    paths = [tuple(path) for path in parity["paths"].tolist()]
    assert sorted(paths) == sorted(convolution.paths)
    by_path = dict(zip(paths, parity["filters"].chunk(len(paths), dim=1), strict=True))
    filters = torch.cat([by_path[path] for path in convolution.paths], dim=1)
    convolution.radial.forward = lambda radial: filters  # type: ignore[method-assign, assignment]
    _copy_maps(convolution, parity, paths)
    graph = sample(molecule("CH4"))[2].replace(edge_index=edges)
    with plain_operations():
        angular = harmonics(vectors / vectors.norm(dim=1, keepdim=True), 2)
        a = convolution(by_order(parity["h"]), torch.zeros(len(vectors), 4), angular, slots(graph))
    torch.testing.assert_close(a.permute(1, 2, 0), parity["a"] * mean**0.5, rtol=1e-9, atol=1e-9)


def _copy_maps(convolution: Convolution, parity: Parity, paths: list[tuple[int, ...]]) -> None:
    """e3nn has weights (inputs, outputs) of unit size, and divides by the square root of the number of inputs."""
    down = dict(zip(paths, parity["down"].view(-1, 3, 3), strict=True))
    stacked = [torch.cat([down[path] for path in convolution.paths if path[2] == l3]) for l3 in range(3)]
    _copy(convolution.up.maps, [weight.T * 3**-0.5 for weight in parity["up"].view(2, 3, 3)])
    _copy(convolution.down, [weight.T * len(weight) ** -0.5 for weight in stacked])


def _copy(maps: nn.ModuleList, weights: list[Tensor]) -> None:
    for linear, weight in zip(maps, weights, strict=True):
        linear.load_state_dict({"weight": weight})
