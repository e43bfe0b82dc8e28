"""Export a model's towers to ONNX, and run them without torch.

`runtime` and `pictures` need onnxruntime, tokenizers, numpy and Pillow alone, for whose sake this module
imports neither torch nor a package of ours.
"""

import os

# onnxruntime's builds report their use to Microsoft, from the moment they are imported. Nothing leaves a
# machine that its user has not sent; ORT_DISABLE_TELEMETRY=0 allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
