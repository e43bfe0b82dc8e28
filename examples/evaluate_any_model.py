"""Evaluate any CLIP-like model on image-text retrieval in Python, with 95 % intervals.

python examples/evaluate_any_model.py
python examples/evaluate_any_model.py --models BAAI/AltCLIP-m9 openai/clip-vit-base-patch32 --languages en zh

`load_model` reads models of transformers, and of other libraries as `open_clip:NAME` or
`sentence_transformers:NAME`.
"""

import argparse

from datasets import load_dataset

from benchmarks import CachedEncoder, evaluate_retrieval, intervals, load_model


def main(arguments: argparse.Namespace) -> None:
    # A row is {"image": …, "captions": {"en": "pear and key", "zh": "梨和钥匙"}}.
    dataset = load_dataset(arguments.dataset, split=arguments.split)
    for name in arguments.models:
        model, processor = load_model(name)
        encoder = CachedEncoder(model, processor)  # embeddings are cached on disk: a second run is fast
        image_embeds, columns, _ = encoder.rows(dataset)
        outcomes = evaluate_retrieval(encoder, image_embeds, columns["captions"], arguments.languages)

        for language, of_language in outcomes.items():
            recall = of_language.metrics()["mean_recall"]
            low, high = intervals(of_language)["mean_recall"]
            print(f"{name}  {language}  mean recall {recall:.1%} (95 % interval {low:.1%} to {high:.1%})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["outputs/miniature/altclip"], help="Folders or Hub ids."
    )
    parser.add_argument("--dataset", default="outputs/miniature/dataset", help="A folder or a Hub id.")
    parser.add_argument("--split", default="test_pairs", help="The split to evaluate on.")
    parser.add_argument(
        "--languages", nargs="+", default=["en", "zh", "ar"], help="Languages of the captions."
    )
    main(parser.parse_args())
