"""Potentials, models of properties and their parts: backbones, branches, conditioning, checkpoints, presets."""

from gfmpot.models.backbone import Backbone, BackboneConfig, available_backbones, backbone_class
from gfmpot.models.branches import BranchInfo, HeadConfig
from gfmpot.models.checkpoint import CheckpointError, cache_folder, fingerprint, kind_of, load, load_property, save
from gfmpot.models.potential import Potential
from gfmpot.models.potential_config import PotentialConfig
from gfmpot.models.prediction import Prediction
from gfmpot.models.presets import available_presets, preset
from gfmpot.models.property_config import PropertyConfig, Scaling
from gfmpot.models.property_model import PropertyModel
from gfmpot.models.references import UnsupportedElementsError
from gfmpot.models.target import Target

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BranchInfo",
    "CheckpointError",
    "HeadConfig",
    "Potential",
    "PotentialConfig",
    "Prediction",
    "PropertyConfig",
    "PropertyModel",
    "Scaling",
    "Target",
    "UnsupportedElementsError",
    "available_backbones",
    "available_presets",
    "backbone_class",
    "cache_folder",
    "fingerprint",
    "kind_of",
    "load",
    "load_property",
    "preset",
    "save",
]
