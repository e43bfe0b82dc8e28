"""Pre-train a text encoder on text alone, in many languages (Conneau & Lample 2019).

accelerate launch --quiet training/run_text_pretraining.py training/recipes/parallel/text_miniature.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.text_pretraining")
