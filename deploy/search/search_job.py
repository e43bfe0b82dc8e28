"""`altclip search`: find pictures of an index by a text in any language, by a picture, or by both."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from common.arguments import trust_remote_code_field
from common.errors import InputError
from common.models.loading import check_model, load_model
from common.output import check_output_dir
from modeling_altclip.texts_altclip import is_blank

from .record import read_record


@dataclass(kw_only=True)
class SearchArguments:
    """An index, and what is looked for in it."""

    index: str = field(
        metadata={"help": "The folder of the index, which may also stand first without the flag."}
    )
    text: str | None = field(
        default=None,
        metadata={
            "help": "What the pictures show, in any language that the model reads. It may also stand second "
            "without the flag."
        },
    )
    image: str | None = field(
        default=None, metadata={"help": "A picture that those to be found are like; with a text, both count."}
    )
    text_weight: float = field(
        default=0.5, metadata={"help": "With both, the share of the text, from 0 to 1."}
    )
    top: int = field(default=10, metadata={"help": "The number of pictures to find."})
    sheet: str | None = field(
        default=None, metadata={"help": "The PNG file to draw the found pictures in, such as found.png."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Where the model is now that made the index. By default as it was named then."},
    )
    trust_remote_code: bool = trust_remote_code_field()

    def __post_init__(self):
        if self.text is None and self.image is None:
            raise InputError("text and image are missing: give words, or --image PICTURE, or both")
        if self.text is not None and is_blank(self.text):
            raise InputError("text is blank: give words")
        if not 0 <= self.text_weight <= 1:
            raise InputError(f"text_weight is {self.text_weight}: give a number from 0 to 1")
        if self.top < 1:
            raise InputError(f"top is {self.top}: give a number of at least 1")
        if self.sheet is not None and not self.sheet.lower().endswith(".png"):
            raise InputError(f"sheet is {self.sheet!r}: give a file that ends in .png")


def main(arguments: SearchArguments) -> None:
    """Load the index and its model, search, and print a table; draw a sheet if one is named.

    Raises:
        InputError: the index or the model cannot be used, or do not belong together; or the query cannot be
            embedded.
    """
    from .index import ImageIndex, embed_query  # needs the extra `search`, which --help does without
    from .sheet import draw_sheet

    record = read_record(Path(arguments.index))
    name = arguments.model_name_or_path or record.model
    given = {"argument": "model_name_or_path", "trust_remote_code": arguments.trust_remote_code}
    check_model(name, **given)
    if arguments.sheet is not None:
        check_output_dir(Path(arguments.sheet).parent, "sheet")

    index = ImageIndex(arguments.index)
    model, processor = load_model(name, **given)
    index.check_model(model, processor, name)
    model.to(PartialState().device)
    try:
        query = embed_query(
            model,
            processor,
            text=arguments.text,
            image=arguments.image,
            text_weight=arguments.text_weight,
            truncate_dim=index.record.truncate_dim,
        )
    except ValueError as error:
        raise InputError(error) from error  # names the text or the picture, and what is wrong with it

    start = time.perf_counter()
    found = index.search(query, arguments.top)
    milliseconds = 1000 * (time.perf_counter() - start)
    print("rank  score  picture")
    for rank, one in enumerate(found, start=1):
        # A file may have any name, also one that would control the terminal.
        shown = one.id if one.id.isprintable() else repr(one.id)
        print(f"{rank:4}  {one.score:5.3f}  {shown}")
    if arguments.sheet is not None:
        missing = draw_sheet(found, index.record.opened_source.open(), Path(arguments.sheet))
        if missing:
            print(f"{len(missing)} of them are gone or have changed: {', '.join(missing)}. Index again.")
    kind = "exactly" if index.record.compressed is None else "in the compressed index"
    where = "" if arguments.sheet is None else f" They are drawn in {arguments.sheet}, best first."
    print(f"Searched {len(index):,} pictures {kind} in {milliseconds:.1f} ms.{where}")


__all__ = ["SearchArguments", "main"]
