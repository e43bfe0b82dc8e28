"""Read YAML: recipes, tasks, lists of sources and published numbers.

Plain words mean what YAML 1.2 says: only `true` and `false` are booleans, and `no` is Norwegian. PyYAML reads
YAML 1.1, for which `no` is False, `012` is ten, `1:30` is ninety, `1e-3` is a text and `2024-05-01` a date.
Words that the two versions take for different numbers are texts here.
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml import YAMLError

from ..errors import InputError
from ..typed import LARGEST
from .text_files import read_text

# The longest recipes, tasks and tables of ours have 13 kB and 1,000 nodes. PyYAML reads 50,000 nodes in
# about 2 seconds. A node that an alias repeats counts again: thirty lines of aliases can stand for millions.
_MOST_BYTES = 1_000_000
_MOST_NODES = 50_000
_DEEPEST = 50

_SHOWN = 20  # letters of a value that a message quotes

_STR = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"

_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = ("true", "True", "TRUE", "false", "False", "FALSE")
_DIGITS = list("-+0123456789")
_INTEGER = r"[-+]?(?:0|[1-9][0-9]*)$|0o[0-7]+$|0x[0-9a-fA-F]+$"
# 1.5, .5, 5., 1e-3, .inf and .nan; no zeros before the number.
_DECIMAL = (
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


@dataclass(frozen=True)
class Written:
    """A value of a mapping as it is written, and the line of its key, counted from 1.

    A number or a boolean is a text, so that `revision: 1.10` stays "1.10". A list has texts, or None for
    null; a mapping is read as `read_yaml` does.
    """

    value: str | list[str | None] | dict | None
    line: int


def read_yaml(path: Path, what: str) -> object:
    """Read a YAML file.

    Args:
        what: the file's role, for messages: `recipe`, `task`.

    Raises:
        InputError: it does not exist, is a folder, is not UTF-8, is not YAML, or is longer, deeper or larger
            than any of ours could be; it has a tag of Python's, a key that is not a text or is given twice,
            an alias within what it repeats, or a number that is not finite. The message names the line.
    """
    return _load(path, what, _Loader.get_single_data)


def read_as_written(path: Path, what: str) -> dict[str, Written]:
    """Read a YAML file that is a mapping, with its scalars as they are written.

    Args:
        what: the file's role, for messages.

    Raises:
        InputError: as `read_yaml`; or it is no mapping, or a list in it has something else than scalars.
    """
    written = _load(path, what, _Loader.get_written)
    if written is None:
        hint = ""
        if isinstance(read_yaml(path, what), list):
            hint = ", and is a list: give a list of sources as --dataset"
        raise InputError(f"{what} {str(path)!r} must be a mapping of flags to values{hint}")
    return written


def _load(path: Path, what: str, read: Callable[["_Loader"], object]) -> object:
    """Call a method of a loader on a file's text, and put errors into one line."""
    # Not the methods of Path, which raise an error for a name that is too long.
    if os.path.isdir(path):
        raise InputError(f"{what} {str(path)!r} is a folder: give a YAML file in it")
    if not os.path.isfile(path):
        raise InputError(f"{what} {str(path)!r} does not exist: give a YAML file that is there")
    size = os.path.getsize(path)
    if size > _MOST_BYTES:
        raise InputError(
            f"{what} {str(path)!r} has {size:,} bytes, and at most {_MOST_BYTES:,} are read: "
            "keep long lists in files of their own"
        )
    text = read_text(path, what)
    try:
        return read(_Loader(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark  # counted from 0
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        reason = ", ".join(part for part in (error.context, error.problem) if part)
    except yaml.reader.ReaderError as error:
        n_lines = text.count("\n", 0, error.position)
        place = f"line {n_lines + 1}"
        reason = f"character {error.character:#x} is not allowed: delete it"
    except (ValueError, OverflowError) as error:  # of `"\UFFFFFFFF"`, which is no character
        place = "in a text in quotes"
        reason = str(error)
    raise InputError(f"{what} {str(path)!r} is no YAML, {place}: {reason}")


def refuse_exploding(text: str, origin: str) -> None:
    """Refuse YAML that another library is going to read, if its aliases stand for very many values.

    Args:
        origin: where the text comes from, the beginning of messages.

    Raises:
        InputError: it has more than `_MOST_NODES` values with those of its aliases, or an alias within what
            it repeats. PyYAML's errors are left as they are.
    """
    if "&" not in text or "*" not in text:
        return
    n_nodes = 0
    started = []  # the anchor of each list and mapping around, and how many nodes were before it
    sizes = {}
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            n_nodes += sizes.get(event.anchor, _MOST_NODES)  # without a size it stands within what it repeats
        elif isinstance(event, yaml.CollectionStartEvent):
            started.append((event.anchor, n_nodes))
            n_nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, n_before = started.pop()
            sizes[anchor] = n_nodes - n_before
        elif isinstance(event, yaml.ScalarEvent):
            n_nodes += 1
            sizes[event.anchor] = 1
        if n_nodes > _MOST_NODES:
            line = event.start_mark.line + 1
            raise InputError(
                f"{origin}, line {line}: it has more than {_MOST_NODES:,} values, with those of its aliases: "
                "write them out in a file of data"
            )


class _Loader(yaml.SafeLoader):
    """A loader of lists, mappings with texts as keys, and YAML 1.2's scalars, of bounded size."""

    # PyYAML's own are replaced, not extended.
    yaml_implicit_resolvers = {}
    yaml_constructors = {}

    def __init__(self, text: str):
        super().__init__(text)
        self.n_nodes = 0
        self.depth = 0
        self.sizes = {}  # number of nodes of each anchor that is complete

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        """Compose a node, and count it and all nodes below it."""
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if event.anchor not in self.sizes:
                raise _refusal(f"*{event.anchor} stands within what it repeats: delete it", mark)
            self._count(self.sizes[event.anchor], mark)
            return node

        n_before = self.n_nodes
        self._count(1, mark)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _refusal(f"it is nested more than {_DEEPEST} deep: make it flatter", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if event.anchor is not None:
            self.sizes[event.anchor] = self.n_nodes - n_before
        return node

    def _count(self, n_nodes: int, mark: yaml.Mark) -> None:
        self.n_nodes += n_nodes
        if self.n_nodes > _MOST_NODES:
            raise _refusal(f"it has more than {_MOST_NODES:,} values, with those of its aliases", mark)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Compose a mapping, and refuse keys that are given twice or are no texts.

        They are checked here: constructors add the keys that `<<` merges, which a mapping may override, to
        its own.
        """
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal("a list or mapping is no key: give a text", key_node.start_mark)
            key = key_node.value
            if key_node.tag != _STR:
                raise _refusal(f"the key {key} is no text: quote it", key_node.start_mark)
            if key in seen:
                raise _refusal(f"the key {key!r} is given twice: delete one", key_node.start_mark)
            seen.add(key)
        return node

    def get_written(self) -> dict[str, Written] | None:
        """Return the only document as `read_as_written` does, or None if it is no mapping."""
        root = self.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return None
        self.flatten_mapping(root)
        written = {}
        for key_node, node in root.value:
            written[key_node.value] = Written(self._as_written(node), key_node.start_mark.line + 1)
        return written

    def _as_written(self, node: yaml.Node) -> str | list[str | None] | dict | None:
        if isinstance(node, yaml.SequenceNode):
            items = []
            for item in node.value:
                if not isinstance(item, yaml.ScalarNode):
                    raise _refusal("a list may not have lists or mappings in it here", item.start_mark)
                items.append(self._as_written(item))
            return items
        if node.tag in (_INT, _FLOAT):  # its value is not needed: a commit 12e4567 would be infinite
            return node.value
        value = self.construct_object(node, deep=True)
        is_kept = value is None or isinstance(value, dict)
        return value if is_kept else node.value


def _construct_null(loader: _Loader, node: yaml.Node) -> None:
    _one_of(loader, node, _NULLS, "null")


def _construct_bool(loader: _Loader, node: yaml.Node) -> bool:
    return _one_of(loader, node, _BOOLEANS, "true or false").lower() == "true"


def _one_of(loader: _Loader, node: yaml.Node, known: tuple[str, ...], what: str) -> str:
    """Return a scalar's text; it may be another than its tag says, where the file states the tag."""
    text = loader.construct_scalar(node)
    if text not in known:
        raise _refusal(f"{text[:_SHOWN]!r} is not {what}: delete the tag", node.start_mark)
    return text


def _construct_int(loader: _Loader, node: yaml.Node) -> int:
    text = loader.construct_scalar(node)
    try:
        number = int(text, 0)  # 0x1f and 0o17 too
    except ValueError:  # of another tag's text, or of more digits than Python reads
        number = LARGEST + 1
    if abs(number) > LARGEST:
        raise _refusal(
            f"{text[:_SHOWN]} is no whole number of at most 19 digits: fix it, or quote the text",
            node.start_mark,
        )
    return number


def _construct_float(loader: _Loader, node: yaml.Node) -> float:
    text = loader.construct_scalar(node)
    try:
        number = float(text)
    except ValueError:  # `.nan` and `.inf`, with a dot that Python does not read
        number = math.nan
    if not math.isfinite(number):
        raise _refusal(f"{text[:_SHOWN]} is no finite number: give one, or quote the text", node.start_mark)
    return number


def _construct_str(loader: _Loader, node: yaml.Node) -> str:
    text = loader.construct_scalar(node)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # written in quotes as "\ud800"
        raise _refusal("a text has half of a character: delete it", node.start_mark)
    return text


def _refuse_tag(loader: _Loader, node: yaml.Node) -> None:
    raise _refusal(f"the tag {node.tag[:80]} is not read here: delete it", node.start_mark)


def _refusal(message: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, message, mark)


_Loader.add_constructor(_NULL, _construct_null)
_Loader.add_constructor(_BOOL, _construct_bool)
_Loader.add_constructor(_INT, _construct_int)
_Loader.add_constructor(_FLOAT, _construct_float)
_Loader.add_constructor(_STR, _construct_str)
_Loader.add_constructor("tag:yaml.org,2002:seq", yaml.SafeLoader.construct_yaml_seq)
_Loader.add_constructor("tag:yaml.org,2002:map", yaml.SafeLoader.construct_yaml_map)
_Loader.add_constructor(None, _refuse_tag)  # all other tags

# Which plain words are no texts, with the letters that each may begin with; "" is an empty value.
_Loader.add_implicit_resolver(_NULL, re.compile("(?:" + "|".join(_NULLS) + ")$"), ["", *"~nN"])
_Loader.add_implicit_resolver(_BOOL, re.compile("(?:" + "|".join(_BOOLEANS) + ")$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(_INTEGER), _DIGITS)
_Loader.add_implicit_resolver(_FLOAT, re.compile(_DECIMAL), [*_DIGITS, "."])
_Loader.add_implicit_resolver(_MERGE, re.compile("<<$"), ["<"])


__all__ = ["Written", "YAMLError", "read_as_written", "read_yaml", "refuse_exploding"]
