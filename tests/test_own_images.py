"""The example of docs/own_pictures.md.

Stage 2 on a folder of pictures and a file of captions in three languages, where some are missing.
"""

import json
import re

import torch
from datasets import load_dataset
from safetensors.torch import load_file

from modeling_altclip import AltCLIPModel

from .conftest import ROOT


def documented_example():
    """Return the blocks of the page's first section, `(kind, text)`, as printed."""
    page = (ROOT / "docs/own_pictures.md").read_text("utf-8")
    first_section = page.split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", first_section, flags=re.DOTALL)


def test_stage_2_on_a_folder_of_pictures(altclip_folder, miniature, run_python, tmp_path):
    (_, captions), (_, command) = documented_example()
    captions = [json.loads(line) for line in captions.strip().splitlines()]
    assert [set(row["captions"]) for row in captions] == [{"en", "zh", "es"}, {"en", "zh", "es"}, {"zh"}]
    (tmp_path / "pictures").mkdir()
    for row, image in zip(captions, load_dataset(str(miniature / "dataset"), split="train")["image"]):
        image.save(tmp_path / "pictures" / row["file_name"])
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in captions)
    (tmp_path / "pictures/metadata.jsonl").write_text(lines, "utf-8")

    words = command.replace("\\\n", " ").split()
    assert words[:2] == ["accelerate", "launch"]
    script = words.index("training/run_stage2.py")
    given = {
        "BAAI/AltCLIP-m9": altclip_folder,
        "pictures": tmp_path / "pictures",
        "outputs/mine": tmp_path / "mine",
    }
    words = [given.get(word, word) for word in words[script:]]
    small = ["--max_steps", "3", "--per_device_train_batch_size", "4", "--warmup_steps", "0"]
    process = run_python("python", *words, *small, "--learning_rate", "1e-3")
    assert process.returncode == 0, process.stderr
    if not torch.accelerator.is_available():  # the recipe asks for bf16, which it means for a GPU
        assert "bf16 needs a GPU and is disabled: this training computes in float32." in process.stdout
    assert "Training on 7 examples from 3 rows; skipped: 2 empty." in process.stdout
    before, after = (
        AltCLIPModel.from_pretrained(altclip_folder).state_dict(),
        load_file(tmp_path / "mine/model.safetensors"),
    )
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"text_model", "text_projection", "logit_scale"}
    assert "still nearest to their own embeddings from before training" in process.stdout
    assert "Forgetting was not measured" in process.stdout
