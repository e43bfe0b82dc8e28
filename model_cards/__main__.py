"""Finish a model: a folder ready for the Hub, with weights, processor, model card and plots; and the table of
all stages.

python -m model_cards training/recipes/miniature/card.yaml
python -m model_cards --title "My CLIP" --repo me/my-clip --stages outputs/stage2 --output_dir outputs/my-clip
"""

from common.recipe import launch

from .job import CardArguments, main

__all__ = ["CardArguments", "main"]


if __name__ == "__main__":
    launch(main, CardArguments, one_process=True)
