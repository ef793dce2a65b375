"""Train the embedded model: ``python recipes/pretrain_default.py --data DATA --folder runs/default``.

Packed ``.npz`` files (docs/data.md) become ADIOS2 stores, stores a trained network, and this a model with the weights
of its blend, the calibration of its uncertainty, and a card. Whatever was stopped goes on when the command is given
again. Settings are in ``pretrain_default.yaml`` beside this file; ``--config`` takes another one, with other stores.
Under torchrun, several ranks train together; a GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from gfmpot.config import from_yaml
from gfmpot.data.conversion import Settings, convert, describe
from gfmpot.data.formats.manifest import SplitSettings
from gfmpot.data.source import build_source
from gfmpot.models import save
from gfmpot.ranks.launch import Launch, session
from gfmpot.ranks.signals import Deadline
from gfmpot.training.config import TrainConfig
from gfmpot.training.finish import finish, write_card
from gfmpot.training.trainer import Trainer

CHGNET = "Deng et al., Nat. Mach. Intell. 5, 1031 (2023)"


@dataclass(frozen=True)
class Store:
    """Packed files of one level of theory, and how they are split and filtered."""

    name: str
    files: tuple[str, ...]
    branch: str
    theory: str
    licence: str
    citation: str
    split: tuple[float, float] = (0.05, 0.05)
    max_force: float = 100.0
    fewest: int = 20
    """Structures with an element that fewer structures than this have are left out."""


STORES = (
    Store(
        "chgnet_pbe_u",
        ("chgnet_pbe_u",),
        "mptrj-pbe-u@chgnet",
        "CHGNet 0.3.0, distilled from PBE/PBE+U with MP2020 corrections",
        "BSD-3-Clause (labels by CHGNet); structures CC-BY-4.0 (Materials Project) and MIT (CDVAE)",
        CHGNET,
    ),
    Store(
        "chgnet_r2scan",
        ("chgnet_r2scan",),
        "mp-r2scan@chgnet",
        "CHGNet r2SCAN, distilled from r2SCAN",
        "BSD-3-Clause (labels by CHGNet); structures CC-BY-4.0 (Materials Project) and MIT (CDVAE)",
        f"{CHGNET}; Huang et al. (2025) for the transfer to r2SCAN",
    ),
    Store(
        "mp_pbe_u",
        ("mptrj_random", "alexandria", "mpf_tp", "alkali_tp", "diatomics_pbe"),
        "mp-pbe-u",
        "PBE/PBE+U (Materials Project settings), VASP PAW, uncorrected",
        "CC-BY-4.0 (MPtrj, Alexandria), MIT (selection, diatomics)",
        f"{CHGNET}; Schmidt et al., Adv. Mater. 35, 2210788 (2023); Yang et al., arXiv:2405.04967 (2024); "
        "Riebesell et al., Nat. Mach. Intell. 7, 836 (2025)",
    ),
    Store(
        "mvl_pbe",
        ("mvl_nbmotaw", "mlearn"),
        "mvl-pbe",
        "PBE, VASP PAW 520 eV",
        "BSD-3-Clause",
        "Li et al., npj Comput. Mater. 6, 70 (2020); Zuo et al., J. Phys. Chem. A 124, 731 (2020)",
        split=(0.1, 0.1),
    ),
    Store(
        "oc20_rpbe",
        ("oc20_bulks", "oc20_rpbe"),
        "oc20-rpbe",
        "RPBE, VASP PAW 350 eV",
        "CC-BY-4.0",
        "Chanussot et al., ACS Catal. 11, 6059 (2021)",
    ),
    Store(
        "molecules_gfn2",
        ("gfn2_organic", "gfn2_charged", "gfn2_hetero", "gfn2_solvent"),
        "molecules-gfn2",
        "GFN2-xTB",
        "CC0 (QM9 geometries), MIT (other geometries); labels computed for this project",
        "Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019); Ramakrishnan et al., Sci. Data 1, 140022 (2014); "
        "Folmsbee and Hutchison, Int. J. Quantum Chem. 121, e26381 (2021); Magdau et al., npj Comput. Mater. 9, 146 (2023)",
    ),
    Store(
        "rmd17_pbe",
        ("rmd17_pbe",),
        "rmd17-pbe",
        "PBE/def2-SVP",
        "CC0-1.0",
        "Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
        split=(0.1, 0.1),
    ),
)

DESCRIPTION = """\
TO BE WRITTEN"""


def make_stores(data: Path, folder: Path) -> None:
    """Convert what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for store in STORES:
        out = folder / f"{store.name}.bp"
        if out.exists():
            continue
        files = [data / f"{name}.npz" for name in store.files]
        given = {"branch": store.branch, "theory": store.theory, "licence": store.licence, "citation": store.citation}
        source = build_source("npz")
        settings = Settings(SplitSettings(*store.split), store.max_force, store.fewest)
        about = describe(source, "npz", files, **given)
        convert(source, files, out, about, settings=settings, quarantine=out.with_suffix(".jsonl"))


def train(arguments: argparse.Namespace, launch: Launch, device: object) -> None:
    """Train, align, weigh, measure, save; or stop in time, to go on later."""
    config = from_yaml(TrainConfig, arguments.config)
    with Trainer(config, arguments.folder / "stores", arguments.folder, launch, device) as trainer:  # type: ignore[arg-type]
        if not trainer.fit(deadline=Deadline(arguments.max_hours)):
            return
        model = finish(trainer, arguments.name, DESCRIPTION)
    if launch.is_main:
        save(model, arguments.folder / f"{arguments.name}.safetensors")
        write_card(model, arguments.folder / f"{arguments.name}.md")


def main() -> None:
    """From files to a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the packed .npz files")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/default"), help="stores, state, log and model")
    parser.add_argument("--name", default="default")
    parser.add_argument("--max-hours", type=float, help="stop after so long, with a state to go on from")
    parser.add_argument("--device", help="cpu or cuda; by default the best there is")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    with session(arguments.device) as (launch, device):
        if launch.is_main:
            make_stores(arguments.data, arguments.folder / "stores")
        if dist.is_initialized():
            dist.barrier()
        train(arguments, launch, device)


if __name__ == "__main__":
    main()
