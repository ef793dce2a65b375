"""Train the paper's lead model: ``torchrun ... recipes/pretrain_lead.py --data RAW --folder runs/lead``.

RAW has one folder for each of the sixteen datasets, named as ``gfmpot data list`` names them, with what was downloaded.
The architecture is Table V's and the sampling that of §VII-A; the text that we have leaves the learning rate blank, so
that ours stands in ``pretrain_lead.yaml``. Whatever was stopped goes on when the command is given again.

Converting more than half a billion structures is work for many processes: ``recipes/hpc`` has the jobs; their stores
go to FOLDER/stores.
"""

from __future__ import annotations

from gfmpot.recipes._pretraining import Store, run

DATASETS = (
    "qm7x",
    "qcml",
    "transition1x",
    "ani1x",
    "nabla2dft",
    "mptrj",
    "alexandria",
    "oc20",
    "oc22",
    "oc25",
    "odac23",
    "omat24",
    "omol25",
    "omol25_neutral",
    "omol25_charged",
    "opoly26",
)

STORES = tuple(Store(name, (name,), source=name) for name in DATASETS)

DESCRIPTION = """\
The lead model of "Exascale Multi-Task Graph Foundation Models for Imbalanced, Multi-Fidelity Atomistic Data": PaiNN
with sixteen branches, one per dataset and level of theory. Its readout is that of the paper, over whole structures:
energies are not size-extensive. At most 20 neighbours count for each atom."""

if __name__ == "__main__":
    run(__file__, "lead", STORES, DESCRIPTION, __doc__ or "")
