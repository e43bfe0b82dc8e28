"""Evaluate image-text retrieval of one or more models, on any of the tasks, in any of their languages."""

from dataclasses import dataclass, field

from benchmarks.choices import evaluate_choices
from benchmarks.evaluation import Benchmark, EvaluationArguments
from benchmarks.jobs.report import evaluate_and_report
from benchmarks.mixed_pool import evaluate_mixed_pool
from benchmarks.report.tables import TableArguments
from benchmarks.retrieval import check_distance, evaluate_retrieval
from common.errors import InputError


@dataclass(kw_only=True)
class RetrievalArguments(EvaluationArguments):
    """Models to evaluate, and the distance by which they rank."""

    distance: str = field(
        default="cosine",
        metadata={"help": "cosine, or euclidean between embeddings that are not normalized."},
    )

    def __post_init__(self):
        super().__post_init__()
        check_distance(self.distance)


@dataclass(kw_only=True)
class RetrievalBenchmark(Benchmark):
    """Retrieval by the captions of a dataset, in one language or in all at once; they need no prompts."""

    kind = "retrieval"

    distance: str

    def prompts(self, task, languages, rows):
        return dict.fromkeys(languages)

    def score(self, encoder, image_embeds, columns, task, prompts):
        captions = columns["captions"]
        if task.kind == "mixed_pool":
            return evaluate_mixed_pool(encoder, image_embeds, captions, list(prompts), distance=self.distance)
        if "rivals" in columns:
            return self._score_choices(encoder, image_embeds, columns, list(prompts))
        return evaluate_retrieval(
            encoder,
            image_embeds,
            captions,
            list(prompts),
            distance=self.distance,
            merge_captions=task.merge_captions,
        )

    def _score_choices(self, encoder, image_embeds, columns, languages):
        """Score the texts of a task that choose among a few images each.

        Raises:
            InputError: another distance than the cosine is requested.
        """
        if self.distance != "cosine":
            raise InputError(f"distance is {self.distance!r}: texts choose among images by cosine alone")
        return evaluate_choices(encoder, image_embeds, columns["captions"], columns["rivals"], languages)


def main(arguments: RetrievalArguments, table: TableArguments) -> None:
    # Results by another distance have names of their own: `xm3600-euclidean.en.json`.
    is_cosine = arguments.distance == "cosine"
    benchmark = RetrievalBenchmark(
        distance=arguments.distance,
        normalize=is_cosine,
        suffix="" if is_cosine else f"-{arguments.distance}",
    )
    evaluate_and_report(arguments, benchmark, table)


__all__ = ["main"]
