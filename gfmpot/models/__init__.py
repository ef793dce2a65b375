"""The potential and its parts: backbones, branches, branch weights, conditioning, checkpoints, presets."""

from gfmpot.models.backbone import Backbone, BackboneConfig, available_backbones, backbone_class
from gfmpot.models.branches import BranchInfo, HeadConfig
from gfmpot.models.checkpoint import CheckpointError, cache_folder, fingerprint, load, save
from gfmpot.models.potential import Potential
from gfmpot.models.potential_config import PotentialConfig
from gfmpot.models.prediction import Prediction
from gfmpot.models.presets import available_presets, preset
from gfmpot.models.references import UnsupportedElementsError

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BranchInfo",
    "CheckpointError",
    "HeadConfig",
    "Potential",
    "PotentialConfig",
    "Prediction",
    "UnsupportedElementsError",
    "available_backbones",
    "available_presets",
    "backbone_class",
    "cache_folder",
    "fingerprint",
    "load",
    "preset",
    "save",
]
