"""Put a LoRA on a model, save it, load it: the one module that imports peft.

Knows nothing of rows and of how the LoRA is trained.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import Linear
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from data.errors import BaseModelMismatch, InvalidModel, RecipeInvalid
from finetune.kernels import low_rank_linear
from finetune.recipe import Recipe, nearest_names

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
_NAME = "default"
_MODULE = re.compile(r"base_model\.model\.(.+)\.lora_A\.weight")
_OF_PEFT = (
    AttributeError,
    KeyError,
    IndexError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)
"""What peft raises on a configuration whose values it did not expect."""


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
        init_lora_weights=recipe.init_lora_weights,
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
        load_weights(adapted, Path(recipe.init_adapter) / ADAPTER_FILES[0])
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recipe.init_lora_weights == "pissa":
        # The base lost this update; whoever saves the adapter subtracts it again.
        adapted.taken_from_base = {name: tensor.clone() for name, tensor in _state(adapted).items()}
    return adapted


def loraplus_optimizer(adapted: Any, kind: Any, settings: dict[str, Any], ratio: float, weight_decay: float) -> Any:
    """Return an optimizer of ``kind`` under which B learns ``ratio`` times as fast as A (``settings["lr"]``)."""
    rate = dict(settings)
    lr = rate.pop("lr")
    return create_loraplus_optimizer(
        adapted, kind, lr=lr, loraplus_lr_ratio=ratio, loraplus_weight_decay=weight_decay, **rate
    )


def save_weights(adapted: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write the LoRA as it is, float32, for ``load_weights``; the file appears complete or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in _state(adapted).items()}
    part = path.with_name(f".{path.name}.part")
    save_file(tensors, part, metadata)
    part.replace(path)


def _state(adapted: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(adapted, adapter_name=_NAME, save_embedding_layers=False)
    return found


def load_weights(adapted: Any, path: Path) -> None:
    """Set the LoRA of ``adapted`` from a file of its tensors.

    Raises:
        InvalidModel: the file is missing or damaged.
        BaseModelMismatch: it does not fit the model.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidModel(f"The adapter's weights cannot be read: {error}", got=path) from error
    wanted = _state(adapted)
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
    weights = Path(folder) / ADAPTER_FILES[0]
    config = _of_its_tensors(_read_config(Path(folder)), weights)
    # peft warns when the base lies elsewhere than at training time; load_weights checks that it fits.
    config.base_model_name_or_path = None
    try:
        adapted = _adapt(model, config)
    except _OF_PEFT as error:
        raise InvalidModel(f"The adapter's configuration cannot be used: {error}", got=folder) from error
    load_weights(adapted, weights)
    return adapted.eval()


def _of_its_tensors(config: Any, weights: Path) -> Any:
    """Let the tensors say which layers have a LoRA, and of which rank.

    peft takes the names in a configuration for regular expressions: one from elsewhere could take for ever.
    """
    try:
        with safe_open(weights, "pt") as file:
            found = {match[1]: key for key in file.keys() if (match := _MODULE.fullmatch(key))}  # noqa: SIM118
            ranks = {name: file.get_slice(key).get_shape()[:1] for name, key in found.items()}
    except (OSError, SafetensorError) as error:
        raise InvalidModel(f"The adapter's weights cannot be read: {error}", got=weights) from error
    config.target_modules = set(ranks)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.rank_pattern = {name: rank[0] for name, rank in ranks.items() if rank and rank[0] != config.r}
    return config


def save(adapted: Any, folder: Path, base_model: str) -> None:
    """Write adapter_model.safetensors (float16) and adapter_config.json of a LoRA that fits the untouched base.

    float16 and not bfloat16: the same size, eight times the precision, and LoRA weights are small.
    """
    config, tensors = adapted.peft_config[_NAME], _state(adapted)
    kept = copy.copy(config)
    if (taken := getattr(adapted, "taken_from_base", None)) is not None:
        tensors = _difference(tensors, taken, config)
        kept.init_lora_weights, kept.use_rslora = True, False
        kept.r = kept.lora_alpha = 2 * config.r
    kept.base_model_name_or_path = base_model
    kept.inference_mode = True
    save_file(
        {name: tensor.half().contiguous() for name, tensor in tensors.items()},
        _made(folder) / ADAPTER_FILES[0],
        {"format": "pt"},
    )
    kept.save_pretrained(str(folder))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _difference(
    tensors: dict[str, torch.Tensor], taken: dict[str, torch.Tensor], config: Any
) -> dict[str, torch.Tensor]:
    """Return a LoRA of twice the rank and scale 1 whose update is that of ``tensors`` less that of ``taken``.

    [B | -B0] @ [A ; A0] is the difference (peft's subtract_mutated_init), but of large parts that nearly cancel: in
    float16 their rounding would be a good part of it. A QR of both sides and the SVD of what is between them give the
    same product from balanced factors.
    """
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    found = {}
    for name in (name for name in taken if "lora_A" in name):
        other = name.replace("lora_A", "lora_B")
        a = torch.cat([tensors[name], taken[name]]).double()
        b = torch.cat([tensors[other], -taken[other]], dim=1).double() * scale
        left, right = torch.linalg.qr(b), torch.linalg.qr(a.T)
        u, s, v = torch.linalg.svd(left.R @ right.R.T)
        found[name] = s.sqrt()[:, None] * (v @ right.Q.T)
        found[other] = (left.Q @ u) * s.sqrt()
    return found


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
        config = PeftConfig.from_pretrained(str(folder))
    except _OF_PEFT as error:
        raise InvalidModel(f"The adapter's configuration cannot be read: {error}", got=folder) from error
    if not isinstance(config, LoraConfig):
        raise InvalidModel("The adapter is no LoRA", got=str(config.peft_type)[:200], wanted="LORA")
    return config


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
