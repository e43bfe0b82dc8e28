"""Classify an image by class names in any language that the model reads, without training.

python examples/classify.py outputs/miniature/altclip/example.png --labels "red apple" key "dog face"
python examples/classify.py outputs/miniature/altclip/example.png --labels 红苹果 钥匙 狗脸 --language zh
"""

import argparse

from transformers import pipeline

import modeling_altclip  # noqa: F401  (registers the model and its pipeline with transformers)


def main(arguments: argparse.Namespace) -> None:
    classify = pipeline("zero-shot-image-classification", model=arguments.model)

    # A language code stands for its prompt templates, such as "a photo of {}." in English; "{}" adds nothing.
    template = arguments.language or "{}"
    predictions = classify(arguments.image, arguments.labels, hypothesis_template=template)

    for prediction in predictions:
        print(f"{prediction['score']:.3f}  {prediction['label']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", help="A file, or an address.")
    parser.add_argument("--labels", nargs="+", required=True, help="Class names.")
    parser.add_argument("--language", help="Use the prompt templates of this language, such as zh.")
    parser.add_argument("--model", default="outputs/miniature/altclip", help="A folder or a Hub id.")
    main(parser.parse_args())
