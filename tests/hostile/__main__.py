"""Print what becomes of hostile inputs: `make hostile`.

A row for each kind: what happens, the seconds that it takes, and by how many MB the memory grows at most, in
a process of its own. Below stand the requests that a server got which nobody may ask, and whether anything
changed outside of the folder of the inputs. Ends with exit code 1 if that is so, or if a row ends otherwise
than in what is expected of it.
"""

import argparse
import pickle
import re
import resource
import shutil
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from time import process_time

import torch
from transformers import CLIPImageProcessor

from benchmarks.results import format_table
from common.errors import InputError
from modeling_altclip import AltCLIPProcessor
from modeling_altclip.checkpoint_altclip import IncompleteCheckpointError
from training.miniature.scenes import read_concepts
from training.miniature.vocabulary import train_multilingual_tokenizer

from .. import FOLDER, IS_FIRST
from ..test_outside import Server, png
from . import addresses, datasets_elsewhere, files, images_and_texts, models, names
from .place import BadServer, Place, Row

SUBJECTS = [datasets_elsewhere, names, files, models, images_and_texts, addresses]
DOCUMENTED = (InputError, ValueError, IncompleteCheckpointError, pickle.UnpicklingError)
SECONDS = 10
LONGEST = 120  # seconds, of which the row may wait the most
MEGABYTES = 2000
INPUTS = re.compile(r"/\S*/one/two/three/\d+/?")  # the folder of an input
FORK = get_context("fork")  # a process that has imported everything


def build_processor() -> AltCLIPProcessor:
    """Return a processor with a tokenizer of XLM-R's kind, trained on a few words."""
    texts = []
    for words in read_concepts()["languages"].values():
        texts += words["names"]
    size = {"height": 224, "width": 224}
    return AltCLIPProcessor(
        CLIPImageProcessor(size=size, crop_size=size), train_multilingual_tokenizer(texts, 1500)
    )


def measure(row: Row, queue) -> None:
    """Put the outcome, its seconds, its MB and whether it is a documented one into a queue.

    The seconds are those of the processor, which other programs on the machine do not change.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = process_time()
    is_documented = True
    try:
        outcome = str(row.attempt())
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
        is_documented = isinstance(error, DOCUMENTED)
    seconds = process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in kB on Linux
    queue.put((outcome, seconds, grown // 1000, is_documented))


def run(row: Row) -> tuple[list[str], str | None]:
    """Run a row in a process of its own; return its cells, and what is wrong with it."""
    queue = FORK.Queue()
    process = FORK.Process(target=measure, args=(row, queue))
    process.start()
    try:
        outcome, seconds, megabytes, is_documented = queue.get(timeout=LONGEST)
    except Empty:
        process.kill()
        return [row.name, "no end", "", ""], "does not end, or its process died"
    process.join()
    problem = None
    if not is_documented:
        problem = f"ends in an error that is not documented: {outcome}"
    elif row.expected not in outcome:
        problem = f"ends without {row.expected!r}: {outcome}"
    elif seconds > SECONDS or megabytes > MEGABYTES:
        problem = f"takes {seconds:.0f} s and {megabytes:,} MB"
    said = " ".join(INPUTS.sub("", outcome).split())
    return [row.name, said[:110], f"{seconds:.2f}", str(megabytes)], problem


def tabulate(folder: Path, *, is_quick: bool) -> tuple[str, list[str]]:
    """Run all rows, or the quick ones; return the table, and what is wrong."""
    table = []
    problems = []
    with Server() as server, BadServer(f"{server.url}/secret") as bad_server:
        place = Place(folder, server.url, bad_server.url, build_processor())
        place.canary.write_bytes(png("red"))
        before = place.outside()
        rows = []
        for subject in SUBJECTS:
            rows += subject.rows(place)
        for row in rows:
            if row.is_long and is_quick:
                continue
            cells, problem = run(row)
            table.append(cells)
            if problem:
                problems.append(f"{row.name}: {problem[:500]}")
        if server.n_requests:
            problems.append(f"{server.n_requests} requests came to the server")
        if place.outside() != before:
            problems.append("a file outside has changed")
        bad_server.shutdown()
        server.shutdown()
    text = format_table(["input", "what happens", "seconds", "MB"], table)
    changed = "changed" if "a file outside has changed" in problems else "unchanged"
    text += f"\n\n{len(table)} kinds. Requests to the server: {server.n_requests}. Canary: {changed}.\n"
    return text, problems


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text, problems = tabulate(Path(folder), is_quick=arguments.quick)
    sys.stdout.write(text)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, "utf-8")
    if IS_FIRST:
        shutil.rmtree(FOLDER)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out what takes seconds")
    parser.add_argument("--output", default="outputs/hostile.md", help="where the table is written")
    main(parser.parse_args())
