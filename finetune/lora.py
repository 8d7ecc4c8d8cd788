"""Put a LoRA on a model, save it, load it: the one module that imports peft.

Knows nothing of rows and of how the LoRA is trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear
from safetensors import SafetensorError
from safetensors.torch import load_file

from data.errors import BaseModelMismatch, InvalidModel, RecipeInvalid
from finetune.kernels import low_rank_linear
from finetune.recipe import Recipe, nearest_names

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
_NAME = "default"


class _FastLinear(Linear):  # type: ignore[misc]  # peft has no types
    """peft's LoRA layer, computed by ``low_rank_linear`` while it trains one plain LoRA."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            stock: torch.Tensor = super().forward(x, *args, **kwargs)
            return stock
        a, b = self.lora_A[_NAME].weight, self.lora_B[_NAME].weight
        return low_rank_linear(x, self.get_base_layer(), a, b, self.scaling[_NAME])


def attach(model: Any, recipe: Recipe) -> Any:
    """Return ``model`` with a trainable float32 LoRA, continued from ``recipe.init_adapter`` if it names one.

    Raises:
        RecipeInvalid: a target layer does not exist, or the former adapter has another shape.
        InvalidModel: the former adapter's files cannot be read.
        BaseModelMismatch: the former adapter does not fit this model.
    """
    _check_targets(model, recipe.target_modules)
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=list(recipe.target_modules),
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        task_type="CAUSAL_LM",
    )
    if not (recipe.use_dora or recipe.lora_dropout or recipe.qlora):
        config._register_custom_module({torch.nn.Linear: _FastLinear})
    try:
        adapted = _adapt(model, config)
    except ValueError as error:
        raise RecipeInvalid(
            f"The LoRA does not fit the model: {error}", got=list(recipe.target_modules), wanted="layers of the model"
        ) from error
    # With a name here peft asks the hub for it at every save.
    adapted.peft_config[_NAME].base_model_name_or_path = None
    if recipe.init_adapter is not None:
        _check_same_shape(recipe, Path(recipe.init_adapter))
        load_weights(adapted, Path(recipe.init_adapter))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def load_weights(adapted: Any, folder: Path) -> None:
    """Set the LoRA of ``adapted`` from the adapter in ``folder``.

    Raises:
        InvalidModel: the file is missing or damaged.
        BaseModelMismatch: it does not fit the model.
    """
    path = folder / ADAPTER_FILES[0]
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidModel(f"The adapter's weights cannot be read: {error}", got=path) from error
    wanted = get_peft_model_state_dict(adapted, adapter_name=_NAME, save_embedding_layers=False)
    wrong = sorted(
        {name for name in tensors if name not in wanted or tensors[name].shape != wanted[name].shape}
        | (set(wanted) - set(tensors))
    )
    if wrong:
        raise BaseModelMismatch(
            "The adapter does not fit the model: it was trained for another one", got=wrong[0], wanted="the same layers"
        )
    set_peft_model_state_dict(adapted, tensors, adapter_name=_NAME)


def load_adapter(model: Any, folder: Path | str) -> Any:
    """Return ``model`` with the adapter in ``folder``, for inference.

    Raises:
        InvalidModel: the adapter's files cannot be read.
        BaseModelMismatch: the adapter does not fit this model.
    """
    config = _read_config(Path(folder))
    # peft warns when the base lies elsewhere than at training time; load_weights checks that it fits.
    config.base_model_name_or_path = None
    adapted = _adapt(model, config)
    load_weights(adapted, Path(folder))
    return adapted.eval()


def save(adapted: Any, folder: Path, base_model: str) -> None:
    """Write adapter_model.safetensors (float16) and adapter_config.json.

    float16 and not bfloat16: the same size, eight times the precision, and LoRA weights are small.
    """
    half = {name: tensor.half() for name, tensor in adapted.state_dict().items() if "lora_" in name}
    config = adapted.peft_config[_NAME]
    config.base_model_name_or_path = base_model
    try:
        adapted.save_pretrained(folder, state_dict=half, save_embedding_layers=False)
    finally:
        config.base_model_name_or_path = None
    # peft adds a model card of placeholders.
    (folder / "README.md").unlink(missing_ok=True)


def _check_targets(model: Any, wanted: Sequence[str]) -> None:
    """Refuse target layers that the model lacks: peft says so only where it finds none of them at all."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    missing = [target for target in wanted if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if missing:
        # The output layer is none: in most models it shares its weights with the embedding.
        known = sorted({name.rpartition(".")[2] for name in linear if ".layers." in f".{name}"})
        raise RecipeInvalid(
            "The LoRA does not fit the model: it lacks layers named in target_modules",
            got=", ".join(missing),
            wanted=", ".join(known),
            hint=nearest_names(missing, known),
        )


def _adapt(model: Any, config: Any) -> Any:
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 by a name that is on its way out.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)


def _read_config(folder: Path) -> Any:
    if not (folder / ADAPTER_FILES[1]).is_file():
        # peft would look for a folder that is not there on the hub.
        raise InvalidModel("This is not the folder of an adapter", got=folder, wanted=" and ".join(ADAPTER_FILES))
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidModel(f"The adapter's configuration cannot be read: {error}", got=folder) from error


def _check_same_shape(recipe: Recipe, folder: Path) -> None:
    former = _read_config(folder)
    for name in ("r", "lora_alpha", "use_rslora", "use_dora"):
        if getattr(former, name) != getattr(recipe, name):
            raise RecipeInvalid(
                f"A LoRA continued from init_adapter keeps its {name}",
                got=getattr(recipe, name),
                wanted=getattr(former, name),
            )
    if set(former.target_modules) != set(recipe.target_modules):
        raise RecipeInvalid(
            "A LoRA continued from init_adapter keeps its target_modules",
            got=sorted(recipe.target_modules),
            wanted=", ".join(sorted(former.target_modules)),
        )
