"""`altclip page`: serve the demo page for a model and its index, or write it as a Space."""

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from accelerate import PartialState

from common.arguments import trust_remote_code_field
from common.errors import InputError
from common.extras import of_extra
from common.files.text_files import read_text
from common.models.libraries import check_library
from common.models.loading import check_model, load_model
from common.output import check_new_output_dir
from deploy.search.record import read_record

_LARGEST_PORT = 65_535
# What the page shows at the beginning, here and as a Space.
_SHOWN = ("queries", "labels", "trust_remote_code")


@dataclass(kw_only=True)
class PageArguments:
    """An index, and what the page shows beside it."""

    index: str = field(
        metadata={
            "help": "The folder of the index, as altclip index makes it, which may also stand first without "
            "the flag."
        }
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Where the model is now that made the index. By default as it was named then."},
    )
    title: str = field(default="Search in any language", metadata={"help": "The title of the page."})
    queries: list[str] = field(
        default_factory=list,
        metadata={"help": 'One text in several languages, to begin with, such as "red apple" 红苹果.'},
    )
    labels: list[str] = field(
        default_factory=list, metadata={"help": "Class names for classification, to begin with."}
    )
    attribution: str | None = field(
        default=None,
        metadata={
            "help": "A file in Markdown that says whose the pictures are and under which licences. The page "
            "shows it, and a Space has to have it."
        },
    )
    space_dir: str | None = field(
        default=None,
        metadata={"help": "A new folder to write the page into as a Space. The page is not served then."},
    )
    host: str | None = field(
        default=None,
        metadata={
            "help": "The address to serve at. By default this machine alone can open the page; 0.0.0.0 lets "
            "all that reach this machine open it."
        },
    )
    port: int | None = field(
        default=None, metadata={"help": "The port to serve at. By default the first free one from 7860 on."}
    )
    trust_remote_code: bool = trust_remote_code_field()

    def __post_init__(self):
        if self.port is not None and not 1 <= self.port <= _LARGEST_PORT:
            raise InputError(f"port is {self.port}: give a number from 1 to {_LARGEST_PORT}")
        if self.space_dir is not None and self.attribution is None:
            raise InputError(
                "space_dir is given and attribution is missing: give a file that says whose the pictures are "
                "and under which licences, since a Space shows them to everybody"
            )


def main(arguments: PageArguments) -> None:
    """Load the index and its model, and serve the page until it is stopped; or write the Space.

    Raises:
        InputError: the index, the model or a file cannot be used, or index and model do not belong together.
    """
    from deploy.search.index import ImageIndex  # needs the extra `search`, which --help does without

    name = _check(arguments)
    attribution = ""
    if arguments.attribution is not None:
        attribution = read_text(Path(arguments.attribution), "attribution")
    index = ImageIndex(arguments.index)
    model, processor = load_model(
        name, argument="model_name_or_path", trust_remote_code=arguments.trust_remote_code
    )
    index.check_model(model, processor, name)
    if arguments.space_dir is not None:
        _write(arguments, index, name, attribution)
    else:
        _serve(arguments, index, model.to(PartialState().device), processor, attribution)


def _check(arguments: PageArguments) -> str:
    """Refuse what cannot work before anything is loaded, and return the name of the model.

    Raises:
        InputError: Gradio is not installed; the index, the model or `space_dir` cannot be used.
    """
    with of_extra("page"):
        version("gradio")
    name = arguments.model_name_or_path or read_record(Path(arguments.index)).model
    if library := check_library(name):
        raise InputError(
            f"model_name_or_path is {name!r}, and the pipeline that classifies has no model of {library}: "
            "give a model of transformers, by which the index was made"
        )
    check_model(name, "model_name_or_path", trust_remote_code=arguments.trust_remote_code)
    if arguments.space_dir is not None:
        check_new_output_dir(arguments.space_dir)
    return name


def _write(arguments: PageArguments, index, name: str, attribution: str) -> None:
    """Write the Space, and say how it is pushed."""
    from .space import write_space

    settings = {key: value for key, value in asdict(arguments).items() if key in _SHOWN and value}
    write_space(
        arguments.space_dir, index, name, title=arguments.title, settings=settings, attribution=attribution
    )
    print(
        f"{arguments.space_dir} is a Space. Try it: python {arguments.space_dir}/app.py. Push it: "
        f"hf upload ORG/NAME {arguments.space_dir} . --repo-type space"
    )


def _serve(arguments: PageArguments, index, model, processor, attribution: str) -> None:
    """Serve the page until it is stopped."""
    from .blocks import build_page, serve  # needs the extra `page`
    from .demo import Demo

    page = build_page(
        Demo(index, model, processor),
        title=arguments.title,
        queries=arguments.queries,
        labels=arguments.labels,
        attribution=attribution,
    )
    try:
        address = serve(page, arguments.host, arguments.port)
    except OSError as error:
        raise InputError(f"port {arguments.port} cannot be served at: {error}. Give another one") from error
    print(f"The page is at {address} with {len(index):,} pictures. Ctrl+C ends it.", flush=True)
    page.block_thread()


__all__ = ["PageArguments", "main"]
