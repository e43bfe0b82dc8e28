"""Two processes against one."""

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize

from benchmarks.loading import load_model
from modeling_altclip import AltCLIPModel, embed_images, embed_texts
from training.losses import contrastive_loss, gather_rows, sigmoid_loss

from .conftest import ROOT
from .processes import spawn

TEXTS = ["key", "dog face and key", "bell", "key", "umbrella", "红苹果", "fire", "ghost and bell and key"]
IMAGES = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue", "white", "black")]


def leaves():
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        normalize(torch.randn(8, 6, generator=generator), dim=-1).requires_grad_() for _ in range(2)
    )
    return images, texts, torch.tensor(4.0, requires_grad=True), torch.tensor([0, 1, 2, 3, 1, 5, 6, 7])


def half(rank, folder, tile_size):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, texts, scale, ids = leaves()
    mine = slice(4 * rank, 4 * rank + 4)
    gathered = gather_rows(images[mine]), gather_rows(texts[mine])
    loss = contrastive_loss(*gathered, scale, image_ids=gather_rows(ids[mine]), tile_size=tile_size)
    loss = loss + sigmoid_loss(
        *gathered, scale, -scale, image_ids=gather_rows(ids[mine]), tile_size=tile_size
    )
    loss.backward()
    torch.save((loss.detach(), images.grad, texts.grad, scale.grad), folder / f"{rank}.pt")


@pytest.mark.parametrize("tile_size", [None, 3])
def test_gathered_losses_and_gradients_equal_those_of_one_process(tmp_path, tile_size):
    spawn(half, (tmp_path, tile_size), 2)
    images, texts, scale, ids = leaves()
    loss = contrastive_loss(images, texts, scale, image_ids=ids) + sigmoid_loss(
        images, texts, scale, -scale, image_ids=ids
    )
    loss.backward()
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert images.grad.abs().max() > 0
    for one, two, plain in zip(*halves, (loss.detach(), images.grad, texts.grad, scale.grad)):
        torch.testing.assert_close((one + two) / 2, plain)  # DDP averages


def embed_a_share(rank, folder, start):
    model, processor = load_model(str(start))
    seen = []
    plain = model.get_text_features
    model.get_text_features = lambda **inputs: seen.append(len(inputs["input_ids"])) or plain(**inputs)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    embeds = [
        embed_texts(model, processor, given, batch_size=2, accelerator=accelerator)
        for given in (TEXTS, iter(TEXTS), TEXTS[:1])
    ]
    embeds.append(embed_images(model, processor, IMAGES, batch_size=2, accelerator=accelerator))
    torch.save((embeds, seen), folder / f"{rank}.pt")


BROKEN = [*IMAGES[:2], None, IMAGES[2], "gone.png", *IMAGES[3:]]


def embed_what_can_be_read(rank, folder, start):
    accelerator = Accelerator(cpu=True)
    options = {"errors": "skip", "batch_size": 2, "accelerator": accelerator}
    found = [
        embed_images(*load_model(str(start)), given, **options)
        for given in (BROKEN, iter(BROKEN), BROKEN[:5])
    ]
    torch.save([(one.embeddings, one.names, one.skipped) for one in found], folder / f"{rank}.pt")


def test_two_processes_skip_like_one(folder, tmp_path):
    """Each reads half; both list what either could not read, and get the vectors of the rest in order."""
    spawn(embed_what_can_be_read, (tmp_path, folder), 2)
    expected = embed_images(*load_model(str(folder)), IMAGES)
    for rank in range(2):
        whole, streamed, few = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for vectors, names, skipped in (whole, streamed):
            torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=1e-5)
            assert names == [0, 1, 3, 5, 6]
            assert skipped[0] == (2, 2, "it is a NoneType, not an image, array, path or address")
            assert skipped[1] == (4, 4, "file does not exist: gone.png")
        assert few[1] == [0, 1, 3]
        assert [one.index for one in few[2]] == [2, 4]
        torch.testing.assert_close(few[0], expected[:3], atol=1e-6, rtol=1e-5)


def test_two_processes_embed_like_one(miniature, processor, tmp_path):
    """Each encodes half of the distinct texts, an odd number; both get all vectors, in order."""
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    spawn(embed_a_share, (tmp_path, tmp_path / "start"), 2)
    texts, images = embed_texts(model, processor, TEXTS), embed_images(model, processor, IMAGES)
    for rank in range(2):
        embeds, seen = torch.load(tmp_path / f"{rank}.pt")
        assert sum(seen) == 2 * 4 + 1  # 7 distinct texts, twice, and one text alone
        for ours, expected in zip(embeds, (texts, texts, texts[:1], images), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


SWITCHES = ["--tile_size", "5", "--gradient_cache_chunk", "3"]


@pytest.mark.parametrize(
    "stage,shared,switches",
    [
        ("stage0", [], []),
        ("stage0", [], SWITCHES),
        ("stage1", [], []),
        ("stage1", ["--train_sampling_strategy", "group_by_length"], []),
        ("stage2", [], []),
        ("stage2", ["--gradient_accumulation_steps", "2"], [*SWITCHES, "--cache_image_embeds", "false"]),
    ],
    ids=[
        "stage0",
        "stage0 in tiles and chunks",
        "stage1",
        "stage1 by length",
        "stage2",
        "stage2 accumulated, in tiles and chunks, images live",
    ],
)
def test_two_processes_train_like_one(miniature, run, tmp_path, beginnings, stage, shared, switches):
    """One process with the whole batch and no switch, two with half of it and all. Plain SGD without autocast: what Adam would
    make of rounding errors is not the question.
    """
    weights = {}
    for processes in (1, 2):
        process = run(
            *[
                "python",
                ROOT / f"training/run_{stage}.py",
                ROOT / f"training/recipes/miniature/{stage}.yaml",
                *beginnings[stage],
            ],
            *["--dataset", miniature / "dataset", "--output_dir", tmp_path / str(processes), *shared],
            *["--max_steps", "4", "--per_device_train_batch_size", str(16 // processes), "--bf16", "false"],
            *[
                "--optim",
                "sgd",
                "--learning_rate",
                "0.5",
                "--warmup_steps",
                "0",
                *(switches if processes == 2 else []),
            ],
            processes=processes,
            OMP_NUM_THREADS="1",
        )
        assert process.returncode == 0, process.stderr[-4000:]
        weights[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    start = miniature / "clip" if stage == "stage0" else tmp_path / "start"
    before = load_file(start / "model.safetensors")
    moved = [name for name, value in weights[1].items() if not torch.equal(value, before[name])]
    assert len(moved) > 20
    for name, value in weights[1].items():
        torch.testing.assert_close(
            weights[2][name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
