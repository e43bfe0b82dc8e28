"""A benchmark as data: the keys that a task's YAML file may have, and what they mean.

task = load_task("flickr30k")              # benchmarks/tasks/flickr30k.yaml
task = load_task("my/signs.yaml")          # a task of your own
rows = read_rows(task, ["en", "zh"], limit=100)
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Task:
    """A benchmark as its YAML file describes it; all fields but `name`, `file` and `allow_outside_images`,
    which the user gives, are keys of that file.

    `dataset` and the JSON files of `class_names` and `templates` are read from beside the YAML file where
    they exist there, and otherwise from the working directory. `data_files` are relative to the dataset.

    - `name`: the file's stem. `file`: the file.
    - `kind`: `retrieval`, `mixed_pool` (retrieval from the texts of all languages at once) or `zero_shot`.
      `metric`: the one that tables show, see `checks.METRICS`.
    - `dataset`: a Hub id or a folder. `revision`, `config`, `split`, `data_files`: as in
      `datasets.load_dataset`. A folder that users must make themselves has a `preparation` that tells how.
    - `layout`: where images and texts lie in the dataset, see `layouts`. `columns`: names of the columns by
      their contents: `image` (optional where only one column holds images), `label` or `labels`; `captions`,
      which is the name of one column with a dict by language, or `{language: column}`.
    - `where`: values that annotations of the layout `coco_json` must have, and in the layout
      `language_column` and `candidates` what stands for each language. `join_words`: remove the spaces
      from captions. `merge_captions`: treat equal captions as one caption of several images; otherwise each
      is a query for its own image. `first_caption`: read the first caption of each image alone.
    - `languages`: languages of the captions, by default those that `columns.captions` maps to columns.
      Prompts of a classification come in any language.
    - `class_names`: `dataset` for the dataset's own, `clip_benchmark:KEY`, `altclip:imagenet`, a JSON file,
      or a dict that gives each language one of these or a list of names; and `class_subset`. `templates`:
      `simple`, `full`, a theme, a prompt template with `{}`, or a list of them. See `templates`.
    - `n_images` (by language, where each language has images of its own), `n_texts` (by language, where
      known), `n_classes`: the expected counts. `size`: of the files to download, unless it says otherwise.
    - `mteb`: ids of mteb's tasks on the same images and texts or labels, in its release 2.26.24; none where
      mteb has no such task. What it measures differently is in the `notes`.
    - `licence`, `gated`, `notes`. `split_differs`: how the images differ from those of the paper. `suites`:
      the lists of benchmarks it belongs to.
    - `unverified`: fields whose values were never compared with the Hub, and `class_names.LANGUAGE` for names
      that no native speaker has read.
    """

    name: str
    file: str
    kind: str
    dataset: str
    split: str
    metric: str
    revision: str | None = None
    config: str | None = None
    data_files: dict[str, str] | None = None
    layout: str = "table"
    columns: dict = field(default_factory=dict)
    where: dict = field(default_factory=dict)
    join_words: bool = False
    merge_captions: bool = False
    first_caption: bool = False
    languages: list[str] = field(default_factory=list)
    class_names: str | dict[str, str | list[str | None]] | None = None
    class_subset: str | None = None
    templates: str | list[str] = "simple"
    n_images: int | dict[str, int] | None = None
    n_texts: dict[str, int] = field(default_factory=dict)
    n_classes: int | None = None
    mteb: list[str] = field(default_factory=list)
    size: str | None = None
    licence: str | None = None
    gated: bool = False
    split_differs: str | None = None
    preparation: str | None = None
    notes: str | None = None
    allow_outside_images: bool = False
    suites: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)

    @property
    def has_captions(self) -> bool:
        """Return whether the images have captions; otherwise they have labels."""
        return self.kind in ("retrieval", "mixed_pool")

    @property
    def total_images(self) -> int | None:
        """Return the expected number of images, of all languages together; None where it is not known."""
        return sum(self.n_images.values()) if isinstance(self.n_images, dict) else self.n_images

    def images_of(self, language: str) -> int | None:
        """Return the expected number of images in a language; None where it is not known."""
        if isinstance(self.n_images, dict):
            return self.n_images.get(language)
        return self.n_images

    @property
    def to_prepare(self) -> str | None:
        """Tell users to make the folder that the task reads; None where nothing is to be done."""
        if self.preparation is None or Path(self.dataset).is_dir():
            return None
        return f"dataset {self.dataset!r} does not exist. {one_line(self.preparation)}"


def one_line(text: str) -> str:
    """Join the lines of a text, which YAML may have broken anywhere."""
    return " ".join(text.split())
