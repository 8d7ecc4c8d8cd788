"""``/v1/recipes``: the packaged training recipes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from finetune.recipe import Recipe, presets, recipe_values
from service.access import wants

router = APIRouter(prefix="/recipes", tags=["adapters"], dependencies=[wants("train")])


@router.get("")
def list_recipes() -> dict[str, Any]:
    """Return the packaged recipes, and the value that each field has where a recipe does not name it."""
    recipes = [{"name": name, "values": recipe_values(name)} for name in presets()]
    return {"recipes": recipes, "defaults": Recipe().to_mapping()}
