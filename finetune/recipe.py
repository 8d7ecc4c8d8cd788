"""The training recipe: every knob of one LoRA run, in peft's and transformers' own words.

A recipe is TOML on disk, beside the adapter it made. It names its base model and its starting
adapter but opens neither; it knows nothing of rows, tokenizers or devices.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from data.errors import RecipeInvalid

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linear layers of a Llama or Qwen block (LoRA on all of them: Dettmers et al., 2023, QLoRA)."""

_PRESETS = Path(__file__).parent / "presets"

Attention = Literal["full", "blockwise"]
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One LoRA run.

    Attributes:
        base_model: name, path or hub id of the model to adapt.
        r: rank; the update is scaled by ``lora_alpha / r`` (``/ sqrt(r)`` with ``use_rslora``).
        lora_dropout: probability, 0 to below 1. Above 0 the slower stock LoRA layer runs.
        init_lora_weights: ``true`` starts at zero, ``"pissa"`` from the largest singular values of the base's weights
            (Meng et al., 2024, arXiv:2404.02948); the adapter is saved as an ordinary LoRA of twice the rank.
        learning_rate: peak, after ``warmup_steps`` optimizer steps.
        loraplus_lr_ratio: B learns so many times as fast as A (LoRA+: Hayou et al., 2024, arXiv:2402.12354); 1 is
            ordinary LoRA.
        num_train_epochs: passes over the rows; may be a fraction.
        max_steps: optimizer steps, overriding the epochs; -1 leaves them in charge.
        per_device_train_batch_size: rows in one forward pass.
        gradient_accumulation_steps: forward passes in one optimizer step; several processes share them.
        max_length: tokens in one row, its shared context and all its branches together.
        max_branches: questions that share one context in one row.
        attention: ``blockwise`` makes passages blind to each other, so that their KV state can be reused in any order.
        full_share: share of the rows that ``blockwise`` trains under full attention, so that the adapter also reads
            well on servers that know no other (Ma et al., 2025, Block-Attention, found that nothing is lost).
        closed_book: train also on answers in free words that no retrieved passage bears out. Off: facts come from the
            documents, and tuning on facts that are not among the passages teaches a model to answer without them
            (Gekhman et al., 2024, arXiv:2405.05904).
        contradicting_share: further examples, as a share (0 to below 1) of those that answer, in which two passages
            answer differently and the target names both answers.
        other_language_share: likewise, in which a passage is in the collection's other language.
        multi_turn_share: likewise, in which the question follows another one. These three are off: what they gain or
            cost is not measured.
        altered_question_share: likewise, in which one detail of the question is another, and the target is to abstain.
            Off; the packaged reader has it.
        init_adapter: folder of an adapter to continue from; None starts at zero.
        qlora: load the base in 4 bits (CUDA only).
        gradient_checkpointing: compute each layer again in the backward pass: more time, less memory.
        save_steps: optimizer steps between checkpoints.
        eval_share: share of the pairs, by whole documents, that is kept out of training to measure the loss on.
        eval_steps: optimizer steps between measurements of that loss.
        early_stopping_patience: measurements without a new best after which to stop and take the best adapter.
            0, the default, never stops: over one epoch no row is seen twice.
    """

    base_model: str = "starter"
    r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = LINEAR_LAYERS
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    learning_rate: float = 3e-4
    loraplus_lr_ratio: float = 1.0
    num_train_epochs: float = 1.0
    max_steps: int = -1
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 2
    max_length: int = 2048
    max_branches: int = 6
    warmup_steps: int = 8
    lr_scheduler_type: Schedule = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    attention: Attention = "full"
    full_share: float = 0.33
    closed_book: bool = False
    contradicting_share: float = 0.0
    other_language_share: float = 0.0
    multi_turn_share: float = 0.0
    altered_question_share: float = 0.0
    init_adapter: str | None = None
    qlora: bool = False
    gradient_checkpointing: bool = False
    save_steps: int = 50
    eval_share: float = 0.1
    eval_steps: int = 50
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            RecipeInvalid: naming the field, its value and what it may be.
        """
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        for name in ("r", "lora_alpha", "per_device_train_batch_size", "gradient_accumulation_steps"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_branches", "save_steps", "eval_steps"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("max_length", self.max_length >= 16, "at least 16 tokens")
        self._require("lora_dropout", 0 <= self.lora_dropout < 1, "0 to below 1")
        for name in ("contradicting_share", "other_language_share", "multi_turn_share", "altered_question_share"):
            self._require(name, 0 <= getattr(self, name) < 1, "0 to below 1")
        self._require("full_share", 0 <= self.full_share <= 1, "0 to 1")
        self._require("learning_rate", 0 < self.learning_rate <= 1, "above 0, at most 1")
        self._require("num_train_epochs", self.num_train_epochs > 0, "above 0")
        self._require("max_steps", self.max_steps == -1 or self.max_steps >= 1, "-1, or at least 1")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm", "seed", "early_stopping_patience"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("seed", self.seed < 2**32, "below 2**32, where numpy's seeds end")
        self._require("loraplus_lr_ratio", 1 <= self.loraplus_lr_ratio <= 1000, "1 to 1000")
        self._require("eval_share", 0 <= self.eval_share <= 0.5, "0 to 0.5")
        self._check_initial_weights()
        self._require("target_modules", bool(self.target_modules), "at least one layer name")
        self._require("attention", self.attention in get_args(Attention), " or ".join(get_args(Attention)))
        self._require(
            "lr_scheduler_type", self.lr_scheduler_type in get_args(Schedule), " or ".join(get_args(Schedule))
        )

    def _check_initial_weights(self) -> None:
        self._require("init_lora_weights", self.init_lora_weights in {True, "pissa"}, 'true or "pissa"')
        if self.init_lora_weights != "pissa":
            return
        for name in ("use_dora", "qlora", "init_adapter"):
            if getattr(self, name):
                raise RecipeInvalid(
                    f"PiSSA and {name} exclude each other: it starts from the base's own unquantized weights",
                    got=f'init_lora_weights = "pissa" and {name}',
                    wanted="one of them",
                )

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise RecipeInvalid(f"Recipe field {name} has an impossible value", got=getattr(self, name), wanted=wanted)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Recipe:
        """Build a recipe from plain values, defaults filling the gaps.

        Raises:
            RecipeInvalid: an unknown field, a value of another type, or an impossible value.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise RecipeInvalid(
                "Unknown recipe field",
                got=", ".join(unknown),
                wanted=", ".join(fields),
                hint=nearest_names(unknown, fields),
            )
        return cls(**{name: _typed(name, value, fields[name].default) for name, value in values.items()})

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Read a recipe from a TOML file.

        Raises:
            RecipeInvalid: the file is missing, is not TOML, or holds an unknown or impossible value.
        """
        return cls.from_mapping(_read(Path(path)))

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = dataclasses.asdict(self)
        values["target_modules"] = list(self.target_modules)
        return values

    def save(self, path: Path | str) -> None:
        """Write the recipe as TOML; fields that are None are left out (TOML has no null)."""
        # JSON's strings, numbers, booleans and flat lists are all valid TOML values.
        lines = [
            f"{name} = {json.dumps(v, ensure_ascii=False)}" for name, v in self.to_mapping().items() if v is not None
        ]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def presets() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def about_preset(name: str) -> str:
    """Return what a packaged recipe says about itself: the comment that it begins with, in one line.

    Raises:
        RecipeInvalid: there is no such recipe.
    """
    if name not in presets():
        raise _no_such_recipe(name, ", ".join(presets()))
    lines = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in itertools.takewhile(lambda line: line.startswith("# "), lines))


def preset_values(name: str) -> dict[str, Any]:
    """Return what a packaged recipe says, defaults left out; files are none.

    Raises:
        RecipeInvalid: there is no such recipe.
    """
    if name not in presets():
        raise _no_such_recipe(name, ", ".join(presets()))
    return recipe_values(_PRESETS / f"{name}.toml")


def _no_such_recipe(got: object, wanted: str) -> RecipeInvalid:
    return RecipeInvalid("No such recipe", got=got, wanted=wanted, hint=nearest_names([str(got)], presets()))


def recipe_values(source: Path | str) -> dict[str, Any]:
    """Return what a recipe says, defaults left out, after checking it.

    Args:
        source: a TOML file, or the name of a packaged recipe.

    Raises:
        RecipeInvalid: it is neither, or holds an unknown or impossible value.
    """
    path = Path(source)
    if not path.is_file() and str(source) in presets():
        path = _PRESETS / f"{source}.toml"
    if not path.is_file():
        raise _no_such_recipe(source, f"a TOML file, or one of {', '.join(presets())}")
    values = _read(path)
    Recipe.from_mapping(values)
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeInvalid(f"The recipe cannot be read: {error}", got=path, wanted="a TOML file") from error


def nearest_names(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return "Did you mean r for rank?" for every unknown name that has a near one, "" where none has."""
    by_folded = {name.replace("_", "").lower(): name for name in known}
    found = []
    for name in unknown:
        # Written "LoRA-alpha" or "batch_size", a name is still near the right one.
        folded = re.sub(r"[\W_]", "", name).lower()
        inside = [
            other for other in by_folded if min(len(folded), len(other)) > 3 and (folded in other or other in folded)
        ]
        near = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6) or sorted(inside, key=len)
        found += [f"{by_folded[near[0]]} for {name}"] if near else []
    return f"Did you mean {', '.join(found)}?" if found else ""


def _typed(name: str, value: Any, default: Any) -> Any:
    if name == "init_adapter":
        fits = value is None or isinstance(value, str)
    elif name == "init_lora_weights":
        fits = isinstance(value, bool | str)
    elif isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float)
        value = float(value) if fits else value
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    else:
        fits = isinstance(value, type(default))
    if not fits:
        raise RecipeInvalid(
            f"Recipe field {name} has a value of the wrong type", got=repr(value), wanted=f"like {default!r}"
        )
    return value
