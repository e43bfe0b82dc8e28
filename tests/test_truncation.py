"""`truncate_dim`: unit embeddings of the first dimensions, wherever a model embeds."""

import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

from benchmarks.jobs.embed import EmbedArguments
from benchmarks.jobs.embed import main as embed
from common.errors import InputError
from common.fingerprints import settings
from common.models.loading import load_model
from modeling_altclip import AltCLIPConfig, AltCLIPModel, embed_images, embed_texts
from modeling_altclip.truncation_altclip import trained_dims, truncate

TEXTS = ["key", "dog face and umbrella with rain drops", "key", "bell"]
IMAGES = [Image.new("RGB", (40, 32), color) for color in ("red", "green", "blue")]


@pytest.fixture
def model(config, processor):
    config.text_config.vocab_size = len(processor.tokenizer)
    config.matryoshka_dims = [20, 7]
    torch.manual_seed(0)
    return AltCLIPModel(config)


def embed_both(model, processor, **options):
    texts = embed_texts(model, processor, TEXTS, batch_size=2, **options)
    images = embed_images(model, processor, IMAGES, batch_size=2, **options)
    return {"texts": texts, "images": images}


def test_the_first_dimensions_of_unit_length(model, processor):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of dimensions that the model was trained for
        whole = embed_both(model, processor)
        first = embed_both(model, processor, truncate_dim=7)
        all_of_them = embed_both(model, processor, truncate_dim=20)
        raw = embed_both(model, processor, normalize_embeddings=False)
        first_of_raw = embed_both(model, processor, normalize_embeddings=False, truncate_dim=7)
    for side, embeddings in whole.items():
        torch.testing.assert_close(first[side], normalize(embeddings[:, :7], dim=-1))
        assert torch.equal(all_of_them[side], embeddings)
        assert torch.equal(first_of_raw[side], raw[side][:, :7])

    found = embed_images(model, processor, [IMAGES[0], "gone.png"], truncate_dim=7, errors="skip")
    assert found.embeddings.shape == (1, 7)
    as_array = embed_texts(model, processor, TEXTS, truncate_dim=7, convert_to_numpy=True)
    np.testing.assert_allclose(as_array, first["texts"], atol=1e-6)


def test_one_warning_where_the_model_was_not_trained_for_it(model, processor):
    with pytest.warns(UserWarning, match="^truncate_dim is 6, for which the model was not trained") as caught:
        embed_texts(model, processor, TEXTS, batch_size=1, truncate_dim=6)
    assert [str(one.message) for one in caught] == [
        "truncate_dim is 6, for which the model was not trained: similarities will be less accurate "
        "(matryoshka_dims of its configuration: 20, 7)"
    ]
    del model.config.matryoshka_dims
    with pytest.warns(UserWarning, match=r"configuration: none\)$"):
        embed_images(model, processor, IMAGES, truncate_dim=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is truncated
        embed_texts(model, processor, TEXTS, truncate_dim=20)


@pytest.mark.parametrize("dim", [0, -1, 2.0, "8", True])
def test_what_is_no_number_of_dimensions_is_refused(model, processor, dim):
    message = f"^truncate_dim is {re.escape(repr(dim))}: give a whole number from 1"
    with pytest.raises(ValueError, match=message):
        embed_texts(model, processor, TEXTS, truncate_dim=dim)
    with pytest.raises(ValueError, match=message):
        embed_images(model, processor, IMAGES, truncate_dim=dim)


def test_more_dimensions_than_there_are_are_refused_at_the_first_batch(model, processor, monkeypatch):
    plain = model.get_text_features
    n_batches = 0

    def counted(**inputs):
        nonlocal n_batches
        n_batches += 1
        return plain(**inputs)

    monkeypatch.setattr(model, "get_text_features", counted)
    message = "^truncate_dim is 21, and the embeddings have 20 dimensions: give no more$"
    with pytest.raises(ValueError, match=message):
        embed_texts(model, processor, TEXTS, batch_size=1, truncate_dim=21)
    assert n_batches == 1
    with pytest.raises(ValueError, match=message):
        embed_images(model, processor, IMAGES, truncate_dim=21)
    assert truncate(torch.ones(2, 3), None).shape == (2, 3)


@pytest.mark.parametrize("dims", ["512", [512, "8"], [], [8, 8], [0]])
def test_a_configuration_that_states_no_dimensions_is_refused(dims):
    config = AltCLIPConfig()
    config.matryoshka_dims = dims
    with pytest.raises(ValueError, match="^matryoshka_dims of the model's configuration is"):
        trained_dims(config)


def test_the_record_changes_no_fingerprint_and_no_file_of_other_models(model, config, tmp_path):
    before = settings(model)
    model.config.matryoshka_dims = None
    assert settings(model) == before
    del model.config.matryoshka_dims
    assert settings(model) == before
    model.config.save_pretrained(tmp_path)
    assert "matryoshka" not in (tmp_path / "config.json").read_text()


@pytest.mark.filterwarnings("ignore:truncate_dim is 32")
def test_as_the_command_and_sentence_transformers_truncate(altclip_folder, tmp_path, capsys):
    model, processor = load_model(str(altclip_folder))
    expected = embed_texts(model, processor, TEXTS, truncate_dim=32)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    embed(
        EmbedArguments(
            model_name_or_path=str(altclip_folder),
            texts=str(tmp_path / "texts.txt"),
            output_dir=str(tmp_path / "embedded"),
            truncate_dim=32,
        )
    )
    np.testing.assert_allclose(np.load(tmp_path / "embedded/embeddings.npy"), expected, atol=1e-6)
    assert "--output_dir OTHER --truncate_dim 32, whose dot products" in capsys.readouterr().out

    theirs = SentenceTransformer(str(altclip_folder), truncate_dim=32)
    np.testing.assert_allclose(theirs.encode(TEXTS, normalize_embeddings=True), expected, atol=1e-5)
    images = theirs.encode(IMAGES, normalize_embeddings=True)
    np.testing.assert_allclose(images, embed_images(model, processor, IMAGES, truncate_dim=32), atol=1e-5)

    with pytest.raises(InputError, match="^truncate_dim is 0: give a number of at least 1"):
        EmbedArguments(model_name_or_path="x", texts="x", output_dir="x", truncate_dim=0)
