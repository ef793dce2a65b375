"""Train the large embedded model: ``python recipes/pretrain_large.py --data DATA --folder runs/large``.

The default model made wider, and trained on, with more crystals (``recipes/label_crystals.py``). Settings are in
``pretrain_large.yaml`` beside this file; all else is as in ``pretrain_default.py``.
"""

from __future__ import annotations

from gfmpot.recipes import pretrain_default
from gfmpot.recipes._pretraining import run

DESCRIPTION = """\
The default model's larger sister, more accurate, two thirds as fast, and trained on crystals under pressure, too: PaiNN
with 192 features, three message passes and a cutoff of 5 Å, begun with the default model's weights and trained for
two and three quarter hours more on two CPU cores.

"""

STATES = """\
Its molecules are neutral singlets and triplets, and singly charged doublets.

"""

if __name__ == "__main__":
    run(
        __file__,
        "large",
        pretrain_default.STORES,
        DESCRIPTION + pretrain_default.ANSWERS + STATES + pretrain_default.LIMITS,
        __doc__ or "",
    )
