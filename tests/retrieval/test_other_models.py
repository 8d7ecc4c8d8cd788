"""Models of other shapes than the starter embedder: a cross-encoder, and a multilingual embedder with prompts.

Their weights are made here (no such weights come as packages), so what they mean is nothing; that they are
read, prompted and scored as their own library does is what is tested.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from data.errors import InvalidModel
from retrieval.embed import CrossEncoderReranker, SentenceTransformerEmbedder, starter_embedder_path

pytestmark = pytest.mark.slow

TEXTS = ["The cat sat on the mat.", "北京是中华人民共和国的首都。", "Der Hund schläft.", "一只猫坐在垫子上。"]


def save_cross_encoder(folder: Path, labels: int) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(starter_embedder_path(), num_labels=labels)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(starter_embedder_path()).save_pretrained(folder)
    return folder


def test_a_cross_encoder_scores_as_its_own_network(tmp_path: Path) -> None:
    folder = save_cross_encoder(tmp_path, 1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pairs = tokenizer(["What is a cat?"] * len(TEXTS), TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = network(**pairs).logits[:, 0]
    scores = CrossEncoderReranker(folder).scores("What is a cat?", TEXTS)
    order = np.argsort(scores).tolist()
    assert order == logits.argsort().tolist()
    assert len(set(scores)) == len(TEXTS)
    assert scores == pytest.approx(CrossEncoder(str(folder)).predict([("What is a cat?", t) for t in TEXTS]), abs=1e-4)


def test_a_classifier_of_two_classes_is_no_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="more than one score"):
        CrossEncoderReranker(save_cross_encoder(tmp_path, 2)).scores("q", TEXTS)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer XLM-RoBERTa with a Unigram tokenizer, mean pooling and E5's prompts."""
    folder = tmp_path_factory.mktemp("multilingual")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = XLMRobertaConfig(vocab_size=len(fast), max_position_embeddings=70, pad_token_id=1, **size)
    fast.save_pretrained(folder / "transformer")
    XLMRobertaModel(config).save_pretrained(folder / "transformer")
    body = Transformer(str(folder / "transformer"))
    model = SentenceTransformer(
        modules=[body, Pooling(32)], device="cpu", prompts={"query": "query: ", "document": "passage: "}
    )
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def test_a_multilingual_embedder_gives_its_librarys_vectors(multilingual: Path) -> None:
    embedder = SentenceTransformerEmbedder(multilingual, dtype="float32")
    peer = SentenceTransformer(str(multilingual), device="cpu")
    ours, theirs = embedder.embed_documents(TEXTS), peer.encode(TEXTS, prompt_name="document")
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert embedder.dimension == 32
    assert not np.allclose(embedder.embed_queries(TEXTS), ours, atol=1e-3)  # another prompt


def test_a_unigram_tokenizer_knows_chinese_words_and_says_what_it_does_not(multilingual: Path) -> None:
    embedder = SentenceTransformerEmbedder(multilingual)
    assert embedder.unknown_share(TEXTS[1]) == 0
    assert embedder.unknown_share("กขค") == 0.5  # the space before it is known
    assert 0 < embedder.count_tokens(TEXTS[1]) <= len(TEXTS[1]) + 1
    prompts = json.loads((multilingual / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts["query"] == "query: "
