"""``gfmpot info``: the card of a model, the shape of a preset, or the settings of a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfmpot.cli.console import clean_errors, console, facts, table

if TYPE_CHECKING:
    from gfmpot.models import Potential

REMARKS = {
    "lead": (
        "The paper states 12.1 M parameters and 92 MB in FP64 (12.1 M times 8 bytes are 92 MiB). Its 126 "
        '"interaction filters" are a setting of SchNet-like backbones, which PaiNN does not use: they are no part of '
        "this shape."
    ),
}
"""What has to be said of a preset beside its numbers."""


def info(
    model: Annotated[
        str, typer.Argument(help="Name of an embedded or cached model, or path of a checkpoint.")
    ] = "default",
    preset: Annotated[
        str | None, typer.Option("--preset", help="Describe a shape without weights: default, large, lead or small.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Describe the settings of a backbone, or list all of them (all).")
    ] = None,
) -> None:
    """Show what a model is: its levels of theory, elements, errors, size, and licences."""
    with clean_errors():
        given = {"--preset": preset, "--backbone": backbone, "a model": None if model == "default" else model}
        asked = [f"{what} ({value})" for what, value in given.items() if value is not None]
        if len(asked) > 1:
            raise ValueError(f"expected one of a model, --preset and --backbone, got {' and '.join(asked)}")
        if backbone is not None:
            from gfmpot.cli.info_backbones import describe_backbones

            describe_backbones(backbone)
        elif preset is not None:
            _describe_preset(preset)
        else:
            _describe_model(model)


def _describe_model(model: str) -> None:
    from gfmpot.models import load
    from gfmpot.models.checkpoint import find, fingerprint

    path = find(model)
    potential = load(path)
    meta = dict(potential.metadata)
    summary = {"model": meta.pop("name", model), "about": meta.pop("description", None), "file": path}
    summary |= {"SHA-256": fingerprint(path), "stored as": str(potential.dtype).removeprefix("torch.")}
    facts({name: value for name, value in summary.items() if value} | _shape(potential))
    _print_parts(potential)
    _print_branches(potential)
    for title, rows in _metric_groups(meta.pop("metrics", {})):
        _print_metrics(title, rows)
    for title, entry in meta.items():
        _print_facts(title, entry)


def _describe_preset(name: str) -> None:
    from gfmpot.models import preset
    from gfmpot.models.presets import untrained

    potential = untrained(preset(name))
    facts({"preset": f"{name} (a shape; no weights)"} | _shape(potential))
    _print_parts(potential)
    if name in REMARKS:
        console().print(REMARKS[name] + "\n", markup=False, width=110)
    table(["branch", "theory"], [[branch.name, branch.theory] for branch in potential.branches])


def _shape(potential: Potential) -> dict[str, object]:
    config = potential.config.to_mapping()
    cap = potential.config.max_neighbours
    return {
        "parameters": _size(potential.parameters()),
        "backbone": _listed(config["backbone"]),
        "heads": f"{len(potential.branches)} branches; {_listed(config['head'])}",
        "branch weights": f"hidden layers {', '.join(map(str, potential.config.weight_hidden))}",
        "short range": "repulsion of nuclei (ZBL)" if potential.repulsion else "no repulsion of its own",
        "cutoff": f"{potential.cutoff:g} Å, {'all' if cap is None else f'at most {cap}'} neighbours",
    }


def _print_parts(potential: Potential) -> None:
    names = {"backbone": "backbone", "embedding": "embedding", "heads": "heads", "weights": "branch weights"}
    if potential.errors is not None:
        names["errors"] = "estimate of errors"
    counts = {label: sum(p.numel() for p in getattr(potential, part).parameters()) for part, label in names.items()}
    total = sum(counts.values())
    table(
        ["part", "parameters", "share", "MiB fp32", "MiB fp64"],
        [[label, n, f"{n / total:.1%}", f"{_mib(n, 4):.2f}", f"{_mib(n, 8):.2f}"] for label, n in counts.items()],
    )


def _size(parameters: Iterable[Any]) -> str:
    n = sum(p.numel() for p in parameters)
    count = f"{n / 1e6:.2f} M" if n >= 1e5 else str(n)
    return f"{count} ({_mib(n, 4):.2f} MiB in fp32, {_mib(n, 8):.2f} MiB in fp64)"


def _mib(count: int, width: int) -> float:
    return count * width / 2**20


def _print_branches(potential: Potential) -> None:
    from gfmpot.models.references import elements_of

    rows = [
        [b.name, b.theory or None, len(b.e0), b.n_structures or None, b.licence or None] for b in potential.branches
    ]
    table(["branch", "theory", "elements", "structures", "licence"], rows)
    union = {symbol for branch in potential.branches for symbol in branch.e0}
    facts({f"covers {len(union)} elements": " ".join(elements_of(dict.fromkeys(union, 0.0)))})
    console().print()


def _metric_groups(
    metrics: Mapping[str, Any], title: str = "metrics"
) -> Iterable[tuple[str, dict[str, Mapping[str, Any]]]]:
    """Tables of a nested mapping: every mapping whose values are mappings of plain values."""
    rows = {key: value for key, value in metrics.items() if isinstance(value, Mapping)}
    flat = {key: row for key, row in rows.items() if not any(isinstance(v, Mapping) for v in row.values())}
    plain = {key: value for key, value in metrics.items() if key not in rows}
    title = f"{title} ({_listed(plain)})" if plain else title
    if flat:
        yield title, flat
    for key in (key for key in rows if key not in flat):
        yield from _metric_groups(rows[key], f"{title}: {key}")


def _print_metrics(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table(
        ["", *columns],
        [[name, *[_counted(row.get(key)) for key in columns]] for name, row in rows.items()],
        title=f"{title}, in eV and Å",
    )


def _counted(value: object) -> object:
    """Counts among metrics are floats, too."""
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 1 else value


def _print_facts(title: str, entry: object) -> None:
    facts(dict(_rows(title, entry)))


def _rows(title: str, entry: object) -> Iterator[tuple[str, object]]:
    """A row for each value, or for each mapping of values: settings of runs are mappings of mappings."""
    if not isinstance(entry, Mapping):
        yield title, entry
    elif any(isinstance(value, Mapping) for value in entry.values()) or ":" not in title:
        for key, value in entry.items():
            yield from _rows(f"{title}: {key}", value)
    else:
        yield title, _listed(entry)


def _listed(mapping: Mapping[str, Any]) -> str:
    parts = [f"{key} ({_listed(v)})" if isinstance(v, Mapping) else f"{key} {v}" for key, v in mapping.items()]
    return ", ".join(parts) or "none"
