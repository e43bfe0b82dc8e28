"""Image-text retrieval of one or more models, on any of the tasks, in any of their languages.

python benchmarks/run_retrieval.py benchmarks/recipes/miniature_retrieval.yaml
python benchmarks/run_retrieval.py --models BAAI/AltCLIP-m9 --tasks xm3600 flickr30k my/task.yaml --languages en zh ja
accelerate launch --quiet benchmarks/run_retrieval.py --models BAAI/AltCLIP --tasks mscoco-5k
"""

from dataclasses import dataclass, field

from benchmarks.evaluation import EvaluationArguments, evaluate
from benchmarks.recipe import launch
from benchmarks.report import TableArguments
from benchmarks.retrieval import check_distance, evaluate_retrieval


@dataclass(kw_only=True)
class RetrievalArguments(EvaluationArguments):
    """Ranks depend on how far apart two vectors are said to be."""

    distance: str = field(
        default="cosine", metadata={"help": "cosine, or euclidean between vectors that are not normalised."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_distance(self.distance)


def main(arguments: RetrievalArguments, _: TableArguments) -> None:
    def ask(task, languages, rows):
        return dict.fromkeys(languages)

    def score(encoder, image_embeds, columns, task, asked):
        options = {"distance": arguments.distance, "merge_captions": task.merge_captions}
        return evaluate_retrieval(encoder, image_embeds, columns["captions"], list(asked), **options)

    unit = arguments.distance == "cosine"
    evaluate(
        arguments, "retrieval", ask, score, normalize=unit, suffix="" if unit else f"-{arguments.distance}"
    )


if __name__ == "__main__":
    launch(main, RetrievalArguments, TableArguments)  # a recipe for a report serves here too
