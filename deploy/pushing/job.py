"""Push a finished folder to the Hub: what is shown, what is checked, and what the last line says."""

from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from common.commands import command_for
from common.errors import InputError
from common.output import format_bytes

from .completeness import check_model
from .dataset_card import complete_card
from .files import Contents, read_contents
from .privacy import refuse_private
from .record import Pushed, read_pushed, write_pushed
from .repository import Repository, Target

_KINDS = ("model", "dataset")


@dataclass(kw_only=True)
class PushArguments:
    """A folder, and where it is pushed."""

    folder: str = field(metadata={"help": "The folder to push, which may also stand first without the flag."})
    repo: str = field(
        metadata={
            "help": "The repository on the Hub, such as me/my-clip, which may also stand second without the "
            "flag. It is made if it is not there."
        }
    )
    repo_type: str = field(default="model", metadata={"help": "What the folder has: model or dataset."})
    license: str | None = field(
        default=None,
        metadata={
            "help": "The licence of a data set, as the Hub names it, where its card states none. That of a "
            "model is stated by its card."
        },
    )
    private: bool = field(
        default=False,
        metadata={"help": "Make the repository private, and push into none that is there and public."},
    )
    revision: str = field(
        default=constants.DEFAULT_REVISION,
        metadata={"help": "The branch to push to. It begins at the main one if it is not there."},
    )
    message: str | None = field(
        default=None, metadata={"help": "The message of the commit. By default it names the folder."}
    )
    parent_commit: str | None = field(
        default=None,
        metadata={
            "help": "Push only if the repository is at this commit, over what it has. By default it has to "
            "be as the last push from this folder left it, or empty."
        },
    )
    allow: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Texts to push though they look like something private, as the refusal names them."
        },
    )
    retries: int = field(
        default=5,
        metadata={"help": "How often a request is repeated that fails on the way or in the Hub."},
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check and list what would be pushed, and connect to nothing."}
    )

    def __post_init__(self):
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise InputError(f"repo {self.repo!r} is no name on the Hub: {error}") from error
        if self.repo.count("/") != 1:
            raise InputError(f"repo {self.repo!r} has no owner: give OWNER/NAME, such as me/{self.repo}")
        if self.repo_type not in _KINDS:
            raise InputError(f"repo_type is {self.repo_type!r}: give {' or '.join(_KINDS)}")
        if self.repo_type == "model" and self.license is not None:
            raise InputError(
                f"license is {self.license!r}, and the card of a model states its own: give it to "
                f"{command_for('card')}, or --repo_type dataset for a data set"
            )
        if self.retries < 0:
            raise InputError(f"retries is {self.retries}: give 0 or more")
        if self.parent_commit is not None and len(self.parent_commit) < 7:
            raise InputError(
                f"parent_commit {self.parent_commit!r} is too short: give 7 or more of a commit's letters"
            )


def main(arguments: PushArguments) -> None:
    """Check the folder, list what is pushed, and push it in one commit.

    Raises:
        InputError: the folder is incomplete or names what is private, the repository has changed, or the Hub
            refuses; the repository is as before then.
    """
    folder = Path(arguments.folder)
    target = Target(arguments.repo, arguments.repo_type, arguments.revision)
    contents = read_contents(folder)
    if arguments.repo_type == "model":
        check_model(folder, contents)
    else:
        complete_card(folder, arguments.license)
        contents = read_contents(folder)  # with the card
    refuse_private(contents, folder, arguments.allow)

    last = read_pushed(folder, target.where)
    _print_plan(arguments, target, contents, last)
    if arguments.dry_run:
        print("This was a dry run: nothing was pushed. Next: the same command without --dry_run")
        return

    repository = Repository(target, private=arguments.private, retries=arguments.retries)
    message = arguments.message or f"Push {folder.resolve().name}"
    pushed = repository.push(contents, message, last=last, parent_commit=arguments.parent_commit)
    write_pushed(folder, target.where, pushed)
    print(_describe_end(arguments, target, contents, pushed, last))


def _print_plan(arguments: PushArguments, target: Target, contents: Contents, last: Pushed | None) -> None:
    """List the files with their sizes, and count what stays here."""
    visibility = "private " if arguments.private else ""
    print(f"{arguments.folder} -> {visibility}{target.repo_type} {target.address}, {target.revision}:")
    for file in contents.files:
        print(f"{format_bytes(file.n_bytes):>12}  {file.name}")
    gone = sorted(set(last.files) - contents.names) if last else []
    for name in gone:
        print(f"{'deleted':>12}  {name}")
    print(f"{_count(len(contents.files))} of {format_bytes(contents.n_bytes)} together.")
    if contents.left_out:
        reasons = [f"{count} {reason}" for reason, count in sorted(contents.left_out.items())]
        print(f"Left out {_count(contents.left_out.total())}: {', '.join(reasons)}.")
    if "README.md" not in contents.names:
        print(f"There is no README.md: {command_for('card')} makes a folder with a model card.")


def _count(n_files: int) -> str:
    return "1 file" if n_files == 1 else f"{n_files} files"


def _describe_end(
    arguments: PushArguments, target: Target, contents: Contents, pushed: Pushed, last: Pushed | None
) -> str:
    """Say where the files are, at which commit, and how they are loaded."""
    loader = "AutoModel.from_pretrained" if target.repo_type == "model" else "datasets.load_dataset"
    if last is not None and last.commit == pushed.commit:
        begin = f"Nothing has changed since the last push: {target.address} has all of it"
    else:
        begin = f"Pushed {_count(len(contents.files))} to {target.address}"
    commit = pushed.commit[:8]
    return f'{begin}, commit {commit}. Next: {loader}("{target.repo}", revision="{pushed.commit}")'


__all__ = ["PushArguments", "main"]
