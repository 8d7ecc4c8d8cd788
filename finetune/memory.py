"""What a run does when memory runs out: the same optimizer steps in smaller pieces.

Knows nothing of models; a recipe says how large the pieces are.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from finetune.recipe import Recipe


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed: on a GPU, in torch's CPU allocator or in Python.

    Linux mostly promises more memory than there is and ends the process instead: that leaves no error to catch.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def smaller(recipe: Recipe) -> Recipe | None:
    """Return the recipe with fewer rows in a forward pass, as many in an optimizer step; None if nothing is left.

    Rows are halved, or divided by more where half does not divide them; at one row the activations of each layer are
    computed again in the backward pass instead of kept (Chen et al., 2016, arXiv:1604.06174).
    """
    rows = recipe.per_device_train_batch_size
    if rows > 1:
        fewer = next(n for n in range(rows // 2, 0, -1) if rows % n == 0)
        steps = recipe.gradient_accumulation_steps * rows // fewer
        return replace(recipe, per_device_train_batch_size=fewer, gradient_accumulation_steps=steps)
    return None if recipe.gradient_checkpointing else replace(recipe, gradient_checkpointing=True)


def described(recipe: Recipe) -> str:
    """Return how much of a step is in memory at once: "1 row per pass, activations recomputed"."""
    rows = recipe.per_device_train_batch_size
    text = f"{rows} row{'s' if rows > 1 else ''} per pass"
    return f"{text}, activations recomputed" if recipe.gradient_checkpointing else text
