"""Run transformers' common tests of models and configurations on AltCLIP and its text tower."""

import unittest

import torch

from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPTextConfig, AltCLIPTextModel

from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor, random_attention_mask


class AltCLIPTextModelTester:
    """A small text tower and a batch for it, in the form that `ModelTesterMixin` asks for."""

    batch_size = 3
    seq_length = 7
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    vocab_size = 99
    is_training = False  # it has no loss of its own; AltCLIPModelTest trains it

    def __init__(self, parent, project_dim: int = 24):
        self.parent = parent
        self.project_dim = project_dim

    def get_config(self) -> AltCLIPTextConfig:
        return AltCLIPTextConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_position_embeddings=40,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            project_dim=self.project_dim,
        )

    def prepare_inputs(self) -> dict[str, torch.Tensor]:
        shape = [self.batch_size, self.seq_length]
        first_word = 4  # the ids below are XLM-R's special tokens
        words = ids_tensor(shape, self.vocab_size - first_word)
        return {"input_ids": words + first_word, "attention_mask": random_attention_mask(shape)}

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.prepare_inputs()


class AltCLIPModelTester:
    """A small AltCLIP and a batch of pairs."""

    num_hidden_layers = 2  # of either tower
    is_training = True

    def __init__(self, parent):
        self.parent = parent
        # The common tests take the width of a text's states for hidden_size.
        self.text_model_tester = AltCLIPTextModelTester(
            parent, project_dim=AltCLIPTextModelTester.hidden_size
        )
        self.batch_size = self.text_model_tester.batch_size
        self.seq_length = self.text_model_tester.seq_length

    def get_config(self) -> AltCLIPConfig:
        vision_config = {
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": 4,
            "image_size": 30,
            "patch_size": 10,
        }
        return AltCLIPConfig(
            text_config=self.text_model_tester.get_config(),
            vision_config=vision_config,
            projection_dim=16,
            # A scale of 1: the common tests allow logits in half precision an error of 0.005, and CLIP's
            # scale of 14 is of errors too.
            logit_scale_init_value=0.0,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        size = config.vision_config.image_size
        pixel_values = floats_tensor([self.batch_size, config.vision_config.num_channels, size, size])
        inputs = self.text_model_tester.prepare_inputs()
        inputs |= {"pixel_values": pixel_values, "return_loss": True}
        return config, inputs


class AltCLIPTextModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (AltCLIPTextModel,)

    def setUp(self):
        self.model_tester = AltCLIPTextModelTester(self)
        self.config_tester = ConfigTester(self, config_class=AltCLIPTextConfig, hidden_size=32)

    def test_config(self):
        self.config_tester.run_common_tests()


class AltCLIPModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (AltCLIPModel,)
    additional_model_inputs = ["pixel_values"]
    _is_composite = True

    def setUp(self):
        self.model_tester = AltCLIPModelTester(self)
        self.config_tester = ConfigTester(
            self,
            config_class=AltCLIPConfig,
            has_text_modality=False,
            common_properties=["projection_dim", "logit_scale_init_value"],
        )

    def test_config(self):
        self.config_tester.run_common_tests()
