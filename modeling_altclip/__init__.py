"""AltCLIP, a CLIP that reads many languages.

Importing this package tells the AutoClasses to build our classes for checkpoints of `model_type` "altclip", in place of
transformers' own; every other model type is left alone.
"""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from .configuration_altclip import AltCLIPConfig, AltCLIPTextConfig
from .embedding import embed_images, embed_texts
from .modeling_altclip import AltCLIPModel, AltCLIPTextModel
from .processing_altclip import AltCLIPProcessor

AutoConfig.register("altclip", AltCLIPConfig, exist_ok=True)
AutoModel.register(AltCLIPConfig, AltCLIPModel, exist_ok=True)
AutoModelForZeroShotImageClassification.register(AltCLIPConfig, AltCLIPModel, exist_ok=True)
AutoProcessor.register(AltCLIPConfig, AltCLIPProcessor, exist_ok=True)

__all__ = [
    "AltCLIPConfig",
    "AltCLIPModel",
    "AltCLIPProcessor",
    "AltCLIPTextConfig",
    "AltCLIPTextModel",
    "embed_images",
    "embed_texts",
]
