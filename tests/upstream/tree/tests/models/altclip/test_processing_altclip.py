"""Run transformers' common tests of processors on ours: a small XLM-R tokenizer, CLIP's image processor."""

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
        # (piece, log probability); "▁" is the space between words
        vocabulary = [(token, 0.0) for token in special]
        vocabulary += [(letter, -1.0) for letter in "▁" + LETTERS]
        vocabulary += [("<mask>", 0.0)]
        return XLMRobertaTokenizer(vocab=vocabulary, model_max_length=512)

    @classmethod
    def _setup_image_processor(cls) -> CLIPImageProcessor:
        return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
