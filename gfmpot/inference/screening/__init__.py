"""Screening: any number of structures through a model, on any number of processes, each structure exactly once.

The inputs are cut into blocks of records (:mod:`inputs`), which processes take one by one (:mod:`claiming`). Reading
(:mod:`formats`) and finding neighbours (:mod:`preparing`) run ahead in other processes (:mod:`readers`); batches are
evaluated (:mod:`evaluating`), and a block is written when it is complete (:mod:`assembling`, :mod:`tables`). A table
that exists is a block that is done: nothing else is needed to go on after a kill (:mod:`running`). In the end the run
is checked (:mod:`checking`) and reported on (:mod:`closing`).
"""

from gfmpot.inference.screening.checking import check
from gfmpot.inference.screening.closing import Report
from gfmpot.inference.screening.evaluating import Relaxation
from gfmpot.inference.screening.ranking import Top
from gfmpot.inference.screening.running import Outcome, Relaxer, Screening, Settings
from gfmpot.inference.screening.where import Where

__all__ = [
    "Outcome",
    "Relaxation",
    "Relaxer",
    "Report",
    "Screening",
    "Settings",
    "Top",
    "Where",
    "check",
]
