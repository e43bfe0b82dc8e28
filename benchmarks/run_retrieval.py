"""Image-text retrieval of one or more models in any of a dataset's languages.

python benchmarks/run_retrieval.py benchmarks/recipes/miniature_retrieval.yaml
python benchmarks/run_retrieval.py --models BAAI/AltCLIP-m9 --dataset my/captions --splits test --languages en zh
"""

from benchmarks.evaluation import EvaluationArguments, hash_weights, save_and_show
from benchmarks.loading import check_languages, load_captions, load_model
from benchmarks.recipe import launch
from benchmarks.retrieval import evaluate_retrieval


def main(arguments: EvaluationArguments) -> None:
    splits = {split: load_captions(arguments.dataset, split) for split in arguments.splits}
    languages = check_languages(arguments.languages, list(next(iter(splits.values())).features["captions"]))
    scores, weights = [], {}
    for name in arguments.models:
        model, processor = load_model(name)
        weights[name] = hash_weights(model)
        spoken = ["en"] if name in arguments.english_only else languages
        scores += [(name, split, evaluate_retrieval(model, processor, rows, spoken)) for split, rows in splits.items()]
    save_and_show(scores, "retrieval", weights, arguments)


if __name__ == "__main__":
    launch(main, EvaluationArguments)
