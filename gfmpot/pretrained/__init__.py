"""Embedded checkpoints, each ``<name>.safetensors`` with its model card ``<name>.md``."""
