"""Open Molecules 2025."""

from __future__ import annotations

from gfmpot.data.sources._omol import WHOLE, OMolSource


class OMol25(OMolSource):
    """All of OMol25: small molecules, biomolecules, metal complexes, electrolytes; a record is a molecule."""

    info = WHOLE
