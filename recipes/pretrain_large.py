"""Train the large embedded model: ``python recipes/pretrain_large.py --data DATA --folder runs/large``.

The default model made wider, and trained on, with more crystals (``recipes/label_crystals.py``). Settings are in
``pretrain_large.yaml`` beside this file; all else is as in ``pretrain_default.py``.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes import pretrain_default
from gfmpot.recipes._pretraining import Store, run

BRANCHES = {store.name: store for store in pretrain_default.STORES}


def _more(of: str, name: str) -> Store:
    """Structures of the branch of another store that are trained on alone."""
    return replace(BRANCHES[of], name=name, files=(f"{name}.npz",), split=(0.0, 0.0), fewest=1)


STORES = (
    *pretrain_default.STORES,
    _more("chgnet_pbe_u", "chgnet_more"),
    _more("chgnet_pbe_u", "compressed_chgnet"),
    _more("mvl_pbe", "compressed_mvl"),
    _more("molecules_gfn2", "compressed_gfn2"),
)

DESCRIPTION = """\
The default model's larger sister, more accurate, two thirds as fast, and trained on crystals under pressure, too: PaiNN
with 192 features, three message passes and a cutoff of 5 Å, begun with the default model's weights and trained for
two and three quarter hours more on two CPU cores.

"""

if __name__ == "__main__":
    run(__file__, "large", STORES, DESCRIPTION + pretrain_default.ANSWERS + pretrain_default.LIMITS, __doc__ or "")
