"""Train the large embedded model: ``python recipes/pretrain_large.py --data DATA --folder runs/large``.

The default model made wider, and trained on, with more crystals (``recipes/label_crystals.py``). Settings are in
``pretrain_large.yaml`` beside this file; all else is as in ``pretrain_default.py``.
"""

from __future__ import annotations

from gfmpot.recipes import pretrain_default
from gfmpot.recipes._pretraining import run

DESCRIPTION = """\
The default model's larger sister, more accurate for crystals and organic molecules (not for ions and halogenated ones),
two thirds as fast: PaiNN with 192 features, three message passes and a cutoff of 5 Å, begun with the default model's
weights and trained for more than three hours more on two CPU cores, with the same data.

"""

if __name__ == "__main__":
    run(
        __file__,
        "large",
        pretrain_default.STORES,
        DESCRIPTION + pretrain_default.ANSWERS + pretrain_default.STATES + pretrain_default.LIMITS,
        __doc__ or "",
    )
