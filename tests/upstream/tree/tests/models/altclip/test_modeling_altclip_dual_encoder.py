"""Run transformers' common tests of models and configurations on dual encoders of four pairs of towers."""

import unittest

from transformers import (
    BertConfig,
    CLIPVisionConfig,
    Dinov2Config,
    ModernBertConfig,
    PreTrainedConfig,
    Qwen3Config,
    SwinConfig,
    ViTConfig,
    XLMRobertaConfig,
)

from modeling_altclip import AltCLIPDualEncoderConfig, AltCLIPDualEncoderModel

from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor, random_attention_mask

VOCABULARY = 99
FIRST_WORD = 4  # the ids below are special tokens
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = LAYERS | {"intermediate_size": 37, "vocab_size": VOCABULARY}
IMAGES = {"image_size": 32, "patch_size": 8}
SPECIAL_TOKENS = {
    "pad_token_id": 1,
    "cls_token_id": 0,
    "sep_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


class DualEncoderTester:
    """A small dual encoder of the towers given, and a batch of pairs for it."""

    batch_size = 3
    seq_length = 7
    num_hidden_layers = LAYERS["num_hidden_layers"]  # of either tower
    is_training = True

    def __init__(
        self, parent, vision: PreTrainedConfig, text: PreTrainedConfig, vision_pooling: str, text_pooling: str
    ):
        self.parent = parent
        self.towers = {"vision_config": vision.to_dict(), "text_config": text.to_dict()}
        self.poolings = {"vision_pooling": vision_pooling, "text_pooling": text_pooling}

    def get_config(self) -> AltCLIPDualEncoderConfig:
        towers = {name: dict(config) for name, config in self.towers.items()}
        # The scale is 1, as in the tester of AltCLIP.
        return AltCLIPDualEncoderConfig(
            **towers, **self.poolings, projection_dim=16, logit_scale_init_value=0.0
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        edge = IMAGES["image_size"]
        inputs = {
            "input_ids": ids_tensor(shape, VOCABULARY - FIRST_WORD) + FIRST_WORD,
            "attention_mask": random_attention_mask(shape),
            "pixel_values": floats_tensor([self.batch_size, 3, edge, edge]),
            "return_loss": True,
        }
        return self.get_config(), inputs


class DualEncoderTests(ModelTesterMixin):
    """The common tests, on the pair of towers that `make_tester` gives."""

    all_model_classes = (AltCLIPDualEncoderModel,)
    additional_model_inputs = ["pixel_values"]
    _is_composite = True

    def setUp(self):
        self.model_tester = self.make_tester()
        self.config_tester = ConfigTester(
            self,
            config_class=AltCLIPDualEncoderConfig,
            has_text_modality=False,
            common_properties=["projection_dim", "logit_scale_init_value", "text_pooling", "vision_pooling"],
        )

    def test_config(self):
        self.config_tester.run_common_tests()


class ViTAndXLMRobertaTest(DualEncoderTests, unittest.TestCase):
    def make_tester(self):
        text = XLMRobertaConfig(**TEXT, max_position_embeddings=40)
        vision = ViTConfig(**LAYERS, **IMAGES, intermediate_size=37)
        return DualEncoderTester(self, vision, text, "cls", "cls")


class Dinov2AndModernBertTest(DualEncoderTests, unittest.TestCase):
    def make_tester(self):
        vision = Dinov2Config(**LAYERS, **IMAGES)
        text = ModernBertConfig(**TEXT, **SPECIAL_TOKENS)
        return DualEncoderTester(self, vision, text, "cls", "mean")


class CLIPVisionAndBertTest(DualEncoderTests, unittest.TestCase):
    def make_tester(self):
        vision = CLIPVisionConfig(**LAYERS, **IMAGES, intermediate_size=37)
        text = BertConfig(**TEXT, max_position_embeddings=40)
        return DualEncoderTester(self, vision, text, "pooler", "cls")


class SwinAndQwen3Test(DualEncoderTests, unittest.TestCase):
    # The common tests take the width of an image's states for embed_dim; Swin doubles it at each stage.
    skip_test_image_features_output_shape = True

    def make_tester(self):
        vision = SwinConfig(
            image_size=IMAGES["image_size"],
            patch_size=4,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[2, 2],
            window_size=4,
        )
        text = Qwen3Config(**TEXT, num_key_value_heads=2, head_dim=8, pad_token_id=1)
        return DualEncoderTester(self, vision, text, "mean", "last")
