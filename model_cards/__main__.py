"""Finish a model: a folder ready for the Hub, with weights, processor, model card and plots; and the table of
all stages.

python -m model_cards training/recipes/miniature/card.yaml
python -m model_cards --title "My CLIP" --repo me/my-clip --stages outputs/stage2 --output_dir outputs/my-clip
"""

from common.launching import launch

if __name__ == "__main__":
    launch("model_cards.job", one_process=True)
