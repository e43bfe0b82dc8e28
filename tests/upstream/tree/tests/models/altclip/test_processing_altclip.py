"""transformers' common tests of processors, on ours: a small tokenizer of XLM-R's kind beside CLIP's image processor."""

import unittest

from transformers import CLIPImageProcessor, XLMRobertaTokenizer

from modeling_altclip import AltCLIPProcessor

from ...test_processing_common import ProcessorTesterMixin

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class AltCLIPProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = AltCLIPProcessor

    @classmethod
    def _setup_tokenizer(cls) -> XLMRobertaTokenizer:
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        vocabulary = (
            [(token, 0.0) for token in special]
            + [(letter, -1.0) for letter in "▁" + LETTERS]
            + [("<mask>", 0.0)]
        )
        return XLMRobertaTokenizer(vocab=vocabulary, model_max_length=512)

    @classmethod
    def _setup_image_processor(cls) -> CLIPImageProcessor:
        return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
