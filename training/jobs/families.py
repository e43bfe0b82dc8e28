"""Text encoders of three families learn from a CLIP-like and a SigLIP-like teacher; one table and a plot."""

from pathlib import Path

from benchmarks.multiple_tests import check_resamples_for
from benchmarks.results import load_results
from benchmarks.tasks.loading import load_task
from common.files.whole_files import write_text
from common.models.kinds import CLIP_TEACHER, check_kind
from common.output import check_output_dir
from common.paths import check_folder
from training.experiment import METRICS, evaluate_models
from training.families import (
    STUDENTS,
    TEACHERS,
    FamiliesArguments,
    families_report,
    measure_gaps,
    plot_families,
    train_student,
    train_teacher,
)


def main(arguments: FamiliesArguments) -> None:
    check_output_dir(arguments.output_dir)
    check_kind("clip_teacher_name_or_path", arguments.clip_teacher_name_or_path, CLIP_TEACHER)
    check_folder("dataset", arguments.dataset)
    n_languages = len(load_task(arguments.retrieval).languages)
    check_resamples_for(n_languages * len(TEACHERS) * len(STUDENTS), arguments.n_resamples)

    folders = {"clip": arguments.clip_teacher_name_or_path, "siglip": train_teacher(arguments)}
    teachers = list(folders.values())
    students = []
    for kind, teacher in zip(TEACHERS, teachers):
        for student in STUDENTS:
            folder = train_student(kind, teacher, student, arguments)
            folders[f"{kind}-{student}"] = folder
            students.append(folder)
    evaluate_models([*teachers, *students], arguments, "--english_only", *teachers)  # teachers read English

    output_dir = Path(arguments.output_dir)
    results = load_results(output_dir / "results")
    gaps = {kind: measure_gaps(results, kind, folders, arguments) for kind in METRICS}
    report = families_report(gaps, arguments)
    write_text(output_dir / "families.md", report + "\n")
    plot_families(gaps, output_dir / "families.png", arguments)
    print(f"{report}\nSaved the tables to {output_dir}/families.md. Next: look at {output_dir}/families.png.")
