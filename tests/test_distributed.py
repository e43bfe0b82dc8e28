"""Two processes embed and train like one."""

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize

from common.models.loading import load_model
from modeling_altclip import AltCLIPModel, embed_images, embed_texts
from training.losses import contrastive_loss, gather_rows, sigmoid_loss
from training.matryoshka import matryoshka

from .conftest import ROOT
from .processes import spawn

TEXTS = ["key", "dog face and key", "bell", "key", "umbrella", "红苹果", "fire", "ghost and bell and key"]
# Five images and seven distinct texts: neither can be halved.
IMAGES = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue", "white", "black")]


def leaves():
    """Return embeddings of 8 images and texts, a scale, and ids by which images 1 and 4 are the same."""
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(8, 6, generator=generator), dim=-1).requires_grad_()
    texts = normalize(torch.randn(8, 6, generator=generator), dim=-1).requires_grad_()
    scale = torch.tensor(4.0, requires_grad=True)
    # Image 1 is of the first process and its copy, 4, of the second: each must know of the other's ids.
    ids = torch.tensor([0, 1, 2, 3, 1, 5, 6, 7])
    return images, texts, scale, ids


def all_losses(images, texts, scale, image_ids, tile_size=None):
    contrastive = contrastive_loss(images, texts, scale, image_ids=image_ids, tile_size=tile_size)
    sigmoid = sigmoid_loss(images, texts, scale, -scale, image_ids=image_ids, tile_size=tile_size)
    truncated = matryoshka(contrastive_loss, [6, 2], [0.5, 2.0])
    return contrastive + sigmoid + truncated(images, texts, scale, image_ids=image_ids, tile_size=tile_size)


def half(rank, folder, tile_size):
    """Compute the losses of one of two processes, each of which has half of the pairs; save the gradients."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, texts, scale, ids = leaves()
    mine = slice(4 * rank, 4 * rank + 4)  # pairs 0 to 3, or 4 to 7
    gathered_images = gather_rows(images[mine])
    gathered_texts = gather_rows(texts[mine])
    gathered_ids = gather_rows(ids[mine])
    loss = all_losses(gathered_images, gathered_texts, scale, gathered_ids, tile_size)
    loss.backward()
    torch.save((loss.detach(), images.grad, texts.grad, scale.grad), folder / f"{rank}.pt")


# 3 does not divide the batch of 8, so that the last tile is smaller.
@pytest.mark.parametrize("tile_size", [None, 3])
def test_gathered_losses_and_gradients_equal_those_of_one_process(tmp_path, tile_size):
    spawn(half, (tmp_path, tile_size), 2)
    images, texts, scale, ids = leaves()
    loss = all_losses(images, texts, scale, ids)
    loss.backward()
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert images.grad.abs().max() > 0
    for one, two, plain in zip(*halves, (loss.detach(), images.grad, texts.grad, scale.grad)):
        torch.testing.assert_close((one + two) / 2, plain)  # DDP averages


def embed_a_share(rank, folder, start):
    """Embed a list, a stream and a single text, and images; save the results with the batch sizes encoded."""
    model, processor = load_model(str(start))
    seen = []
    plain = model.get_text_features

    def counted(**inputs):
        seen.append(len(inputs["input_ids"]))
        return plain(**inputs)

    model.get_text_features = counted
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    embeds = []
    for given in (TEXTS, iter(TEXTS), TEXTS[:1]):
        embeds.append(embed_texts(model, processor, given, batch_size=2, accelerator=accelerator))
    embeds.append(embed_images(model, processor, IMAGES, batch_size=2, accelerator=accelerator))
    torch.save((embeds, seen), folder / f"{rank}.pt")


# Without items 2 and 4, which cannot be read, these are IMAGES.
BROKEN = [*IMAGES[:2], None, IMAGES[2], "gone.png", *IMAGES[3:]]


def embed_what_can_be_read(rank, folder, start):
    accelerator = Accelerator(cpu=True)
    options = {"errors": "skip", "batch_size": 2, "accelerator": accelerator}
    results = []
    for given in (BROKEN, iter(BROKEN), BROKEN[:5]):
        found = embed_images(*load_model(str(start)), given, **options)
        results.append((found.embeddings, found.names, found.skipped))
    torch.save(results, folder / f"{rank}.pt")


def test_two_processes_skip_like_one(altclip_folder, tmp_path):
    """Each reads half; both list what either could not read, and get the embeddings of the rest in order."""
    spawn(embed_what_can_be_read, (tmp_path, altclip_folder), 2)
    expected = embed_images(*load_model(str(altclip_folder)), IMAGES)
    for rank in range(2):
        whole, streamed, few = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for vectors, names, skipped in (whole, streamed):
            torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=1e-5)
            assert names == [0, 1, 3, 5, 6]
            assert skipped[0] == (2, 2, "it is a NoneType, not an image, array, path or address")
            assert skipped[1] == (4, 4, "file does not exist: gone.png")

        vectors, names, skipped = few  # the first five
        assert names == [0, 1, 3]
        assert [one.index for one in skipped] == [2, 4]
        torch.testing.assert_close(vectors, expected[:3], atol=1e-6, rtol=1e-5)


def test_two_processes_embed_like_one(miniature, processor, tmp_path):
    """Each encodes half of the distinct texts, an odd number; both get all embeddings, in order."""
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    spawn(embed_a_share, (tmp_path, tmp_path / "start"), 2)
    texts = embed_texts(model, processor, TEXTS)
    images = embed_images(model, processor, IMAGES)
    for rank in range(2):
        embeds, seen = torch.load(tmp_path / f"{rank}.pt")
        assert sum(seen) == 2 * 4 + 1  # 7 distinct texts, twice, and one text alone
        for ours, expected in zip(embeds, (texts, texts, texts[:1], images), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


# Neither divides the batch of 16 or half of it, so that the last tile and the last chunk are smaller.
SWITCHES = ["--tile_size", "5", "--gradient_cache_chunk", "3"]


@pytest.mark.parametrize(
    "stage,shared,switches",
    [
        ("stage0", [], []),
        ("stage0", ["--matryoshka_dims", "128", "32"], SWITCHES),
        ("stage1", [], []),
        ("stage1", ["--train_sampling_strategy", "group_by_length"], []),
        ("stage2", [], []),
        (
            "stage2",
            ["--gradient_accumulation_steps", "2", "--matryoshka_dims", "128", "32"],
            [*SWITCHES, "--cache_image_embeds", "false"],
        ),
    ],
    ids=[
        "stage0",
        "stage0 truncated, in tiles and chunks",
        "stage1",
        "stage1 by length",
        "stage2",
        "stage2 accumulated, truncated, in tiles and chunks, images live",
    ],
)
def test_two_processes_train_like_one(miniature, run_python, tmp_path, start_flags, stage, shared, switches):
    """Train in one process with the whole batch and no switch, and in two with halves of it and all switches.

    SGD without autocast, since Adam would enlarge rounding errors, which are not the question.
    """
    weights = {}
    for processes in (1, 2):
        command = ["python", ROOT / f"training/run_{stage}.py"]
        command += [ROOT / f"training/recipes/miniature/{stage}.yaml", *start_flags[stage]]
        command += ["--dataset", miniature / "dataset", "--output_dir", tmp_path / str(processes), *shared]
        command += ["--max_steps", "4", "--per_device_train_batch_size", str(16 // processes)]
        command += ["--optim", "sgd", "--learning_rate", "0.5", "--warmup_steps", "0", "--bf16", "false"]
        if processes == 2:
            command += switches
        process = run_python(*command, processes=processes, OMP_NUM_THREADS="1")
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
