"""Ranks of the right image for a caption, and of the right caption for an image, in any of a dataset's languages.

python benchmarks/run_ranking.py benchmarks/recipes/miniature_ranking.yaml
python benchmarks/run_ranking.py --models MODEL --dataset my/captions --splits val --languages en de --distance euclidean
"""

from dataclasses import dataclass, field

from benchmarks.evaluation import EvaluationArguments, hash_weights, save_and_show
from benchmarks.loading import check_languages, load_captions, load_model
from benchmarks.ranking import evaluate_ranking, ranking_columns
from benchmarks.recipe import launch


@dataclass(kw_only=True)
class RankingArguments(EvaluationArguments):
    """Ranks depend on how far apart two vectors are said to be."""

    distance: str = field(default="cosine", metadata={"help": "cosine, or euclidean between vectors that are not normalised."})


def main(arguments: RankingArguments) -> None:
    splits = {split: load_captions(arguments.dataset, split) for split in arguments.splits}
    languages = check_languages(arguments.languages, list(next(iter(splits.values())).features["captions"]))
    scores, weights = [], {}
    for name in arguments.models:
        model, processor = load_model(name)
        weights[name] = hash_weights(model)
        spoken = ["en"] if name in arguments.english_only else languages
        for split, rows in splits.items():
            scores.append((name, split, evaluate_ranking(model, processor, rows, spoken, distance=arguments.distance)))
    save_and_show(scores, f"ranking_{arguments.distance}", weights, arguments, ranking_columns)


if __name__ == "__main__":
    launch(main, RankingArguments)
