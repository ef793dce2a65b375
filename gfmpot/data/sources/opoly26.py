"""Open Polymers 2026."""

from __future__ import annotations

from dataclasses import replace

from gfmpot.data.sources._omol import WHOLE, OMolSource


class OPoly26(OMolSource):
    """Pieces of polymers, up to 360 atoms, computed as OMol25; a record is a piece."""

    info = replace(
        WHOLE,
        branch="opoly26-wb97mv",
        title="Open Polymers 2026 (OPoly26)",
        citation="Levine et al., arXiv:2512.23117 (2025)",
        compounds="Organic polymers",
        published_split="train and val by folder (5,902,827 and 201,865 in the release of March 2026), and test "
        "without labels",
        paper_structures=6_318_494,
    )
