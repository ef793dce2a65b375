"""Open Molecules 2025: neutral singlets."""

from __future__ import annotations

from gfmpot.data.frame import Frame
from gfmpot.data.sources._omol import OMolSource, subset


class OMol25Neutral(OMolSource):
    """The neutral singlets in the files of OMol25, whether of ``neutral_train`` and ``neutral_val`` or of the whole.

    The folders ``neutral_train`` and ``neutral_val`` count as no published split, because nothing says that molecules
    of ``neutral_val`` are not in the whole's ``train``: there the group decides. To train on the whole by the published
    split, read this subset from the whole's folders too.
    """

    info = subset(
        "omol25neutral-wb97mv",
        "OMol25 - neutral singlet subset",
        34_363_525,
        "that of the whole, where its folders are read; neutral_train and neutral_val (34,335,828 and 27,697, the "
        "paper's number together) are split by group",
    )

    def has(self, frame: Frame) -> bool:
        """Charge 0 and multiplicity 1."""
        return frame.charge == 0 and frame.spin == 1
