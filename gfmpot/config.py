"""Plain mappings (YAML, JSON, command line) to frozen dataclasses and back, strictly.

An unknown key fails with "did you mean", a wrong type names the field. A field made with :func:`tunable` carries the
range a hyper-parameter search may explore.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Tunable:
    """The range of a hyper-parameter: numbers between ``low`` and ``high``, or one of ``choices``."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


def tunable(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    log: bool = False,
    choices: Iterable[Any] = (),
) -> Any:
    """A dataclass field with a default and the range a search may explore."""
    space = Tunable(low, high, log, tuple(choices))
    return dataclasses.field(default=default, metadata={"tunable": space})


FEW = 8
"""Names that an error lists, though one of them is close to what was given: the closest may not be what was meant."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'painn'?"``, and the known names if they are few or nothing is close."""
    known = sorted(known)
    close, names = closest(name, known), ", ".join(known) or "none"
    if not close:
        return f"; known: {names}"
    return f"{close} Known: {names}" if len(known) <= FEW else close


def closest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'painn'?"``, or nothing when nothing is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def similar_name(path: Path) -> str:
    """``"; did you mean 'a.cif'?"``, if there is something of a similar name where ``path`` is not."""
    names = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {str(path.with_name(close[0]))!r}?" if close else ""


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Build the frozen dataclass ``cls`` from a mapping, converting nested dataclasses and tuples.

    Raises:
        ValueError: unknown or missing key, or a value of the wrong type; the message names the field.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    where = where or cls.__name__
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in mapping:
        if key not in fields:
            raise ValueError(f"{where}: unknown key {key!r}{did_you_mean(str(key), fields)}")
    missing = [name for name, field in fields.items() if _is_required(field) and name not in mapping]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    return cls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in mapping.items()})


def from_yaml(cls: type[T], path: str | Path) -> T:
    """Build the frozen dataclass ``cls`` from a YAML file."""
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(loaded).__name__}")
    return from_mapping(cls, loaded, where=str(path))


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON types; the inverse of :func:`from_mapping`."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the annotated type ``hint``; only lossless conversions are made."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is Literal:
        if value not in args:
            choices = ", ".join(map(str, args))
            raise ValueError(f"{where}: got {value!r}, choices are {choices}{closest(str(value), map(str, args))}")
        return value
    if origin in (tuple, list):
        return _convert_sequence(origin, args, value, where)
    if origin is not None:  # Mapping[str, float] and the like
        return _convert_mapping(args, value, where)
    return _convert_plain(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    reasons = []
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _convert(arg, value, where)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[-1])


def _convert_sequence(origin: Any, args: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{where}: expected a list, got {value!r}")
    return origin(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))


def _convert_mapping(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {value!r}")
    return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, Mapping):
            return from_mapping(hint, value, where)  # type: ignore[arg-type]
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 (without a point) as a string
        except ValueError:
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
