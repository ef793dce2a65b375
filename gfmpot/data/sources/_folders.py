"""The side of a published split that a file is on, from the name of its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from gfmpot.data.split import SplitName

TRAIN_VAL: Mapping[str, SplitName] = {"train": "train", "val": "valid"}
"""Folders ``train`` and ``val``, as most datasets of the Open Catalyst project have them."""


def split_of_folder(path: Path, names: Mapping[str, SplitName], levels: int = 2) -> SplitName | None:
    """What the nearest folder of ``path`` whose whole name matches one of the patterns ``names`` stands for.

    Only ``levels`` folders are looked at: names further up belong to whoever keeps the files, not to the publishers.
    """
    for folder in list(path.absolute().parents)[:levels]:
        for pattern, split in names.items():
            if re.fullmatch(pattern, folder.name):
                return split
    return None
