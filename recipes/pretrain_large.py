"""Train the large embedded model: ``python recipes/pretrain_large.py --data DATA --folder runs/large``.

The default model made wider, and trained on, with more crystals (``recipes/label_crystals.py``). Settings are in
``pretrain_large.yaml`` beside this file; all else is as in ``pretrain_default.py``.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes import pretrain_default
from gfmpot.recipes._pretraining import run

CRYSTALS, *OTHERS = pretrain_default.STORES
STORES = (CRYSTALS, replace(CRYSTALS, name="chgnet_more", files=("chgnet_more.npz",), split=(0.0, 0.0)), *OTHERS)

DESCRIPTION = """\
The default model's larger sister, somewhat more accurate and two thirds as fast: PaiNN with 192 features, three message
passes and a cutoff of 5 Å, begun with the default model's weights and trained for another hour and a quarter on two CPU
cores, with a third more crystals. The same branches, and the same limits: crystals are answered for by branches
distilled from CHGNet (which cannot be better than CHGNet) and by one of a few thousand PBE calculations; molecules by a
GFN2-xTB branch.

"""

if __name__ == "__main__":
    run(__file__, "large", STORES, DESCRIPTION + pretrain_default.LIMITS, __doc__ or "")
