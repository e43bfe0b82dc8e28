"""AltCLIP's processor: an XLM-R tokenizer beside CLIP's image processor, with the padding and cutting that training used."""

from transformers import AltCLIPProcessor as NativeAltCLIPProcessor
from transformers.processing_utils import ProcessingKwargs


class AltCLIPProcessorKwargs(ProcessingKwargs, total=False):
    """Texts are padded to the longest of the batch and cut at the tokenizer's `model_max_length` (77 in the paper)."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}


class AltCLIPProcessor(NativeAltCLIPProcessor):
    """Turns texts and images into `input_ids`, `attention_mask` and `pixel_values`, padded and cut unless told otherwise.

    Saved under the native class's name, so plain transformers reads the folder without remote code. It then gives its own
    class, which neither pads nor cuts unless asked to; `AutoProcessor` does the same, whether this package is there or not.
    """

    valid_processor_kwargs = AltCLIPProcessorKwargs


__all__ = ["AltCLIPProcessor"]
