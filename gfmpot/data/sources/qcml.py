"""QCML: small molecules of most elements, many of them charged or open-shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._molecules import formula, molecule
from gfmpot.data.sources._scale import Scale
from gfmpot.data.sources._tfrecord import parse_example, read_records, record_offsets

NEEDED = ("atomic_numbers", "positions", "pbe0_energy", "pbe0_forces", "charge", "multiplicity", "is_outlier")
SCALE = Scale.of("Hartree", "Bohr")


class QCML(Source):
    """The DFT part, feature group ``dft_force_field``, as TensorFlow Datasets wrote it; a record is a structure.

    TFRecord keeps float32 alone: total energies of light molecules are exact to about 1 meV, with iodine or heavier
    elements to 10 to 50 meV. The group is the sum formula, since the molecule (``smiles_hash``) is in another feature
    group. About 1.5 % of the structures are flagged as outliers by the publishers and come as rejected.
    """

    info = SourceInfo(
        branch="qcml-pbe0",
        title="QCML (DFT)",
        theory="PBE0, FHI-aims, tight settings",
        format="TFRecord shards of TensorFlow Datasets, qcml-full.tfrecord-*-of-*",
        layout="examples of https://zenodo.org/records/14859804 for "
        "gs://qcml-datasets/tfds/qcml/dft_force_field/1.0.0: key_hash, is_outlier, charge, multiplicity, "
        "atomic_numbers (n,), positions (n, 3), pbe0_energy, pbe0_formation_energy, pbe0_forces (n, 3)",
        units="Hartree, Bohr, Hartree/Bohr",
        charge_spin="charge and multiplicity of every structure",
        licence="CC-BY-NC-4.0",
        citation="Ganscha et al., Sci. Data 12, 406 (2025), doi:10.1038/s41597-025-04720-7",
        url="https://zenodo.org/records/14859804",
        compounds="Organic molecules",
        paper_theory="DFT (PBE0)",
        paper_structures=33_496_167,
    )
    suffixes = (".tfrecord-*",)

    def is_file(self, path: Path) -> bool:
        """Shards end in a number, e.g. ``.tfrecord-00003-of-00011``."""
        return path.is_file() and ".tfrecord-" in path.name

    def count(self, path: Path) -> int:
        """Number of structures."""
        size = len(record_offsets(path)) - 1
        first = parse_example(next(read_records(path, 0, 1), b""))
        missing = [key for key in NEEDED if key not in first]
        if missing:
            raise ValueError(
                f"{path}: expected the features of QCML's dft_force_field, {', '.join(NEEDED)}; the first record "
                f"has no {', '.join(missing)}, but {', '.join(sorted(first)) or 'nothing'}"
            )
        return size

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per record."""
        for index, data in enumerate(read_records(path, start, stop), start):
            yield _frame(data, f"{path.name}:{index}")


def _frame(data: bytes, where: str) -> Frame | Rejected:
    try:
        example = parse_example(data)
        numbers, positions, energy, forces, charge, spin, outlier = (example[key] for key in NEEDED)
        if outlier.any():
            return Rejected(where, "flagged as an outlier by the publishers")
        return molecule(
            where,
            numbers,
            positions.reshape(-1, 3),
            energy,
            forces.reshape(-1, 3),
            group=formula(numbers),
            scale=SCALE,
            charge=int(charge[0]),
            spin=int(spin[0]),
        )
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        return Rejected(where, f"not a record of QCML: {error!r}")
