"""Parity passes what is served right and refuses what is not: tokens, adapter, row order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.errors import InvalidRequest, ParityFailed
from data.protocols import TokenScores
from data.records import Message, Model, Progress
from finetune.parity import Trained, compare, parity
from finetune.rows import Example

TOKENS, VOCAB = 60, 200
RANDOM = np.random.default_rng(4)
TUNED = (RANDOM.normal(size=(TOKENS, VOCAB)) * 3).astype(np.float32)
BASE = (RANDOM.normal(size=(TOKENS, VOCAB)) * 3).astype(np.float32)


def scores(logits: np.ndarray, prompt: tuple[int, ...] = (1, 2), first: int = 0) -> TokenScores:
    return TokenScores(prompt, tuple(range(first, first + len(logits))), logits)


def side(logits: np.ndarray, base: np.ndarray) -> Trained:
    return Trained(scores(logits), lambda: base)


def noise(scale: float) -> np.ndarray:
    return (TUNED + np.random.default_rng(9).normal(size=TUNED.shape) * scale).astype(np.float32)


def test_small_noise_passes_and_is_measured() -> None:
    result = compare([(side(TUNED, BASE), scores(noise(0.05)))])
    assert result["passed"]
    assert result["ids_equal"]
    assert (result["tokens"], result["examples"]) == (TOKENS, 1)
    assert 0.95 <= result["greedy_agreement"] <= 1.0
    # Independent Gaussian noise of variance v costs about v / 2.
    assert result["kl"] == pytest.approx(0.05**2 / 2, rel=0.3)
    assert result["adapter_kl"] is None, "the base model need not be asked"


def test_a_shift_of_all_logits_is_no_difference() -> None:
    result = compare([(side(TUNED, BASE), scores(TUNED + 1000))])
    assert result["kl"] == pytest.approx(0, abs=1e-4)
    assert result["greedy_agreement"] == 1.0


@pytest.mark.parametrize("served", [BASE, noise(2.0), np.full_like(TUNED, np.nan)], ids=["base", "noise", "nan"])
def test_other_predictions_fail(served: np.ndarray) -> None:
    with pytest.raises(ParityFailed, match="does not predict like"):
        compare([(side(TUNED, BASE), scores(served))])


def test_a_strong_adapter_allows_a_coarser_model() -> None:
    decided = TUNED.copy()
    decided[np.arange(TOKENS), decided.argmax(axis=1)] += 1.5
    result = compare([(side(decided, BASE), scores(decided + noise(0.5) - TUNED))])
    assert 0.03 < result["kl"] < 0.1 * result["adapter_kl"]


def test_a_weak_adapter_must_still_be_followed() -> None:
    # Tuned and base differ little: what quantization may cost is then the whole allowance.
    near = (TUNED + RANDOM.normal(size=TUNED.shape) * 0.4).astype(np.float32)
    with pytest.raises(ParityFailed, match=r"KL 0\.0300"):
        compare([(side(TUNED, near), scores(near))])


def test_one_near_tie_among_few_tokens_passes() -> None:
    few = TUNED[:4].copy()
    served = few.copy()
    first, second = np.argsort(few[0])[::-1][:2]
    few[0, second] = few[0, first] - 0.01
    served[0, second] = few[0, first] + 0.01
    assert compare([(side(few, BASE[:4]), scores(served))])["greedy_agreement"] == 0.75


def test_other_tokens_fail_and_name_the_first() -> None:
    trained = side(TUNED, BASE)
    with pytest.raises(ParityFailed, match=r"prompt differently.*token 1: 3.*Wanted: 2"):
        compare([(trained, scores(TUNED, prompt=(1, 3)))])
    with pytest.raises(ParityFailed, match=r"prompt differently.*3 tokens.*2 tokens"):
        compare([(trained, scores(TUNED, prompt=(1, 2, 3)))])
    with pytest.raises(ParityFailed, match="completion differently"):
        compare([(trained, scores(TUNED, first=5))])
    with pytest.raises(ParityFailed, match="vocabularies of different size"):
        compare([(trained, scores(TUNED[:, :-1]))])


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="examples"):
        compare([])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_llama_cpp_passes_and_a_wrong_row_order_does_not(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import finetune.export
    from finetune.convert import hf_to_gguf
    from finetune.weights import load_tokenizer
    from tests.finetune.served import Llama, llama, score
    from tests.finetune.tiny import save_adapter, save_model

    folder = save_model(tmp_path / "model", family)
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f16")
    trained = save_adapter(tmp_path / "adapter", folder)
    right = finetune.export.lora_to_gguf(trained, base, tmp_path / "right.gguf")
    monkeypatch.setattr(finetune.export, "heads_to_permute", lambda *_: 0 if family == "llama" else 2)
    wrong = finetune.export.lora_to_gguf(trained, base, tmp_path / "wrong.gguf")
    examples = [
        Example((Message("user", ("[1]\n", "Fresno 1994 下午\n\n", f"Question: where was {i}?")),), f"In {i} 公园 [1]")
        for i in range(6)
    ]
    tokenizer = load_tokenizer(base)

    def check(served: Llama, model: Model) -> dict[str, object]:
        seen: list[Progress] = []
        result = parity(model, trained, examples, lambda m, c: score(served, tokenizer, m, c), report=seen.append)
        assert [progress.done for progress in seen] == [1, 2, 3, 4, 5, 6]
        return result

    # Trained from the folder, or from nothing but the GGUF: the same tokens and predictions.
    for weights in (folder, base):
        model = Model("tiny", "tiny", str(base), str(weights), "0", family)
        with llama(base, right) as served:
            result = check(served, model)
        assert result["greedy_agreement"] == 1.0
        assert float(str(result["kl"])) < 1e-3
        for adapter in (wrong, None):
            with llama(base, adapter) as served, pytest.raises(ParityFailed, match="does not predict like"):
                check(served, model)
