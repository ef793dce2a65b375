"""Splits by group, the same in every file that a group appears in."""

from __future__ import annotations

import hashlib
from typing import Literal

SplitName = Literal["train", "valid", "test"]


def split_of_group(group: str, valid: float = 0.05, test: float = 0.05, seed: int = 0) -> SplitName:
    """The split of a molecule, trajectory or formula, from a hash of its name.

    It depends on nothing else: not on the order, nor on what other data there are. A molecule that occurs in several
    sets is on the same side in all of them, so nothing leaks.
    """
    if valid < 0 or test < 0 or valid + test >= 1:
        raise ValueError(f"valid and test must be fractions that leave something to train on, got {valid} and {test}")
    draw = draw_of_group(group, seed)
    if draw < test:
        return "test"
    return "valid" if draw < test + valid else "train"


def draw_of_group(group: str, seed: int = 0) -> float:
    """Uniform in [0, 1), from a hash of the name."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
