"""Small copies of what the steps of a road read: corpora, models, and what earlier steps make.

Models have their real configurations, so that sizes are theirs, without weights, and a small tokenizer.
"""

import json
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, Features, Image, List, Value
from transformers import PreTrainedConfig

from common.languages import find_language
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.cleaning.arguments import CleaningArguments
from training.data.parallel_text import read_sources
from training.data.preview import N_ROWS, first_captions
from training.data.sources.loading import all_source_names, find_source, load_source
from training.data.sources.reading import read_texts
from training.data.sources.source import Source
from training.download.arguments import DownloadArguments
from training.download.corpora import open_corpus
from training.dry_run import print_plan
from training.miniature.vocabulary import train_multilingual_tokenizer
from training.model_checks import check_models, check_tokenizers
from training.parallel.trainer import ParallelArguments
from training.road.models import read_config, recorded_models
from training.road.plan import hour_lines, plan_road, say_bytes
from training.road.steps import Step, read_arguments
from training.teachers import join
from training.translation.translating import TranslationArguments

from .fake_hub import FakeHub
from .replicas import encoded, write_tar
from .source_replicas import N, texts_of, write_source


class RoadReplica:
    """Writes copies for a hub, and runs steps dry on them, in the working directory.

    Args:
        hub: serves the copies.
        folder: where they are written.
    """

    def __init__(self, hub: FakeHub, folder: Path):
        self.hub = hub
        self.folder = folder
        letters = [chr(number) for number in range(97, 123)]
        self.tokenizer = train_multilingual_tokenizer([" ".join(letters), "a dog and a cat 0 1 2 3 4 5"], 36)

    def write_models(self) -> None:
        """Write the configurations of all recorded models, and serve them."""
        for name in recorded_models():
            self._write_model(self.folder / name, read_config(name, "model"))
            self.hub.folders[name] = self.folder / name

    def _write_model(self, folder: Path, config: PreTrainedConfig) -> None:
        config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def write_corpora(self, steps: list[Step]) -> None:
        """Write the corpora that recipes name, each once, in the languages of all of them, and serve them.

        Raises:
            InputError: a recipe names no corpus.
        """
        languages = {}
        for step in steps:
            arguments = read_arguments(step)
            dataset = getattr(arguments, "dataset", None)
            # What is below `outputs`, an earlier step makes.
            if dataset is None or Path(dataset).parts[0] == "outputs":
                continue
            for given in read_sources(dataset):
                source = find_source(given["data"]) or _source_at(given["data"])
                wanted = dict.fromkeys(languages_of(arguments))
                languages[source.name] = languages.get(source.name, {}) | wanted
        for name, wanted in languages.items():
            self._write_corpus(load_source(name), list(wanted))

    def _write_corpus(self, source: Source, languages: list[str]) -> None:
        found = [find_language(language, source.languages) for language in languages]
        others = [language for language in dict.fromkeys(found) if language not in (None, "en")]
        folder = self.folder / source.dataset
        write_source(source, folder, others)
        self.hub.folders[source.dataset] = folder
        if source.revision is not None:
            self.hub.commits[source.dataset] = source.revision

    def run_dry(self, step: Step) -> None:
        """Check a step on the copies, and write what it would make.

        Raises:
            InputError: it names data, a language or a model that does not exist.
        """
        arguments = read_arguments(step)
        output = step.output_dir
        if isinstance(arguments, TeacherLearningArguments | ContrastiveArguments):
            arguments.dry_run = True
            arguments.use_cpu = True
            print_plan(arguments)
            self._write_model(output, self._config_after(arguments))
        elif isinstance(arguments, ParallelArguments):
            check_models(arguments)
            check_tokenizers(arguments)
            print(first_captions(arguments)[1])
        elif isinstance(arguments, CleaningArguments):
            self._clean(arguments)
        elif isinstance(arguments, DownloadArguments):
            # The first rows alone, as in other dry runs
            first = replace(arguments, rows=N_ROWS)
            rows, named = open_corpus(find_source(arguments.dataset), first)
            print(f"{len(rows)} addresses in column {named.url_column}; columns {', '.join(rows.features)}")
            write_downloaded(output, arguments.languages)
        elif isinstance(arguments, TranslationArguments):
            write_translated(output, [arguments.source_language, *arguments.target_languages])
        else:
            print("Nothing to run: the plan has checked its tasks, languages and models.")

    def _config_after(self, arguments) -> PreTrainedConfig:
        """Return the configuration of the model that a training would save."""
        if arguments.model_name_or_path is not None:
            return read_config(arguments.model_name_or_path, "model_name_or_path")
        image_side = read_config(getattr(arguments, arguments.image_side), arguments.image_side)
        encoder = read_config(arguments.text_encoder_name_or_path, "text_encoder_name_or_path")
        return join(
            image_side,
            encoder,
            text_pooling=arguments.text_pooling,
            text_head=arguments.text_head,
            has_text_teacher=arguments.has_text_teacher,
        )

    def _clean(self, arguments: CleaningArguments) -> None:
        """Read the first rows of each corpus, and write them as a cleaning does: parquet, and a list."""
        folder = Path(arguments.output_dir)
        listed = []
        for number, given in enumerate(read_sources(arguments.dataset)):
            rows = read_texts(find_source(given["data"]), arguments.languages, arguments.split, N_ROWS)
            name = f"data/{number:05d}.parquet"
            rows.to_parquet(folder / name)
            listed.append({"data": name})
            print(f"{given['data']}: captions in {' '.join(rows.features['captions'])}")
        (folder / "sources.yaml").write_text(json.dumps(listed))


def _source_at(dataset: str) -> Source:
    """Return the source whose repository on the Hub is named."""
    sources = [load_source(name) for name in all_source_names()]
    (source,) = [source for source in sources if source.dataset == dataset]
    return source


def languages_of(arguments) -> list[str]:
    """Return the languages in which a step reads its data."""
    if isinstance(arguments, TranslationArguments):
        return [arguments.source_language]
    if isinstance(arguments, TeacherLearningArguments):
        return arguments.languages_to_read
    return arguments.languages


def write_downloaded(folder: Path, languages: list[str]) -> None:
    """Write a tar as a download does: pictures, and their captions in JSON."""
    folder.mkdir(parents=True)
    members = {}
    for number in range(N):
        captions = [{"language": language, "text": f"{language} {number}"} for language in languages]
        members[f"{number:09d}.jpg"] = encoded(number, "jpg")
        members[f"{number:09d}.json"] = json.dumps({"captions": captions}).encode()
    write_tar(folder / "00000.tar", members)


def write_translated(folder: Path, languages: list[str]) -> None:
    """Write a dataset as a translation does: pictures with lists of captions in each language."""
    captions = []
    for number in range(N):
        captions.append({language: [texts_of(language)[number]] for language in languages})
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(N)]
    features = Features({"image": Image(), "captions": dict.fromkeys(languages, List(Value("string")))})
    rows = Dataset.from_dict({"image": images, "captions": captions}, features)
    for split in ("train", "test"):
        rows.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")


def row_of_table(name: str, steps: list[Step]) -> dict[str, str]:
    """Return the row of a road in the table of all, by the names of the columns."""
    plan = plan_road(steps)
    texts, pictures = 0, 0
    for step_plan in plan.steps:
        if step_plan.n_parameters is not None:
            texts = max(texts, step_plan.amount.texts)
            pictures = max(pictures, step_plan.amount.pictures)
    n_bytes = say_bytes(plan.n_bytes)
    if plan.unknown:
        n_bytes += f" without {', '.join(plan.unknown)}"
    hours = dict(hour_lines(plan.operations))
    terms = ", ".join(plan.outcome.terms)
    if plan.outcome.unknown:
        names = [label.partition(" (")[0] for label in plan.outcome.unknown]
        terms += f"; not known of {', '.join(names)}"
    return {
        "road": name,
        "texts": f"{texts / 1e6:,.1f} M",
        "pictures": f"{pictures / 1e6:,.1f} M",
        "to download": n_bytes,
        "on the disk": say_bytes(plan.disk),
        "hours on 1 GPU": hours["hours on 1 GPU"],
        "hours on 8 GPUs": hours["hours on 8 GPUs"],
        "terms of the outcome": terms,
    }
