"""Metrics on cases worked out by hand, against the definition, and against CLIP_benchmark and scikit-learn."""

import importlib.util
from pathlib import Path

import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from torch.nn.functional import normalize

from benchmarks import metrics
from benchmarks.metrics import (
    average_precision,
    class_ranks,
    interpolated_average_precision,
    mean_per_class_accuracy,
    percentiles,
    ranks_in_scores,
    retrieval_ranks,
    retrieval_recall,
    roc_auc,
)
from benchmarks.outcomes import ClassOutcomes

MEASURE = """
import torch
from torch.nn.functional import normalize
from benchmarks.metrics import class_ranks, retrieval_ranks

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name))

torch.manual_seed(0)
images, texts = normalize(torch.randn(4000, 64), dim=-1), normalize(torch.randn(40000, 64), dim=-1)
owners = torch.arange(4000).repeat_interleave(10)[torch.randperm(40000)]
retrieval_ranks(images[:64], texts[:64], torch.arange(64))
for run in (lambda: retrieval_ranks(images, texts, owners), lambda: class_ranks(texts, images, owners)):
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")  # forget the peak so far
    before = resident("VmRSS")
    run()
    print(resident("VmHWM") - before)
"""


def test_by_hand():
    """Two images; texts 0 and 1 belong to image 0, text 2 to image 1. Scores (image x text): [.9 .2 .8], [.1 .5 .3]."""
    image_embeds = torch.eye(2)
    text_embeds = torch.tensor([[0.9, 0.1], [0.2, 0.5], [0.8, 0.3]])
    recall = retrieval_recall(image_embeds, text_embeds, torch.tensor([0, 0, 1]), ks=(1, 2))
    assert recall["text_to_image_recall@1"] == pytest.approx(1 / 3)  # only text 0 prefers its image
    assert recall["image_to_text_recall@1"] == pytest.approx(
        1 / 2
    )  # image 1 prefers text 1, which is not its own
    assert recall["text_to_image_recall@2"] == recall["image_to_text_recall@2"] == 1
    assert recall["mean_recall"] == pytest.approx((1 / 3 + 1 / 2 + 1 + 1) / 4)


def test_a_collapsed_model_scores_nothing():
    collapsed = normalize(torch.ones(50, 8), dim=-1)
    recall = retrieval_recall(collapsed, collapsed, torch.arange(50))
    assert set(recall.values()) == {0.0}
    assert class_ranks(collapsed, collapsed[:20], torch.zeros(50, dtype=torch.long)).tolist() == [19] * 50


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_blocks_do_not_change_the_result(monkeypatch, block_rows):
    torch.manual_seed(0)
    images, owners = torch.randn(40, 16), torch.cat([torch.arange(40), torch.randint(40, (60,))])
    texts = images[owners] + 1.5 * torch.randn(100, 16)
    scores = images @ texts.T
    hits = 0
    for image in range(40):  # the definition, spelled out
        own = owners == image
        hits += int((scores[image][~own] >= scores[image][own].max()).sum() < 5)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    recall = retrieval_recall(images, texts, owners)
    assert recall["image_to_text_recall@5"] == pytest.approx(hits / 40)
    expected = (scores.T.argsort(1, descending=True)[:, :5] == owners[:, None]).any(1).double().mean()
    assert recall["text_to_image_recall@5"] == pytest.approx(expected.item())


@pytest.mark.parametrize("block_rows", [7, 1000])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_ranks_are_those_of_a_full_sort(monkeypatch, distance, block_rows):
    """Images with one text or several. Distances are computed in double precision, of vectors far from the origin and close together;
    products in single, so that here they are of whole numbers, which no order of summation rounds.
    """
    torch.manual_seed(0)
    owners = torch.cat([torch.arange(40), torch.randint(40, (60,))])
    if distance == "cosine":
        images = torch.randint(-500, 501, (40, 16)).float()
        texts = images[owners] + torch.randint(-300, 301, (100, 16))
    else:
        images = 100 + torch.randn(40, 16) * torch.rand(40, 1)
        texts = images[owners] + 0.5 * torch.randn(100, 16)
    near = {
        "cosine": -images @ texts.T,
        "euclidean": (images.double()[:, None] - texts.double()[None]).square().sum(-1),
    }[distance]
    text_ranks = [near[:, text].argsort().tolist().index(owner) for text, owner in enumerate(owners.tolist())]
    image_ranks = [(owners[near[image].argsort()] == image).nonzero()[0].item() for image in range(40)]
    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    found = retrieval_ranks(images, texts, owners, distance=distance)
    assert found[0].tolist() == text_ranks
    assert found[1].tolist() == image_ranks
    if distance == "euclidean":
        other = retrieval_ranks(images, texts, owners)
        assert (found[0] != other[0]).any()
        assert (found[1] != other[1]).any()
        sorted_by_library = torch.cdist(
            texts.double(), images.double(), compute_mode="donot_use_mm_for_euclid_dist"
        ).argsort(1)
        assert torch.equal((sorted_by_library == owners[:, None]).nonzero()[:, 1], found[0])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_ties_rank_behind(distance):
    """Images 0 and 2 are equal: a text of either has the other before it."""
    images = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [3.0, 4.0]])
    text_ranks, image_ranks = retrieval_ranks(images, images, torch.arange(3), distance=distance)
    assert text_ranks.tolist() == image_ranks.tolist() == [1, 0, 1]


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="distance is 'manhattan': choose cosine or euclidean"):
        retrieval_ranks(torch.eye(2), torch.eye(2), torch.arange(2), distance="manhattan")


def test_class_ranks_by_hand():
    scores, labels = (
        torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.4, 0.6], [0.3, 0.2, 0.1]]),
        torch.tensor([0, 0, 2]),
    )
    assert (
        class_ranks(scores, torch.eye(3), labels).tolist()
        == ranks_in_scores(scores, labels).tolist()
        == [0, 1, 2]
    )


@pytest.mark.parametrize(
    "images,texts,owners,message",
    [
        (torch.eye(2), torch.eye(3), [0, 1, 1], "one dim"),
        (torch.eye(3), torch.eye(3), [0, 1], "3 texts"),
        (
            torch.eye(3),
            torch.eye(3),
            [0, 1, 1],
            "image 2, of 1 like it among 3, is paired with none: every image needs a text",
        ),
        (
            torch.eye(3),
            torch.eye(3),
            [0, 1, 5],
            "text 2 is said to describe image 5, but the images are the rows 0 to 2",
        ),
        (
            torch.eye(3),
            torch.eye(3),
            [[0, 0], [1, 1], [3, 2]],
            "text 3 is said to describe image 2, but the texts are the rows 0 to 2",
        ),
        (
            torch.eye(3),
            torch.eye(3),
            [[0, 0], [0, 1], [0, 2]],
            "text 1, of 2 like it among 3, is paired with none: every text",
        ),
        (torch.eye(3), torch.full((3, 3), torch.nan), [0, 1, 2], "not finite"),
    ],
)
def test_bad_input_is_refused(images, texts, owners, message):
    with pytest.raises(ValueError, match=message):
        retrieval_recall(images, texts, torch.tensor(owners))
    with pytest.raises(ValueError, match="item 1 has the label 2, but the classes are the rows 0 to 1"):
        class_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))


def definition(images, texts, pairs):
    """Both directions spelled out in double precision, with one score for each pair of different vectors."""
    different_images, image_number = images.double().unique(dim=0, return_inverse=True)
    different_texts, text_number = texts.double().unique(dim=0, return_inverse=True)
    scores = (different_images @ different_texts.T)[image_number][:, text_number]
    own = torch.zeros(len(images), len(texts), dtype=torch.bool)
    own[pairs[:, 1], pairs[:, 0]] = True
    best = scores.masked_fill(~own, -torch.inf)
    rivals = scores.masked_fill(own, -torch.inf)
    return (rivals >= best.amax(0)).sum(0), (rivals >= best.amax(1, keepdim=True)).sum(1)


@pytest.mark.parametrize("block_rows", [1, 7, 64, 512])
@pytest.mark.parametrize("several_images", [False, True])
def test_equal_vectors_tie_whatever_tile_they_are_in(monkeypatch, block_rows, several_images):
    """Thousands of duplicates, of which some have -0.0 for 0.0: a matrix product gives equal vectors scores that differ in the last
    bits, by its shape and by the place in it. The last tiles here are of one row.
    """
    torch.manual_seed(0)
    n_images, n_texts = {1: (29, 57), 7: (148, 260), 64: (1537, 2625), 512: (1537, 4097)}[block_rows]
    images = normalize(torch.randn(20, 640).index_fill(1, torch.arange(3), 0), dim=-1)[
        torch.arange(n_images) % 20
    ]
    images *= torch.where(torch.arange(640) < 3, torch.randn(n_images, 1).sign(), 1)
    texts = normalize(torch.randn(30, 640), dim=-1)[torch.arange(n_texts) % 30]
    owners = torch.cat([torch.randperm(n_images), torch.randint(n_images, (n_texts - n_images,))])[
        torch.randperm(n_texts)
    ]
    pairs = torch.stack([torch.arange(n_texts), owners], 1)
    if several_images:
        more = torch.stack([torch.randint(n_texts, (n_texts,)), torch.randint(n_images, (n_texts,))], 1)
        pairs = torch.cat([pairs, more])[torch.randperm(2 * n_texts)]
    text_ranks, image_ranks = definition(images + 0.0, texts, pairs)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    found = retrieval_ranks(images, texts, pairs if several_images else owners)
    assert torch.equal(found[0], text_ranks)
    assert torch.equal(found[1], image_ranks)
    labels = torch.randint(n_images, (n_texts,))
    expected, _ = definition(images + 0.0, texts, torch.stack([torch.arange(n_texts), labels], 1))
    assert torch.equal(class_ranks(texts, images, labels), expected)


def test_different_vectors_that_tie_rank_behind():
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 2.0], [3.0, 3.0]])
    assert [ranks.tolist() for ranks in retrieval_ranks(images, texts, torch.tensor([0, 1]))] == [
        [1, 1],
        [1, 0],
    ]


def test_half_precision_is_compared_in_single():
    """Products rounded to bfloat16 would tie where the vectors do not."""
    torch.manual_seed(0)
    images = normalize(torch.randn(300, 32), dim=-1).bfloat16()
    texts = normalize(images.float() + 0.2 * torch.randn(300, 32), dim=-1).bfloat16()
    expected = retrieval_ranks(images.float(), texts.float(), torch.arange(300))
    found = retrieval_ranks(images, texts, torch.arange(300))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert expected[0].max() > 0


def test_several_images_by_hand():
    """Text 0 describes images 0 and 1, text 1 describes image 2. Scores (text x image): [.2 .9 .3], [.8 .1 .5]."""
    texts = torch.tensor([[0.2, 0.9, 0.3], [0.8, 0.1, 0.5]])
    text_ranks, image_ranks = retrieval_ranks(torch.eye(3), texts, torch.tensor([[0, 0], [0, 1], [1, 2]]))
    assert text_ranks.tolist() == [0, 1]  # text 0 by image 1, image 0 being no rival; text 1 behind image 0
    assert image_ranks.tolist() == [1, 0, 0]


def test_memory_does_not_grow_with_the_product(run, tmp_path):
    """The scores alone are 610 MB. Threads and kernels keep buffers of their own beside a tile's."""
    (tmp_path / "measure.py").write_text(MEASURE)
    process = run("python", tmp_path / "measure.py")
    assert process.returncode == 0, process.stderr
    of_retrieval, of_classes = map(float, process.stdout.split())
    assert of_retrieval < 100
    assert of_classes < 100


@pytest.fixture
def clip_benchmark():
    """A module of CLIP_benchmark read from its file: the package itself would import torchvision."""

    def load(name):
        package = importlib.util.find_spec("clip_benchmark")
        assert package, "CLIP_benchmark is missing: pip install --no-deps clip-benchmark==1.6.2"
        path = Path(package.submodule_search_locations[0], "metrics", f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_recall_as_clip_benchmark_has_it(clip_benchmark):
    theirs = clip_benchmark("zeroshot_retrieval")
    torch.manual_seed(0)
    images = normalize(torch.randn(600, 32), dim=-1)
    owners = torch.arange(600).repeat_interleave(5)[torch.randperm(3000)]
    texts = normalize(images[owners] + 0.3 * torch.randn(3000, 32), dim=-1)
    scores, positive = texts @ images.T, owners[:, None] == torch.arange(600)
    recall = retrieval_recall(images, texts, owners, ks=(1, 3, 10))
    for direction, some, right in (
        ("text_to_image", scores, positive),
        ("image_to_text", scores.T, positive.T),
    ):
        for k in (1, 3, 10):
            expected = (
                (theirs.batchify(theirs.recall_at_k, some, right, 64, "cpu", k=k) > 0).double().mean().item()
            )
            assert recall[f"{direction}_recall@{k}"] == pytest.approx(expected, abs=1e-6)
            assert 0.05 < expected < 0.999


def test_accuracies_as_clip_benchmark_and_scikit_learn_have_them(clip_benchmark):
    theirs = clip_benchmark("zeroshot_classification")
    theirs.float = lambda values: (
        values.item()
    )  # it makes a float of an array of one, which numpy 2.4 refuses
    torch.manual_seed(0)
    classes = normalize(torch.randn(30, 32), dim=-1)
    labels = torch.randint(28, (2000,)).clamp(max=20)  # uneven, and nine classes without an image
    images = normalize(classes[labels] + 0.3 * torch.randn(2000, 32), dim=-1)
    scores, ranks = images @ classes.T, class_ranks(images, classes, labels)
    accuracy = ClassOutcomes(ranks, labels, 30).metrics()
    expected = dict(zip(("accuracy@1", "accuracy@5"), theirs.accuracy(100 * scores, labels, topk=(1, 5))))
    found = {name: accuracy[name] for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.2 < accuracy["accuracy@1"] < accuracy["accuracy@5"] < 0.99
    assert accuracy["accuracy@5"] == pytest.approx(
        top_k_accuracy_score(labels, scores, k=5, labels=range(30)), abs=1e-6
    )
    assert torch.equal(ranks_in_scores(scores, labels), ranks)
    by_class = mean_per_class_accuracy(ranks, labels).item()
    assert by_class == pytest.approx(theirs.balanced_accuracy_score(labels, scores.argmax(1)), abs=1e-6)
    assert (
        by_class
        == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)), abs=1e-6)
        != accuracy["accuracy@1"]
    )


def test_precisions_as_clip_benchmark_and_scikit_learn_have_them(clip_benchmark):
    torch.manual_seed(0)
    scores, targets = torch.randn(300, 5), torch.rand(300, 5) < 0.2
    expected = clip_benchmark("zeroshot_classification").average_precision_per_class(scores, targets)
    tied = (
        4 * scores
    ).round()  # CLIP_benchmark orders ties as the sort leaves them; scikit-learn takes them together
    for column, value in enumerate(expected.tolist()):
        right, score = targets[:, column], scores[:, column]
        assert average_precision(score, right).item() == pytest.approx(value, abs=1e-6)
        for given in (score, tied[:, column]):
            assert average_precision(given, right).item() == pytest.approx(
                average_precision_score(right, given), abs=1e-6
            )
            assert roc_auc(given, right).item() == pytest.approx(roc_auc_score(right, given), abs=1e-6)


def test_eleven_points_are_the_definition():
    torch.manual_seed(0)
    scores, targets = (4 * torch.randn(200)).round(), torch.rand(200) < 0.2
    points = []
    for threshold in scores.unique():
        found = (targets & (scores >= threshold)).sum().item()
        points.append((found, found / (scores >= threshold).sum().item()))
    best = [
        max(precision for found, precision in points if 10 * found >= tenth * targets.sum())
        for tenth in range(11)
    ]
    assert interpolated_average_precision(scores, targets).item() == pytest.approx(sum(best) / 11, abs=1e-12)


def test_percentiles_are_torchs():
    values = torch.tensor([9, 2, 2, 7, 30])
    expected = (
        values.repeat_interleave(torch.tensor([2, 0, 3, 1, 4]))
        .double()
        .quantile(torch.tensor([0.05, 0.5, 0.9]).double())
    )
    weights = torch.tensor([[2, 0, 3, 1, 4], [0, 0, 0, 1, 0]])
    assert percentiles(values, (5, 50, 90), weights).tolist() == [pytest.approx(expected.tolist()), [7, 7, 7]]
    assert percentiles(values, (50,)).tolist() == [7]


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda: retrieval_ranks(torch.eye(3), torch.eye(3), torch.tensor([[0, 0], [0, 1], [2, 2]])),
            "every text needs an image",
        ),
        (
            lambda: retrieval_ranks(torch.eye(3), torch.eye(3), torch.tensor([[0, 0], [1, 1], [2, 1]])),
            "every image needs a text",
        ),
        (
            lambda: ranks_in_scores(torch.tensor([[torch.nan]]), torch.tensor([0])),
            "a score of item 0 is not finite",
        ),
        (
            lambda: ranks_in_scores(torch.ones(2), torch.tensor([0, 1])),
            r"scores must be \(items, classes\), not \(2,\)",
        ),
        (
            lambda: ranks_in_scores(torch.eye(2), torch.tensor([0, 2])),
            "item 1 has the label 2, but the classes are the rows 0 to 1",
        ),
        (
            lambda: ranks_in_scores(torch.eye(2), torch.tensor([0])),
            r"labels must be one for each of 2 items, not \(1,\)",
        ),
        (lambda: average_precision(torch.ones(3), torch.ones(2)), r"\(3,\) and \(2,\)"),
        (lambda: roc_auc(torch.full((2,), torch.inf), torch.ones(2)), "finite"),
    ],
)
def test_more_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
