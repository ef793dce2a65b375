"""Labelled structures: reading, converting and storing them, splitting them by group, fitting reference energies."""

from gfmpot.data.formats.adios import AdiosStore
from gfmpot.data.frames import FrameSet
from gfmpot.data.reference_energies import fit_reference_energies
from gfmpot.data.split import split_of_group

__all__ = ["AdiosStore", "FrameSet", "fit_reference_energies", "split_of_group"]
