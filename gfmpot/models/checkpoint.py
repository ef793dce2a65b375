"""One safetensors file per model: weights, and in its header everything else. Strict, versioned, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from gfmpot.config import did_you_mean, from_mapping, to_mapping
from gfmpot.models.branches import BranchInfo
from gfmpot.models.potential import Potential
from gfmpot.models.potential_config import PotentialConfig
from gfmpot.models.property_config import PropertyConfig, Scaling
from gfmpot.models.property_model import PropertyModel
from gfmpot.models.target import Target

FORMAT = "gfmpot"
VERSION = 6

Header = dict[str, Any]
Tensors = dict[str, Tensor]
ModelKind = Literal["potential", "property"]
M = TypeVar("M", bound=nn.Module)


def _without_repulsion(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    """Before version 2, networks were trained without a repulsion of nuclei."""
    return {**header, "config": {**header["config"], "repulsion": "none"}}, tensors


def _without_saturation(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    """Before version 3, networks saw all lengths as they are."""
    config = header["config"]
    return {**header, "config": {**config, "backbone": {**config["backbone"], "saturation": 0.0}}}, tensors


def _with_states(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    """Before version 4, branches did not say which charges had come with which multiplicities."""
    branches = [dict(branch) for branch in header.get("branches", [])]
    for branch in branches:
        spins = branch.pop("spins", None) or range(8)  # not known: all that there may be
        branch["states"] = [[charge, spin] for charge in branch.pop("charges", [0]) for spin in spins]
    return {**header, **({"branches": branches} if branches else {})}, tensors


def _with_own_distances(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    """Before version 5, all branches were told what is familiar by one measure."""
    if "errors.reach" not in tensors:
        return header, tensors
    branches = len(header["branches"])
    repeated = {
        "errors.own_mean": tensors["errors.mean"].repeat(branches, 1),
        "errors.own_whitening": tensors["errors.whitening"].repeat(branches, 1, 1),
        "errors.reach": tensors["errors.reach"].repeat(branches),
    }
    return header, {**tensors, **repeated}


def _without_boundaries(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    """Before version 6, branches did not say how much of what they had learnt from was periodic; it stays unknown."""
    return header, tensors


UPGRADERS: dict[int, Callable[[Header, Tensors], tuple[Header, Tensors]]] = {
    1: _without_repulsion,
    2: _without_saturation,
    3: _with_states,
    4: _with_own_distances,
    5: _without_boundaries,
}
"""From a format version to the next; a file of an older version passes through them in turn."""


class CheckpointError(ValueError):
    """A file that is no gfmpot model, or a damaged or incompatible one."""


def save(model: Potential | PropertyModel, path: str | Path) -> Path:
    """Write a model, atomically; by convention the name ends in ``.safetensors``."""
    from safetensors.torch import save as to_bytes

    path = Path(path)
    header, tensors = _contents(model)
    metadata = {"format": FORMAT, "version": str(VERSION), "header": header, "sha256": _digest(header, tensors)}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(to_bytes(tensors, metadata))
    partial.replace(path)
    return path


def load(model: str | Path = "default") -> Potential:
    """A potential from an embedded or cached model's name, or from a file.

    Args:
        model: a name, looked up in the package and then in the cache (``GFMPOT_CACHE``, else ``~/.cache/gfmpot``), or
            a path.

    Raises:
        CheckpointError: no such model; or a truncated, tampered, foreign or incomplete file, or one of a property.
    """
    path = find(model)
    header, tensors = _opened(path)
    if _kind(header) == "property":
        raise CheckpointError(
            f"{path} is a model of a property ({header['target']['name']}), not a potential: it has no energies and "
            "forces. Use GFMPotential.predict_property(structures, model), or `gfmpot predict FILES --model`"
        )
    return _restored(path, _potential, header, tensors)


def load_property(model: str | Path) -> PropertyModel:
    """A property model, found as by :func:`load`.

    Raises:
        CheckpointError: as for :func:`load`; or the file of a potential.
    """
    path = find(model)
    header, tensors = _opened(path)
    if _kind(header) == "potential":
        raise CheckpointError(
            f"{path} is a potential, not a model of a property: use gfmpot.load(model) or GFMCalculator(model)"
        )
    return _restored(path, _property_model, header, tensors)


def kind_of(model: str | Path) -> ModelKind:
    """What a file is, by its header alone: weights are not read, nor is anything verified.

    Raises:
        CheckpointError: no such model, or a foreign or truncated file.
    """
    metadata, _ = _read(find(model), weights=False)
    return _kind(json.loads(metadata["header"]))


def find(model: str | Path) -> Path:
    """The file of a named model, or the path itself.

    Raises:
        CheckpointError: neither.
    """
    for folder in _folders():
        named = folder / f"{model}.safetensors"
        if named.parent == folder and named.is_file():
            return named
    path = Path(model).expanduser()
    if path.is_file():
        return path
    names = available_models()
    places = " and ".join(str(folder) for folder in _folders())
    raise CheckpointError(f"no model or file {str(model)!r}{did_you_mean(str(model), names)} (looked in {places})")


def available_models() -> list[str]:
    """Names that :func:`load` knows: embedded models, then cached ones."""
    return list(dict.fromkeys(path.stem for folder in _folders() for path in sorted(folder.glob("*.safetensors"))))


def fingerprint(model: str | Path | Potential | PropertyModel) -> str:
    """SHA-256 of header and weights that a model file states, or that the file of a model would state."""
    if isinstance(model, Potential | PropertyModel):
        return _digest(*_contents(model))
    metadata, _ = _read(Path(model), weights=False)
    return metadata["sha256"]


def cache_folder() -> Path:
    """Where models and what is compiled of them are kept: ``GFMPOT_CACHE``, else ``~/.cache/gfmpot``."""
    return Path(os.environ.get("GFMPOT_CACHE") or Path("~/.cache/gfmpot").expanduser())


def _folders() -> list[Path]:
    return [Path(__file__).parents[1] / "pretrained", cache_folder()]


def _contents(model: Potential | PropertyModel) -> tuple[str, Tensors]:
    """Header and tensors of the file."""
    header = json.dumps(_header(model), ensure_ascii=False, allow_nan=False)
    return header, {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _header(model: Potential | PropertyModel) -> Header:
    if isinstance(model, PropertyModel):
        return {
            "kind": "property",
            "config": model.config.to_mapping(),
            "target": to_mapping(model.target),
            "scaling": to_mapping(model.scaling),
            "metadata": model.metadata,
        }
    return {
        "config": model.config.to_mapping(),
        "branches": [to_mapping(branch) for branch in model.branches],
        "e0_blend": model.e0_blend,
        "metadata": model.metadata,
    }


def _kind(header: Header) -> ModelKind:
    """Files of potentials do not say that they are some."""
    return "property" if header.get("kind") == "property" else "potential"


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _opened(path: Path) -> tuple[Header, Tensors]:
    """Header and tensors of a whole file, in the present format."""
    metadata, tensors = _read(path)
    header = _verified_header(path, metadata, tensors)
    return _upgraded(path, int(metadata["version"]), header, tensors)


def _read(path: Path, *, weights: bool = True) -> tuple[dict[str, str], Tensors]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if weights else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {_diagnosis(path)} ({error})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a gfmpot model: its metadata has "
            f"{sorted(metadata) or 'no entries'}, expected format={FORMAT!r}"
        )
    return metadata, tensors


def _diagnosis(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(9)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return "a PyTorch or pickle file, which gfmpot does not open; export it to a gfmpot model first"
    if start[8:9] == b"{":
        return "a damaged safetensors file, probably truncated; fetch it again"
    return "not a safetensors file"


def _verified_header(path: Path, metadata: Mapping[str, str], tensors: Tensors) -> Header:
    header = metadata.get("header", "")
    if _digest(header, tensors) != metadata.get("sha256"):
        raise CheckpointError(f"{path}: SHA-256 does not match; the file was changed or damaged after it was written")
    parsed: Header = json.loads(header)
    return parsed


def _upgraded(path: Path, version: int, header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    if version > VERSION:
        raise CheckpointError(f"{path} has format version {version}; this gfmpot reads up to {VERSION}: upgrade gfmpot")
    for older in range(version, VERSION):
        header, tensors = UPGRADERS[older](header, tensors)
    return header, tensors


def _restored(path: Path, build: Callable[[Header], M], header: Header, tensors: Tensors) -> M:
    try:
        with torch.random.fork_rng(devices=[]):  # the fresh weights are overwritten; the user's random numbers stay
            model = build(header)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description of the model is not understood: {error}") from error
    _check_tensors(path, model, tensors)
    model.to(next(iter(tensors.values())).dtype)
    model.load_state_dict(tensors)
    return model.eval()


def _potential(header: Header) -> Potential:
    config = PotentialConfig.from_mapping(header["config"])
    branches = [from_mapping(BranchInfo, branch) for branch in header["branches"]]
    return Potential(config, branches, header["e0_blend"], header["metadata"])


def _property_model(header: Header) -> PropertyModel:
    config = PropertyConfig.from_mapping(header["config"])
    target, scaling = from_mapping(Target, header["target"]), from_mapping(Scaling, header["scaling"])
    return PropertyModel(config, target, scaling, header["metadata"])


def _check_tensors(path: Path, model: nn.Module, tensors: Tensors) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    faults = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    faults += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    faults += [
        f"{name} has shape {found[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    if faults:
        raise CheckpointError(f"{path}: weights do not fit the model:\n  " + "\n  ".join(faults))
