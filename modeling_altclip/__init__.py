"""AltCLIP, a CLIP that reads many languages.

Importing this package registers our classes with transformers' AutoClasses: for checkpoints of `model_type`
"altclip", in place of transformers' own, and of "altclip_dual_encoder". Other model types are left alone.
`pipeline("zero-shot-image-classification")` uses our pipeline for these models.
"""

from . import reproducibility  # noqa: F401, I001  (before torch is loaded)

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_altclip import AltCLIPConfig, AltCLIPTextConfig
from .configuration_altclip_dual_encoder import AltCLIPDualEncoderConfig
from .embedding import ImageEmbeddings, SkippedImage, embed_images, embed_texts
from .modeling_altclip import AltCLIPModel, AltCLIPOutput, AltCLIPTextModel
from .modeling_altclip_dual_encoder import AltCLIPDualEncoderModel
from .pipeline_altclip import AltCLIPZeroShotPipeline
from .processing_altclip import AltCLIPProcessor

for config_class, model_class in (
    (AltCLIPConfig, AltCLIPModel),
    (AltCLIPDualEncoderConfig, AltCLIPDualEncoderModel),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(config_class, model_class, exist_ok=True)
    AutoProcessor.register(config_class, AltCLIPProcessor, exist_ok=True)
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")
AltCLIPProcessor.register_for_auto_class("AutoProcessor")

# Set in place: `register_pipeline` would drop the task's default model, and mark saved pipelines as remote
# code.
PIPELINE_REGISTRY.supported_tasks["zero-shot-image-classification"]["impl"] = AltCLIPZeroShotPipeline

__all__ = [
    "AltCLIPConfig",
    "AltCLIPDualEncoderConfig",
    "AltCLIPDualEncoderModel",
    "AltCLIPModel",
    "AltCLIPOutput",
    "AltCLIPProcessor",
    "AltCLIPTextConfig",
    "AltCLIPTextModel",
    "AltCLIPZeroShotPipeline",
    "ImageEmbeddings",
    "SkippedImage",
    "embed_images",
    "embed_texts",
]
