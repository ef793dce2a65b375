"""Makes ``painn_parity.npz``: inputs, weights and features of SchNetPack's PaiNN.

Its pins clash with ours, so this runs in an environment of its own: ``pip install schnetpack==2.0.4`` (and a bounded
CPU build of PyTorch), then ``python make_painn_parity.py``.
"""

from pathlib import Path

import numpy as np
import torch
import torch.utils.data.dataloader
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

torch.utils.data.dataloader.T_co = None  # a name that SchNetPack imports and that PyTorch has no longer

from schnetpack import properties  # noqa: E402
from schnetpack.nn import BesselRBF, CosineCutoff  # noqa: E402
from schnetpack.representation import PaiNN  # noqa: E402

CUTOFF, FEATURES, LAYERS, RADIAL = 4.0, 8, 3, 5


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model = PaiNN(FEATURES, LAYERS, BesselRBF(RADIAL, CUTOFF), CosineCutoff(CUTOFF))
    arrays = {f"weight.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    crystal = bulk("NaCl", "rocksalt", 5.6)
    crystal.rattle(0.1, seed=1)
    for name, atoms in {"molecule": molecule("CH3COOH"), "crystal": crystal}.items():
        i, j, vectors = neighbor_list("ijD", atoms, CUTOFF)  # from i, the centre, to j
        inputs = {
            properties.Z: torch.as_tensor(atoms.numbers),
            properties.Rij: torch.as_tensor(vectors),
            properties.idx_i: torch.as_tensor(i),
            properties.idx_j: torch.as_tensor(j),
        }
        features = model(inputs)["scalar_representation"].detach()
        arrays |= {
            f"{name}.numbers": atoms.numbers,
            f"{name}.positions": atoms.positions,
            f"{name}.cell": atoms.cell.array,
            f"{name}.features": features.numpy(),
        }
    np.savez(Path(__file__).with_name("painn_parity.npz"), **arrays)


if __name__ == "__main__":
    main()
