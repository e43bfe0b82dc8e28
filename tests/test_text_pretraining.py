"""Text pre-training: pairs are translations of one row, masks lie on real tokens, and what is saved is a text
tower.
"""

import shutil
from itertools import permutations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel
from transformers.trainer_utils import get_last_checkpoint

from common.errors import InputError
from common.recipe import parse
from modeling_altclip import AltCLIPDualEncoderModel
from training.data.parallel_text import load_parallel_text
from training.parallel.pretraining import (
    MaskingCollator,
    TextPretrainingArguments,
    TranslationPairs,
    load_for_masking,
)

from .conftest import ROOT, VISION

RECIPE = ROOT / "training/recipes/parallel/text_miniature.yaml"


@pytest.fixture
def rows(miniature):
    return load_parallel_text(str(miniature / "dataset"), "train")[0]


def rows_of(*captions):
    """Return rows with these captions."""
    return Dataset.from_list([{"captions": one} for one in captions])


def test_pairs_are_translations_of_one_row_in_two_chosen_languages(rows):
    translations = TranslationPairs(rows, ["de", "bn", "zh"], pairs=1.0, seed=1)
    seen = set()
    # Six ordered pairs, each drawn about 33 times.
    for index in range(200):
        example = translations[index]
        first, second = example["languages"]
        row = rows[int(translations.places[index][0])]["captions"]
        assert example["texts"] == row[first] + row[second]
        seen.add((first, second))
    assert seen == set(permutations(["de", "bn", "zh"], 2))


def test_the_share_of_pairs_is_the_one_asked_for(rows):
    translations = TranslationPairs(rows, ["de", "bn", "zh"], pairs=0.3, seed=1)
    # One text and, in 30 % of the draws, a second; 0.08 is four standard errors of the mean of 600.
    counts = [len(translations[index]["texts"]) for index in range(600)]
    assert np.mean(counts) == pytest.approx(1.3, abs=0.08)


def test_what_is_missing_is_not_drawn():
    rows = rows_of(
        {"en": "dog", "de": "Hund", "fr": None},
        {"en": "cat", "de": "", "fr": None},
        {"en": None, "de": "", "fr": None},
    )
    translations = TranslationPairs(rows, ["en", "de"], 1.0, 0)
    assert len(translations) == 3
    assert translations.n_empty == 1
    drawn = [sorted(translations[index]["texts"]) for index in range(3)]
    # An example for each text of the first two rows; the third has none. "cat" has no partner.
    assert drawn == [["Hund", "dog"], ["Hund", "dog"], ["cat"]]


def test_longer_texts_are_not_drawn():
    rows = rows_of({"en": "dog", "de": "Hund", "fr": "un chien"})
    translations = TranslationPairs(rows, ["en", "de", "fr"], 1.0, 0, max_characters=4)
    drawn = set()
    for epoch in range(20):
        translations.set_epoch(epoch)
        drawn |= {*translations[0]["texts"], *translations[1]["texts"]}
    assert drawn == {"dog", "Hund"}


def test_draws_depend_on_seed_epoch_and_row_alone(rows):
    def draws(seed, epoch):
        translations = TranslationPairs(rows, ["de", "bn", "zh"], 0.5, seed)
        translations.set_epoch(epoch)
        return [translations[index] for index in (5, 3, 4)]

    assert draws(1, 2) == draws(1, 2)
    assert draws(1, 2) != draws(1, 3)
    assert draws(1, 2) != draws(2, 2)


def test_only_real_tokens_are_masked(rows, processor):
    translations = TranslationPairs(rows, ["de", "th"], 0.5, 1)
    examples = [translations[index] for index in range(300)]
    tokenizer = processor.tokenizer
    batch = MaskingCollator(tokenizer, 77, 0.3)(examples)
    # The same batch without masks.
    plain = tokenizer.pad([tokenizer(*example["texts"]) for example in examples], return_tensors="pt")
    ids = plain["input_ids"]
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    real = ~torch.isin(ids, torch.tensor(special))
    masked = batch["labels"] != -100

    assert real[masked].all()
    assert torch.equal(batch["labels"][masked], ids[masked])
    assert masked.sum() / real.sum() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(batch["input_ids"][~masked], ids[~masked])
    shown = batch["input_ids"][masked]
    # As in BERT, four of five chosen tokens are shown as <mask>.
    assert (shown == tokenizer.mask_token_id).float().mean() == pytest.approx(0.8, abs=0.05)
    assert torch.equal(batch["attention_mask"], plain["attention_mask"])


def test_both_texts_are_cut_to_fit(processor):
    collator = MaskingCollator(processor.tokenizer, 12, 0.5)
    batch = collator([{"texts": ["dog " * 30, "Hund " * 30], "seed": 0}])
    assert batch["input_ids"].shape == (1, 12)
    # XLM-R's pair is <s> A </s></s> B </s>.
    assert (batch["input_ids"] == processor.tokenizer.eos_token_id).sum() == 3


def test_masks_depend_on_the_examples_alone(rows, processor):
    translations = TranslationPairs(rows, ["de", "th"], 0.5, 1)
    collator = MaskingCollator(processor.tokenizer, 77, 0.3)
    first = [translations[index] for index in (0, 1, 2)]
    second = [translations[index] for index in (3, 4, 5)]
    before = collator(first)["labels"]
    collator(second)
    # Neither batches in between nor torch's random numbers count.
    torch.manual_seed(99)
    assert torch.equal(collator(first)["labels"], before)


@pytest.fixture
def pretrain(run_python, miniature, tmp_path):
    """Return a function that runs the recipe on the small miniature, for eight steps."""
    command = ["training/run_text_pretraining.py", RECIPE, "--dataset", miniature / "dataset"]
    command += ["--text_encoder_name_or_path", miniature / "text_encoder"]
    command += ["--max_steps", "8", "--warmup_steps", "2", "--logging_steps", "1"]
    command += ["--per_device_train_batch_size", "32"]

    def pretrain(name, *flags):
        return run_python("python", *command, "--output_dir", tmp_path / name, *flags)

    return pretrain


def test_the_encoder_learns_and_becomes_a_text_tower(pretrain, miniature, tmp_path):
    process = pretrain("a", "--max_steps", "40")
    assert process.returncode == 0, process.stderr
    assert f"Saved the text encoder to {tmp_path}/a. Next: " in process.stdout
    losses = [float(line.split("'")[1]) for line in process.stdout.split("'loss': ")[1:]]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5

    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(tmp_path / "vision")
    AutoTokenizer.from_pretrained(tmp_path / "a")
    trained = AutoModel.from_pretrained(tmp_path / "a").state_dict()
    untrained = AutoModel.from_pretrained(miniature / "text_encoder").state_dict()
    for pooling in ("cls", "mean"):
        model = AltCLIPDualEncoderModel.from_towers(
            str(tmp_path / "vision"), str(tmp_path / "a"), projection_dim=16, text_pooling=pooling
        )
        for name, value in model.text_model.encoder.state_dict().items():
            assert torch.equal(value, trained[name]), name
            if name.endswith("query.weight"):
                assert not torch.equal(value, untrained[name]), name


def test_equal_seeds_give_equal_bytes_and_a_run_resumes_exactly(pretrain, tmp_path):
    def weights(name):
        return (tmp_path / name / "model.safetensors").read_bytes()

    checkpoints = ["--save_strategy", "steps", "--save_steps", "4"]
    for name, flags in {"a": checkpoints, "b": [], "c": ["--seed", "7"]}.items():
        process = pretrain(name, *flags)
        assert process.returncode == 0, process.stderr
    whole = weights("a")
    assert weights("b") == whole
    assert weights("c") != whole

    # What a run leaves that was killed between its two checkpoints.
    assert get_last_checkpoint(tmp_path / "a").endswith("checkpoint-8")
    shutil.rmtree(tmp_path / "a/checkpoint-8")
    (tmp_path / "a/model.safetensors").unlink()
    process = pretrain("a", *checkpoints, "--resume", "true")
    assert process.returncode == 0, process.stderr
    assert weights("a") == whole


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mask_probability", "1.5"], "mask_probability is 1.5: give a share between 0 and 1"),
        (["--pairs", "-1"], "pairs is -1.0: give a share between 0 and 1"),
        (["--dry_run", "true"], "dry_run is True, which text pre-training lacks"),
    ],
)
def test_bad_settings_are_refused(flags, message, tmp_path):
    with pytest.raises(InputError, match=message):
        parse(TextPretrainingArguments, arguments=[str(RECIPE), "--output_dir", str(tmp_path), *flags])


def test_an_unknown_language_is_refused(pretrain):
    process = pretrain("a", "--languages", "en", "xx")
    assert process.returncode == 1
    assert "no text in language xx: choose from en zh" in process.stderr


def test_bad_encoders_are_refused(miniature, processor, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_for_masking(str(tmp_path / "nothing"))
    message = "is a model of the type 'clip': give a text encoder that was made for masked texts"
    with pytest.raises(InputError, match=message):
        load_for_masking(str(miniature / "clip"))

    config = BertConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=120
    )
    model = BertModel(config)
    # A checkpoint that lacks a part of each layer.
    weights = {name: value for name, value in model.state_dict().items() if "query" not in name}
    model.save_pretrained(tmp_path / "half", state_dict=weights)
    processor.tokenizer.save_pretrained(tmp_path / "half")
    message = "lacks weights of BertModel: bert.encoder.layer.0.attention.self.query.bias"
    with pytest.raises(InputError, match=message):
        load_for_masking(str(tmp_path / "half"))


def test_bad_captions_are_refused():
    with pytest.raises(InputError, match="a row has several captions in de"):
        TranslationPairs(rows_of({"en": "dog", "de": ["Hund", "Köter"]}), ["en", "de"], 1.0, 0)
    with pytest.raises(InputError, match="no row has a text in fr"):
        TranslationPairs(rows_of({"en": "dog", "fr": ""}), ["fr"], 1.0, 0)
