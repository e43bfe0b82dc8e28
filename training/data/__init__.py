"""From captioned data of any form to batches.

One row on its way to a batch of stage 2:

    a row of a dataset   {"jpg": image, "json": {"en": "a dog", "zh": "狗"}}
    `captions`           {"image": image, "captions": {"en": ["a dog"], "zh": ["狗"]}}
    `examples`           {"text": "a dog", "row_id": 0, "image": image}
                         {"text": "狗", "row_id": 0, "image": image}
    a batch              input_ids, attention_mask, text_rows, row_ids, pixel_values
                         (and what else the image processor returns)
"""

from .examples import CaptionExamples, Collator, prepare_images

__all__ = ["CaptionExamples", "Collator", "prepare_images"]
