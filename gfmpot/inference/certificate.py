"""What rounding does to a model's answers, as numbers to print, to keep and to cite.

:func:`gfmpot.inference.certification.certify` makes a certificate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gfmpot.config import from_mapping, to_mapping
from gfmpot.inference import certificate_text
from gfmpot.inference.provenance import Provenance

FORMAT = "gfmpot certificate"
VERSION = 2


@dataclass(frozen=True)
class Deviation:
    """The largest differences between two answers that should be the same."""

    energy: float
    """eV/atom."""

    forces: float
    """eV/Å, of any component."""

    stress: float | None
    """eV/Å³, of any component; None without a volume."""


@dataclass(frozen=True)
class Drift:
    """How the total energy of a short NVE run behaves."""

    slope: float
    """meV/atom/ps, of a straight line through the total energy."""

    scatter: float
    """meV/atom, root mean square about that line: the integrator's own, with a good potential."""

    steps: int
    timestep: float
    """fs."""

    temperature: float
    """K, mean."""


@dataclass(frozen=True)
class Measurement:
    """One structure in one precision."""

    structure: str
    formula: str
    natoms: int
    precision: str
    path: str
    """How it was evaluated: ``kernels``, ``compiled`` or ``plain``, see :attr:`gfmpot.inference.Predictor.path`."""

    seconds: float
    """Of an evaluation with its neighbour list, median of the repeats."""

    from_fp64: Deviation
    """Against float64 on the same input, evaluated without compiled code."""

    force_differences: float
    """eV/Å: forces against central differences of the energy, both in this precision."""

    stress_differences: float | None
    """eV/Å³: likewise; None without a volume."""

    rotation: Deviation
    """Rotated and mirrored, and turned back."""

    translation: Deviation
    """Moved far; where periodic, single atoms by lattice vectors, too."""

    permutation: Deviation
    """With atoms in another order."""

    batch: Deviation
    """In a batch with other structures, against alone."""

    extensivity: float | None
    """eV/atom: twice the structure (a supercell, or two molecules far apart) against twice its energy."""

    repeatable: bool
    """Whether repeats agree bit for bit."""

    drift: Drift | None
    remarks: tuple[str, ...] = ()
    """Why something is missing."""


@dataclass(frozen=True)
class Certificate:
    """Measurements of some structures in some precisions, and what they were made with."""

    provenance: Provenance
    measurements: tuple[Measurement, ...]

    @property
    def precisions(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(m.precision for m in self.measurements))

    def of(self, precision: str) -> list[Measurement]:
        """The measurements in one precision."""
        return [m for m in self.measurements if m.precision == precision]

    def to_json(self) -> str:
        """All numbers; the inverse of :meth:`from_json`."""
        document = {"format": FORMAT, "version": VERSION, "version_hash": self.provenance.version, **to_mapping(self)}
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """The certificate in a JSON document.

        Raises:
            ValueError: not JSON, not a certificate, or one of another version.
        """
        document = json.loads(text)
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise ValueError(f"this is no certificate: expected a JSON object with format={FORMAT!r}")
        if document.get("version") != VERSION:
            raise ValueError(f"certificate of version {document.get('version')}; this gfmpot reads version {VERSION}")
        fields = {key: value for key, value in document.items() if key not in ("format", "version", "version_hash")}
        return from_mapping(cls, fields, where="certificate")

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """The worst values in each precision as plain text, and why something is missing."""
        return certificate_text.table(self)

    def markdown(self) -> str:
        """For the methods section of a paper: a paragraph for each precision, and the table."""
        return certificate_text.markdown(self)
