"""Adapted models of other libraries give the embeddings of those libraries, from files as they write them."""

import json
import sys

import pytest
import sentence_transformers
import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from benchmarks.results import package_versions
from common.errors import InputError
from common.fingerprints import hash_weights
from common.models.loading import load_model, load_texts
from modeling_altclip import embed_images, embed_texts
from training import teacher_embeddings
from training.teachers import SHARED

from .test_any_model import ENCODER, IMAGES, TEXTS, bert_tokenizer, roberta_tokenizer, saved


@pytest.fixture
def clip(tmp_path):
    """Save a CLIP, whose folder sentence-transformers reads as it is."""
    saved("clip", tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def text_model(tmp_path):
    """Save a text model in the form of clip-ViT-B-32-multilingual-v1.

    It has an encoder, the mean of its states, and a layer to CLIP's width; and a prompt of its own.
    """
    torch.manual_seed(1)
    bert = transformers.BertModel(transformers.BertConfig(**ENCODER, vocab_size=250))
    bert.save_pretrained(tmp_path / "bert")
    bert_tokenizer(model_max_length=128).save_pretrained(tmp_path / "bert")
    modules = [
        Transformer(str(tmp_path / "bert")),
        Pooling(ENCODER["hidden_size"]),
        Dense(ENCODER["hidden_size"], 20),
    ]
    prompts = {"prompts": {"caption": "Caption: "}, "default_prompt_name": "caption"}
    SentenceTransformer(modules=modules, device="cpu", **prompts).save_pretrained(str(tmp_path / "text"))
    return tmp_path / "text"


def assert_encoded_alike(embeds, theirs, items):
    """Check embeddings against those of `theirs`, a SentenceTransformer."""
    expected = theirs.encode(items, convert_to_tensor=True, normalize_embeddings=True)
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=1e-4)


def test_sentence_transformers(clip):
    model, processor = load_model(f"sentence_transformers:{clip}")
    theirs = SentenceTransformer(str(clip), device="cpu")
    # Batches of 2 pad each text to its neighbour only, a batch of 100 pads all to the longest.
    for batch_size in (2, 100):
        assert_encoded_alike(embed_texts(model, processor, TEXTS, batch_size=batch_size), theirs, TEXTS)
        assert_encoded_alike(embed_images(model, processor, IMAGES, batch_size=batch_size), theirs, IMAGES)
    assert model.config.model_type == "sentence_transformers"
    assert model.device.type == "cpu"
    assert package_versions()["sentence-transformers"] == sentence_transformers.__version__  # results name it


def test_sentence_transformers_with_vectors_that_are_cut(clip, tmp_path):
    """Cut texts and images at the width that the files state, as `encode` does."""
    # 12 of the 20 values: `encode` normalises after the cut, and so must we.
    SentenceTransformer(str(clip), device="cpu", truncate_dim=12).save_pretrained(str(tmp_path / "cut"))
    theirs = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    model, processor = load_model(f"sentence_transformers:{tmp_path / 'cut'}")
    texts = embed_texts(model, processor, TEXTS)
    images = embed_images(model, processor, IMAGES)
    assert texts.shape[1] == 12
    assert images.shape[1] == 12
    assert_encoded_alike(texts, theirs, TEXTS)
    assert_encoded_alike(images, theirs, IMAGES)


def test_sentence_transformers_with_the_images_of_another(clip, text_model):
    model, processor = load_model(f"sentence_transformers:{text_model}+{clip}")
    theirs = SentenceTransformer(str(text_model), device="cpu")
    assert_encoded_alike(embed_texts(model, processor, TEXTS, batch_size=3), theirs, TEXTS)

    expected = embed_images(*load_model(str(clip)), IMAGES)
    torch.testing.assert_close(embed_images(model, processor, IMAGES), expected, atol=1e-5, rtol=1e-4)

    message = r"reads no images: add one that does, as in sentence_transformers:.*\+"
    with pytest.raises(InputError, match=message):
        load_model(f"sentence_transformers:{text_model}")


@pytest.fixture
def m_clip(tmp_path):
    """Write an M-CLIP text tower, file by file as on the Hub; return its folder, encoder and head.

    Its configuration names the encoder, whose own weights need not be there.
    """
    torch.manual_seed(2)
    # XLM-R numbers positions from its padding id, 1, onwards: 512 tokens take the positions 2 to 513.
    config = transformers.XLMRobertaConfig(**ENCODER, vocab_size=200, max_position_embeddings=514)
    config.save_pretrained(tmp_path / "xlm-roberta")
    encoder = transformers.XLMRobertaModel(config).eval()
    head = torch.nn.Linear(ENCODER["hidden_size"], 20)

    folder = tmp_path / "m_clip"
    roberta_tokenizer(model_max_length=512).save_pretrained(folder)
    stated = {
        "model_type": "M-CLIP",
        "architectures": ["MultilingualCLIP"],
        "modelBase": str(tmp_path / "xlm-roberta"),
        "transformerDimensions": ENCODER["hidden_size"],
        "numDims": 20,
    }
    (folder / "config.json").write_text(json.dumps(stated))

    weights = {f"transformer.{name}": weight for name, weight in encoder.state_dict().items()}
    weights |= {f"LinearTransformation.{name}": weight for name, weight in head.state_dict().items()}
    weights["transformer.embeddings.position_ids"] = torch.arange(514)[None]  # old files keep it
    torch.save(weights, folder / "pytorch_model.bin")
    return folder, encoder, head


def test_m_clip(m_clip, clip):
    folder, encoder, head = m_clip
    model, processor = load_model(f"m_clip:{folder}+{clip}")
    expected = []
    for text in TEXTS:  # one at a time there is no padding, and the mean is plain
        # M-CLIP's own package never truncates; here 77 tokens are the limit, as for every model.
        ids = roberta_tokenizer()([text], truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            expected.append(head(encoder(**ids).last_hidden_state.mean(dim=1))[0])
    for batch_size in (3, 100):
        vectors = embed_texts(model, processor, TEXTS, batch_size=batch_size, normalize_embeddings=False)
        torch.testing.assert_close(vectors, torch.stack(expected), atol=1e-5, rtol=1e-4)

    images = embed_images(model, processor, IMAGES)
    expected = embed_images(*load_model(str(clip)), IMAGES)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-4)


def test_m_clip_is_whole_or_an_error(m_clip, clip):
    folder, _, _ = m_clip
    with pytest.raises(InputError, match=r"it has no images: add the CLIP that taught it, as in m_clip:.*\+"):
        load_model(f"m_clip:{folder}")
    with pytest.raises(InputError, match="not M-CLIP's: it has no modelBase, transformerDimensions, numDims"):
        load_model(f"m_clip:{clip}+{clip}")

    weights = torch.load(folder / "pytorch_model.bin")
    # A head without its bias would otherwise keep a random one.
    del weights["LinearTransformation.bias"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"missing are \['LinearTransformation.bias'\]"):
        load_model(f"m_clip:{folder}+{clip}")


def test_m_clip_runs_no_code_of_a_checkpoint(m_clip, clip, tmp_path):
    class Code:  # pickle calls what __reduce__ names
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"transformer.weight": Code()}, m_clip[0] / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded: Weights only load failed"):
        load_model(f"m_clip:{m_clip[0]}+{clip}")
    assert not (tmp_path / "ran").exists()


def test_weights_are_hashed(clip, text_model, m_clip):
    """Change each tower in turn: the hash covers all that make an embedding."""
    for name in (f"sentence_transformers:{text_model}+{clip}", f"m_clip:{m_clip[0]}+{clip}"):
        model, _ = load_model(name)
        before = hash_weights(model)
        assert before == hash_weights(load_model(name)[0])
        # The first parameter is of the text tower, the last of the image tower.
        first, *_, last = model.parameters()
        for parameter in (first, last):
            whole = parameter.detach().clone()
            parameter.data += 1
            assert hash_weights(model) != before
            parameter.data = whole


def test_what_cannot_be_loaded_is_named(tmp_path):
    message = "unknown prefix: choose from open_clip:, sentence_transformers:, m_clip:"
    with pytest.raises(InputError, match=message):
        load_model("openclip:ViT-B-32")
    with pytest.raises(InputError, match="'C:/no/such/folder' does not exist"):
        load_model("C:/no/such/folder")
    with pytest.raises(InputError, match="'sentence_transformers:.*' cannot be loaded"):
        load_model(f"sentence_transformers:{tmp_path / 'nowhere'}")


def test_open_clip_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as if it were not installed
    message = 'needs more than is installed .*: pip install "altclip\\[open-clip\\]", and the torchvision'
    with pytest.raises(InputError, match=message):
        load_model("open_clip:ViT-B-32/openai")


@pytest.fixture(params=["their own text tower", "a text tower of transformers"])
def open_clip_folder(request, tmp_path):
    """Write a model as open_clip's `save_for_hf` does; return its folder and the model.

    This needs open_clip, and with it torchvision, which our test environment lacks.
    """
    open_clip = pytest.importorskip("open_clip")
    # 49,408 pieces are the vocabulary that open_clip's own tokenizer brings along.
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    if request.param == "a text tower of transformers":
        text_config = transformers.XLMRobertaConfig(**ENCODER, vocab_size=200, max_position_embeddings=90)
        text_config.save_pretrained(tmp_path / "text")
        roberta_tokenizer().save_pretrained(tmp_path / "open_clip")
        tower = str(tmp_path / "text")
        text = {"hf_model_name": tower, "hf_tokenizer_name": tower, "hf_pooler_type": "mean_pooler"}
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    config = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text}
    folder = tmp_path / "open_clip"
    folder.mkdir(exist_ok=True)
    settings = {"model_cfg": config, "preprocess_cfg": {"interpolation": "bicubic"}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))

    torch.manual_seed(3)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    with torch.no_grad():  # untrained, embeddings would hardly differ
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder, model


def test_open_clip(open_clip_folder):
    import open_clip

    folder, theirs = open_clip_folder
    model, processor = load_model(f"open_clip:{folder}")
    _, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        texts = theirs.encode_text(tokenize(TEXTS), normalize=True)
        vectors = theirs.encode_image(torch.stack([prepare(image) for image in IMAGES]), normalize=True)
    for batch_size in (2, 100):
        text_embeds = embed_texts(model, processor, TEXTS, batch_size=batch_size)
        torch.testing.assert_close(text_embeds, texts, atol=1e-5, rtol=1e-4)
        image_embeds = embed_images(model, processor, IMAGES, batch_size=batch_size)
        torch.testing.assert_close(image_embeds, vectors, atol=1e-5, rtol=1e-4)
    assert hash_weights(model) == hash_weights(load_model(f"open_clip:{folder}")[0])


def test_open_clip_teaches_what_it_encodes(open_clip_folder, tmp_path):
    """Targets have the length that the library gives them, before any normalization."""
    import open_clip

    folder, theirs = open_clip_folder
    model, tokenizer = load_texts(f"open_clip:{folder}", argument="teacher_name_or_path")
    rows = Dataset.from_dict({"captions": [{"en": text} for text in TEXTS]})
    column = teacher_embeddings(rows, model, tokenizer, space=SHARED, cache_dir=str(tmp_path / "cache"))
    found = torch.as_tensor(column[range(len(TEXTS))]["target"])
    with torch.no_grad():
        expected = theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS))
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-6


def test_open_clip_names_its_weights():
    pytest.importorskip("open_clip")
    message = "names no weights: add them, as in open_clip:ViT-B-32/TAG; there are openai, .*laion2b"
    with pytest.raises(InputError, match=message):
        load_model("open_clip:ViT-B-32")
    with pytest.raises(InputError, match="'open_clip:ViT-B-33/openai' cannot be loaded"):
        load_model("open_clip:ViT-B-33/openai")


def test_open_clip_without_weights_is_an_error(open_clip_folder):
    folder, _ = open_clip_folder
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="cannot be loaded: .*weights"):
        load_model(f"open_clip:{folder}")
