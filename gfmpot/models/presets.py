"""Named shapes: ``lead`` is the paper's (Table V), ``default`` and ``large`` are embedded, ``small`` is for trials."""

from __future__ import annotations

from collections.abc import Sequence

from gfmpot.config import did_you_mean
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.branches import BranchInfo, HeadConfig
from gfmpot.models.potential import Potential
from gfmpot.models.potential_config import PotentialConfig

TABLE_II = (
    ("qm7x-pbe0-mbd", "PBE0+MBD"),
    ("qcml-pbe0", "PBE0"),
    ("transition1x-wb97x", "ωB97X/6-31G(d)"),
    ("ani1x-wb97x", "ωB97X/6-31G(d)"),
    ("nabla2dft-wb97xd", "ωB97X-D/def2-SVP"),
    ("mptrj-pbe-u", "PBE(+U)"),
    ("alexandria-pbe", "PBE(+U)"),
    ("oc20-rpbe", "RPBE"),
    ("oc22-pbe-u", "PBE(+U)"),
    ("oc25-rpbe", "RPBE-D3"),
    ("odac23-pbe-d3", "PBE-D3(BJ)"),
    ("omat24-pbe-u", "PBE(+U)"),
    ("omol25-wb97mv", "ωB97M-V/def2-TZVPD"),
    ("omol25neutral-wb97mv", "ωB97M-V/def2-TZVPD"),
    ("omol25charged-wb97mv", "ωB97M-V/def2-TZVPD"),
    ("opoly26-wb97mv", "ωB97M-V/def2-TZVPD"),
)
"""Branches of the paper's Table II."""


def _embedded(hidden: int) -> PotentialConfig:
    backbone = PaiNNConfig(
        cutoff=5.0, mean_neighbours=40.0, hidden=hidden, layers=3, radial_basis=16, distance_transform="both"
    )
    return PotentialConfig(
        backbone=backbone, head=HeadConfig(shared_layers=0, shared_width=64, branch_layers=1, branch_width=64)
    )


_PRESETS = {
    "lead": PotentialConfig(
        backbone=PaiNNConfig(cutoff=5.0, mean_neighbours=20.0, hidden=337, layers=2, radial_basis=4),
        head=HeadConfig(shared_layers=2, shared_width=50, branch_layers=2, branch_width=776, readout="graph"),
        max_neighbours=20,
        repulsion="none",
    ),
    "default": _embedded(hidden=128),
    "large": _embedded(hidden=192),
    "small": PotentialConfig(
        backbone=PaiNNConfig(cutoff=5.0, mean_neighbours=30.0, hidden=64, layers=3, radial_basis=8),
        head=HeadConfig(shared_layers=0, shared_width=64, branch_layers=1, branch_width=64),
    ),
}


def available_presets() -> list[str]:
    """Names of the presets."""
    return sorted(_PRESETS)


def preset(name: str) -> PotentialConfig:
    """The shape called ``name``.

    Raises:
        ValueError: unknown name.
    """
    if name not in _PRESETS:
        raise ValueError(f"no preset {name!r}{did_you_mean(name, _PRESETS)}")
    return _PRESETS[name]


def untrained(config: PotentialConfig, branches: Sequence[BranchInfo] | None = None) -> Potential:
    """A potential with fresh weights; by default with the paper's sixteen branches."""
    return Potential(config, branches or [BranchInfo(name, theory) for name, theory in TABLE_II])
