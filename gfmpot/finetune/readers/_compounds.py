"""What keeps compounds together: their reduced formula."""

from __future__ import annotations

import dataclasses

import numpy as np

from gfmpot.data.frame import Frame
from gfmpot.data.sources._molecules import formula


def grouped_by_formula(frame: Frame) -> Frame:
    """The frame, in the group of all compounds and polymorphs of its reduced formula in Hill's order, e.g. O3PbTi."""
    elements, counts = np.unique(frame.numbers, return_counts=True)
    return dataclasses.replace(frame, group=formula(np.repeat(elements, counts // np.gcd.reduce(counts))))
