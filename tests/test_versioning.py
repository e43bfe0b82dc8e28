"""What version 0.1.0 has saved is still read, with the same values: docs/versioning.md.

The fixtures are a tiny untrained AltCLIP with its processor, the embeddings of two texts, a cache of
embeddings and two results. They are never made anew: a change that cannot read them needs a line in the
changelog, and a refusal.
"""

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AltCLIPModel as NativeModel
from transformers import AutoModel, AutoProcessor

from benchmarks import load_outcomes, load_results
from common.embedding_cache import cached_column
from modeling_altclip import AltCLIPModel, embed_texts

from .conftest import ROOT

OLD = ROOT / "tests/fixtures/v0.1.0"
TEXTS = ["a dog", "cat"]


def test_a_saved_folder_loads():
    model = AutoModel.from_pretrained(OLD / "model")
    processor = AutoProcessor.from_pretrained(OLD / "model")
    assert type(model) is AltCLIPModel
    expected = torch.from_numpy(np.load(OLD / "embeddings.npy"))
    torch.testing.assert_close(embed_texts(model, processor, TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_a_saved_folder_loads_in_transformers_alone():
    model = NativeModel.from_pretrained(OLD / "model")
    processor = AutoProcessor.from_pretrained(OLD / "model")
    inputs = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        text_embeds = model.get_text_features(**inputs).pooler_output
    expected = torch.from_numpy(np.load(OLD / "embeddings.npy"))
    torch.testing.assert_close(torch.nn.functional.normalize(text_embeds), expected, atol=1e-5, rtol=1e-5)


def test_a_cache_is_found():
    """The name of its folder is the hash of its contents: another hash would compute every cache anew."""

    def encode(rows, view):
        raise AssertionError("the cache was not found")

    keys = pa.array(["a dog", "cat", "a dog"], pa.large_string())
    column = cached_column(
        "target", "text", keys, encode, {"weights": "fixed"}, cache_dir=str(OLD / "cache"), part_length=1
    )
    # Each text was encoded by itself, and got the first of the encoder's rows.
    assert np.array_equal(column[[0, 1, 2]]["target"], np.tile([0, 0.125, 0.25, 0.375], (3, 1)))


@pytest.mark.parametrize(
    "task,metric", [("miniature-pairs", "mean_recall"), ("miniature-concepts", "accuracy@1")]
)
def test_a_result_is_read(task, metric):
    (result,) = [result for result in load_results(OLD / "results") if result.task == task]
    assert result.metric == metric
    assert result.metrics["n"] == 12
    # The per-item results give the same figures again, and those of metrics that came later.
    found = load_outcomes(OLD / f"results/tiny/{task}.en.npz").metrics()
    assert {name: found[name] for name in result.metrics} == pytest.approx(result.metrics)
