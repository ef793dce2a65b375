"""Open Molecules 2025: ions and open shells."""

from __future__ import annotations

from gfmpot.data.frame import Frame
from gfmpot.data.sources._omol import OMolSource, subset


class OMol25Charged(OMolSource):
    """What is not a neutral singlet in the files of OMol25: charged, open-shell, or both."""

    info = subset(
        "omol25charged-wb97mv",
        "OMol25 - non-neutral non-singlet subset",
        42_769_648,
        "that of the whole",
    )

    def has(self, frame: Frame) -> bool:
        """A charge, or a multiplicity other than 1."""
        return frame.charge != 0 or frame.spin != 1
