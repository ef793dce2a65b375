"""What reads the files of a downstream dataset, and how one is found by its name."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from gfmpot.config import from_mapping
from gfmpot.data.frame import Frame, Rejected
from gfmpot.discovery import available, class_in


@dataclass(frozen=True, slots=True)
class Example:
    """A structure and what is known of it."""

    frame: Frame
    """With energy and forces, where the dataset has them; NaN otherwise."""

    key: str
    """The dataset's own name of the structure, e.g. ``gdb_1`` or ``mb-jdft2d-001``."""

    targets: Mapping[str, float] = field(default_factory=dict)
    """Properties by name, in the units that :meth:`Reader.units` states; NaN where missing, 0 or 1 for classes."""


class Reader(ABC):
    """Reads a downstream dataset in the formats in which it is published.

    A subclass lives in ``gfmpot/finetune/readers/<name>.py`` and needs no registration: the file's name is the
    reader's. Units are converted here: frames are eV and Å.
    """

    title: ClassVar[str]

    forms: ClassVar[tuple[str, ...]]
    """The files that can be read, one line each, e.g. ``"gdb9.sdf with gdb9.sdf.csv beside it (DeepChem)"``."""

    where: ClassVar[str]
    """Where to get them: an address, and the DOI or citation; empty for files that users make themselves."""

    targets: ClassVar[Mapping[str, str]] = {}
    """Properties that examples of any file have beside energy and forces: unit by name.

    ``""`` stands for classes and pure numbers. Readers of general formats leave this empty: see :meth:`units`.
    """

    def units(self, path: Path) -> Mapping[str, str]:
        """Properties of the examples in a file or folder: unit by name, ``""`` also where the file does not state it.

        Raises:
            FileNotFoundError: as :meth:`count`.
            ValueError: as :meth:`count`.
        """
        del path  # where it decides, a reader says so
        return self.targets

    @abstractmethod
    def count(self, path: Path) -> int:
        """Number of structures in a file or folder.

        Raises:
            FileNotFoundError: nothing there; says where the dataset is to be had, and in what form.
            ValueError: truncated or of another layout; names the file, what was found and what was expected.
        """

    @abstractmethod
    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The structures at ``indices``, which ascend; what cannot be read comes as ``Rejected`` with the reason."""

    def existing(self, path: Path) -> Path:
        """A path with something at it.

        Raises:
            FileNotFoundError: nothing there; says where the dataset is to be had, and in what form.
        """
        if not path.exists():
            raise self.missing(path)
        return path

    def single(self, path: Path, pattern: str) -> Path:
        """The file at ``path``, or the one file of a folder whose name matches ``pattern``.

        Raises:
            FileNotFoundError: none.
            ValueError: several in the folder.
        """
        files = sorted(self.existing(path).glob(pattern)) if path.is_dir() else [self.existing(path)]
        if not files:
            raise self.missing(path)
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"{path}: expected one {pattern}, got {names}; name the file instead of the folder")
        return files[0]

    def missing(self, path: Path) -> FileNotFoundError:
        """The error for data that are not there: where to get them, and in what form."""
        forms = "".join(f"\n  - {form}" for form in self.forms)
        source = f" It is at {self.where}." if self.where else ""
        return FileNotFoundError(f"no {self.title} data at {path}.{source} Any of these is read:{forms}")


def available_readers() -> list[str]:
    """Names of the readers: the files in ``gfmpot.finetune.readers``."""
    from gfmpot.finetune import readers

    return available(readers)


def build_reader(name: str, **options: Any) -> Reader:
    """The reader defined in ``gfmpot/finetune/readers/<name>.py``, imported on demand.

    A reader that can be told something is a dataclass: ``build_reader("structures", energy_unit="Hartree")``.

    Raises:
        ValueError: no such file, a file that does not define exactly one reader, options for a reader that has none,
            or an unknown or ill-typed option.
    """
    from gfmpot.finetune import readers

    cls = class_in(readers, name, Reader, "reader")  # type: ignore[type-abstract]
    if dataclasses.is_dataclass(cls):
        return from_mapping(cls, options, where=f"reader {name!r}")
    if options:
        raise ValueError(
            f"reader {name!r} reads one published dataset, whose units and layout are fixed: it takes no options, got "
            f"{', '.join(sorted(options))}"
        )
    return cls()
