"""A state that was saved: what load hooks make of it is checked, and resumed bit for bit."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sim.optimizers._groups import NOTES, STRUCTURE

# Parts of a name that wrappers put in: DistributedDataParallel, torch.compile, checkpoint, FSDP.
PREFIXES = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
# The one key under which no tensor of the parameter's shape is kept.
COUNT = "step"
GIVE = "give what state_dict() of such an optimizer returned"
BUILD = "build the optimizer with the same parameters in order"


def bare(name: str) -> str:
    """A parameter's name without what wrappers put in.

    >>> bare("module._orig_mod.0.weight")
    '0.weight'
    """
    parts = name.split(".")
    return ".".join([part for part in parts[:-1] if part not in PREFIXES] + parts[-1:])


def load(
    optimizer: Optimizer,
    torchs: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    keys: tuple[str, ...],
) -> None:
    """Load as torch does, with a check after the user's hooks and before anything is changed.

    Args:
        optimizer: whose.
        torchs: torch's own `load_state_dict`.
        state_dict: as the user has it.
        keys: of the state that the rule keeps of a parameter.
    """
    if not isinstance(state_dict, dict):
        raise TypeError(f"state_dict: got {type(state_dict).__name__}; {GIVE}")
    adapted: dict[str, Any] = {}

    def look(_: Optimizer, hooked: dict[str, Any]) -> dict[str, Any]:
        adapted.update(_checked(optimizer, hooked, keys))
        return adapted

    def restore(_: Optimizer) -> None:
        # torch has just cast all floating-point state to the parameter's dtype.
        for number, parameter in _numbered(optimizer, adapted["param_groups"]):
            for key, value in adapted["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    value = value.detach().to(device=parameter.device, copy=True)
                    optimizer.state[parameter][key] = value
                elif isinstance(value, str):  # of which torch makes a generator of letters
                    optimizer.state[parameter][key] = value

    # The last before torch looks, and the first after it.
    before = optimizer.register_load_state_dict_pre_hook(look)
    after = optimizer.register_load_state_dict_post_hook(restore, prepend=True)
    try:
        torchs(state_dict)
    finally:
        before.remove()
        after.remove()


def _numbered(optimizer: Optimizer, groups: list[Mapping[str, Any]]) -> list[tuple[Any, Tensor]]:
    """Each saved number with the parameter it stands for."""
    numbers = [number for group in groups for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return list(zip(numbers, parameters, strict=True))


def _checked(
    optimizer: Optimizer, state_dict: Mapping[str, Any], keys: tuple[str, ...]
) -> dict[str, Any]:
    """The state with this optimizer's names, after all checks."""
    for part, kind in (("state", Mapping), ("param_groups", list | tuple)):
        if not isinstance(state_dict.get(part), kind):
            raise ValueError(f"state_dict: it holds no {part!r}; {GIVE}")
    ours, theirs = optimizer.param_groups, state_dict["param_groups"]
    rule = type(optimizer).__name__
    sizes = [[len(group["params"]) for group in groups] for groups in (ours, theirs)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"state_dict: it was saved for groups of {sizes[1]} parameters and these are of "
            f"{sizes[0]}; {BUILD}"
        )
    groups = []
    for group, saved in zip(ours, theirs, strict=True):
        lacks = [key for key in group if key not in {*saved, *NOTES, *STRUCTURE}]
        others = [key for key in saved if key not in {*group, *NOTES, *STRUCTURE}]
        if lacks and others:
            raise ValueError(
                f"state_dict: another optimizer saved it, with the options {_short(others)} where "
                f"{rule} has {_short(lacks)}; give a state that {rule} saved"
            )
        options = {key: group[key] for key in lacks if key != "params"}
        groups.append({**options, **saved, **_names(group, saved)})
    for number, parameter in _numbered(optimizer, theirs):
        values = state_dict["state"].get(number, {})
        if not isinstance(values, Mapping) or (values and not set(keys) & set(values)):
            what = _short(list(values)) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(
                f"state_dict: another optimizer saved it, {what} of each parameter where {rule} "
                f"keeps {', '.join(keys)}; give a state that {rule} saved"
            )
        for key in keys:
            if key in values:
                _check_value(number, key, values[key], parameter)
    _check_numbers(state_dict["state"], theirs, keys)
    return {**state_dict, "param_groups": groups}


def _names(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, list[str]]:
    """The group's own names, if those that were saved are the same but for wrappers."""
    names, theirs = group.get("param_names"), saved.get("param_names")
    if saved["params"] and all(isinstance(number, str) for number in saved["params"]):
        # torch.distributed.checkpoint has put state and numbers in this optimizer's order, by
        # name; but not the list of names.
        theirs = saved["params"]
    if names is None or theirs is None:
        return {}
    stripped = [[bare(name) for name in item] for item in (names, theirs)]
    same = stripped[0] == stripped[1] and len(set(stripped[0])) == len(names)
    if list(theirs) != list(names) and not same:
        raise ValueError(
            f"state_dict: it was saved for parameters {_short(theirs)} and these are "
            f"{_short(names)}; {BUILD}"
        )
    return {"param_names": list(names)}


def _check_numbers(
    state: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]], keys: tuple[str, ...]
) -> None:
    """Refuse the state of a parameter that is in no group, which torch would leave lying about.

    JSON makes texts of numbers, so that no parameter would get its state.
    """
    numbers = {number for group in groups for number in group["params"]}
    for number, values in state.items():
        if number not in numbers and isinstance(values, Mapping) and set(keys) & set(values):
            raise ValueError(
                f"state_dict: it holds the state of a parameter {number!r}, which is in none of "
                f"its groups ({_short(list(map(repr, numbers)))}); {GIVE}"
            )


def _check_value(number: Any, key: str, value: Any, parameter: Tensor) -> None:
    """Refuse what is no state of the parameter."""
    if key == COUNT and _is_count(value):
        return
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"state_dict: {key!r} of parameter {number} is {kind}, not a floating-point tensor; "
            f"{GIVE}"
        )
    if value.shape != parameter.shape:
        raise ValueError(
            f"state_dict: {key!r} of parameter {number} has shape {tuple(value.shape)} where the "
            f"parameter has {tuple(parameter.shape)}; {BUILD}"
        )
    sharded = [hasattr(item, "placements") for item in (value, parameter)]
    if sharded[0] != sharded[1]:
        kinds = ["sharded" if item else "whole" for item in sharded]
        raise ValueError(
            f"state_dict: {key!r} of parameter {number} is {kinds[0]} and the parameter is "
            f"{kinds[1]}; load it by torch.distributed.checkpoint.state_dict"
        )


def _is_count(value: Any) -> bool:
    """Whether it is a number of steps, as torch's own optimizers may keep it, too."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, Real) and not isinstance(value, bool)


def _short(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
