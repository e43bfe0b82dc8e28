"""Translate captions, with or without images, into more languages by a translation model.

python training/run_translation.py training/recipes/parallel_coco/translation.yaml
python training/run_translation.py --dataset cc3m --splits train --keep_images false --target_languages de \\
    --output_dir outputs/de --models '{"de": "Helsinki-NLP/opus-mt-en-de"}'

It runs in one process: for several GPUs start it once for each, with some of the target_languages and an
output_dir of its own.
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.translation", one_process=True)
