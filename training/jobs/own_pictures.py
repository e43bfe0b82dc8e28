"""Draw a stand-in for a user's own pictures: 400 scenes in a style that the miniature never saw.

They have captions in three languages and the layout of a user's folder: image files, and `metadata.jsonl`
beside them. No scene shows a pair of concepts that a test contains.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from common.files.whole_files import write_text
from common.origins import write_origins
from training.miniature.origins import origins_of_scenes
from training.miniature.scenes import UNSEEN_STYLE, EmojiScenes, Split

LANGUAGES = ("en", "zh", "es")
# A seed of its own, so that no scene of the miniature's splits is drawn again.
_SCENES = Split(seed=8, content="mixed", size=400, styles=UNSEEN_STYLE)


@dataclass(kw_only=True)
class _OwnPicturesArguments:
    """Arguments of the pictures: where they are written."""

    output_dir: str = field(
        default="outputs/own_pictures", metadata={"help": "Folder in which the folder `pictures` is made."}
    )


def main(arguments: _OwnPicturesArguments) -> None:
    folder = Path(arguments.output_dir, "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    scenes = EmojiScenes(_SCENES)
    lines = []
    for index in tqdm(range(len(scenes)), desc="Drawing pictures", unit="picture"):
        scene = scenes[index]
        name = f"{index:03}.png"
        scene["image"].save(folder / name)
        captions = {language: scene["captions"][language] for language in LANGUAGES}
        # The column `file_name` is how `datasets` joins captions with the files of an imagefolder.
        lines.append(json.dumps({"file_name": name, "captions": captions}, ensure_ascii=False))
    write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    write_origins(folder, origins_of_scenes(UNSEEN_STYLE, LANGUAGES))
    print(f"Saved {len(scenes)} pictures and their captions to {folder}.")
    print(
        "Next: accelerate launch --quiet training/run_stage2.py training/recipes/own_pictures/miniature.yaml"
    )
