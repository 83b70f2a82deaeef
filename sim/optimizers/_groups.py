"""Parameter groups as a user gives them: options that are applied or refused, never ignored."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sim import _arguments

# What schedules and loggers read in a group: theirs, and no rule's.
NOTES = {
    *("name", "names", "group_name", "label", "initial_lr", "max_lr", "min_lr"),
    *("base_momentum", "max_momentum", "swa_lr"),
}
# What is in a group beside its options; torch adds the last one to the defaults of a copy.
STRUCTURE = {"params", "param_names", "differentiable"}


def prepared(
    group: Mapping[str, Any],
    rule: str,
    defaults: Mapping[str, Any],
    references: Mapping[str, Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A copy of a group to be added, in which `like` stands for the options of its reference.

    >>> group = {"params": [], "like": "you", "eps": 0.5}
    >>> prepared(group, "LARS", {"eps": 0.0, "clip": True}, {"you": {"eps": 1, "clip": False}}, [])
    {'params': [], 'eps': 0.5, 'clip': False}
    """
    copied = dict(group)
    if references and "like" in copied:
        like = copied.pop("like")
        if like is not None:
            chosen = references[_arguments.choice("like", like, references)]
            copied |= {k: v for k, v in chosen.items() if k not in copied}
    options = sorted(set(defaults) - STRUCTURE)
    for name in copied:
        if name not in {*options, *STRUCTURE, *NOTES} or (
            name == "differentiable" and copied[name] is not False
        ):
            raise ValueError(
                f"{name}: no such option for a group of {rule}; its options are: "
                f"{', '.join([*options, *['like'][: len(references)]])}"
                f"{_arguments.did_you_mean(name, options)}; what is meant for other code can be "
                "put into optimizer.param_groups afterwards"
            )
    params = copied.get("params")
    if params is not None and not isinstance(params, Tensor | set):
        copied["params"] = list(params)
        if not copied["params"] and before and "param_names" in before[0]:
            copied["param_names"] = []
    return copied


def without_duplicates(group: dict[str, Any]) -> None:
    """Each tensor once, so that it moves once a step; torch has warned."""
    params, names = group["params"], group.get("param_names")
    first = {id(parameter): k for k, parameter in reversed(list(enumerate(params)))}
    if len(first) < len(params):
        order = sorted(first.values())
        group["params"] = [params[k] for k in order]
        if names is not None:
            group["param_names"] = [names[k] for k in order]


def rate(value: Any) -> Any:
    """γ as a float, or a tensor of one number as it is, which can then be changed in place."""
    if not isinstance(value, Tensor):
        return _arguments.number("lr", value, 0.0)
    if value.numel() != 1 or value.requires_grad or value.dtype in (torch.bool, torch.complex64):
        raise ValueError(
            f"lr: got a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
            f"{' that requires a gradient' if value.requires_grad else ''}; "
            "give a number, or a tensor of one real number without gradient"
        )
    _arguments.number("lr", value.item(), 0.0)
    return value


def check_rate(value: Any, index: int) -> None:
    """Refuse a γ that was put into a group afterwards and is no finite number.

    >>> check_rate(float("nan"), 0)
    Traceback (most recent call last):
    ...
    ValueError: lr: got nan in group 0; set a finite number, and look at the schedule
    """
    try:
        finite = not isinstance(value, str) and math.isfinite(float(value))
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise ValueError(
            f"lr: got {value!r} in group {index}; set a finite number, and look at the schedule"
        )
