"""DimeNet++: its basis, its sums over pairs of edges, and its blocks against PyTorch Geometric's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from packed import write_packed
from scipy.special import eval_legendre, spherical_jn
from torch import Tensor, nn

from gfmpot.config import from_mapping
from gfmpot.data import FrameSet
from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms, plain_operations, reverse_edges
from gfmpot.graph.ops import forces_from_edge_gradients
from gfmpot.models import backbone_class
from gfmpot.models.backbone import backbone_config, backbone_mapping, build_backbone
from gfmpot.models.backbones._dimenet_basis import Harmonics, RadialFunctions, bessel_roots
from gfmpot.models.backbones._dimenet_triplets import EdgePairs
from gfmpot.models.backbones.dimenet import DimeNet, DimeNetConfig
from gfmpot.training.config import TrainConfig
from gfmpot.training.trainer import Trainer

CUTOFF = 4.0
SMALL = DimeNetConfig(
    cutoff=CUTOFF,
    mean_neighbours=1.0,  # as in PyTorch Geometric, which does not divide
    hidden=12,
    layers=2,
    interaction_embedding=10,
    output_embedding=14,
    radial_basis=4,
    spherical_basis=5,
)


def ethanol() -> AtomGraph:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=0)
    return graph_from_atoms(atoms, cutoff=CUTOFF)


def small_cell(**options: int) -> AtomGraph:
    """Two atoms, each of which has the other and itself as neighbours several times."""
    atoms = bulk("MgO", "rocksalt", 4.2)
    atoms.rattle(0.1, seed=1)
    return graph_from_atoms(atoms, cutoff=CUTOFF, **options)


def mixed() -> AtomGraph:
    """With an atom alone, and different numbers of neighbours."""
    alone, dimer = (graph_from_atoms(atoms, cutoff=CUTOFF) for atoms in (Atoms("C"), molecule("N2")))
    return AtomGraph.batch([ethanol(), alone, small_cell(), dimer])


GRAPHS: dict[str, Callable[[], AtomGraph]] = {
    "molecule": ethanol,
    "small cell": small_cell,
    "one-atom cell": lambda: graph_from_atoms(bulk("Cu"), cutoff=CUTOFF),
    "capped": lambda: small_cell(max_neighbours=3),
    "mixed": mixed,
    "no pairs": lambda: graph_from_atoms(molecule("N2"), cutoff=CUTOFF),
    "no edges": lambda: graph_from_atoms(Atoms("C"), cutoff=CUTOFF),
}
every_graph = pytest.mark.parametrize("graph", [make() for make in GRAPHS.values()], ids=GRAPHS)


def triplets(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """(T,) edges k → j and (T,) edges j → i that follow each other without going straight back, one by one."""
    ends = list(zip(*graph.edge_index.tolist(), map(tuple, graph.cell_shifts.tolist()), strict=True))
    found = [
        (first, second)
        for second, (j, i, shift) in enumerate(ends)
        for first, (k, on, other) in enumerate(ends)
        if on == j and not (k == i and other == tuple(-s for s in shift))
    ]
    kj, ji = torch.tensor(found, dtype=torch.int64).reshape(-1, 2).T
    return kj, ji


def cosines(vectors: Tensor, kj: Tensor, ji: Tensor) -> Tensor:
    units = vectors / vectors.norm(dim=1, keepdim=True)
    return (units[kj] * units[ji]).sum(dim=1)


def spherical(functions: Tensor, vectors: Tensor, kj: Tensor, ji: Tensor) -> Tensor:
    """(T, L K) basis of pairs of edges, by Legendre polynomials of scipy."""
    orders = np.arange(functions.shape[1])
    angular = eval_legendre(orders, cosines(vectors, kj, ji).numpy()[:, None]) * np.sqrt((2 * orders + 1) / (4 * np.pi))
    return (functions[kj] * torch.from_numpy(angular).unsqueeze(2)).flatten(1)


def exact(config: DimeNetConfig = SMALL) -> DimeNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DimeNet(config).double()
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.3)
    return network


def atoms_of(graph: AtomGraph, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(graph.n_atoms, width, dtype=dtype, generator=torch.Generator().manual_seed(2))


def test_config_travels() -> None:
    config = DimeNetConfig(hidden=20, spherical_basis=3)
    assert backbone_config(backbone_mapping(config)) == config
    assert backbone_class("dimenet") is DimeNet
    assert isinstance(build_backbone(config), DimeNet)
    tunable = {f.name: f.metadata["tunable"] for f in dataclasses.fields(config) if f.metadata}
    assert all(space.low <= getattr(DimeNetConfig(), name) <= space.high for name, space in tunable.items())
    assert len(tunable) == 11
    with pytest.raises(ValueError, match="must be at least 1"):
        DimeNetConfig(spherical_basis=0)
    with pytest.raises(ValueError, match="must not be negative"):
        DimeNetConfig(layers_after_skip=-1)


@pytest.mark.parametrize("orders", [1, 2, 8])
def test_harmonics_are_those_of_the_angle(orders: int) -> None:
    a, b = nn.functional.normalize(torch.randn(2, 50, 3, dtype=torch.float64), dim=2)
    b[:2] = torch.stack([a[0], -a[1]])
    harmonics = Harmonics(orders)
    products = (harmonics(a) * harmonics(b)).numpy()
    cosine = (a * b).sum(dim=1).numpy()
    for order in range(orders):
        expected = np.sqrt((2 * order + 1) / (4 * np.pi)) * eval_legendre(order, cosine)
        np.testing.assert_allclose(products[:, order**2 : (order + 1) ** 2].sum(axis=1), expected, atol=1e-13)
        np.testing.assert_allclose(harmonics.opposite[order], expected[1], atol=1e-13)
    assert harmonics(a.float()).dtype == torch.float32
    np.testing.assert_allclose(harmonics.float()(a.float()), harmonics(a), atol=3e-6)


@pytest.mark.parametrize(("orders", "size"), [(1, 1), (7, 6), (8, 12)])
def test_radial_functions_are_bessel_functions(orders: int, size: int) -> None:
    roots = bessel_roots(orders, size)
    np.testing.assert_allclose(roots[0], np.pi * np.arange(1, size + 1), rtol=1e-14)
    order = np.arange(orders)[:, None]
    np.testing.assert_allclose(spherical_jn(order, roots), 0.0, atol=1e-14)
    assert (np.diff(roots, axis=1) > 3.0).all()  # none is left out
    assert (np.diff(roots, axis=1) < 4.5).all()
    d = np.array([0.1, 0.5, 1.0, 2.5, 3.99, 4.0, 4.5])
    x = d[:, None, None] / CUTOFF
    envelope = np.where(x < 1, 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, 0.0)
    expected = envelope * np.sqrt(2) / np.abs(spherical_jn(order + 1, roots)) * spherical_jn(order, roots * x)
    functions = RadialFunctions(orders, size, CUTOFF, 5)
    np.testing.assert_allclose(functions(torch.from_numpy(d)).numpy(), expected, atol=2e-12)
    single = functions.float()(torch.from_numpy(d).float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-4 if size == 12 else 2e-5)


def test_bases_equal_those_of_pyg() -> None:
    """But for a factor x in the basis of pairs, and for roots that PyG has in float32."""
    pytest.importorskip("sympy", reason="PyG derives spherical Bessel functions with sympy")
    pyg = pytest.importorskip("torch_geometric.nn.models.dimenet")
    graph = ethanol()
    vectors, (kj, ji) = edge_vectors(graph), triplets(graph)
    distances = vectors.norm(dim=1)
    functions = RadialFunctions(4, 3, CUTOFF, 5)(distances)
    radial = pyg.BesselBasisLayer(3, CUTOFF, 5)(distances)
    np.testing.assert_allclose(functions[:, 0] * 0.5**0.5, radial.detach(), atol=1e-5)
    angles = torch.acos(cosines(vectors, kj, ji))
    theirs = pyg.SphericalBasisLayer(4, 3, CUTOFF, 5)(distances, angles, kj) * (distances[kj] / CUTOFF).unsqueeze(1)
    np.testing.assert_allclose(spherical(functions, vectors, kj, ji), theirs, atol=2e-5)


@every_graph
def test_reverse_edges(graph: AtomGraph) -> None:
    reverse, exists = reverse_edges(graph)
    vectors = edge_vectors(graph)
    there = exists.flatten()
    assert torch.equal(graph.senders[reverse[there]], graph.receivers[there])
    assert torch.equal(graph.receivers[reverse[there]], graph.senders[there])
    torch.testing.assert_close(vectors[reverse[there]], -vectors[there])
    ends = [
        (*pair, *shift) for pair, shift in zip(graph.edge_index.T.tolist(), graph.cell_shifts.tolist(), strict=True)
    ]
    assert there.tolist() == [(i, j, -a, -b, -c) in ends for j, i, a, b, c in ends]


@pytest.mark.parametrize("plain", [False, True], ids=["blocks", "plain"])
@every_graph
def test_sums_over_pairs(graph: AtomGraph, plain: bool) -> None:
    vectors, (kj, ji) = edge_vectors(graph), triplets(graph)
    distances = vectors.norm(dim=1)
    functions = RadialFunctions(5, 4, CUTOFF, 5)(distances)
    filters = torch.randn(5, 4, 6, dtype=torch.float64)
    x = torch.randn(graph.n_edges, 6, dtype=torch.float64)
    with plain_operations() if plain else nullcontext():
        pairs = EdgePairs(functions, vectors / distances.unsqueeze(1), Harmonics(5), graph.replace())
        found = pairs.sums(x, filters)
    terms = spherical(functions, vectors, kj, ji) @ filters.flatten(0, 1) * x[kj]
    torch.testing.assert_close(found, torch.zeros_like(x).index_add(0, ji, terms), rtol=0, atol=1e-12)


def copy(theirs: nn.Module, ours: DimeNet) -> None:
    """Our weights to the blocks of PyTorch Geometric."""
    pairs: list[tuple[nn.Linear, nn.Linear]] = []
    pairs += [(theirs.emb.lin_rbf, ours.embedding.radial), (theirs.emb.lin, ours.embedding.dense)]
    for block, mine in zip(theirs.interaction_blocks, ours.interactions, strict=True):
        pairs += [(block.lin_rbf1, mine.radial.first), (block.lin_rbf2, mine.radial.second)]
        pairs += [(block.lin_sbf1, mine.spherical.first), (block.lin_sbf2, mine.spherical.second)]
        pairs += [(block.lin_ji, mine.own), (block.lin_kj, mine.sent), (block.lin, mine.dense)]
        pairs += [(block.lin_down, mine.down), (block.lin_up, mine.up)]
        layers = [*zip(block.layers_before_skip, mine.before_skip, strict=True)]
        for one, other in [*layers, *zip(block.layers_after_skip, mine.after_skip, strict=True)]:
            pairs += [(one.lin1, other.layers[0]), (one.lin2, other.layers[2])]
    for block, mine in zip(theirs.output_blocks, ours.outputs, strict=True):
        pairs += [(block.lin_rbf, mine.radial), (block.lin_up, mine.up), (block.lin, mine.last)]
        pairs += [*zip(block.lins, mine.layers[::2], strict=True)]
    for one, other in pairs:
        one.load_state_dict(other.state_dict())
    assert sum(p.numel() for pair in pairs for p in pair[1].parameters()) == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("graph", [ethanol(), small_cell()], ids=["molecule", "small cell"])
def test_blocks_equal_those_of_pyg(graph: AtomGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages and outputs after each block, with one typical neighbour and our bases."""
    pyg = pytest.importorskip("torch_geometric.nn.models.dimenet")
    monkeypatch.setattr(pyg, "SphericalBasisLayer", lambda *sizes: nn.Identity())  # takes seconds to derive formulas
    c, ours = SMALL, exact()
    widths = (c.hidden, c.hidden, c.layers, c.interaction_embedding, c.basis_embedding, c.output_embedding)
    skips = {"num_before_skip": c.layers_before_skip, "num_after_skip": c.layers_after_skip}
    theirs = pyg.DimeNetPlusPlus(*widths, c.spherical_basis, c.radial_basis, cutoff=c.cutoff, **skips).double()
    copy(theirs, ours)
    initial, vectors, (kj, ji) = atoms_of(graph, c.hidden), edge_vectors(graph), triplets(graph)
    theirs.emb.emb = nn.Embedding.from_pretrained(initial)
    functions = ours.functions(vectors.norm(dim=1))
    radial, angular = functions[:, 0] * 0.5**0.5, spherical(functions, vectors, kj, ji)
    pairs = EdgePairs(functions, vectors / vectors.norm(dim=1, keepdim=True), ours.harmonics, graph)

    mine = ours.embedding(initial, radial, graph)
    message = theirs.emb(torch.arange(graph.n_atoms), radial, graph.receivers, graph.senders)
    torch.testing.assert_close(mine, message, rtol=0, atol=1e-12)
    total = initial
    for i, block in enumerate(theirs.output_blocks):
        out = block(message, radial, graph.receivers, num_nodes=graph.n_atoms)
        torch.testing.assert_close(ours.outputs[i](message, radial, graph), out, rtol=1e-11, atol=1e-11)
        total = total + out
        if i < c.layers:
            mine = ours.interactions[i](message, radial, pairs)
            message = theirs.interaction_blocks[i](message, radial, angular, kj, ji)
            torch.testing.assert_close(mine, message, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours(initial, vectors, graph), total, rtol=1e-10, atol=1e-10)


def test_sums_are_divided_by_the_root_of_typical_neighbours() -> None:
    one, many = exact(), exact(dataclasses.replace(SMALL, mean_neighbours=25.0))
    assert [block.scale for block in (*one.interactions, *one.outputs)] == [1.0] * 5
    assert [block.scale for block in (*many.interactions, *many.outputs)] == [0.2] * 5
    graph = ethanol()
    arguments = atoms_of(graph, SMALL.hidden), edge_vectors(graph), graph
    torch.testing.assert_close(many.interactions[0]._filters() * 5, one.interactions[0]._filters())
    assert not torch.allclose(one(*arguments), many(*arguments))


def chain(angle: float, gap: float) -> AtomGraph:
    """Three carbon atoms with an angle (rad) from a straight line, the last one at ``gap`` Å from the second."""
    third = [1.3 + gap * np.cos(angle), gap * np.sin(angle), 0.0]
    return graph_from_atoms(Atoms("C3", [[0, 0, 0], [1.3, 0, 0], third]), cutoff=CUTOFF)


def answer(network: DimeNet, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor]:
    """A function of the features, its gradient on atoms, and that of both on all weights."""
    vectors = edge_vectors(graph).requires_grad_()
    value = network(atoms_of(graph, SMALL.hidden), vectors, graph).square().sum()
    (gradient,) = torch.autograd.grad(value, vectors, create_graph=True)
    on_atoms = -forces_from_edge_gradients(gradient, graph)
    weights = torch.autograd.grad((value + gradient.square().sum()), list(network.parameters()))
    return value.detach(), on_atoms.detach(), torch.cat([w.flatten() for w in weights])


def test_atoms_in_line() -> None:
    """The energy is an even function of the angle, with a second derivative that differences converge to."""
    network = exact()
    straight = answer(network, chain(0.0, 1.4))
    assert all(part.isfinite().all() for part in straight)
    assert straight[1][:, 1:].abs().max() < 1e-12
    curvatures = []
    for step in (1e-2, 1e-3):
        left, right = (answer(network, chain(sign * step, 1.4)) for sign in (-1, 1))
        torch.testing.assert_close(left[0], right[0], rtol=1e-12, atol=0)
        torch.testing.assert_close(left[1][2, 1], -right[1][2, 1], rtol=1e-9, atol=0)
        along = right[1][2] @ torch.tensor([-np.sin(step), np.cos(step), 0.0])
        curvatures += [(right[0] + left[0] - 2 * straight[0]) / step**2, 1.4 * along / step]
    assert abs(curvatures[-1]) > 1e-3
    np.testing.assert_allclose(curvatures, [curvatures[-1]] * 4, rtol=5e-3)


def without_longest(graph: AtomGraph) -> AtomGraph:
    lengths = edge_vectors(graph).norm(dim=1)
    kept = lengths < lengths.max() - 1e-9
    return graph.replace(edge_index=graph.edge_index[:, kept], cell_shifts=graph.cell_shifts[kept])


@pytest.mark.parametrize("exponent", [4, 6])
@pytest.mark.parametrize("angle", [0.3, 2.5])
def test_edges_vanish_at_the_cutoff(angle: float, exponent: int) -> None:
    """With three derivatives: of an edge of length c − h, alone or beside others, what is felt falls as h⁴.

    Envelopes fall as h³, and every function of the bases has a root at the cutoff.
    """
    network = exact(dataclasses.replace(SMALL, envelope_exponent=exponent))
    effects = []
    for h in (2e-2, 1e-2):
        graph = chain(angle, CUTOFF - h)
        assert graph.n_edges == (6 if angle > 1 else 4)
        with_it, without = answer(network, graph), answer(network, without_longest(graph))
        effects.append([float((a - b).abs().max()) for a, b in zip(with_it[:2], without[:2], strict=True)])
    (energy, force), (less, less_force) = effects
    assert energy > 1e-9
    assert energy / less == pytest.approx(16.0, rel=0.1)
    assert force / less_force == pytest.approx(8.0, rel=0.1)


@every_graph
def test_every_parameter_gets_a_gradient(graph: AtomGraph) -> None:
    *_, gradients = answer(exact(), graph.replace())
    assert gradients.isfinite().all()


def test_an_atom_alone_keeps_what_it_is() -> None:
    graph, network = graph_from_atoms(Atoms("C"), cutoff=CUTOFF), exact()
    neutral, ion = torch.zeros(1, SMALL.hidden, dtype=torch.float64), torch.ones(1, SMALL.hidden, dtype=torch.float64)
    features = [network(initial, edge_vectors(graph), graph) for initial in (neutral, ion)]
    torch.testing.assert_close(features[1] - features[0], ion)


def test_precisions() -> None:
    graph, network = mixed(), exact(dataclasses.replace(SMALL, mean_neighbours=12.0))
    initial, vectors = atoms_of(graph, SMALL.hidden), edge_vectors(graph)
    reference = network(initial, vectors, graph)
    single = network.float()
    moving = vectors.float().requires_grad_()
    features = single(initial.float(), moving, graph)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.double(), reference, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = single(initial.float(), moving, graph).float()
        (gradient,) = torch.autograd.grad(rounded.sum(), moving, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in single.parameters() if p.requires_grad)
    assert (rounded - features).abs().max() < 0.1 * features.abs().max()
    torch.testing.assert_close(single.double()(initial, vectors, graph), reference, rtol=1e-5, atol=1e-5)


def test_short_distances_are_finite() -> None:
    graph = graph_from_atoms(Atoms("C3", [[0, 0, 0], [0.11, 0, 0], [0.11, 0.12, 0]]), cutoff=CUTOFF)
    network = DimeNet(dataclasses.replace(SMALL, radial_basis=12, spherical_basis=8))
    vectors = edge_vectors(graph).float().requires_grad_()
    features = network(atoms_of(graph, SMALL.hidden, torch.float32), vectors, graph)
    (gradient,) = torch.autograd.grad(features.sum(), vectors)
    assert features.isfinite().all()
    assert gradient.isfinite().all()


def test_training(tmp_path: Path) -> None:
    """A few steps on two metals by EMT, from data on disk to a lower error."""
    frames = []
    for seed in range(40):
        atoms = bulk(("Cu", "Al")[seed % 2], cubic=True)
        atoms.rattle(0.15, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        frames.append(atoms)
    write_packed(tmp_path / "metals.npz", FrameSet.from_atoms(frames))
    backbone = {"name": "dimenet", "hidden": 16, "layers": 2, "cutoff": 3.5, "output_embedding": 24}
    settings = {
        "model": {"backbone": backbone, "head": {"shared_layers": 0, "branch_layers": 1, "branch_width": 16}},
        "branches": [{"name": "a-emt", "theory": "EMT", "files": ["metals.npz"], "min_structures_per_element": 5}],
        "steps": 30,
        "batch": {"structures": 4},
        "optim": {"learning_rate": 3e-3, "warmup_steps": 3},
        "split": {"valid": 0.2, "test": 0.1},
        "validate_every": 30,
    }
    trainer = Trainer(from_mapping(TrainConfig, settings), tmp_path, tmp_path / "run")
    before = trainer.validate()["a-emt"]["forces_mae"]
    trainer.fit()
    assert trainer.validate()["a-emt"]["forces_mae"] < 0.9 * before
