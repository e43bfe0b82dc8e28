"""Similarities of texts are cosines of what each encoder says of a text alone, in any order and batch."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AltCLIPModel,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    FNetConfig,
    FNetModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from common.errors import InputError
from common.models.loading import save_model
from training.text_similarity import TextEncoder, load_text_encoder, text_similarities

from .test_any_model import ENCODER, bert_tokenizer, build_altclip, roberta_tokenizer

TEXTS = ["a dog", "ein Hund im Garten", "a cat", "umbrella " * 30, "a dog"]
OTHERS = ["a dog", "a dog in the garden", "x", "a cat", "a bird that sings"]


def shake(model):
    """Move the weights, since an untrained encoder of the usual size hardly tells texts apart."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Save a text encoder, one that states its pooling, and a model of texts and images."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    positions = {"vocab_size": 200, "max_position_embeddings": 60}
    bert = BertModel(BertConfig(**ENCODER, **positions))
    xlm_r = XLMRobertaModel(XLMRobertaConfig(**ENCODER, **positions, pad_token_id=1))
    for name, model, tokenizer in (("mean", bert, bert_tokenizer()), ("cls", xlm_r, roberta_tokenizer())):
        shake(model)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "cls/1_Pooling").mkdir()
    (folder / "cls/1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    model, processor = build_altclip()
    shake(model.text_model)
    save_model(model, processor, folder / "altclip")
    return folder


def encoding_alone(folder, name):
    """Return a function that embeds one text by the libraries' own means."""
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    longest = {"mean": 60, "cls": 58, "altclip": 77}[name]
    model = (AltCLIPModel if name == "altclip" else AutoModel).from_pretrained(folder / name).eval()

    @torch.inference_mode()
    def embed(text):
        inputs = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        if name == "altclip":
            return model.get_text_features(**inputs).pooler_output[0]
        states = model(**inputs).last_hidden_state[0]
        return states.mean(dim=0) if name == "mean" else states[0]

    return embed


@pytest.mark.parametrize("name", ["mean", "cls", "altclip"])
def test_they_are_the_cosines_of_texts_encoded_alone(encoders, name):
    """Encode texts of several lengths together, a repeated one and one that is cut."""
    encoder = load_text_encoder(str(encoders / name))
    found = text_similarities(encoder, TEXTS, OTHERS, batch_size=3)
    assert found.dtype == np.float32
    alone = encoding_alone(encoders, name)
    expected = []
    for text, other in zip(TEXTS, OTHERS):
        expected.append(torch.cosine_similarity(alone(text), alone(other), dim=0).item())
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(found[0], 1, atol=1e-6)
    assert found[1:].max() < 0.999

    # Of other batches, in other windows and in the other order, they differ by rounding alone.
    other_batches = text_similarities(encoder, OTHERS[::-1], TEXTS[::-1], batch_size=1)[::-1]
    np.testing.assert_allclose(found, other_batches, atol=1e-6)
    assert text_similarities(encoder, TEXTS, OTHERS, batch_size=3).tobytes() == found.tobytes()


def test_a_window_at_a_time_is_encoded():
    """Hold no more than 64 batches of embeddings, whatever the number of texts."""
    seen = []

    def embed(texts, batch_size):
        seen.append(len(texts))
        return torch.stack([torch.tensor([float(text), 1.0]) for text in texts])

    encoder = TextEncoder("numbers", "", embed)
    numbers = [str(number) for number in range(200)]
    found = text_similarities(encoder, numbers, numbers[::-1], batch_size=2)
    assert max(seen) <= 128
    assert len(seen) == 4
    values = np.arange(200.0)
    lengths = np.sqrt(values**2 + 1)
    expected = (values * values[::-1] + 1) / (lengths * lengths[::-1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_prefix_comes_before_each_text(encoders):
    encoder = load_text_encoder(str(encoders / "mean"), prefix="query: ")
    plain = load_text_encoder(str(encoders / "mean"))
    prefixed = [f"query: {text}" for text in TEXTS], [f"query: {text}" for text in OTHERS]
    found = text_similarities(encoder, TEXTS, OTHERS)
    np.testing.assert_array_equal(found, text_similarities(plain, *prefixed))
    assert np.abs(found - text_similarities(plain, TEXTS, OTHERS)).max() > 1e-3


def test_a_sentence_encoder_runs_all_of_its_modules(encoders, tmp_path):
    """LaBSE has a dense layer behind its pooling, which a plain encoder would leave out."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(1)
    transformer = modules.Transformer(str(encoders / "mean"), max_seq_length=40)
    pooling = modules.Pooling(32, pooling_mode="cls")
    dense = modules.Dense(32, 8)
    model = sentence_transformers.SentenceTransformer(
        modules=[transformer, pooling, dense, modules.Normalize()], device="cpu"
    )
    model.save(str(tmp_path / "labse"))
    encoder = load_text_encoder(f"sentence_transformers:{tmp_path}/labse")
    found = text_similarities(encoder, TEXTS, OTHERS, batch_size=2)
    expected = (model.encode(TEXTS) * model.encode(OTHERS)).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)

    message = (
        r"has more than an encoder and its pooling, Dense: give sentence_transformers:.*labse, which runs"
    )
    with pytest.raises(InputError, match=message):
        load_text_encoder(str(tmp_path / "labse"), "similarity_model")
    with pytest.raises(InputError, match="similarity_model 'sentence_transformers:.*' cannot be loaded"):
        load_text_encoder(f"sentence_transformers:{tmp_path}", "similarity_model")


def test_what_is_no_encoder_of_texts_is_refused(encoders, tmp_path):
    with pytest.raises(InputError, match="model 'nowhere/at_all/x' does not exist"):
        load_text_encoder("nowhere/at_all/x")
    with pytest.raises(InputError, match="has an unknown prefix: give sentence_transformers:NAME, or none"):
        load_text_encoder("open_clip:ViT-B-32")
    # FNet has no mask, so that a text's embedding would depend on the texts beside it.
    FNetModel(FNetConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1)).save_pretrained(tmp_path / "f")
    bert_tokenizer().save_pretrained(tmp_path / "f")
    with pytest.raises(InputError, match="'fnet' has no attention_mask"):
        load_text_encoder(str(tmp_path / "f"))
    model = AutoModel.from_pretrained(encoders / "mean")
    model.encoder.layer[0].output.dense.weight.data[0] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    bert_tokenizer().save_pretrained(tmp_path / "nan")
    with pytest.raises(InputError, match="cannot be loaded: .*NaN"):
        load_text_encoder(str(tmp_path / "nan"))


def test_texts_that_cannot_be_compared_are_refused(encoders):
    encoder = load_text_encoder(str(encoders / "mean"))
    assert len(text_similarities(encoder, [], [])) == 0
    with pytest.raises(InputError, match="there are 2 texts and 1 counterparts: give one for each"):
        text_similarities(encoder, ["a", "b"], ["c"])
    with pytest.raises(InputError, match=r"cannot be compared by .*: texts\[2\] is None, not a string"):
        text_similarities(encoder, ["a", "b"], [None, "c"])
    with pytest.raises(InputError, match="batch_size is 0: give 1 or more"):
        text_similarities(encoder, ["a"], ["c"], batch_size=0)
    encoder = TextEncoder(
        "a broken one", "", lambda texts, batch_size: torch.full((len(texts), 2), torch.inf)
    )
    with pytest.raises(InputError, match="'a broken one' gives embeddings of texts that are NaN or infinite"):
        text_similarities(encoder, ["a"], ["c"])
