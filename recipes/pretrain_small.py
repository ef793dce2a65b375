"""Train the embedded model: ``python recipes/pretrain_small.py --data DATA --folder runs/small``.

Settings are in ``pretrain_small.yaml`` beside this file; the run resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from gfmpot.config import from_yaml
from gfmpot.models import save
from gfmpot.training.config import TrainConfig
from gfmpot.training.finish import finish, write_card
from gfmpot.training.trainer import Trainer

DESCRIPTION = """\
A small first model: a PaiNN backbone with three branches, trained in about an hour on two CPU cores. Crystals of 89
elements come from a branch distilled from CHGNet (so it cannot be better than CHGNet), and from a branch trained on
a few thousand PBE calculations; molecules of H, C, N, O, F, neutral and singly charged, from a GFN2-xTB branch.

Good for trying gfmpot out, for short dynamics of crystals near their equilibrium and for relaxing small organic
molecules. Not for publication-grade energies; not for surfaces, liquids, adsorbates or metal-organic chemistry,
which it has never seen; phonons and vibrations have not been tested. Only the molecular branch has seen charged
structures, singly charged ones.

It has no explicit short-range repulsion and no long-range electrostatics or dispersion. Strongly compressed
structures are extrapolated wildly: the gap between mean and median force error of the first branch below is the work
of one test crystal among 1,500 (chlorine with contacts of 1.2 Å, wrong by thousands of eV/Å).
The blend is learnt from few structures; for some elements (pure C, O, Fe) the best single head is better.
`energy_std` is the spread of the branches that know the elements; it is not calibrated."""


def main() -> None:
    """Train, align, weigh, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the packed .npz files named in the config"
    )
    parser.add_argument("--config", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/small"), help="state, log and model")
    parser.add_argument("--name", default="default")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    trainer = Trainer(from_yaml(TrainConfig, arguments.config), arguments.data, arguments.folder)
    trainer.fit()
    model = finish(trainer, arguments.name, DESCRIPTION)
    save(model, arguments.folder / f"{arguments.name}.safetensors")
    write_card(model, arguments.folder / f"{arguments.name}.md")


if __name__ == "__main__":
    main()
