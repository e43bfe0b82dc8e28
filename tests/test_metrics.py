"""Check metrics by hand, against the definition, and against CLIP_benchmark and scikit-learn."""

import importlib.util
from pathlib import Path

import numpy as np
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
    class_scores,
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
images = normalize(torch.randn(4000, 64), dim=-1)
texts = normalize(torch.randn(40000, 64), dim=-1)
owners = torch.arange(4000).repeat_interleave(10)[torch.randperm(40000)]
retrieval_ranks(images[:64], texts[:64], torch.arange(64))
for function, *inputs in ((retrieval_ranks, images, texts, owners), (class_ranks, texts, images, owners)):
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")  # forget the peak so far
    before = resident("VmRSS")
    function(*inputs)
    print(resident("VmHWM") - before)
"""


def test_by_hand():
    """Texts 0 and 1 belong to image 0, text 2 to image 1. Scores (image x text): [.9 .2 .8], [.1 .5 .3]."""
    image_embeds = torch.eye(2)
    text_embeds = torch.tensor([[0.9, 0.1], [0.2, 0.5], [0.8, 0.3]])
    recall = retrieval_recall(image_embeds, text_embeds, torch.tensor([0, 0, 1]), ks=(1, 2))
    assert recall["text_to_image_recall@1"] == pytest.approx(1 / 3)  # only text 0 prefers its image
    # Image 1 prefers text 1, which is not its own.
    assert recall["image_to_text_recall@1"] == pytest.approx(1 / 2)
    assert recall["text_to_image_recall@2"] == 1
    assert recall["image_to_text_recall@2"] == 1
    assert recall["mean_recall"] == pytest.approx((1 / 3 + 1 / 2 + 1 + 1) / 4)


def test_a_collapsed_model_scores_nothing():
    collapsed = normalize(torch.ones(50, 8), dim=-1)
    recall = retrieval_recall(collapsed, collapsed, torch.arange(50))
    assert set(recall.values()) == {0.0}
    labels = torch.zeros(50, dtype=torch.long)
    ranks = class_ranks(collapsed, collapsed[:20], labels)
    assert ranks.tolist() == [19] * 50  # the last of 20 classes


def test_a_constant_side_finds_no_more_than_chance():
    """With one embedding for all texts, or for all images, whatever wins wins always."""
    torch.manual_seed(0)
    distinct = normalize(torch.randn(40, 16), dim=-1)
    constant = normalize(torch.randn(1, 16), dim=-1).expand(40, 16)
    owners = torch.arange(40)
    for images, texts in ((distinct, constant), (constant, distinct)):
        recall = retrieval_recall(images, texts, owners, ks=(1, 5))
        for k in (1, 5):
            found = [recall[f"text_to_image_recall@{k}"], recall[f"image_to_text_recall@{k}"]]
            assert sorted(found) == pytest.approx([0, k / 40])

    # Four images of each of ten classes: one class wins for all, or all are tied.
    labels = torch.arange(10).repeat_interleave(4)
    assert (class_ranks(constant, distinct[:10], labels) == 0).sum() == 4
    assert (class_ranks(distinct, constant[:10], labels) == 0).sum() == 0


@pytest.mark.parametrize("n_images", [5, 17, 513])
@pytest.mark.parametrize("dim", [31, 512])
@pytest.mark.parametrize("n_classes", [1, 3, 37])
def test_equal_embeddings_score_the_same_whatever_their_place(n_images, dim, n_classes):
    """A matrix product alone rounds its last rows otherwise, and would rank images by their places."""
    torch.manual_seed(0)
    image = normalize(torch.randn(1, dim), dim=-1).expand(n_images, dim).contiguous()
    classes = normalize(torch.randn(n_classes, dim), dim=-1)
    scores = class_scores(image, classes)
    torch.testing.assert_close(scores, image @ classes.T)
    # The positives come last. A constant has their share as its precision, and half an area below the ROC.
    targets = torch.arange(n_images) >= n_images - 2
    for of_class in scores.T:
        assert average_precision(of_class, targets).item() == pytest.approx(2 / n_images)
        assert interpolated_average_precision(of_class, targets).item() == pytest.approx(2 / n_images)
        assert roc_auc(of_class, targets).item() == 0.5

    images = normalize(torch.randn(n_images, dim), dim=-1)
    same_class = classes[:1].expand(n_classes, dim).contiguous()
    scores = class_scores(images, same_class)
    assert (scores == scores[:, :1]).all()
    # Embeddings that differ keep the scores of the product.
    assert torch.equal(class_scores(images, classes), images @ classes.T)


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_blocks_do_not_change_the_result(monkeypatch, block_rows):
    torch.manual_seed(0)
    images = torch.randn(40, 16)
    owners = torch.cat([torch.arange(40), torch.randint(40, (60,))])
    texts = images[owners] + 1.5 * torch.randn(100, 16)

    # An image is a hit if fewer than 5 texts of other images score as high as the best of its own.
    scores = images @ texts.T
    hits = 0
    for of_image, own in zip(scores, owners == torch.arange(40)[:, None]):
        n_rivals = (of_image[~own] >= of_image[own].max()).sum()
        hits += int(n_rivals < 5)

    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    recall = retrieval_recall(images, texts, owners)
    assert recall["image_to_text_recall@5"] == pytest.approx(hits / 40)
    first_images = scores.T.argsort(1, descending=True)[:, :5]
    found = (first_images == owners[:, None]).any(1)
    assert recall["text_to_image_recall@5"] == pytest.approx(found.double().mean().item())


@pytest.mark.parametrize("block_rows", [7, 1000])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_ranks_are_those_of_a_full_sort(monkeypatch, distance, block_rows):
    """Ranks equal those of a full sort, of images with one text or several.

    Distances are computed in double precision, of embeddings far from the origin and close together. Products
    are computed in single precision, here of whole numbers, which no order of summation rounds.
    """
    torch.manual_seed(0)
    owners = torch.cat([torch.arange(40), torch.randint(40, (60,))])
    if distance == "cosine":
        images = torch.randint(-500, 501, (40, 16)).float()
        texts = images[owners] + torch.randint(-300, 301, (100, 16))
        near = -images @ texts.T
    else:
        images = 100 + torch.randn(40, 16) * torch.rand(40, 1)
        texts = images[owners] + 0.5 * torch.randn(100, 16)
        near = (images.double()[:, None] - texts.double()[None]).square().sum(-1)

    # A text's rank is the place of its image in the order of images, an image's rank that of its first text.
    expected_of_texts = []
    for text, owner in enumerate(owners.tolist()):
        order = near[:, text].argsort().tolist()
        expected_of_texts.append(order.index(owner))
    expected_of_images = []
    for image in range(40):
        order = owners[near[image].argsort()].tolist()
        expected_of_images.append(order.index(image))

    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    text_ranks, image_ranks = retrieval_ranks(images, texts, owners, distance=distance)
    assert text_ranks.tolist() == expected_of_texts
    assert image_ranks.tolist() == expected_of_images
    if distance == "euclidean":
        text_ranks_by_cosine, image_ranks_by_cosine = retrieval_ranks(images, texts, owners)
        assert (text_ranks != text_ranks_by_cosine).any()
        assert (image_ranks != image_ranks_by_cosine).any()
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(texts.double(), images.double(), compute_mode=exact)
        is_own = distances.argsort(1) == owners[:, None]
        assert torch.equal(is_own.nonzero()[:, 1], text_ranks)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_ties_rank_behind(distance):
    """Images 0 and 2 are equal: the text of either ranks the other before its own."""
    images = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [3.0, 4.0]])
    embeds = {"image_embeds": images, "text_embeds": images}
    text_ranks, image_ranks = retrieval_ranks(**embeds, text_to_image=torch.arange(3), distance=distance)
    assert text_ranks.tolist() == [1, 0, 1]
    assert image_ranks.tolist() == [1, 0, 1]


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="distance is 'manhattan': choose cosine or euclidean"):
        retrieval_ranks(torch.eye(2), torch.eye(2), torch.arange(2), distance="manhattan")


def test_class_ranks_by_hand():
    # Item 0 has its class first; item 1 (class 0) is behind class 2; item 2 (class 2) is behind both others.
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.4, 0.6], [0.3, 0.2, 0.1]])
    labels = torch.tensor([0, 0, 2])
    assert class_ranks(scores, torch.eye(3), labels).tolist() == [0, 1, 2]
    assert ranks_in_scores(scores, labels).tolist() == [0, 1, 2]


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
    """Return the ranks of texts and of images by the definition, in double precision.

    Equal embeddings get equal scores: each pair of distinct ones is multiplied once.
    """
    distinct_images, image_number = images.double().unique(dim=0, return_inverse=True)
    distinct_texts, text_number = texts.double().unique(dim=0, return_inverse=True)
    scores = (distinct_images @ distinct_texts.T)[image_number][:, text_number]  # (images, texts)
    own = torch.zeros(len(images), len(texts), dtype=torch.bool)
    own[pairs[:, 1], pairs[:, 0]] = True

    best = scores.masked_fill(~own, -torch.inf)
    rivals = scores.masked_fill(own, -torch.inf)
    text_ranks = (rivals >= best.amax(0)).sum(0)
    image_ranks = (rivals >= best.amax(1, keepdim=True)).sum(1)
    return text_ranks, image_ranks


@pytest.mark.parametrize("block_rows", [1, 7, 64, 512])
@pytest.mark.parametrize("several_images", [False, True])
def test_equal_vectors_tie_whatever_tile_they_are_in(monkeypatch, block_rows, several_images):
    """Equal embeddings have equal scores, also where some have -0.0 for 0.0.

    A matrix product gives equal embeddings scores that differ in the last bits, by its shape and by their
    place in it.
    """
    torch.manual_seed(0)
    # The last tile of each is of one row.
    n_images, n_texts = {1: (29, 57), 7: (148, 260), 64: (1537, 2625), 512: (1537, 4097)}[block_rows]
    distinct_images = normalize(torch.randn(20, 640).index_fill(1, torch.arange(3), 0), dim=-1)
    images = distinct_images[torch.arange(n_images) % 20]
    sign_of_zeros = torch.randn(n_images, 1).sign()
    images *= torch.where(torch.arange(640) < 3, sign_of_zeros, 1)
    distinct_texts = normalize(torch.randn(30, 640), dim=-1)
    texts = distinct_texts[torch.arange(n_texts) % 30]

    # Each image has one text at least; with several images a text, n_texts further pairs are drawn.
    owners = torch.cat([torch.randperm(n_images), torch.randint(n_images, (n_texts - n_images,))])
    owners = owners[torch.randperm(n_texts)]
    pairs = torch.stack([torch.arange(n_texts), owners], 1)
    if several_images:
        more = torch.stack([torch.randint(n_texts, (n_texts,)), torch.randint(n_images, (n_texts,))], 1)
        pairs = torch.cat([pairs, more])[torch.randperm(2 * n_texts)]

    expected_of_texts, expected_of_images = definition(images + 0.0, texts, pairs)  # -0.0 + 0.0 is 0.0
    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    text_ranks, image_ranks = retrieval_ranks(images, texts, pairs if several_images else owners)
    assert torch.equal(text_ranks, expected_of_texts)
    assert torch.equal(image_ranks, expected_of_images)

    labels = torch.randint(n_images, (n_texts,))
    pairs = torch.stack([torch.arange(n_texts), labels], 1)
    expected, _ = definition(images + 0.0, texts, pairs)
    assert torch.equal(class_ranks(texts, images, labels), expected)


def test_different_vectors_that_tie_rank_behind():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[2.0, 2.0], [3.0, 3.0]])
    text_ranks, image_ranks = retrieval_ranks(images, texts, torch.tensor([0, 1]))
    assert text_ranks.tolist() == [1, 1]  # both images score the same with a text
    assert image_ranks.tolist() == [1, 0]  # text 1 scores 3 with either image, text 0 scores 2


def test_half_precision_is_compared_in_single():
    """Products rounded to bfloat16 would tie where those of the embeddings do not."""
    torch.manual_seed(0)
    images = normalize(torch.randn(300, 32), dim=-1).bfloat16()
    texts = normalize(images.float() + 0.2 * torch.randn(300, 32), dim=-1).bfloat16()
    owners = torch.arange(300)
    expected_of_texts, expected_of_images = retrieval_ranks(images.float(), texts.float(), owners)
    text_ranks, image_ranks = retrieval_ranks(images, texts, owners)
    assert torch.equal(text_ranks, expected_of_texts)
    assert torch.equal(image_ranks, expected_of_images)
    assert expected_of_texts.max() > 0  # not all are found first, which any rounding would leave


def test_several_images_by_hand():
    """Text 0 describes images 0 and 1, text 1 describes image 2.

    Scores (text x image): [.2 .9 .3], [.8 .1 .5].
    """
    texts = torch.tensor([[0.2, 0.9, 0.3], [0.8, 0.1, 0.5]])
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2]])
    text_ranks, image_ranks = retrieval_ranks(torch.eye(3), texts, pairs)
    assert text_ranks.tolist() == [0, 1]  # text 0 by image 1, image 0 being no rival; text 1 behind image 0
    assert image_ranks.tolist() == [1, 0, 0]


def test_memory_does_not_grow_with_the_product(run_python, tmp_path):
    """Scores of all pairs would take 610 MB; a tile, and the buffers of threads and kernels, take less than
    100.
    """
    (tmp_path / "measure.py").write_text(MEASURE)
    process = run_python("python", tmp_path / "measure.py")
    assert process.returncode == 0, process.stderr
    of_retrieval, of_classes = map(float, process.stdout.split())
    assert of_retrieval < 100
    assert of_classes < 100


@pytest.fixture
def clip_benchmark():
    """Read a module of CLIP_benchmark from its file: the package itself would import torchvision."""

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
    scores = texts @ images.T
    positive = owners[:, None] == torch.arange(600)
    recall = retrieval_recall(images, texts, owners, ks=(1, 3, 10))
    directions = (("text_to_image", scores, positive), ("image_to_text", scores.T, positive.T))
    for direction, of_queries, right in directions:
        for k in (1, 3, 10):
            hits = theirs.batchify(theirs.recall_at_k, of_queries, right, 64, "cpu", k=k) > 0
            expected = hits.double().mean().item()
            assert recall[f"{direction}_recall@{k}"] == pytest.approx(expected, abs=1e-6)
            assert 0.05 < expected < 0.999


def test_accuracies_as_clip_benchmark_and_scikit_learn_have_them(clip_benchmark):
    theirs = clip_benchmark("zeroshot_classification")
    theirs.float = np.ndarray.item  # it calls float() of an array of one value, which numpy 2.4 refuses
    torch.manual_seed(0)
    classes = normalize(torch.randn(30, 32), dim=-1)
    labels = torch.randint(28, (2000,)).clamp(max=20)  # uneven, and nine classes without an image
    images = normalize(classes[labels] + 0.3 * torch.randn(2000, 32), dim=-1)
    scores = images @ classes.T
    ranks = class_ranks(images, classes, labels)
    assert torch.equal(ranks_in_scores(scores, labels), ranks)

    accuracy = ClassOutcomes(ranks, labels, 30).metrics()
    at_1, at_5 = theirs.accuracy(100 * scores, labels, topk=(1, 5))
    assert accuracy["accuracy@1"] == pytest.approx(at_1, abs=1e-6)
    assert accuracy["accuracy@5"] == pytest.approx(at_5, abs=1e-6)
    assert 0.2 < accuracy["accuracy@1"] < accuracy["accuracy@5"] < 0.99
    of_scikit_learn = top_k_accuracy_score(labels, scores, k=5, labels=range(30))
    assert accuracy["accuracy@5"] == pytest.approx(of_scikit_learn, abs=1e-6)

    predicted = scores.argmax(1)
    by_class = mean_per_class_accuracy(ranks, labels).item()
    assert by_class == pytest.approx(theirs.balanced_accuracy_score(labels, predicted), abs=1e-6)
    assert by_class == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-6)
    assert by_class != pytest.approx(accuracy["accuracy@1"], abs=1e-6)


def test_precisions_as_clip_benchmark_and_scikit_learn_have_them(clip_benchmark):
    torch.manual_seed(0)
    scores = torch.randn(300, 5)
    targets = torch.rand(300, 5) < 0.2
    of_clip_benchmark = clip_benchmark("zeroshot_classification").average_precision_per_class(scores, targets)
    assert len(of_clip_benchmark) == 5
    # CLIP_benchmark orders ties as the sort leaves them; scikit-learn takes them together.
    tied = (4 * scores).round()
    for column, expected in enumerate(of_clip_benchmark.tolist()):
        right = targets[:, column]
        assert average_precision(scores[:, column], right).item() == pytest.approx(expected, abs=1e-6)
        for given in (scores[:, column], tied[:, column]):
            precision = average_precision(given, right).item()
            assert precision == pytest.approx(average_precision_score(right, given), abs=1e-6)
            area = roc_auc(given, right).item()
            assert area == pytest.approx(roc_auc_score(right, given), abs=1e-6)


def test_eleven_points_are_the_definition():
    torch.manual_seed(0)
    scores = (4 * torch.randn(200)).round()
    targets = torch.rand(200) < 0.2
    n_targets = targets.sum().item()
    points = []  # of each threshold: targets found, and the precision
    for threshold in scores.unique():
        is_taken = scores >= threshold
        n_found = (targets & is_taken).sum().item()
        points.append((n_found, n_found / is_taken.sum().item()))

    best = []  # precision at a recall of each tenth or more
    for tenth in range(11):
        precisions = [precision for n_found, precision in points if 10 * n_found >= tenth * n_targets]
        best.append(max(precisions))
    assert interpolated_average_precision(scores, targets).item() == pytest.approx(sum(best) / 11, abs=1e-12)


WEIGHTED = {
    "average precision": average_precision,
    "eleven points": interpolated_average_precision,
    "area": roc_auc,
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_draw_items_several_times_or_not_at_all(name):
    """Items of the highest scores may be drawn never; the first ones have a weight of 0 here."""
    function = WEIGHTED[name]
    scores = torch.tensor([9.0, 8, 8, 7, 5, 5, 4, 1])
    targets = torch.tensor([True, False, True, True, False, True, False, True])
    weights = torch.tensor([[0, 0, 3, 1, 2, 0, 1, 4], [1, 0, 0, 2, 5, 2, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    expected = []
    for times in weights:
        expected.append(function(scores.repeat_interleave(times), targets.repeat_interleave(times)))
    torch.testing.assert_close(function(scores, targets, weights), torch.stack(expected))
    torch.testing.assert_close(function(scores, targets), expected[2])


@pytest.mark.parametrize("name", WEIGHTED)
def test_what_has_no_true_item_has_no_precision(name):
    function = WEIGHTED[name]
    scores = torch.tensor([3.0, 2.0, 1.0])
    assert function(scores, torch.zeros(3, dtype=torch.bool)).isnan()
    weights = torch.tensor([[0, 2, 1], [1, 1, 0]])  # the true item is not in the first
    assert function(scores, torch.tensor([True, False, False]), weights).isnan().tolist() == [True, False]


def test_each_class_that_was_drawn_counts_as_much_by_hand():
    ranks = torch.tensor([0, 1, 0, 2, 0])
    labels = torch.tensor([0, 0, 3, 3, 3])  # none of the classes 1 and 2
    assert mean_per_class_accuracy(ranks, labels).item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    weights = torch.tensor([[3, 1, 0, 0, 0], [0, 2, 1, 3, 0]])
    expected = torch.tensor([3 / 4, (0 + 1 / 4) / 2], dtype=torch.double)
    torch.testing.assert_close(mean_per_class_accuracy(ranks, labels, weights), expected)
    one_class = torch.zeros(5, dtype=torch.long)
    assert mean_per_class_accuracy(ranks, one_class).item() == pytest.approx(3 / 5)


def test_embeddings_that_differ_a_little_are_not_taken_for_equal():
    """Doubles are compared in all their digits, and small numbers too."""
    near = torch.tensor([[1.0], [1.0 + 1e-12], [1e-30], [2e-30]], dtype=torch.double)
    assert torch.equal(class_scores(near, torch.ones(1, 1).double()), near)
    assert torch.equal(class_scores(near[2:].float(), torch.ones(1, 1)), near[2:].float())


def test_two_equal_embeddings_tie_whatever_rounding_says(monkeypatch):
    """A product rounded otherwise at each place tells the twins apart, in favour of the right one or not."""
    torch.manual_seed(0)
    images = normalize(torch.randn(40, 8), dim=-1)
    images = torch.cat([images, images])  # images 0 and 40 are twins
    scores = metrics.pair_scores

    def rounded(images, texts, distance):
        exact = scores(images, texts, distance)
        return exact + 1e-6 * torch.randn_like(exact)

    monkeypatch.setattr(metrics, "pair_scores", rounded)
    text_ranks, image_ranks = retrieval_ranks(images, images, torch.arange(80))
    assert text_ranks.tolist() == [1] * 80
    assert image_ranks.tolist() == [1] * 80


def test_recall_is_at_1_5_and_10():
    recall = retrieval_recall(torch.eye(12), torch.eye(12), torch.arange(12))
    names = []
    for direction in ("text_to_image", "image_to_text"):
        names += [f"{direction}_recall@{k}" for k in (1, 5, 10)]
    assert list(recall) == [*names, "mean_recall"]


def test_percentiles_are_torchs():
    values = torch.tensor([9, 2, 2, 7, 30])
    weights = torch.tensor([[2, 0, 3, 1, 4], [0, 0, 0, 1, 0]])
    # 9 9 2 2 2 7 30 30 30 30
    repeated = values.repeat_interleave(weights[0]).double()
    expected = repeated.quantile(torch.tensor([0.05, 0.35, 0.9]).double())  # the second lies between 7 and 9
    of_first, of_second = percentiles(values, (5, 35, 90), weights).tolist()
    assert of_first == pytest.approx(expected.tolist())
    assert of_second == [7, 7, 7]
    assert percentiles(values, (50,)).tolist() == [7]


@pytest.mark.parametrize(
    "function,arguments,message",
    [
        (
            retrieval_ranks,
            (torch.eye(3), torch.eye(3), torch.tensor([[0, 0], [0, 1], [2, 2]])),
            "every text needs an image",
        ),
        (
            retrieval_ranks,
            (torch.eye(3), torch.eye(3), torch.tensor([[0, 0], [1, 1], [2, 1]])),
            "every image needs a text",
        ),
        (
            ranks_in_scores,
            (torch.tensor([[torch.nan]]), torch.tensor([0])),
            "a score of item 0 is not finite",
        ),
        (
            ranks_in_scores,
            (torch.ones(2), torch.tensor([0, 1])),
            r"scores must be \(items, classes\), not \(2,\)",
        ),
        (
            ranks_in_scores,
            (torch.eye(2), torch.tensor([0, 2])),
            "item 1 has the label 2, but the classes are the rows 0 to 1",
        ),
        (
            ranks_in_scores,
            (torch.eye(2), torch.tensor([0])),
            r"labels must be one for each of 2 items, not \(1,\)",
        ),
        (
            ranks_in_scores,
            (torch.ones(1, 2, 2), torch.tensor([0])),
            r"scores must be \(items, classes\), not \(1, 2, 2\)",
        ),
        (
            ranks_in_scores,
            (torch.eye(4), torch.tensor([0, -1, 4, 0])),
            "item 1 has the label -1, but the classes are the rows 0 to 3",
        ),
        (
            ranks_in_scores,
            (torch.tensor([[0, 1, 2], [0, 0, torch.inf], [torch.nan, 0, 0]]), torch.tensor([0, 1, 2])),
            "a score of item 1 is not finite",
        ),
        (
            retrieval_ranks,
            (torch.eye(3), torch.eye(3), torch.tensor([-1, 1, 3])),
            "text 0 is said to describe image -1, but the images are the rows 0 to 2",
        ),
        (
            retrieval_ranks,
            (torch.eye(3), torch.eye(3), torch.tensor([[-1, 0], [1, 1], [2, 2]])),
            "text -1 is said to describe image 0, but the texts are the rows 0 to 2",
        ),
        (
            retrieval_ranks,
            (torch.eye(3), torch.eye(3), torch.ones(3, 3, dtype=torch.long)),
            r"text_to_image has shape \(3, 3\), but there are 3 texts",
        ),
        (
            retrieval_ranks,
            (torch.eye(3), torch.eye(3), torch.ones(3, 1, dtype=torch.long)),
            r"text_to_image has shape \(3, 1\), but there are 3 texts",
        ),
        (
            retrieval_ranks,
            (torch.eye(3), torch.eye(3), torch.ones(3, 2, 2, dtype=torch.long)),
            r"text_to_image has shape \(3, 2, 2\), but there are 3 texts",
        ),
        (
            average_precision,
            (torch.ones(3), torch.ones(2)),
            r"scores and targets must be \(items,\), not \(3,\) and \(2,\)",
        ),
        (
            average_precision,
            (torch.ones(2, 2), torch.ones(2, 2)),
            r"scores and targets must be \(items,\), not \(2, 2\) and \(2, 2\)",
        ),
        (average_precision, (torch.tensor(1.0), torch.tensor(1.0)), r"not \(\) and \(\)"),
        (roc_auc, (torch.tensor([1.0, torch.inf]), torch.ones(2)), "a score of item 1 is not finite"),
    ],
)
def test_more_bad_input_is_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    "left,right",
    [((3,), (3,)), ((2, 3), (3,)), ((2, 3, 3), (2, 3)), ((2, 3), (2, 3, 3)), ((2, 3), (2, 4))]
    + [((2, 4), (2, 3)), ((0, 3), (2, 3)), ((2, 3), (0, 3)), ((), (2, 3))],
)
def test_embeddings_of_other_shapes_are_refused(left, right):
    with pytest.raises(ValueError) as refusal:
        class_scores(torch.ones(left), torch.ones(right))
    assert str(refusal.value) == f"embeddings must be (rows, dim) with one dim, not {left} and {right}"


@pytest.mark.parametrize(
    "given,named",
    [
        (np.eye(2), "ndarray"),
        (torch.eye(2).long(), "one of torch.int64"),
        (torch.eye(2, device="meta"), "one of torch.float32"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_tensor_of_floats_is_refused(given, named):
    for pair in ((given, torch.eye(2)), (torch.eye(2), given)):
        with pytest.raises(TypeError, match=f"^embeddings must be a tensor of floats, not {named}$"):
            class_scores(*pair)


@pytest.mark.parametrize(
    "given,named",
    [
        ([0, 1], "list"),
        (torch.tensor([0.0, 1.0]), "one of torch.float32"),
        (torch.tensor([0, 1], device="meta"), "one of torch.int64"),
    ],
)
def test_what_is_no_long_tensor_is_refused(given, named):
    with pytest.raises(TypeError, match=f"^text_to_image must be a LongTensor, not {named}$"):
        retrieval_ranks(torch.eye(2), torch.eye(2), given)
    with pytest.raises(TypeError, match=f"^labels must be a LongTensor, not {named}$"):
        class_ranks(torch.eye(2), torch.eye(2), given)


@pytest.mark.parametrize(
    "distance,dtype,length",
    [("cosine", torch.float32, 1e30), ("cosine", torch.float64, 1e200), ("euclidean", torch.float64, 1e200)],
)
def test_scores_that_would_overflow_are_refused(distance, dtype, length):
    torch.manual_seed(0)
    images, texts = length * torch.randn(2, 5, 4, dtype=dtype)
    pairs = torch.arange(5).repeat(2, 1).T
    with pytest.raises(ValueError, match="whose scores may overflow: normalize them first"):
        retrieval_ranks(images, texts, pairs, distance=distance)
    if distance == "cosine":
        with pytest.raises(ValueError, match="whose scores may overflow: normalize them first"):
            class_ranks(images, texts, torch.arange(5))


def test_distances_overflow_by_the_sum_over_all_dimensions():
    images = torch.full((2, 4), 0.4 * torch.finfo(torch.double).max ** 0.5, dtype=torch.double)
    pairs = torch.arange(2).repeat(2, 1).T
    with pytest.raises(
        ValueError, match="values of up to 5.36e.153 and 5.36e.153, whose scores may overflow"
    ):
        retrieval_ranks(images, images, pairs, distance="euclidean")
