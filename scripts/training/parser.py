"""The parser of training scripts: what is wrong is said in three lines, with the nearest name."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Collection
from typing import Any, NoReturn, get_args

from lightning.pytorch.cli import LightningArgumentParser

from mgic_geo.ops.inputs import did_you_mean

SHORT = {"--votes": "--data.votes", "--up": "--data.up"}
_UNION = re.compile(r"Subtypes: \[(.+)\]\n(?:.*\n)*\s*Given value: (.*)")
_LITERAL = re.compile(r"Expected a (typing\.Literal\[.+?\])\. Got value: (\S+)")


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors leave out the list of all options."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and end the program with exit code 2."""
        if not self.exit_on_error:  # a part of another parser, which will tell
            super().error(message, ex)
        print(f"error: {explain(message, self.option_names())}", file=sys.stderr)
        print(f"{self.prog.replace(' [options]', '')} --help lists the options", file=sys.stderr)
        sys.exit(2)

    def option_names(self) -> list[str]:
        """Return the dotted names of all options, those of nested classes among them."""
        options = [action for action in self._actions if action.option_strings]
        names = [action.dest for action in options if not action.dest.endswith(".help")]
        names += [short.removeprefix("--") for short in SHORT]
        for action in options:
            for kind in get_args(getattr(action, "_typehint", None)):  # as of Augment | None
                if dataclasses.is_dataclass(kind):
                    names += [f"{action.dest}.{field.name}" for field in dataclasses.fields(kind)]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for stage in action.choices.values():
                    names += stage.option_names()
        return names


def explain(message: str, names: Collection[str]) -> str:
    r"""Say in a line or two what jsonargparse says in many.

    Example:
        >>> explain("unrecognized arguments: --data.nmae x", ["data.name", "seed"])
        'no option --data.nmae; did you mean --data.name?'
        >>> explain("Subcommand 'fit' does not accept option 'data.nam'", ["data.name", "seed"])
        'no option data.nam; did you mean data.name?'
        >>> explain("Parser key \"seed\":  Expected a <class 'int'>. Got value: x", ["seed"])
        'seed: expected int, got x'
        >>> wanted = "Subtypes: [typing.Literal['x', 'y'], <class 'NoneType'>]"
        >>> explain(f'Parser key "data.up":\n  {wanted}\n  Given value: w', [])
        "data.up: expected 'x', 'y' or null, got w"
        >>> explain("argument --format: invalid choice: 'jsn' (choose from 'csv', 'json')", [])
        "argument --format: invalid choice: 'jsn' (choose from 'csv', 'json'); did you mean json?"
    """
    if found := re.match(r"unrecognized arguments: (--?[^\s=]+)", message):
        name = found[1].lstrip("-").replace("-", "_")
        return f"no option {found[1]}{nearest(name, names, '--')}"
    if found := re.search(r"does not accept option '([^']+)'", message):
        return f"no option {found[1]}{nearest(found[1], names)}"
    if found := re.match(r"the following arguments are required: \w+\.(\w+)$", message):
        return f"{found[1]} must be given"
    if found := re.search(r"invalid choice: '([^']*)' \(choose from (.+)\)$", message):
        return message + nearest(found[1], re.findall(r"[\w-]+", found[2]))
    key = re.match(r'Parser key "([^"]+)":\s*', message)
    if key and (inner := re.search(r"Option '([^']+)' is not accepted", message)):
        return f"no option {key[1]}.{inner[1]}{nearest(f'{key[1]}.{inner[1]}', names)}"
    if key and (part := re.search(r'Parser key "', message[key.end() :])):  # of a nested one
        inner = message[key.end() + part.end() :].splitlines()[:2]
        return explain("\n".join([f'Parser key "{key[1]}.{inner[0]}', *inner[1:]]), names)
    if key and (wrong := _UNION.search(message) or _LITERAL.search(message)):
        wanted, given = spell_types(wrong[1]), wrong[2]
        choices = re.findall(r"'([^']+)'", wanted)
        return f"{key[1]}: expected {wanted}, got {given}{nearest(given, choices)}"
    rest = message[key.end() :] if key else message
    short = " ".join(line.strip() for line in rest.splitlines()[:2])
    short = re.sub(r"Expected a <class '([^']+)'>\. Got value: (.*)", r"expected \1, got \2", short)
    return f"{key[1]}: {short}" if key else short


def spell_types(kinds: str) -> str:
    """Spell the types of an option as people write them.

    Example:
        >>> spell_types("<class 'int'>, typing.Literal['auto'], <class 'NoneType'>")
        "int, 'auto' or null"
    """
    kinds = re.sub(r"typing\.Literal\[(.+?)\]", r"\1", kinds)
    kinds = re.sub(r"<class '([\w.]+)'>", r"\1", kinds).replace("NoneType", "null")
    return " or ".join(re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", kinds).rsplit(", ", 1))


def nearest(name: str, names: Collection[str], prefix: str = "") -> str:
    """Suggest the name that is most like one that does not exist, if one is.

    Example:
        >>> nearest("pointnt", ["pointnet", "dgcnn"])
        '; did you mean pointnet?'
    """
    return did_you_mean(name, names, prefix + "{}")
