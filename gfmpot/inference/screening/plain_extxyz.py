"""Frames of extended XYZ in the form that most files have, read several times as fast as by ASE.

That form is what ASE itself writes: ``Properties`` that begin with ``species:S:1:pos:R:3``, a ``Lattice`` of nine
numbers or none, ``pbc`` of three letters, and other entries without brackets, braces and escapes. Whatever is not of
that form, or wrong in any way, is left to ASE.
"""

from __future__ import annotations

import re

import numpy as np
from ase.data import atomic_numbers

from gfmpot.data.frame import Frame

NO_LATTICE = "0 0 0 0 0 0 0 0 0"
NO_FORCES = np.zeros((0, 3))

_ENTRY = re.compile(r"""([A-Za-z_][\w-]*)=(?:"([^"\\\[\]{}]*)"|([^\s"'\\\[\]{},]+))""")
_WHOLE = re.compile(r"[+-]?\d+")

PROPERTIES = "species:S:1:pos:R:3"

PBC = {"T": True, "F": False}
"""ASE knows more ways to say it, which are rare."""


def plain_frame(text: str, charge: int, spin: int | None) -> Frame | None:
    """The structure of a frame without labels; None if it does not have the usual form.

    Args:
        text: the frame.
        charge: if it states none.
        spin: multiplicity if it states none; None is unspecified.
    """
    count, _, rest = text.partition("\n")
    header, *lines = rest.split("\n")
    if _ENTRY.sub("", header).strip():
        return None
    entries = {name: quoted or bare for name, quoted, bare in _ENTRY.findall(header)}
    properties = entries.get("Properties", "")
    stated = [entries[name] for name in ("charge", "spin") if name in entries]
    usual = properties == PROPERTIES or properties.startswith(PROPERTIES + ":")
    if not usual or not all(map(_WHOLE.fullmatch, stated)) or int(entries.get("spin", 1)) < 1:
        return None
    if not _WHOLE.fullmatch(count.strip()) or len(lines) < int(count):
        return None
    rows = [line.split(None, 4) for line in lines[: int(count)]]
    try:
        return Frame(
            numbers=np.array([atomic_numbers[row[0]] for row in rows]),
            positions=np.array([[float(row[1]), float(row[2]), float(row[3])] for row in rows]),
            energy=np.nan,
            forces=NO_FORCES,
            group="",
            cell=np.array([float(x) for x in entries.get("Lattice", NO_LATTICE).split()]).reshape(3, 3),
            pbc=np.array([PBC[x] for x in entries["pbc"].split()] if "pbc" in entries else 3 * ["Lattice" in entries]),
            charge=int(entries.get("charge", charge)),
            spin=int(entries.get("spin", spin or 0)),
        )
    except (ValueError, KeyError, IndexError):
        return None
