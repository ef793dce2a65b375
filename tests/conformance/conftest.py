"""What the conformance tests share."""

from __future__ import annotations

import dataclasses

import pytest

from gfmpot.models import BackboneConfig, Potential, backbone_class
from gfmpot.testing import random_potential


def small(name: str) -> BackboneConfig:
    """The backbone's default settings, but narrow: physics does not depend on the width."""
    config = backbone_class(name).Config()
    widths = {field.name: 32 for field in dataclasses.fields(config) if field.name == "hidden"}
    return dataclasses.replace(config, **widths)


@pytest.fixture
def small_painn() -> BackboneConfig:
    return small("painn")


@pytest.fixture
def painn(small_painn: BackboneConfig) -> Potential:
    """PaiNN with random weights, for a test to spoil."""
    return random_potential(small_painn)


@pytest.fixture(scope="module")
def small_backbone(request: pytest.FixtureRequest) -> BackboneConfig:
    return small(request.param)
