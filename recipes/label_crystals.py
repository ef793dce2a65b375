"""More crystals, labelled by CHGNet: ``python recipes/label_crystals.py --crystals FILE.npz --out FILE.npz``.

Crystals of a packed file (docs/data.md) get other elements, other cells, and their atoms moved, and are labelled anew
(CHGNet 0.3.0; ``pip install chgnet``). Only crystals that are trained on are taken, which stay in their groups; where
elements are replaced, no formula that a crystal of the other splits has comes out. Parts that are labelled are kept
beside FILE until it is whole; the same command goes on after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.symbols import Symbols
from numpy.typing import NDArray

from gfmpot.data.sources._npz import load_arrays
from gfmpot.data.split import split_of_group
from gfmpot.graph.neighbours import neighbour_list
from gfmpot.recipes._labelling import Job, Labelling, Row, command_line

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUBSTITUTED = 0.5
"""Share of crystals whose elements are replaced."""

ALIKE = 12
"""Elements this near in Mendeleev number (Pettifor 1984) may replace each other."""

MOST_ATOMS = 12
"""Crystals are repeated as long as they have no more."""

RATTLES, OFTEN = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35), (0.17, 0.22, 0.26, 0.19, 0.13, 0.03)
"""Å, standard deviations of positions, and how often each is drawn."""

SWELLING, STRAIN = 0.04, 0.03
"""Standard deviations of the lengths of a cell, all together and of each element of the strain."""

ROOM = (3.0, 80.0)
"""Å³ per atom that crystals have."""

CLOSEST = 0.6
"""Of the sum of covalent radii: crystals with nearer atoms are not labelled. CHGNet has no repulsion there."""

MAX_FORCE = 60.0
"""eV/Å; crystals with larger ones are dropped."""

PART = 200
"""Crystals that are labelled and kept together."""

BATCH = 8
"""Crystals that CHGNet sees at once; more are hardly faster on a CPU."""

CRYSTALS = ("--crystals", "a packed file with groups, e.g. chgnet_pbe_u.npz")
"""The option of recipes that begin with crystals."""

NEEDED = ("natoms", "numbers", "positions", "cell", "forces", "group", "group_labels")
META = {
    "name": "chgnet_more",
    "theory": "CHGNet 0.3.0, distilled from PBE/PBE+U with MP2020 corrections",
    "licence": "labels by CHGNet (BSD-3-Clause); structures of the file they were made from",
    "citation": "Deng et al., Nat. Mach. Intell. 5, 1031 (2023)",
    "notes": "crystals of the training groups of another file with other elements, strained and rattled",
}


@dataclass(frozen=True)
class Parents:
    """What crystals are made from, and which formulas must not come out."""

    atoms: tuple[Atoms, ...]
    """The least rattled crystals of groups that are trained on."""

    groups: Ints
    """(P,) index of each one's group."""

    weights: Floats
    """(P,) how often each is taken; their sum is 1."""

    elements: Ints
    """Atomic numbers that are known."""

    held_out: tuple[Atoms, ...]
    """The least rattled crystals of the groups of validation and test."""

    formulas_held_out: frozenset[str]
    """Reduced formulas of all crystals of these groups."""

    @classmethod
    def read(cls, path: Path) -> Parents:
        """Those of a packed file with groups.

        Groups are taken as often as the file has structures of them.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no packed file, or one without crystals, groups or forces.
        """
        arrays = load_arrays(path)
        if missing := [name for name in NEEDED if name not in arrays]:
            raise ValueError(f"{path} has no {', '.join(missing)}; expected a packed file of crystals (docs/data.md)")
        labels = arrays["group_labels"]
        trained = np.array([split_of_group(str(label)) == "train" for label in labels])
        groups, counts = np.unique(arrays["group"], return_counts=True)
        atoms = least_rattled(arrays, groups)
        taken = trained[groups]
        return cls(
            tuple(one for one, is_taken in zip(atoms, taken, strict=True) if is_taken),
            groups[taken],
            counts[taken] / counts[taken].sum(),
            np.unique(arrays["numbers"]),
            tuple(one for one, is_taken in zip(atoms, taken, strict=True) if not is_taken),
            _formulas(arrays, ~trained[arrays["group"]]),
        )

    def one(self, rng: np.random.Generator) -> tuple[Atoms, int]:
        """One of them, not to be changed, or one with other elements; and its group."""
        k = int(rng.choice(len(self.atoms), p=self.weights))
        atoms = self.atoms[k]
        if rng.random() < SUBSTITUTED:
            other = substituted(atoms, self.elements, rng)
            atoms = atoms if reduced_formula(other.numbers) in self.formulas_held_out else other
        return atoms, int(self.groups[k])

    def held_out_like(self, atoms: Atoms) -> tuple[Atoms, ...]:
        """Crystals of validation and test that have a crystal's formula."""
        return self._held_out_by_formula.get(reduced_formula(atoms.numbers), ())

    @cached_property
    def _held_out_by_formula(self) -> dict[str, tuple[Atoms, ...]]:
        found: dict[str, tuple[Atoms, ...]] = {}
        for atoms in self.held_out:
            key = reduced_formula(atoms.numbers)
            found[key] = (*found.get(key, ()), atoms)
        return found

    def child(self, rng: np.random.Generator) -> tuple[Atoms, int] | None:
        """Another crystal and its group; None if it is not to be labelled. As precise as float32."""
        atoms, group = self.one(rng)
        atoms = enlarged(atoms, rng)  # which is never the parent itself
        strain = random_strain(STRAIN, rng)
        atoms = strained(atoms, np.eye(3) * rng.normal(scale=SWELLING) + strain)
        atoms = rounded(rattled(atoms, rng.choice(RATTLES, p=OFTEN), rng))
        return (atoms, group) if sensible(atoms) else None


def least_rattled(arrays: Mapping[str, NDArray[Any]], groups: Ints) -> list[Atoms]:
    """One crystal of each group of a packed file."""
    offsets = _offsets(arrays)
    force = np.add.reduceat(np.linalg.norm(arrays["forces"], axis=1), offsets[:-1])
    rattle = arrays.get("rattle", force / arrays["natoms"])
    found = []
    for group in groups:
        members = np.flatnonzero(arrays["group"] == group)
        i = members[rattle[members].argmin()]
        part = slice(offsets[i], offsets[i + 1])
        found.append(Atoms(arrays["numbers"][part], arrays["positions"][part], cell=arrays["cell"][i], pbc=True))
    return found


def substituted(atoms: Atoms, elements: Ints, rng: np.random.Generator) -> Atoms:
    """With like elements in the places of one or of all, and scaled by what that does to covalent radii.

    Hydrogen is like no other.
    """
    number, numbers = _mendeleev_numbers(), atoms.numbers
    present = np.unique(numbers)
    new = numbers.copy()
    for old in present if rng.random() < 0.5 else rng.choice(present, 1):
        alike = (np.abs(number[elements] - number[old]) <= ALIKE) & ((elements == 1) == (old == 1))
        new[numbers == old] = rng.choice(elements[alike])
    scale = covalent_radii[new].sum() / covalent_radii[numbers].sum()
    return Atoms(new, atoms.positions * scale, cell=atoms.cell.array * scale, pbc=True)


def random_strain(scale: float, rng: np.random.Generator) -> Floats:
    """(3, 3), symmetric, of elements with a standard deviation before that."""
    strain = rng.normal(scale=scale, size=(3, 3))
    return (strain + strain.T) / 2


def rattled(atoms: Atoms, by: float, rng: np.random.Generator) -> Atoms:
    """With atoms moved by a standard deviation (Å)."""
    other = atoms.copy()
    other.positions += rng.normal(scale=by, size=other.positions.shape)
    return other


def strained(atoms: Atoms, strain: Floats) -> Atoms:
    """With cell and positions changed by a strain (3, 3)."""
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return other


def rounded(atoms: Atoms) -> Atoms:
    """The same crystal, now as precise as float32, as it is kept."""
    atoms.set_cell(atoms.cell.array.astype(np.float32))
    atoms.positions = atoms.positions.astype(np.float32)
    return atoms


def enlarged(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Repeated along one or more vectors, or not; a single atom always is, since it would have no force."""
    while (n := len(atoms)) * 2 <= MOST_ATOMS and rng.random() < 2 / n:
        repeats = np.ones(3, dtype=int)
        repeats[rng.integers(3)] = 2
        atoms = atoms.repeat(repeats)
    return atoms.copy()


def sensible(atoms: Atoms) -> bool:
    """Whether a crystal is one that CHGNet can be asked about."""
    return ROOM[0] < atoms.get_volume() / len(atoms) < ROOM[1] and not clashes(atoms)


def clashes(atoms: Atoms) -> bool:
    """Whether atoms are nearer than matter lets them be."""
    edges = neighbour_list(
        atoms.positions, atoms.cell.array, atoms.pbc, 2 * CLOSEST * covalent_radii[atoms.numbers].max()
    )
    senders, receivers = edges.edge_index
    radii = covalent_radii[atoms.numbers]
    return bool((edges.distances < CLOSEST * (radii[senders] + radii[receivers])).any())


def is_among(atoms: Atoms, others: Sequence[Atoms]) -> bool:
    """Whether a crystal is one of others, of any volume; quick where they are those of its formula alone."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    one, fits = AseAtomsAdaptor.get_structure(atoms), StructureMatcher().fit
    return any(fits(one, AseAtomsAdaptor.get_structure(other)) for other in others)


def label(job: Job) -> list[Row]:
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a job's crystals."""
    return labelled(job.inputs)


def labelled(crystals: Sequence[tuple[Atoms, int]]) -> list[Row]:
    """Those of crystals with their groups; ones that CHGNet refuses, or with too large forces, are left out."""
    rows: list[Row] = []
    known = [(atoms, group, graph) for atoms, group in crystals if (graph := graph_of(atoms)) is not None]
    for start in range(0, len(known), BATCH):
        part = known[start : start + BATCH]
        labels = by_chgnet([graph for *_, graph in part])
        for (atoms, group, _), (energy, forces, stress) in zip(part, labels, strict=True):
            if np.linalg.norm(forces, axis=1).max() < MAX_FORCE:
                row = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
                row |= {"pbc": atoms.pbc, "energy": energy, "forces": forces, "stress": stress, "group": group}
                rows.append(row)
    return rows


def graph_of(atoms: Atoms) -> Any | None:
    """CHGNet's graph of a crystal; None where an atom has no neighbours, which it refuses."""
    from pymatgen.core import Lattice, Structure

    try:
        return _chgnet().graph_converter(
            Structure(Lattice(atoms.cell.array), atoms.numbers, atoms.positions, coords_are_cartesian=True)
        )
    except ValueError:
        return None


def by_chgnet(graphs: Sequence[Any]) -> list[tuple[float, Floats, Floats]]:
    """Energy (eV), forces (n, 3) (eV/Å) and stress (6,) (eV/Å³) of each.

    Of CHGNet's own ``predict_graph`` it takes the parts, to go back through the network once for forces and stress
    together and not to keep the graph of that, which is for training: 2.3 times as fast.
    """
    import torch
    from chgnet.model.model import BatchedGraph

    model = _chgnet()
    expansions = {name: getattr(model, name) for name in ("bond_basis_expansion", "angle_basis_expansion")}
    batch = BatchedGraph.from_graphs(graphs, compute_stress=True, **expansions)
    atoms = torch.tensor([len(positions) for positions in batch.atom_positions])
    learnt = model._compute(batch)["e"] * atoms
    energies = learnt.detach() + model.composition_model(graphs).detach() * atoms
    gradients = torch.autograd.grad(learnt.sum(), [*batch.atom_positions, *batch.strains])
    positions, strains = gradients[: len(graphs)], gradients[len(graphs) :]
    stresses = [(strain / volume).numpy() for strain, volume in zip(strains, batch.volumes, strict=True)]
    voigt = [stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] for stress in stresses]
    return [
        (float(e), -gradient.numpy(), stress) for e, gradient, stress in zip(energies, positions, voigt, strict=True)
    ]


@lru_cache(maxsize=1)
def _chgnet() -> Any:
    import torch
    from chgnet.model import CHGNet

    torch.set_num_threads(1)
    return CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False).requires_grad_(False)


@lru_cache(maxsize=1)
def _mendeleev_numbers() -> Floats:
    """By atomic number."""
    from pymatgen.core import Element

    return np.array([np.nan] + [float(Element.from_Z(z).mendeleev_no) for z in range(1, 104)])


def _offsets(arrays: Mapping[str, NDArray[Any]]) -> Ints:
    """(S + 1,) where the atoms of each structure of a packed file begin, and where the last ends."""
    return np.concatenate([[0], np.cumsum(arrays["natoms"])])


def _formulas(arrays: Mapping[str, NDArray[Any]], chosen: NDArray[np.bool_]) -> frozenset[str]:
    """Reduced formulas of some structures (S,) of a packed file."""
    offsets = _offsets(arrays)
    return frozenset(reduced_formula(arrays["numbers"][offsets[i] : offsets[i + 1]]) for i in np.flatnonzero(chosen))


def reduced_formula(numbers: NDArray[Any]) -> str:
    """Reduced, with the elements in an order that does not depend on how they were given."""
    return str(Symbols(numbers).get_chemical_formula(empirical=True))


def need_chgnet() -> None:
    """End the program where there is none."""
    if find_spec("chgnet") is None:
        raise SystemExit("error: labels need CHGNet: pip install chgnet")


def main() -> None:
    """The command line."""
    given = command_line(__doc__ or "", CRYSTALS, (40_000, "a few have forces that are too large"))
    need_chgnet()
    try:
        parents, rng = Parents.read(given.crystals), np.random.default_rng(given.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    inputs: list[tuple[Atoms, int]] = []
    while len(inputs) < given.structures:
        if (child := parents.child(rng)) is not None:
            inputs.append(child)
    arrays = (part for atoms, _ in inputs for part in (atoms.numbers, atoms.positions, atoms.cell.array))
    fingerprint = b"".join(array.tobytes() for array in arrays)
    labels = load_arrays(given.crystals)["group_labels"]
    Labelling(label, PART, META, {"group_labels": labels}).run(
        given.out, inputs, fingerprint, given.seed, given.workers
    )


if __name__ == "__main__":
    main()
