"""From files and options to the configurations of `cblr train` and `cblr sweep`."""

import ast
import codecs
import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.errors import InputError

if TYPE_CHECKING:
    from sim import TrainConfig


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name comes twice, as TOML has it."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{name!r} comes {count} times")
    return dict(pairs)


ONCE: dict[str, Any] = {"object_pairs_hook": _once}


def read(file: Path) -> dict[str, Any]:
    """The content of a TOML or JSON file."""
    if file.suffix not in (".toml", ".json"):
        raise InputError("file", str(file), "give a .toml or a .json file")
    try:
        text = decoded(file.read_bytes())
        table = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text, **ONCE)
    except UnicodeDecodeError:
        raise InputError("file", str(file), "cannot be read: save it as UTF-8") from None
    except ValueError as error:
        raise InputError("file", str(file), f"cannot be read: {error}") from None
    except RecursionError:
        raise InputError("file", str(file), "cannot be read: it is nested too deeply") from None
    if not isinstance(table, dict):
        raise InputError("file", str(file), "give a table of fields")
    return table


def decoded(content: bytes) -> str:
    """A file's text in UTF-8, or as its byte order mark says, which some editors put first.

    >>> decoded("γ = 1\\r\\n".encode("utf-16")), decoded(b"lr = 1")
    ('γ = 1\\n', 'lr = 1')
    """
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = content.decode("utf-16" if wide else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def merged(fields: Mapping[str, Any], sets: list[str], short: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a file, then those of --set, then those with options of their own.

    >>> merged({"lr": 1, "measure": {"held_out": 3}}, ["measure.test_every=2"], {"lr": 2})
    {'lr': 2, 'measure': {'held_out': 3, 'test_every': 2}}
    """
    from sim.training.config.options import put

    result: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    from_sets: dict[str, Any] = {}
    for each in sets:
        name, equals, text = each.partition("=")
        if not equals or not all(name.strip().split(".")):
            raise InputError("--set", each, "give FIELD=VALUE, as in batch_size=512")
        try:
            put(from_sets, name.strip(), value(text))
            put(result, name.strip(), value(text))
        except ValueError as error:
            raise InputError("--set", each, str(error)) from None
    for later in (from_sets, short):
        # The length that is said last goes before one of the other kind.
        for name, other in (("epochs", "steps"), ("steps", "epochs")):
            if later.get(name) is not None and other not in later:
                result.pop(other, None)
    return {**result, **short}


def value(text: str) -> Any:
    """A number, a truth value, a list, nothing, or else the text itself.

    >>> [value(text) for text in ("0.5", "true", "[8, 8]", "none", "lars")]
    [0.5, True, [8, 8], None, 'lars']
    """
    plain = text.strip()
    known = {"true": True, "false": False, "none": None, "null": None}
    if plain.lower() in known:
        return known[plain.lower()]
    try:
        return ast.literal_eval(plain)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return plain  # what it stands for is refused by the field's name


def configuration(fields: Mapping[str, Any]) -> "TrainConfig":
    """The configuration; options keep their names on the command line."""
    from sim.training import TrainConfig

    return TrainConfig.read(fields)


def grid_of(content: Mapping[str, Any], sets: list[str]) -> "list[TrainConfig]":
    """The configurations of a grid file."""
    from sim.training import grid

    for name in content:
        if name not in ("base", "grid"):
            raise InputError("file", name, "a grid file has the tables [base] and [grid] only")
        if not isinstance(content[name], Mapping):
            raise InputError("file", f"[{name}]", f"got {content[name]!r}; give a table of fields")
    lists = flat(content.get("grid", {}))
    if not lists:
        raise InputError("file", "[grid]", "give lists of values, as in lr = [0.1, 0.2]")
    for each in sets:
        name = each.partition("=")[0].strip()
        if any(f"{name}.".startswith(f"{varied}.") for varied in lists):
            raise InputError("--set", each, f"the grid varies {name}; change it in [grid]")
    return grid(merged(content.get("base", {}), sets, {}), **lists)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables with dotted names.

    >>> flat({"lr": [1], "discard": {"share": [0.1, 0.2]}})
    {'lr': [1], 'discard.share': [0.1, 0.2]}
    """
    dotted: dict[str, Any] = {}
    for key, each in values.items():
        if isinstance(each, Mapping):
            dotted |= flat(each, f"{prefix}{key}.")
        else:
            dotted[f"{prefix}{key}"] = each
    return dotted
