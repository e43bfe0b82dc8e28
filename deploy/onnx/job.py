"""Export a finished model to ONNX, for onnxruntime and transformers.js, behind a quality gate.

The output folder has `onnx/text_model.onnx` and `onnx/vision_model.onnx`, with the endings of transformers.js
for other number formats; `config.json`, and the files of the tokenizer and the image processor; and
`altclip_export.json`: what was exported by which versions, how far it is from torch, and what the gate
measured.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import ProcessorMixin

from common.arguments import trust_remote_code_field
from common.errors import InputError
from common.files.whole_files import whole_new_folder
from common.models.loading import check_model, load_model
from common.output import bytes_of_weights, check_free, check_new_output_dir, saving
from modeling_altclip import AltCLIPModel

_DTYPES = ("fp32", "fp16", "int8", "q8", "q4")
_LAYOUTS = ("transformers.js", "immich")


@dataclass(kw_only=True)
class ExportArguments:
    """A model, the number formats it is exported in, and the validation data of the gate."""

    model_name_or_path: str = field(
        metadata={"help": "The folder or Hub id of the model, which may also stand first without the flag."}
    )
    output_dir: str = field(metadata={"help": "The folder to make for the exported model; it must be new."})
    dtypes: list[str] = field(
        default_factory=lambda: ["fp32", "int8"],
        metadata={
            "help": "Number formats of the weights, by transformers.js' names: fp32, fp16, int8 (the fastest "
            "on CPUs), q8 (8 bits in blocks, closer to fp32), q4 (4 bits in blocks)."
        },
    )
    validation_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of images with captions in the model's languages, on which formats are "
            "compared with fp32. Without it no gate is applied."
        },
    )
    validation_split: str = field(default="validation", metadata={"help": "Split of that dataset."})
    languages: list[str] | None = field(
        default=None,
        metadata={"help": "Languages of the gate, such as en zh. By default all of the captions."},
    )
    max_drop: float = field(
        default=0.5,
        metadata={
            "help": "The most points of mean recall that a format may lose in any language against fp32."
        },
    )
    layout: str = field(
        default="transformers.js",
        metadata={
            "help": "Whose files the folder has: transformers.js, which OnnxAltCLIP reads too, or immich, in "
            "one number format."
        },
    )
    joint: bool = field(
        default=False,
        metadata={
            "help": "Also write both towers as one graph, onnx/model.onnx, for the pipeline "
            "zero-shot-image-classification of transformers.js. It doubles the size of the folder."
        },
    )
    trust_remote_code: bool = trust_remote_code_field()

    def __post_init__(self):
        unknown = [dtype for dtype in self.dtypes if dtype not in _DTYPES]
        if unknown or not self.dtypes or len(set(self.dtypes)) < len(self.dtypes):
            raise InputError(
                f"dtypes is {' '.join(self.dtypes) or 'empty'}: give some of {' '.join(_DTYPES)}, each once"
            )
        if not self.max_drop >= 0:
            raise InputError(f"max_drop is {self.max_drop}: give a number of points, 0 or more")
        if self.languages and self.validation_dataset is None:
            raise InputError(
                f"languages is {' '.join(self.languages)}, which the gate alone reads: give a "
                "validation_dataset too"
            )
        self._check_layout()

    def _check_layout(self):
        if self.layout not in _LAYOUTS:
            raise InputError(f"layout is {self.layout!r}: give one of {' '.join(_LAYOUTS)}")
        if self.layout != "immich":
            return
        if len(self.dtypes) > 1:
            raise InputError(
                f"dtypes is {' '.join(self.dtypes)}, and a folder of immich has one model: give one of them"
            )
        if self.joint:
            raise InputError("joint is given, and immich reads both towers by themselves: leave it out")


def main(arguments: ExportArguments) -> None:
    """Check input and output, export, compare with torch, pass the gate, and give the folder its name.

    Raises:
        InputError: the model, the output folder or the validation data cannot be used; the model is of a kind
            that cannot be exported; or a format does not pass the gate. Then nothing has been written.
    """
    from .checking import check_inputs, compare  # these need the extra `export`, which --help does without
    from .examples import examples_of
    from .folder import (
        begin_record,
        remove_towers,
        write_joint_graphs,
        write_record,
        write_settings,
        write_towers,
    )
    from .gate import Validation, pass_gate
    from .immich import arrange, check_readable

    check_new_output_dir(arguments.output_dir)
    folder = Path(arguments.output_dir)
    model, processor = _load(arguments)
    validation = None
    if arguments.validation_dataset is not None:
        validation = Validation.load(
            arguments.validation_dataset, arguments.validation_split, arguments.languages
        )

    n_bytes = bytes_of_weights(model) * (1 + len(arguments.dtypes)) * (1 + arguments.joint)
    check_free(folder, n_bytes, "the exported model")
    with saving("the exported model", folder, n_bytes), whole_new_folder(folder) as made:
        write_settings(made, model, processor)
        record = begin_record(Path(arguments.model_name_or_path).name, model, processor)
        record["dtypes"] = ["fp32", *arguments.dtypes]  # those that are compared
        check_inputs(made, record, model, processor)
        if arguments.layout == "immich":
            check_readable(made, record)
        if arguments.joint:
            _check_softmax(record)
        examples = {}
        if "int8" in arguments.dtypes:
            examples = examples_of(made, record, validation)
        write_towers(made, model, processor, arguments.dtypes, examples)
        write_record(made, record)
        record["compared"] = compare(made, arguments.dtypes, model, processor)
        record["gate"] = None
        if validation is not None:
            record["gate"] = pass_gate(made, arguments.dtypes, validation, arguments.max_drop)
        if "fp32" not in arguments.dtypes:
            remove_towers(made, "fp32")
        record["dtypes"] = arguments.dtypes
        if arguments.joint:
            write_joint_graphs(made, arguments.dtypes, record["logit_scale"])
        if arguments.layout == "immich":
            arrange(made, arguments.dtypes[0], record)
        write_record(made, record)
    _say(arguments, record)


def _load(arguments: ExportArguments) -> tuple[AltCLIPModel, ProcessorMixin]:
    """Load the model in eval mode.

    Raises:
        InputError: it cannot be loaded, or is of another kind.
    """
    name = arguments.model_name_or_path
    given = {"argument": "model_name_or_path", "trust_remote_code": arguments.trust_remote_code}
    check_model(name, **given)
    model, processor = load_model(name, **given)
    if not isinstance(model, AltCLIPModel):
        raise InputError(
            f"model_name_or_path {name!r} is a {type(model).__name__}: give an AltCLIPModel or an "
            "AltCLIPDualEncoderModel"
        )
    return model.eval(), processor


def _check_softmax(record: dict) -> None:
    """See that a model scores by the softmax, as transformers.js does for every model but SigLIP.

    Raises:
        InputError: it scores by a sigmoid.
    """
    if record["logit_bias"] is not None:
        raise InputError(
            "joint is given for a model with a logit_bias, and transformers.js would score its labels by the "
            "softmax: leave joint out"
        )


def _say(arguments: ExportArguments, record: dict) -> None:
    """Print what was measured, where the folder is, and what to do next."""
    differences = record["compared"]["largest_difference"]
    print(
        f"fp32 differs from torch by {differences['texts']:.1e} for texts and {differences['images']:.1e} "
        "for images."
    )
    for dtype, cosines in record["compared"]["smallest_cosine"].items():
        if dtype != "fp32":
            print(
                f"{dtype}: cosine with fp32 at least {cosines['texts']:.5f} for texts and "
                f"{cosines['images']:.5f} for images."
            )
    if record["gate"] is None:
        print("No gate was applied: give --validation_dataset to compare mean recall in each language.")
    else:
        languages = record["gate"]["mean_recall"]["fp32"]
        print(
            f"No format loses more than {arguments.max_drop} points of mean recall in any of "
            f"{len(languages)} languages."
        )
    if arguments.layout == "immich":
        print(
            f"Exported to {arguments.output_dir}. Next: copy it into immich's cache under the name of one of "
            f"its models of {record['projection_dim']} dimensions, see docs/export.md"
        )
        return
    print(
        f"Exported to {arguments.output_dir}. Next: OnnxAltCLIP.from_folder({arguments.output_dir!r}, "
        f"dtype={arguments.dtypes[-1]!r}) of altclip.deploy.onnx.runtime embeds and classifies without torch"
    )


__all__ = ["ExportArguments", "main"]
