"""The peers of benchmarks/peers.py: how each is loaded and run, in the way its own documentation shows.

Imported by peer_workers.py in each peer's environment, so nothing but ASE, NumPy and that peer may be needed here.
"""

from __future__ import annotations

import copy
from importlib.metadata import version
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

Forces = NDArray[np.floating[Any]]


class Peer:
    """A potential behind an ASE calculator; what a package does in a better way of its own, its class overrides."""

    package = "ase"
    model = "EMT, to try the machinery out"
    trained = True
    cutoff = 6.0
    """Å: who is a neighbour."""

    def __init__(self, precision: str) -> None:
        self.calculator = self.load(precision)

    def load(self, precision: str) -> Calculator:
        """The calculator, ``precision`` fp32 or fp64; of peers that have one precision this is fp32."""
        from ase.calculators.emt import EMT

        return EMT()

    def forces(self, atoms: Atoms) -> Forces:
        """(N, 3) eV/Å."""
        atoms.calc = self.calculator
        return np.asarray(atoms.get_forces())

    def dynamics(self, atoms: Atoms, steps: int, timestep: float) -> None:
        """NVE, ``timestep`` in fs: ``steps`` + 1 evaluations."""
        atoms.calc = self.calculator
        VelocityVerlet(atoms, timestep * units.fs).run(steps)

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """Forces of each, by the package's own means for many structures if it has any; here one by one."""
        return [self.forces(atoms) for atoms in structures]

    def edges(self, atoms: Atoms) -> int:
        """Pairs within the cutoff, both ways round."""
        return len(neighbor_list("i", atoms, self.cutoff))

    def about(self) -> dict[str, Any]:
        """What answers here."""
        return {"version": version(self.package), "model": self.model, "trained": self.trained, "cutoff": self.cutoff}


class Gfmpot(Peer):
    """As a user gets it, but for the precision."""

    package, model = "gfmpot", "default"

    def load(self, precision: str) -> Calculator:
        """The embedded model."""
        from gfmpot import GFMCalculator

        calculator = GFMCalculator(precision=precision, device="cpu")
        self.cutoff = calculator.predictor.cutoff
        return calculator

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """By ``evaluate_many``, whose batches are packed by edges."""
        return [results["forces"] for results in self.calculator.evaluate_many(structures)]


class CHGNet(Peer):
    """The weights within its wheel."""

    package, model = "chgnet", "CHGNet 0.3.0"

    def load(self, precision: str) -> Calculator:
        """It has fp32 only."""
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu")

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """By ``predict_structure``, 16 at once (its default)."""
        from pymatgen.io.ase import AseAtomsAdaptor

        found = self.calculator.model.predict_structure([AseAtomsAdaptor.get_structure(one) for one in structures])
        return [one["f"] for one in found]


class MACE(Peer):
    """Shape of MACE-MP-0 "medium" (arXiv:2401.00096: 4,688,656 parameters), whose weights are not in the wheel."""

    package, model, trained = "mace-torch", "MACE-MP-0 medium's shape, 128x0e + 128x1o", False
    elements = (*range(1, 84), *range(89, 95))

    def load(self, precision: str) -> Calculator:
        """fp32 or fp64, not compiled (its default)."""
        from mace.calculators import MACECalculator

        return MACECalculator(models=self.network(), device="cpu", default_dtype=f"float{precision[2:]}")

    def network(self) -> Any:
        """Random weights from one seed, so that both precisions have the same."""
        import torch
        from e3nn import o3
        from mace import modules

        torch.manual_seed(0)
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        return modules.ScaleShiftMACE(
            r_max=self.cutoff,
            num_bessel=10,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=len(self.elements),
            hidden_irreps=o3.Irreps("128x0e + 128x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.zeros(len(self.elements)),
            avg_num_neighbors=61.96,
            atomic_numbers=list(self.elements),
            correlation=3,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """As in its ``eval_configs.py``, 64 structures a batch (its default)."""
        from mace import data
        from mace.tools import torch_geometric, torch_tools

        (network,), table = self.calculator.models, self.calculator.z_table
        with torch_tools.default_dtype(self.calculator.default_dtype):
            configurations = [data.config_from_atoms(one) for one in structures]
            graphs = [data.AtomicData.from_config(one, table, self.cutoff) for one in configurations]
        loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=64, shuffle=False)
        outputs = [(network(batch.to_dict(), compute_stress=True)["forces"], batch.ptr) for batch in loader]
        return [one.numpy() for forces, ends in outputs for one in forces.detach().tensor_split(ends[1:-1])]


class TorchSim(MACE):
    """TorchSim's integrator and batches, around the same MACE; it draws velocities itself."""

    package, model = "torch-sim-atomistic", "the network of mace, run by TorchSim"

    def load(self, precision: str) -> Calculator:
        """TorchSim's own kind of calculator."""
        import torch
        import torch_sim
        from torch_sim.models.mace import MaceModel

        dtype = torch.float32 if precision == "fp32" else torch.float64
        self.simulation = torch_sim
        return MaceModel(self.network().requires_grad_(False), device=torch.device("cpu"), dtype=dtype)

    def forces(self, atoms: Atoms) -> Forces:
        """(N, 3) eV/Å."""
        return self.many([atoms])[0]

    def dynamics(self, atoms: Atoms, steps: int, timestep: float) -> None:
        """NVE by TorchSim, which counts time in ps."""
        nve, model = self.simulation.integrators.nve, self.calculator
        self.simulation.integrate(
            atoms, model, integrator=nve, n_steps=steps, temperature=atoms.get_temperature(), timestep=timestep / 1000
        )

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """In one batch: TorchSim finds its largest one by a GPU's memory."""
        results = self.calculator(
            self.simulation.initialize_state(structures, self.calculator.device, self.calculator.dtype)
        )
        ends = np.cumsum([len(one) for one in structures])[:-1]
        return np.split(results["forces"].detach().numpy(), ends)


class SevenNet(Peer):
    """The weights within its wheel."""

    package, model, cutoff = "sevenn", "SevenNet-0 (11 July 2024)", 5.0

    def load(self, precision: str) -> Calculator:
        """It has fp32 only."""
        from sevenn.calculator import SevenNetCalculator

        calculator = SevenNetCalculator("7net-0", device="cpu")
        self.batched = copy.deepcopy(calculator.model)
        self.batched.set_is_batch_data(True)
        return calculator

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """16 at once, as its dataloader makes them."""
        from sevenn import _keys
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph
        from torch_geometric.loader import DataLoader

        arrays = [unlabeled_atoms_to_graph(one, self.cutoff, with_shift=False) for one in structures]
        loader = DataLoader([AtomGraphData.from_numpy_dict(one) for one in arrays], batch_size=16)
        outputs = [self.batched(batch) for batch in loader]
        forces = np.concatenate([output[_keys.PRED_FORCE].detach().numpy() for output in outputs])
        return np.split(forces, np.cumsum([len(one) for one in structures])[:-1])


class ORB(Peer):
    """Compiled, as its loaders do by default."""

    package, model, trained = "orb-models", "orb-v3-conservative-inf's shape", False

    def load(self, precision: str) -> Calculator:
        """In fp32, its default."""
        import torch
        from orb_models.forcefield.atomic_system import SystemConfig
        from orb_models.forcefield.calculator import ORBCalculator
        from orb_models.forcefield.pretrained import orb_v3_conservative_architecture

        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        system = SystemConfig(radius=self.cutoff, max_num_neighbors=120)
        network = orb_v3_conservative_architecture(device="cpu", system_config=system).eval().requires_grad_(False)
        network.compile(mode="default", dynamic=True)
        return ORBCalculator(network, device="cpu")

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """In one batch, as its documentation does."""
        from orb_models.forcefield.atomic_system import ase_atoms_to_atom_graphs
        from orb_models.forcefield.base import batch_graphs

        network = self.calculator.model
        graphs = batch_graphs([ase_atoms_to_atom_graphs(one, network.system_config) for one in structures])
        forces = network.predict(graphs)[network.grad_forces_name].detach().numpy()
        return np.split(forces, np.cumsum([len(one) for one in structures])[:-1])


class MatterSim(Peer):
    """Shape of the smaller of the two published models: its weights are not in the wheel."""

    package, model, trained, cutoff = "mattersim", "MatterSim-v1 1M's shape (M3GNet)", False, 5.0

    def load(self, precision: str) -> Calculator:
        """It has fp32 only."""
        import torch
        from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
        from mattersim.forcefield.potential import MatterSimCalculator, Potential

        torch.manual_seed(0)
        network = M3Gnet(num_blocks=3, units=128, max_l=4, max_n=4, cutoff=self.cutoff, threebody_cutoff=4.0).eval()
        return MatterSimCalculator(Potential(network, device="cpu", model_name="m3gnet"), device="cpu")

    def many(self, structures: list[Atoms]) -> list[Forces]:
        """By ``predict_properties``, 64 at once (its default)."""
        from mattersim.datasets.utils.build import build_dataloader

        loader = build_dataloader(structures, cutoff=self.cutoff, threebody_cutoff=4.0, only_inference=True)
        _, forces, _ = self.calculator.potential.predict_properties(loader, include_forces=True, include_stresses=True)
        return list(forces)


PEERS: dict[str, type[Peer]] = {
    "gfmpot": Gfmpot,
    "chgnet": CHGNet,
    "mace": MACE,
    "torchsim": TorchSim,
    "sevenn": SevenNet,
    "orb": ORB,
    "mattersim": MatterSim,
    "emt": Peer,
}
"""By name; the name is that of the environment, too."""
