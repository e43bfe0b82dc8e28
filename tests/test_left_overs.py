"""What is saved says nothing of the machine, or of calls before."""

import json

import pytest
from transformers import AutoTokenizer

from modeling_altclip import AltCLIPModel, AltCLIPProcessor
from modeling_altclip.texts_altclip import LEFT_BY_CALLS


def words_of(folder):
    return "\n".join(path.read_text("utf-8") for path in folder.glob("*.json"))


def test_a_configuration_does_not_say_where_its_towers_lay(tower_folders, tmp_path):
    # Configurations that are read from a folder remember it as `_name_or_path`.
    model = AltCLIPModel.from_teacher(str(tower_folders[0]), str(tower_folders[1]))
    model.save_pretrained(tmp_path / "new")
    assert "name_or_path" not in words_of(tmp_path / "new")
    assert str(tmp_path) not in words_of(tmp_path / "new")


# The configuration of an AltCLIP holds those of its towers.
@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
def test_a_folder_that_an_older_checkpoint_names_is_not_handed_on(model, tmp_path, tower):
    model.save_pretrained(tmp_path / "older")
    config = json.loads((tmp_path / "older/config.json").read_text())
    config[tower]["_name_or_path"] = "/home/someone/tower"
    (tmp_path / "older/config.json").write_text(json.dumps(config))
    AltCLIPModel.from_pretrained(tmp_path / "older").save_pretrained(tmp_path / "newer")
    assert "name_or_path" not in words_of(tmp_path / "newer")


def test_a_tokenizer_does_not_say_how_calls_have_padded_and_cut(processor, tmp_path):
    """Read back, the 9 tokens of one call would be a length that the tokenizer states."""
    tokenizer = processor.tokenizer
    # Each generation loads what the one before it saved: a left-over would come back as a keyword.
    for generation in ("first", "second", "third"):
        processor = AltCLIPProcessor(processor.image_processor, tokenizer)
        # The text has more than 9 tokens, so that the call truncates; no file states a multiple of 3.
        processor(text=["dog face and key " * 40], max_length=9, pad_to_multiple_of=3, return_tensors="pt")
        processor.save_pretrained(tmp_path / generation)
        stated = json.loads((tmp_path / generation / "tokenizer_config.json").read_text("utf-8"))
        assert not set(LEFT_BY_CALLS) & set(stated)
        file = json.loads((tmp_path / generation / "tokenizer.json").read_text("utf-8"))
        assert file["padding"] is None
        assert file["truncation"] is None
        assert str(tmp_path) not in words_of(tmp_path / generation)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / generation)
        assert "max_length" not in tokenizer.init_kwargs
    # Nothing piles up from one generation to the next.
    assert (tmp_path / "first/tokenizer.json").read_bytes() == (
        tmp_path / "third/tokenizer.json"
    ).read_bytes()


def test_saving_leaves_a_processor_as_it_was(processor, tmp_path):
    processor.save_pretrained(tmp_path / "first")
    loaded = AltCLIPProcessor.from_pretrained(tmp_path / "first")
    before = loaded.to_dict()
    loaded.save_pretrained(tmp_path / "second")
    # In memory, and in what is read back.
    assert loaded.to_dict() == before == AltCLIPProcessor.from_pretrained(tmp_path / "second").to_dict()
    texts = loaded(text=["dog face", "key"], return_tensors="pt")
    assert (
        texts["input_ids"].tolist()
        == processor(text=["dog face", "key"], return_tensors="pt")["input_ids"].tolist()
    )
