"""Download pictures: from a table of addresses to tars that stage 2 reads."""

import shlex
from pathlib import Path

from common.errors import InputError
from common.origins import write_origins
from common.output import check_not_input, check_output_dir
from training.data.sources.origin import find_origins
from training.download.addresses import prepare
from training.download.arguments import DownloadArguments
from training.download.outcome import FAILURES, as_table, check, licence_of, write_card
from training.download.running import alone_in, check_no_proxy, download, find_python


def main(arguments: DownloadArguments) -> None:
    """Download what is not there yet, check all of it, and print the outcome."""
    check_output_dir(arguments.output_dir)
    check_not_input(arguments.output_dir, {"dataset": arguments.dataset})
    python = find_python(arguments.environment)
    check_no_proxy()
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    with alone_in(arguments.output_dir):
        prepared = prepare(arguments)
        print(f"{prepared.addresses:,} addresses of {prepared.rows:,} rows, in {prepared.shards:,} tars.")
        download(arguments, python, prepared)
        outcome = check(arguments, prepared)
        table = as_table(outcome, prepared)
        print(f"\n{table}\n")
        if not outcome.pictures:
            raise InputError(f"none of the addresses gave a picture: {output / FAILURES} says why")
        languages = sorted(outcome.captions)
        origins = find_origins(arguments.dataset, languages, outcome.pictures)
        write_origins(output, origins)
        write_card(arguments, outcome, table, origins)

    captions = ", ".join(f"{outcome.captions[language]:,} {language}" for language in languages)
    print(f"Captions read back from the tars: {captions}. Failures are listed in {output / FAILURES}.")
    print(f"{licence_of(origins)} Pictures are their servers'.")
    print(
        "Next: accelerate launch --quiet training/run_stage2.py RECIPE.yaml "
        f"--dataset {shlex.quote(arguments.output_dir)} --languages {' '.join(languages)} "
        "--streaming --cache_image_embeds false --max_steps N"
    )


__all__ = ["main"]
