"""What reads the files of a downstream dataset, and how one is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

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
    """Properties by name, in the units that :attr:`Reader.targets` states; NaN where missing, 0 or 1 for classes."""


class Reader(ABC):
    """Reads a downstream dataset in the formats in which it is published.

    A subclass lives in ``gfmpot/finetune/readers/<name>.py`` and needs no registration: the file's name is the
    reader's. Units are converted here: frames are eV and Å.
    """

    title: ClassVar[str]

    forms: ClassVar[tuple[str, ...]]
    """The files that can be read, one line each, e.g. ``"gdb9.sdf with gdb9.sdf.csv beside it (DeepChem)"``."""

    where: ClassVar[str]
    """Where to get them: an address, and the DOI or citation."""

    targets: ClassVar[Mapping[str, str]] = {}
    """Properties that examples have beside energy and forces: unit by name; ``""`` for classes."""

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

    def missing(self, path: Path) -> FileNotFoundError:
        """The error for data that are not there: where to get them, and in what form."""
        forms = "".join(f"\n  - {form}" for form in self.forms)
        return FileNotFoundError(f"no {self.title} data at {path}. It is at {self.where}; any of these is read:{forms}")


def available_readers() -> list[str]:
    """Names of the readers: the files in ``gfmpot.finetune.readers``."""
    from gfmpot.finetune import readers

    return available(readers)


def build_reader(name: str) -> Reader:
    """The reader defined in ``gfmpot/finetune/readers/<name>.py``, imported on demand.

    Raises:
        ValueError: no such file, or a file that does not define exactly one reader.
    """
    from gfmpot.finetune import readers

    cls = class_in(readers, name, Reader, "reader")  # type: ignore[type-abstract]
    return cls()
