"""Pre-train a text encoder on text alone, in many languages (Conneau & Lample 2019).

accelerate launch --quiet training/run_text_pretraining.py training/recipes/parallel/text_miniature.yaml
"""

from common.recipe import launch
from training.jobs.text_pretraining import main
from training.parallel.pretraining import TextPretrainingArguments

if __name__ == "__main__":
    launch(main, TextPretrainingArguments)
