"""Describe a task in a few lines, before anything of it is read."""

from pathlib import Path

from .task import Task, one_line


def describe_task(task: Task, languages: list[str] | None = None, class_names: str | None = None) -> str:
    """Describe a task, a line each: what is read from where, how much, on which terms, and what is
    unverified.

    Args:
        languages: those to evaluate; the task's by default.
        class_names: the user's source of them, in place of the task's.
    """
    languages_read = languages or task.languages
    is_folder = Path(task.dataset).is_dir()
    lines = {
        "measures": _describe_metric(task, languages_read),
        "reads": _describe_dataset(task),
        "files": _describe_files(task, languages_read),
        "holds": _describe_counts(task, languages_read),
        "mteb": ", ".join(task.mteb),
        "names": _describe_names(class_names or task.class_names, languages),
        "terms": _describe_terms(task),
        "unverified": ", ".join(task.unverified),
        "differs": task.split_differs,
        "first": None if is_folder else task.preparation,
        "notes": task.notes,
    }
    text = [task.name]
    for key, value in lines.items():
        if value:
            text.append(f"  {key + ':':<12}{one_line(value)}")
    return "\n".join(text)


def _describe_metric(task: Task, languages: list[str]) -> str:
    line = f"{task.kind}, {task.metric}"
    if task.first_caption:
        line += ", by the first caption of each image"
    return f"{line}, in {' '.join(languages)}" if languages else line


def _describe_dataset(task: Task) -> str:
    """Name the dataset with its revision, configuration and split."""
    line = task.dataset
    is_folder = Path(task.dataset).is_dir()
    if task.revision:
        line += f" @ {task.revision}"
    elif not is_folder and not task.preparation:
        line += ", not pinned"
    if task.config:
        line += f", config {task.config}"
    return f"{line}, split {task.split}"


def _describe_files(task: Task, languages: list[str]) -> str:
    """Name the files that are read; those of other languages are not."""
    # Keys of `data_files` are splits, languages, or names such as `images`.
    unread = set(task.languages) - set(languages)
    files = [name for key, name in (task.data_files or {}).items() if key not in unread]
    if task.layout == "split_with_images":
        return f"those of splits {', '.join(languages)}"
    return ", ".join(files) or f"those of split {task.split}"


def _describe_counts(task: Task, languages: list[str]) -> str:
    counts = []
    if isinstance(task.n_images, dict):
        images = [f"{task.n_images[name]:,} in {name}" for name in languages if name in task.n_images]
        counts.append(f"images: {', '.join(images)}")
    elif task.n_images:
        counts.append(f"{task.n_images:,} images")
    if task.n_classes:
        counts.append(f"{task.n_classes:,} classes")
    known = [language for language in dict.fromkeys(languages) if task.n_texts.get(language)]
    if known:
        texts = ", ".join(f"{task.n_texts[language]:,} in {language}" for language in known)
        counts.append(f"texts: {texts}")
    counts.append(task.size or "size not known")
    return ", ".join(counts)


def _describe_names(
    source: str | dict[str, str | list[str]] | None, languages: list[str] | None
) -> str | None:
    """Name the sources of the class names, each with its languages."""
    if not isinstance(source, dict):
        return source
    # {"en": "dataset", "de": ["Hund"], "fr": ["chien"]} -> "dataset in en, the task's own in de fr"
    by_source = {}
    for language in languages or source:
        given = source[language]
        origin = given if isinstance(given, str) else "the task's own"
        by_source.setdefault(origin, []).append(language)
    return ", ".join(f"{origin} in {' '.join(named)}" for origin, named in by_source.items())


def _describe_terms(task: Task) -> str:
    licence = task.licence or "licence not known"
    access = "gated: accept the terms on its page" if task.gated else "not gated"
    return f"{licence}; {access}"
