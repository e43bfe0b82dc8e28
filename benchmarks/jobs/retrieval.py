"""Evaluate image-text retrieval of one or more models, on any of the tasks, in any of their languages."""

from dataclasses import dataclass, field

from benchmarks.evaluation import Benchmark, EvaluationArguments
from benchmarks.jobs.report import evaluate_and_report
from benchmarks.mixed_pool import evaluate_mixed_pool
from benchmarks.report.tables import TableArguments
from benchmarks.retrieval import check_distance, evaluate_retrieval


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
        return evaluate_retrieval(
            encoder,
            image_embeds,
            captions,
            list(prompts),
            distance=self.distance,
            merge_captions=task.merge_captions,
        )


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
