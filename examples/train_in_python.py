"""Train stage 2 in Python: dataset, arguments, trainer, train, save.

python examples/train_in_python.py
python examples/train_in_python.py --model BAAI/AltCLIP-m9 --dataset PICTURES --split train --languages en zh

Scripts and recipes do the same and more, see docs/training.md.
"""

import argparse

from datasets import load_dataset
from transformers import AutoModel, AutoProcessor

from training import CaptionExamples, Collator, ContrastiveArguments, ContrastiveTrainer, freeze_all_but


def main(options: argparse.Namespace) -> None:
    model = AutoModel.from_pretrained(options.model)
    processor = AutoProcessor.from_pretrained(options.model)
    freeze_all_but(model, ["text_model", "text_projection", "logit_scale"])

    # A row is {"image": …, "captions": {"en": "pear and key", "zh": "梨和钥匙"}}.
    # An example is a row in one of its languages.
    rows = load_dataset(options.dataset, split=options.split)
    examples = CaptionExamples(rows, options.languages, "image")
    collator = Collator(processor.tokenizer, max_length=77, image_processor=processor.image_processor)

    arguments = ContrastiveArguments(
        model_name_or_path=options.model,
        dataset=options.dataset,
        output_dir=options.output_dir,
        max_steps=options.max_steps,
        per_device_train_batch_size=256,
        learning_rate=1e-4,
        save_strategy="no",
    )
    trainer = ContrastiveTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collator,
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    print(f"Trained on {examples.summary()}. Saved the model to {options.output_dir}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="outputs/miniature/altclip", help="A folder or a Hub id.")
    parser.add_argument("--dataset", default="outputs/miniature/dataset", help="A folder or a Hub id.")
    parser.add_argument("--split", default="train_curated", help="The split to train on.")
    parser.add_argument(
        "--languages", nargs="+", default=["en", "zh", "es"], help="Languages of the captions."
    )
    parser.add_argument("--max_steps", type=int, default=20, help="Optimizer steps.")
    parser.add_argument("--output_dir", default="outputs/trained_in_python", help="Where the model is saved.")
    main(parser.parse_args())
