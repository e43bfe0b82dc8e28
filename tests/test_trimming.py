"""A trimmed vocabulary: every library reads a corpus as before, and no text has new unknown tokens."""

import io
import json
import random
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from datasets import Dataset
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    ViTConfig,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)
from transformers.convert_slow_tokenizer import import_protobuf

from common.errors import InputError
from common.fingerprints import hash_weights
from common.models.loading import load_model, save_model
from deploy.trimming.corpus import open_corpus
from deploy.trimming.coverage import Comparison
from deploy.trimming.job import TrimArguments, main
from deploy.trimming.pieces import choose_pieces
from deploy.trimming.tokenizer_files import _renumber
from deploy.trimming.weights import rows_of, trim_weights
from model_cards.stages import find_lineage
from modeling_altclip import (
    AltCLIPConfig,
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    AltCLIPProcessor,
    embed_texts,
)
from training.miniature.scenes import read_concepts

from .conftest import TEXT, VISION
from .test_auto_classes import SCRIPT, expected_logits, is_plain

NINE = ["en", "zh", "es", "fr", "ru", "ar", "ja", "ko", "it"]
DEFINED = "aa"  # a piece that a user has defined, in SentencePiece's own library
MODEL_FILE = "sentencepiece.bpe.model"
UNIGRAM = {
    "vocab_size": 2000,
    "model_type": "unigram",
    "character_coverage": 1.0,
    "normalization_rule_name": "nmt_nfkc",
    "minloglevel": 2,
}


def captions_of(language):
    """Return captions as the miniature has them: names of one concept, and of two."""
    spoken = read_concepts()["languages"][language]
    names = spoken["names"]
    pairs = [spoken["list_pattern"]["2"].format(*two) for two in zip(names, names[7:])]
    return names + pairs


def train(texts, **options):
    """Train SentencePiece's model; return its file."""
    file = io.BytesIO()
    given = {"sentence_iterator": iter(texts), "model_writer": file}
    sentencepiece.SentencePieceTrainer.train(**given, **(UNIGRAM | options))
    return file.getvalue()


def as_xlm_r(content):
    """Return the fast tokenizer that XLM-R's conversion makes of SentencePiece's file."""
    model = import_protobuf().ModelProto.FromString(content)
    pieces = [(piece.piece, piece.score) for piece in model.pieces[3:]]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(
        vocab=[*special, *pieces, ("<mask>", 0.0)],
        _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap,
        model_max_length=77,
    )


@pytest.fixture(scope="module")
def sentencepiece_file():
    languages = read_concepts()["languages"]
    return train(text for language in languages for text in captions_of(language))


def save_folder(model, tokenizer, folder, sentencepiece_file=None):
    """Save a model; the tokenizer's files are what a folder of the Hub has."""
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    save_model(model, AltCLIPProcessor(CLIPImageProcessor(**sizes), tokenizer), folder)
    (folder / "checksums.json").unlink()
    if sentencepiece_file is not None:
        (folder / MODEL_FILE).write_bytes(sentencepiece_file)
    return folder


@pytest.fixture(scope="module")
def folder(sentencepiece_file, tmp_path_factory):
    """Save an AltCLIP of the miniature's 19 languages, with both files of its tokenizer."""
    torch.manual_seed(0)
    tokenizer = as_xlm_r(sentencepiece_file)
    # Some rows that no token has, as the embeddings of multilingual E5 have them
    text = TEXT | {"vocab_size": len(tokenizer) + 8, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = AltCLIPConfig(text_config=text, vision_config=dict(VISION), projection_dim=20)
    return save_folder(
        AltCLIPModel(config), tokenizer, tmp_path_factory.mktemp("trimming") / "model", sentencepiece_file
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write captions in nine languages as one parquet file of `{language: text}`; return its path."""
    path = tmp_path_factory.mktemp("corpus") / "captions.parquet"
    rows = zip(*map(captions_of, NINE))
    Dataset.from_list([{"captions": dict(zip(NINE, row))} for row in rows]).to_parquet(path)
    return str(path)


@pytest.fixture(scope="module")
def trimmed(folder, corpus, tmp_path_factory):
    """Trim the model to the corpus, with German and Thai as other texts; return the new folder."""
    outside = tmp_path_factory.mktemp("outside")
    others = []
    for language in ("de", "th"):
        path = outside / f"{language}.txt"
        path.write_text("\n".join(captions_of(language)), "utf-8")
        others.append(f"{language}={path}")
    output = outside / "trimmed"
    main(
        TrimArguments(
            model_name_or_path=str(folder), corpus=[corpus], report_corpus=others, output_dir=str(output)
        )
    )
    return output


def fuzz(n_texts):
    """Return texts of any letters of the 19 languages, with digits, white space and letters of none.

    Letters that NFKC writes as others stand alone: with an accent behind them the library tokenizers leaves
    some as they are, and SentencePiece does not, trimmed or not.
    """
    drawn = random.Random(0)
    captions = [text for language in read_concepts()["languages"] for text in captions_of(language)]
    letters = sorted(set("".join(captions)))
    letters += list("  \t09🍎ꙮ\u200b")
    texts = ["".join(drawn.choices(letters, k=drawn.randrange(1, 40))) for _ in range(n_texts)]
    # Words of several languages, in an order that no caption has
    words = " ".join(captions).split()
    texts += [" ".join(drawn.choices(words, k=6)) for _ in range(n_texts)]
    return [*texts, "ﬁre", "Ａ ½ ①", "  two  spaces "]


def test_the_corpus_has_the_same_embeddings(folder, trimmed):
    texts = [text for language in NINE for text in captions_of(language)]
    model, processor = load_model(str(folder))
    smaller, smaller_processor = load_model(str(trimmed))
    expected = embed_texts(model, processor, texts)
    assert len(expected) == 9 * 133
    difference = (embed_texts(smaller, smaller_processor, texts) - expected).abs().max()
    assert difference <= 1e-6
    # And tokens are the same, piece by piece
    old, new = processor.tokenizer, smaller_processor.tokenizer
    assert [new.tokenize(text) for text in texts] == [old.tokenize(text) for text in texts]
    assert len(new) < 0.8 * len(old)

    n_rows = smaller.get_input_embeddings().weight.shape[0]
    assert n_rows == len(new) == smaller.config.text_config.vocab_size
    assert (trimmed / "model.safetensors").stat().st_size < (folder / "model.safetensors").stat().st_size


def test_special_tokens_keep_their_meaning(folder, trimmed):
    old, new = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(trimmed)
    assert new.special_tokens_map == old.special_tokens_map
    assert new.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert new.mask_token_id == len(new) - 1 < old.mask_token_id
    assert new("a <mask> and", "dog face").input_ids[-1] == 2
    assert new.tokenize("dog <mask>") == old.tokenize("dog <mask>")
    # Other programs read ids from the file as they stand there.
    state = json.loads((trimmed / "tokenizer.json").read_text("utf-8"))
    pieces = [piece for piece, _ in state["model"]["vocab"]]
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    assert added == {token: pieces.index(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
    config = AltCLIPConfig.from_pretrained(trimmed).text_config
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (0, 1, 2)


def test_post_processors_of_every_form_are_renumbered():
    special = {"special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}
    ends = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 9]}
    both = {"type": "Sequence", "processors": [special, ends]}
    _renumber(both, {2: 1, 9: 4})
    assert special["special_tokens"]["</s>"]["ids"] == [1]
    assert (ends["sep"], ends["cls"]) == (["</s>", 1], ["<s>", 4])
    _renumber(None, {})


def test_both_files_of_the_tokenizer_agree_on_any_text(folder, trimmed):
    """Ids differ by one, as fairseq's and SentencePiece's do, and pieces not at all."""
    texts = fuzz(2000)
    for one in (folder, trimmed):
        tokenizer = AutoTokenizer.from_pretrained(one)
        library = Tokenizer.from_file(str(one / "tokenizer.json"))
        processor = SentencePieceProcessor(model_file=str(one / MODEL_FILE))
        n_compared = 0
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert library.encode(text, add_special_tokens=False).ids == ids
            # SentencePiece's unknown token is 0, fairseq's is 3.
            shifted = [number + 1 if number else 3 for number in processor.encode(text)]
            assert shifted == ids
            n_compared += len(ids)
        assert n_compared > 20_000
        assert len(tokenizer) == len(processor) + 2  # <pad> and <mask>


def test_no_text_gets_new_unknown_tokens(folder, trimmed):
    old, new = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(trimmed)
    texts = fuzz(2000)
    n_unknown = 0
    for text in texts:
        before = old(text).input_ids.count(old.unk_token_id)
        assert new(text).input_ids.count(new.unk_token_id) == before
        n_unknown += before
    assert n_unknown > 50


def test_the_report_counts_what_changes(folder, trimmed):
    report = json.loads((trimmed / "trimming.json").read_text("utf-8"))
    assert list(report["corpus_coverage"]) == NINE
    for coverage in report["corpus_coverage"].values():
        assert coverage["texts"] == 133
        assert coverage["changed"] == coverage["unknown"] == 0
        assert coverage["tokens_before"] == coverage["tokens_after"]

    old, new = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(trimmed)
    assert list(report["report_corpus_coverage"]) == ["de", "th"]
    for language, coverage in report["report_corpus_coverage"].items():
        before = [old.tokenize(text) for text in captions_of(language)]
        after = [new.tokenize(text) for text in captions_of(language)]
        changed = sum(one != other for one, other in zip(before, after))
        assert coverage["changed_share"] == changed / 133 > 0.2
        assert coverage["mean_tokens_before"] == pytest.approx(sum(map(len, before)) / 133 + 2)
        assert coverage["mean_tokens_after"] == pytest.approx(sum(map(len, after)) / 133 + 2)
        assert coverage["unknown"] == 0
    table = (trimmed / "trimming.md").read_text("utf-8")
    assert "| de | 133 |" in table
    assert report["before"]["tokens"] == len(old) > report["after"]["tokens"] == len(new)


def test_results_belong_to_other_weights(folder, trimmed, corpus, tmp_path):
    """Neither a card nor results go along; what the model was made of does."""
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    (source / "README.md").write_text("# A card with results")
    (source / ".eval_results").mkdir()
    origin = {"name": "org/captions", "dataset": "org/captions", "licence": "CC-BY-4.0"}
    (source / "origins.yaml").write_text(f"- {json.dumps(origin)}\n")
    main(TrimArguments(model_name_or_path=str(source), corpus=[corpus], output_dir=str(tmp_path / "new")))
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert not {"README.md", ".eval_results"} & names
    assert [one.name for one in find_lineage([str(tmp_path / "new")]).origins] == ["org/captions"]

    report = json.loads((tmp_path / "new/trimming.json").read_text("utf-8"))
    for name, one in (("before", source), ("after", tmp_path / "new")):
        assert report[name]["weights"] == hash_weights(load_model(str(one))[0])
    assert report["before"]["weights"] != report["after"]["weights"]
    # The same corpus leaves the same weights.
    assert hash_weights(load_model(str(trimmed))[0]) == report["after"]["weights"]


@pytest.mark.parametrize("how", ["plain", pytest.param("remote", marks=pytest.mark.slow)])
def test_the_folder_loads_without_the_package(folder, trimmed, run_python, tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    modules = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = run_python("python", tmp_path / "script.py", trimmed, how, cwd=tmp_path, **modules)
    assert process.returncode == 0, process.stderr[-3000:]
    said = json.loads(process.stdout.strip().splitlines()[-1])
    assert is_plain(said) == (how == "plain")
    logits = torch.tensor(said["logits"])
    torch.testing.assert_close(logits, expected_logits(trimmed), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected_logits(folder), atol=1e-5, rtol=0)


def test_a_dual_encoder(sentencepiece_file, corpus, tmp_path):
    """Its tokenizer has SentencePiece's file alone beside `tokenizer.json`, and its text tower a mean."""
    torch.manual_seed(0)
    tokenizer = as_xlm_r(sentencepiece_file)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = XLMRobertaConfig(
        **sizes, vocab_size=len(tokenizer), pad_token_id=1, bos_token_id=0, eos_token_id=2
    )
    vision = ViTConfig(**sizes, image_size=32, patch_size=8)
    config = AltCLIPDualEncoderConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12, text_pooling="mean"
    )
    source = save_folder(AltCLIPDualEncoderModel(config), tokenizer, tmp_path / "model")
    main(TrimArguments(model_name_or_path=str(source), corpus=[corpus], output_dir=str(tmp_path / "new")))
    texts = captions_of("ru") + captions_of("ar")
    expected = embed_texts(*load_model(str(source)), texts)
    difference = (embed_texts(*load_model(str(tmp_path / "new")), texts) - expected).abs().max()
    assert difference <= 1e-6
    assert not (tmp_path / "new" / MODEL_FILE).exists()
    assert isinstance(AutoModel.from_pretrained(tmp_path / "new"), AltCLIPDualEncoderModel)


def test_half_precision_stays(folder, corpus, tmp_path):
    model, processor = load_model(str(folder))
    model.to(torch.bfloat16)
    save_model(model, processor, tmp_path / "half")
    main(
        TrimArguments(
            model_name_or_path=str(tmp_path / "half"), corpus=[corpus], output_dir=str(tmp_path / "new")
        )
    )
    smaller = AutoModel.from_pretrained(tmp_path / "new", dtype="auto")
    assert {weight.dtype for weight in smaller.parameters()} == {torch.bfloat16}
    assert smaller.config.text_config.dtype == smaller.config.vision_config.dtype == torch.bfloat16
    inputs = AutoProcessor.from_pretrained(tmp_path / "new")(text="красное яблоко", return_tensors="pt")
    before = processor(text="красное яблоко", return_tensors="pt")
    with torch.no_grad():
        expected = model.eval().get_text_features(**before).pooler_output
        assert torch.equal(smaller.eval().get_text_features(**inputs).pooler_output, expected)


def unigram(scores):
    """Return a tokenizer of scored pieces, by the library tokenizers."""
    return Tokenizer(Unigram([("<unk>", 0.0), *scores.items()], unk_id=0))


def as_sentencepiece(scores):
    """Return the same in SentencePiece's own library."""
    proto = import_protobuf()
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = False
    model.pieces.add(piece="<unk>", score=0, type=proto.ModelProto.SentencePiece.UNKNOWN)
    for special in ("<s>", "</s>"):
        model.pieces.add(piece=special, score=0, type=proto.ModelProto.SentencePiece.CONTROL)
    for piece, score in scores.items():
        model.pieces.add(piece=piece, score=score)
    # It is taken wherever it stands, and is no piece that could be removed.
    model.pieces.add(piece=DEFINED, score=0, type=proto.ModelProto.SentencePiece.USER_DEFINED)
    return SentencePieceProcessor(model_proto=model.SerializeToString())


def draw_vocabulary(drawn):
    """Return pieces of four letters with scores of which many, and many sums, are equal.

    One piece is rarer than all others, and no text has it.
    """
    scores = {"ffff": -45.0}
    scores |= {letter: -5.0 * drawn.randrange(1, 5) for letter in "abc"}  # d has no piece of its own
    while len(scores) < 30:
        piece = "".join(drawn.choices("abcd", k=drawn.randrange(2, 5)))
        if piece != DEFINED:
            scores.setdefault(piece, -5.0 * drawn.randrange(1, 7))
    return scores


def test_pieces_that_never_win_can_be_removed():
    """Of 300 vocabularies any pieces are removed that a corpus does not need, and it is read as before.

    Many ways through a text have the same score: the first of equal ones has to stay the first.
    """
    n_removed = n_longer = 0
    for seed in range(300):
        drawn = random.Random(seed)
        scores = draw_vocabulary(drawn)
        texts = ["".join(drawn.choices("abcde", k=drawn.randrange(1, 12))) for _ in range(20)]
        for make, read in (
            (unigram, lambda tokenizer, text: tokenizer.encode(text).tokens),
            (as_sentencepiece, lambda tokenizer, text: tokenizer.encode(text, out_type=str)),
        ):
            tokenizer = make(scores)
            expected = [read(tokenizer, text) for text in texts]
            used = {piece for pieces in expected for piece in pieces}
            kept = choose_pieces(scores, used)
            # More may stay than has to, whichever it is.
            kept |= set(drawn.sample(sorted(scores), drawn.randrange(5)))
            smaller = make({piece: score for piece, score in scores.items() if piece in kept})
            assert [read(smaller, text) for text in texts] == expected
            n_removed += len(scores) - len(kept)
            n_longer += any(len(piece) > 1 for piece in used)
    assert n_removed > 3000
    assert n_longer > 500


def test_the_rarest_piece_decides_on_unknown_characters():
    """An unknown x costs 10 more than the rarest piece: with qq 70, which is too much, and without it 40."""
    scores = {"yza": -1.0, "xy": -30.0, "za": -30.0, "qq": -60.0}
    assert unigram(scores).encode("xyza").tokens == ["xy", "za"]
    without = {piece: score for piece, score in scores.items() if piece != "qq"}
    assert unigram(without).encode("xyza").tokens == ["x", "yza"]
    assert "qq" in choose_pieces(scores, {"xy", "za"})


def test_pieces_that_stay():
    scores = {"▁of": -1.0, "▁": -2.0, "a": -3.0, "<0x0A>": -4.0, "▁the": -5.0, "▁dog": -6.0, "▁owl": -8.0}
    # The most frequent one, single characters, a byte, and the rarest one
    always = {"▁of", "▁", "a", "<0x0A>", "▁owl"}
    assert choose_pieces(scores, set()) == always
    assert choose_pieces(scores, {"▁dog", "<s>"}) == always | {"▁dog"}
    assert choose_pieces(scores, set(), n_most_frequent=5) == always | {"▁the"}


def test_the_most_frequent_pieces_stay_on_request(folder, corpus, trimmed, tmp_path):
    arguments = {"model_name_or_path": str(folder), "corpus": [corpus], "languages": ["en"]}
    main(TrimArguments(**arguments, output_dir=str(tmp_path / "en")))
    main(TrimArguments(**arguments, most_frequent=1500, output_dir=str(tmp_path / "more")))
    few, more = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("en", "more"))
    assert len(few) < len(AutoTokenizer.from_pretrained(trimmed)) < len(more)
    assert set(few.get_vocab()) < set(more.get_vocab())


def test_changed_texts_are_counted(sentencepiece_file):
    tokenizer = as_xlm_r(sentencepiece_file)
    comparison = Comparison(tokenizer, tokenizer, rows_of(tokenizer, tokenizer))
    same = comparison._cover_batch(["dog face", "red apple"])
    assert (same.texts, same.changed, same.unknown) == (2, 0, 0)
    wrong = list(range(len(tokenizer)))
    wrong[tokenizer("dog face").input_ids[1]] = 3
    found = Comparison(tokenizer, tokenizer, wrong)._cover_batch(["dog face", "red apple"])
    assert (found.changed, found.unknown) == (1, 1)


def read_all(sources, **options):
    """Return all texts of a corpus, by language."""
    found = {}
    for part in open_corpus([str(source) for source in sources], "train", **options):
        for batch in part.batches():
            found.setdefault(part.language, []).extend(batch)
    return found


def test_a_corpus_of_every_form(tmp_path):
    (tmp_path / "fr.txt").write_text("un chien\n\n  \nun chat\n", "utf-8")
    assert read_all([f"fr={tmp_path}/fr.txt"]) == {"fr": ["un chien", "un chat"]}
    assert read_all([tmp_path / "fr.txt"]) == {"und": ["un chien", "un chat"]}

    forms = {
        "dicts": [
            {"captions": {"en": "a dog", "zh_Hans": "狗"}},
            {"captions": {"en": None, "zh_Hans": "猫"}},
        ],
        "columns": [{"id": 1, "en": "a dog", "zh_Hans": "狗"}, {"id": 2, "en": " ", "zh_Hans": "猫"}],
        "language": [{"text": "a dog", "language": "en"}, {"text": "狗", "language": "zh_Hans"}]
        + [{"text": "猫", "language": "zh_Hans"}],
        "lists": [{"captions": {"en": ["a dog"], "zh_Hans": ["狗", "猫"]}}],
    }
    expected = {"en": ["a dog"], "zh-Hans": ["狗", "猫"]}
    for name, rows in forms.items():
        data = Dataset.from_list(rows)
        data.to_parquet(tmp_path / f"{name}.parquet")
        data.to_json(tmp_path / f"{name}.jsonl", force_ascii=False)
        (tmp_path / name).mkdir()
        data.to_parquet(tmp_path / name / "train-00000.parquet")
        for source in (tmp_path / f"{name}.parquet", tmp_path / f"{name}.jsonl", tmp_path / name):
            assert read_all([source]) == expected, source
    assert read_all([tmp_path / "dicts"], languages=["zh"]) == {"zh-Hans": ["狗", "猫"]}

    Dataset.from_list([{"name": "ein Hund"}]).to_parquet(tmp_path / "names.parquet")
    assert read_all([f"de={tmp_path}/names.parquet"], text_column="name") == {"de": ["ein Hund"]}
    # Several sources of one language
    both = read_all([f"en={tmp_path}/fr.txt", tmp_path / "dicts.parquet"], languages=["en"])
    assert both == {"en": ["un chien", "un chat", "a dog"]}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "en\tfr\n", "is a table of another form: give a .parquet or .jsonl file"),
        ("a.jsonl", '{"words": "a dog"}\n', "has no column of texts: it has words"),
        ("a.jsonl", '{"captions": 3}\n', "must hold texts or {language: text}"),
        ("a.jsonl", '{"captions": {"english": "a dog", "us": "a"}}\n', "is a country's code"),
        ("a.txt", "\n \n", "has no text"),
        ("missing.txt", None, "does not exist"),
    ],
)
def test_a_corpus_that_cannot_be_read(folder, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content, "utf-8")
    arguments = {"corpus": [str(tmp_path / name)], "output_dir": str(tmp_path / "new")}
    with pytest.raises(InputError, match=message):
        main(TrimArguments(model_name_or_path=str(folder), **arguments))
    assert not (tmp_path / "new").exists()


def test_what_is_no_unigram_is_refused(corpus, tmp_path):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(
            json.dumps(
                {
                    "version": "1.0",
                    "added_tokens": [],
                    "normalizer": None,
                    "pre_tokenizer": {"type": "Whitespace"},
                    "post_processor": None,
                    "decoder": None,
                    "truncation": None,
                    "padding": None,
                    "model": {
                        "type": "WordPiece",
                        "unk_token": "[UNK]",
                        "continuing_subword_prefix": "##",
                        "max_input_chars_per_word": 100,
                        "vocab": {"[PAD]": 0, "[UNK]": 1, "dog": 2, "face": 3, "##s": 4},
                    },
                }
            )
        ),
        pad_token="[PAD]",
        unk_token="[UNK]",
    )
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AltCLIPDualEncoderConfig(
        text_config=BertConfig(**sizes, vocab_size=5).to_dict(),
        vision_config=ViTConfig(**sizes, image_size=32, patch_size=8).to_dict(),
        projection_dim=12,
    )
    source = save_folder(AltCLIPDualEncoderModel(config), tokenizer, tmp_path / "model")
    with pytest.raises(InputError, match="a WordPiece model: only Unigram vocabularies"):
        main(TrimArguments(model_name_or_path=str(source), corpus=[corpus], output_dir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_files_of_two_tokenizers_are_refused(folder, corpus, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    other = train(captions_of("en"), vocab_size=100)
    (source / MODEL_FILE).write_bytes(other)
    with pytest.raises(InputError, match="tokenizer.json and sentencepiece.bpe.model have other pieces"):
        main(TrimArguments(model_name_or_path=str(source), corpus=[corpus], output_dir=str(tmp_path / "new")))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"output_dir": "."}, "is there already"),
        ({"most_frequent": -1}, "most_frequent is -1"),
        ({"languages": ["sw"]}, "no text in language sw"),
        ({"model_name_or_path": "open_clip:ViT-B-32"}, "is a model of open_clip"),
    ],
)
def test_arguments_that_are_refused(folder, corpus, tmp_path, monkeypatch, changed, message):
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    arguments = {"model_name_or_path": str(folder), "corpus": [corpus], "output_dir": "new"}
    with pytest.raises(InputError, match=message):
        main(TrimArguments(**(arguments | changed)))


def test_a_tokenizer_that_does_not_fit_is_refused(folder, corpus, tmp_path):
    model, processor = load_model(str(folder))
    processor.tokenizer.add_tokens([f"new{number}" for number in range(20)])
    save_model(model, processor, tmp_path / "model")
    with pytest.raises(InputError, match="the model has embeddings of 2010 tokens"):
        main(
            TrimArguments(
                model_name_or_path=str(tmp_path / "model"), corpus=[corpus], output_dir=str(tmp_path / "new")
            )
        )


def test_padding_keeps_its_id(model):
    """XLM-R counts positions from it: another id would move all of them."""
    with pytest.raises(InputError, match="padding has the id 1 in the configuration, after pieces"):
        trim_weights(model, [0, 2, 1, 3])
    trim_weights(model, [0, 1, 2, 3, 119])
    assert model.config.text_config.vocab_size == 5


def test_added_tokens_stay(folder, corpus, tmp_path):
    """They have ids after `<mask>`, which get smaller."""
    model, processor = load_model(str(folder))
    processor.tokenizer.add_tokens(["qqdogqq", "qqcatqq"])
    save_model(model, processor, tmp_path / "model")
    main(
        TrimArguments(
            model_name_or_path=str(tmp_path / "model"), corpus=[corpus], output_dir=str(tmp_path / "new")
        )
    )
    smaller, smaller_processor = load_model(str(tmp_path / "new"))
    tokenizer = smaller_processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(["<mask>", "qqdogqq", "qqcatqq"]) == [
        len(tokenizer) - 3,
        len(tokenizer) - 2,
        len(tokenizer) - 1,
    ]
    texts = ["dog qqdogqq face", "qqcatqq"]
    difference = embed_texts(smaller, smaller_processor, texts) - embed_texts(model, processor, texts)
    assert difference.abs().max() <= 1e-6
