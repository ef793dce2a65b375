"""Train the embedded model: ``python recipes/pretrain_default.py --data DATA --folder runs/default``.

DATA has packed ``.npz`` files (docs/data.md). They become ADIOS2 stores, these a trained network, and this a model with
the weights of its blend, the calibration of its uncertainty, and a card. Whatever was stopped goes on when the command
is given again. Settings are in ``pretrain_default.yaml`` beside this file; ``--config`` takes other ones, with any
stores that are in FOLDER/stores. Under torchrun ranks train together; a GPU is used where there is one.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._pretraining import Store, run

CHGNET = "Deng et al., Nat. Mach. Intell. 5, 1031 (2023)"
BY_CHGNET = "BSD-3-Clause (labels by CHGNet); structures CC-BY-4.0 (Materials Project) and MIT (CDVAE)"

OF_QM9_BY_GFN2 = {
    "branch": "molecules-gfn2",
    "theory": "GFN2-xTB",
    "licence": "CC0 (QM9 geometries); labels computed for this project",
    "citation": "Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019); Ramakrishnan et al., Sci. Data 1, 140022 "
    "(2014)",
}

BRANCHES = (
    Store(
        "chgnet_pbe_u",
        ("chgnet_pbe_u.npz",),
        about={
            "branch": "mptrj-pbe-u@chgnet",
            "theory": "CHGNet 0.3.0, distilled from PBE/PBE+U with MP2020 corrections",
            "licence": BY_CHGNET,
            "citation": CHGNET,
        },
    ),
    Store(
        "chgnet_r2scan",
        ("chgnet_r2scan.npz",),
        about={
            "branch": "mp-r2scan@chgnet",
            "theory": "CHGNet r2SCAN, distilled from r2SCAN",
            "licence": BY_CHGNET,
            "citation": f"{CHGNET}; Huang et al. (2025) for the transfer to r2SCAN",
        },
    ),
    Store(
        "mp_pbe_u",
        tuple(f"{name}.npz" for name in ("mptrj_random", "alexandria", "mpf_tp", "alkali_tp", "diatomics_pbe")),
        about={
            "branch": "mp-pbe-u",
            "theory": "PBE/PBE+U (Materials Project settings), VASP PAW, uncorrected",
            "licence": "CC-BY-4.0 (MPtrj, Alexandria), MIT (selection, diatomics)",
            "citation": f"{CHGNET}; Schmidt et al., Adv. Mater. 35, 2210788 (2023); Yang et al., arXiv:2405.04967 "
            "(2024); Riebesell et al., Nat. Mach. Intell. 7, 836 (2025)",
        },
    ),
    Store(
        "mvl_pbe",
        ("mvl_nbmotaw.npz", "mlearn.npz"),
        about={
            "branch": "mvl-pbe",
            "theory": "PBE, VASP PAW 520 eV",
            "licence": "BSD-3-Clause",
            "citation": "Li et al., npj Comput. Mater. 6, 70 (2020); Zuo et al., J. Phys. Chem. A 124, 731 (2020)",
        },
        split=(0.1, 0.1),
    ),
    Store(
        "oc20_rpbe",
        ("oc20_bulks.npz", "oc20_rpbe.npz"),
        about={
            "branch": "oc20-rpbe",
            "theory": "RPBE, VASP PAW 350 eV",
            "licence": "CC-BY-4.0",
            "citation": "Chanussot et al., ACS Catal. 11, 6059 (2021)",
        },
    ),
    Store(
        "molecules_gfn2",
        tuple(f"gfn2_{name}.npz" for name in ("organic", "charged", "hetero", "solvent")),
        about={
            "branch": "molecules-gfn2",
            "theory": "GFN2-xTB",
            "licence": "CC0 (QM9 geometries), MIT (other geometries); labels computed for this project",
            "citation": "Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019); Ramakrishnan et al., Sci. Data 1, "
            "140022 (2014); Folmsbee and Hutchison, Int. J. Quantum Chem. 121, e26381 (2021); Magdau et al., npj "
            "Comput. Mater. 9, 146 (2023); Curtiss et al., J. Chem. Phys. 106, 1063 (1997)",
        },
    ),
    *(Store(f"{name}_gfn2", (f"gfn2_{name}.npz",), about=OF_QM9_BY_GFN2) for name in ("torsions", "substituted")),
    Store(
        "clusters_gfn2",
        ("gfn2_clusters.npz",),
        about={
            "branch": "molecules-gfn2",
            "theory": "GFN2-xTB",
            "licence": "labels and structures made for this project, from geometries of the G2 set",
            "citation": "Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019); Curtiss et al., J. Chem. Phys. "
            "106, 1063 (1997)",
        },
    ),
    Store(
        "rmd17_pbe",
        ("rmd17_pbe.npz",),
        about={
            "branch": "rmd17-pbe",
            "theory": "PBE/def2-SVP",
            "licence": "CC0-1.0",
            "citation": "Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
        },
        split=(0.1, 0.1),
    ),
)


def _more(of: str, name: str) -> Store:
    """Structures of the branch of another store that are trained on alone."""
    store = next(store for store in BRANCHES if store.name == of)
    return replace(store, name=name, files=(f"{name}.npz",), split=(0.0, 0.0), fewest=1)


STORES = (
    *BRANCHES,
    _more("chgnet_pbe_u", "chgnet_more"),
    _more("chgnet_pbe_u", "chgnet_elements"),
    _more("chgnet_pbe_u", "chgnet_relaxed"),
    _more("chgnet_pbe_u", "compressed_chgnet"),
    _more("mvl_pbe", "compressed_mvl"),
    _more("molecules_gfn2", "compressed_gfn2"),
)

DESCRIPTION = """\
A general model for first looks: PaiNN with 128 features, three message passes and a cutoff of 5 Å, trained for five
hours on two CPU cores, at last with crystals at rest and under pressure, elements in simple forms, halogenated
molecules, ions, radicals and clusters of small molecules, too.

"""

STATES = """\
Its molecules are neutral singlets, doublets and triplets, and ions of charge 1 and -1 with all electrons paired or one
unpaired.

"""

ANSWERS = """\
Inorganic crystals of 89 elements are answered for by a branch distilled from CHGNet (which cannot be better than
CHGNet), molecules of H, C, N, O, F, P, S, Cl and others by one of GFN2-xTB. Five more answer to `head=` alone: CHGNet's
r2SCAN, a few thousand PBE calculations of all kinds, alloys and a few elements, adsorbates on metals, and dynamics of
six molecules.

"""

LIMITS = """\
Good for relaxing crystals and small molecules, for dynamics that keep to what was trained on, for screening with a
better method to follow, and as a start for fine-tuning. Not for publication-grade energies, reaction barriers,
magnetism, or other ions and multiplicities than those above; liquids, surfaces of oxides and metal-organic frameworks
are hardly in the data. There is no long-range electrostatics or dispersion beyond the cutoff. Energies of the blend are
on a scale of its own: compare them with each other, not with those of another model or of a single branch.

A screened repulsion of nuclei keeps pairs of atoms apart where there are no data. `energy_std` and `forces_std` are
estimates, learnt from errors on validation structures; `novelty` above 1 says that an atom's surroundings are unlike
all that the branches which answer were trained on, where estimates grow but know nothing, and above 1.2 there is a
warning. The weights of the blend know the composition alone, which takes molecules with few hydrogens for crystals (a
warning says so where there are no periodic boundaries): use `head=` where you know which theory you want."""

if __name__ == "__main__":
    run(__file__, "default", STORES, DESCRIPTION + ANSWERS + STATES + LIMITS, __doc__ or "")
