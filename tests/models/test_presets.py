"""Named shapes."""

from __future__ import annotations

import pytest

from gfmpot.models import load
from gfmpot.models.presets import preset


@pytest.mark.parametrize("name", ["default", "large"])
def test_embedded_models_have_the_shapes_of_their_names(name: str) -> None:
    model, named = load(name).config, preset(name)
    assert (model.backbone, model.head, model.repulsion) == (named.backbone, named.head, named.repulsion)
    assert model.max_neighbours == named.max_neighbours
