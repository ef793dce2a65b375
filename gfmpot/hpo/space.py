"""What a search may change: the ``tunable()`` fields of a backbone, of the heads, of the loss and of the optimizer.

Settings have the names that they have in the YAML of a run, without ``model.``: ``backbone.hidden``,
``head.branch_width``, ``loss.forces``, ``optim.learning_rate``, ``batch.structures``, ``precision``. Ranges come from
the fields, so that a new backbone brings its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, Literal

import yaml

from gfmpot.config import Tunable, did_you_mean
from gfmpot.hpo.settings import Setting, settings_of

Values = Mapping[str, Any]

SEARCHED = ("backbone", "head", "loss", "optim")
"""Sections whose tunable fields are searched unless they are fixed."""

OWN = {
    "loss.forces": Tunable(10.0, 1000.0, log=True),  # LossConfig goes down to 0.1, where energies alone are learnt
    "optim.learning_rate": Tunable(1e-5, 3e-3, log=True),
}
"""Ranges of the two entries of Table III that the text of the paper leaves blank."""

ONLY_WITH = {"optim.matrix_learning_rate": ("optim.method", "muon")}
"""What is not searched where another setting is fixed to something else than this, since nothing depends on it then."""

PAPER = ("backbone.*", "head.branch_layers", "head.branch_width", *OWN)
"""What the paper searched (section V-D, Tables III and IV)."""

TABLE_III = {"backbone.layers": (2, 6), "head.branch_layers": (2, 4), "head.branch_width": (300, 2000)}
HIDDEN = {"egnn": (100, 3000), "schnet": (100, 3000), "dimenet": (10, 100)}
TABLE_IV: dict[str, tuple[tuple[Any, ...], ...]] = {
    "schnet": ((6, 300), (3, 100)),
    "dimenet": ((8, 200), (4, 6), (16, 500), (24, 4000), (0, 2), (3, 12), (2, 8)),
    "mace": ((3, 12), (2, 3), (1, 3), ("bessel", "chebyshev", "gaussian"), ("agnesi", "soft")),
    "painn": ((3, 12),),
    "pnaeq": ((3, 12),),
}
"""Ranges by backbone; fields are known by their ranges, since their names are their file's affair."""


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space."""

    name: str
    kind: Literal["int", "float", "choice"]
    default: Any
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    source: str = "its field"

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if len(self.choices) < 2:
                raise ValueError(f"{self.name}: expected at least two choices, got {list(self.choices)}; use --fix")
        elif not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"{self.name}: expected LOW:HIGH with LOW below HIGH, got {self.low:g}:{self.high:g}")

    def contains(self, value: Any) -> bool:
        """Whether the search could have come upon a value."""
        if self.kind == "choice":
            return json.dumps(value) in map(json.dumps, self.choices)  # tuples come back from files as lists
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (self.kind == "float" or value == int(value))

    @property
    def start(self) -> Any:
        """The default, or what is closest to it."""
        if self.kind == "choice":
            return self.default if self.contains(self.default) else self.choices[0]
        return type(self.default)(min(max(self.default, self.low), self.high))

    @property
    def range(self) -> str:
        """In words."""
        if self.kind == "choice":
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, what is fixed, and the settings that there are."""

    backbone: str
    parameters: tuple[Parameter, ...]
    fixed: Values = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of what is searched."""
        return [parameter.name for parameter in self.parameters]

    @property
    def defaults(self) -> dict[str, Any]:
        """Of what is searched."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    @property
    def start(self) -> dict[str, Any]:
        """The configuration that is closest to the defaults."""
        return {parameter.name: parameter.start for parameter in self.parameters}

    def contains(self, values: Values) -> bool:
        """Whether the search could have come upon a configuration."""
        return all(p.name in values and p.contains(values[p.name]) for p in self.parameters)


def build_space(
    backbone: str,
    fix: Sequence[str] = (),
    ranges: Sequence[str] = (),
    which: Literal["all", "paper"] = "all",
    given: Values | None = None,
) -> SearchSpace:
    """The space of a backbone.

    Args:
        backbone: its name.
        fix: ``NAME=VALUE``, or ``NAME`` to keep the default; a name of what is searched may have wildcards.
        ranges: ``NAME=LOW:HIGH``, with ``:log`` behind it if steps are factors, or ``NAME=A,B,C``; they may also add a
            setting that is not searched by itself.
        which: all that is tunable, or what the paper searched.
        given: settings as from the YAML of a run: they are fixed, or the defaults of what is searched.

    Raises:
        ValueError: an unknown backbone or name, a value of the wrong type, or nothing left to search.
    """
    known = settings_of(backbone)
    found = {
        s.name: _from_field(s, backbone) for s in known.values() if s.section in SEARCHED and s.tunable is not None
    }
    kept = {name: p for name, p in found.items() if which == "all" or any(fnmatch(name, p) for p in PAPER)}
    for text in ranges:
        parameter = _from_text(text, known)
        kept[parameter.name] = parameter
    given = given or {}
    kept = {name: replace(p, default=given.get(name, p.default)) for name, p in kept.items()}
    fixed = {name: value for name, value in given.items() if name not in kept}
    for text in fix:
        for name, value in _fixed(text, known, given):
            kept.pop(name, None)
            fixed[name] = value
    asked = {text.partition("=")[0] for text in ranges}
    for name, (other, wanted) in ONLY_WITH.items():
        if name in kept and name not in asked and fixed.get(other, wanted) != wanted:
            del kept[name]
    if not kept:
        raise ValueError("nothing is left to search: every parameter is fixed")
    return SearchSpace(backbone, tuple(kept.values()), fixed)


def fixed_settings(backbone: str, fix: Sequence[str]) -> dict[str, Any]:
    """What ``NAME=VALUE`` or ``NAME`` mean for a backbone.

    Raises:
        ValueError: an unknown name, or a value of the wrong type.
    """
    known = settings_of(backbone)
    return dict(pair for text in fix for pair in _fixed(text, known, {}))


def _from_field(setting: Setting, backbone: str) -> Parameter:
    space = OWN.get(setting.name, setting.tunable)
    assert space is not None
    source = _source(setting, space, backbone)
    if space.choices:
        return Parameter(setting.name, "choice", setting.default, choices=space.choices, source=source)
    assert space.low is not None
    assert space.high is not None
    kind: Literal["int", "float"] = "int" if setting.type is int else "float"
    return Parameter(setting.name, kind, setting.default, space.low, space.high, space.log, source=source)


def _source(setting: Setting, space: Tunable, backbone: str) -> str:
    """Where a range is from, for a table."""
    if setting.name in OWN:
        return "ours; the paper leaves it blank"
    ends: tuple[Any, ...] = tuple(sorted(map(str, space.choices))) if space.choices else (space.low, space.high)
    if ends == (
        HIDDEN.get(backbone, (100, 1000)) if setting.name == "backbone.hidden" else TABLE_III.get(setting.name)
    ):
        return "paper, Table III"
    in_table = setting.section == "backbone" and ends in TABLE_IV.get(backbone, ())
    return "paper, Table IV" if in_table else "its field"


def _from_text(text: str, known: Mapping[str, Setting]) -> Parameter:
    name, _, what = text.partition("=")
    setting = _known(name, known)
    if "," in what:
        choices = tuple(setting.convert(_scalar(part)) for part in what.split(","))
        return Parameter(name, "choice", setting.default, choices=choices, source="--range")
    parts = what.split(":")
    log = parts[-1] == "log" or (setting.tunable is not None and setting.tunable.log)
    ends = parts[:-1] if parts[-1] == "log" else parts
    if len(ends) != 2 or setting.type not in (int, float):
        raise ValueError(
            f"--range {text}: expected {name}=LOW:HIGH or LOW:HIGH:log of a number, or choices such as {name}=A,B"
        )
    low, high = (setting.convert(_scalar(end)) for end in ends)
    kind: Literal["int", "float"] = "int" if setting.type is int else "float"
    return Parameter(name, kind, setting.default, low, high, log, source="--range")


def _fixed(text: str, known: Mapping[str, Setting], given: Values) -> list[tuple[str, Any]]:
    name, equals, value = text.partition("=")
    if equals:
        return [(name, _known(name, known).convert(_scalar(value)))]
    matching = [each for each in known if fnmatch(each, name)]
    if not matching:
        _known(name, known)
    return [(each, given.get(each, known[each].default)) for each in matching]


def _known(name: str, known: Mapping[str, Setting]) -> Setting:
    if name not in known:
        raise ValueError(f"no setting {name!r}{_closest(name, known)}")
    return known[name]


def _closest(name: str, known: Iterable[str]) -> str:
    """The closest name; one without its section is found, too."""
    inner = [each for each in known if each.rpartition(".")[2] == name]
    return f"; did you mean {inner[0]!r}?" if inner else did_you_mean(name, known)


def _scalar(text: str) -> Any:
    return yaml.safe_load(text)
