"""``/v1/recipes``: the packaged training recipes, and what each is for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from finetune.recipe import Recipe, about_preset, preset_values, presets
from service.access import wants

router = APIRouter(prefix="/recipes", tags=["adapters"], dependencies=[wants("train")])


@router.get("")
def list_recipes() -> dict[str, Any]:
    """Return the packaged recipes with what they are for, and each field's value where a recipe does not name it."""
    names = presets()
    recipes = [{"name": name, "about": about_preset(name), "values": preset_values(name)} for name in names]
    return {"recipes": recipes, "defaults": Recipe().to_mapping()}
