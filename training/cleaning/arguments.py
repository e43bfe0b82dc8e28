"""The settings of a cleaning: which steps are taken, and how strict each is."""

from dataclasses import dataclass, field

from common.errors import InputError


@dataclass
class CleaningArguments:
    """Settings of `run_clean.py`. Each step can be left out; a text is removed by the first that it fails."""

    dataset: str = field(
        metadata={"help": "Parallel text in any form that stage 1 reads, or a .yaml file of sources."}
    )
    output_dir: str = field(metadata={"help": "Folder for the cleaned texts and the report."})
    split: str = field(
        default="train", metadata={"help": "Split of folders and Hub datasets that state none of their own."}
    )
    kinds: list[str] | None = field(
        default=None, metadata={"help": "Clean only sources of these kinds, such as human."}
    )
    unescape_entities: bool = field(
        default=True, metadata={"help": "Write characters in place of HTML's entities, & for &amp;."}
    )
    normalize_unicode: bool = field(
        default=True,
        metadata={"help": "Write texts in Unicode's form NFC, without control and invisible characters."},
    )
    remove_markup: bool = field(default=True, metadata={"help": "Remove texts with tags of HTML or XML."})
    remove_placeholders: bool = field(
        default=True, metadata={"help": "Remove texts with placeholders of programs, as %%s, {0} and $1."}
    )
    remove_addresses: bool = field(
        default=True, metadata={"help": "Remove texts with addresses of the web or of e-mail."}
    )
    least_length: int = field(default=2, metadata={"help": "Remove texts of fewer letters; 0 removes none."})
    most_length: int = field(default=1000, metadata={"help": "Remove texts of more letters; 0 removes none."})
    remove_equal: bool = field(
        default=True, metadata={"help": "Remove texts in another language that are equal to the English."}
    )
    most_ratio: float = field(
        default=3.0,
        metadata={"help": "Remove translations this many times longer or shorter; 0 removes none."},
    )
    languages: list[str] | None = field(
        default=None,
        metadata={"help": "Languages of public corpora to read, and English; of other data all are read."},
    )
    identify_languages: bool = field(
        default=False,
        metadata={"help": "Remove texts that are not in their language, by lingua (extra cleaning)."},
    )
    least_confidence: float = field(
        default=0.1, metadata={"help": "Least confidence that a text is in its language, 0 to 1."}
    )
    filter: str | None = field(
        default=None,
        metadata={"help": "A function of your own, FILE.py:FUNCTION, that names what to remove."},
    )
    near_duplicates: float = field(
        default=0.8,
        metadata={"help": "Jaccard similarity from which a later pair is removed; 0 removes none."},
    )
    similarity_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Encoder that compares translations with their English: a multilingual CLIP, a text "
            "encoder, or sentence_transformers:NAME."
        },
    )
    similarity_prefix: str = field(
        default="", metadata={"help": "Put before each text that is compared, as 'query: ' for E5."}
    )
    least_similarity: float | None = field(
        default=None, metadata={"help": "Remove translations whose cosine similarity is less, -1 to 1."}
    )
    processes: int = field(default=1, metadata={"help": "Processes; the output does not depend on them."})
    part_rows: int = field(
        default=20_000, metadata={"help": "Rows that a process holds in memory and writes at a time."}
    )

    def __post_init__(self):
        """Check the values.

        Raises:
            InputError: a number is out of its range, or the filter is no file and function.
        """
        for name in ("least_length", "most_length"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _check(
            "most_ratio", self.most_ratio, self.most_ratio == 0 or self.most_ratio > 1, "0, or more than 1"
        )
        for name in ("least_confidence", "near_duplicates"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        least = self.least_similarity
        if least is not None:
            _check("least_similarity", least, -1 <= least <= 1, "a number from -1 to 1")
            if self.similarity_model_name_or_path is None:
                raise InputError(
                    f"least_similarity is {least}, but nothing compares: give similarity_model_name_or_path"
                )
        if self.most_length and self.most_length < self.least_length:
            raise InputError(
                f"most_length is {self.most_length}, less than least_length, {self.least_length}: nothing "
                "would be left"
            )
        for name in ("processes", "part_rows"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        if self.filter is not None:
            file, colon, function = self.filter.rpartition(":")
            is_named = file.endswith(".py") and bool(colon) and function.isidentifier()
            _check("filter", repr(self.filter), is_named, "FILE.py:FUNCTION")


def _check(name: str, value: object, is_right: bool, wanted: str) -> None:
    """Refuse a value.

    Raises:
        InputError: it is not right; the message says what is wanted.
    """
    if not is_right:
        raise InputError(f"{name} is {value}: give {wanted}")


__all__ = ["CleaningArguments"]
