r"""Align two frozen encoders in closed form, by ridge regression instead of training steps.

accelerate launch --quiet training/run_alignment.py --image_model_name_or_path google/vit-base-patch16-224 \
    --teacher_name_or_path sentence-transformers/all-MiniLM-L6-v2 --dataset YOUR/IMAGES \
    --output_dir outputs/aligned
accelerate launch --quiet training/run_alignment.py --teacher_name_or_path outputs/aligned \
    --text_encoder_name_or_path intfloat/multilingual-e5-small --dataset opus-100 --languages en de \
    --output_dir outputs/multilingual
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.alignment")
