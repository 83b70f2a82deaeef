"""A network of the reader's own as a builder, like those that have a name here."""

from typing import Any

from torch import nn

from sim import _arguments, _own


class OwnModel:
    """The builder of `package.module:factory`.

    The factory is a function, or a class, that returns a module. Of `in_shape` (the shape of one
    input) and `classes` it is given what it has arguments for, and all options.
    """

    def __init__(self, name: str) -> None:
        self.name, self.factory = name, _own.named(name)
        if isinstance(self.factory, nn.Module) or not callable(self.factory):
            kind = (
                "a module" if isinstance(self.factory, nn.Module) else type(self.factory).__name__
            )
            raise ValueError(
                f"got {name!r}; it is {kind}; name a function that returns a new module, so that "
                "every run has its own"
            )

    def check(self, options: Any) -> None:
        """Refuse options that the factory does not have."""
        _own.check_options(f"the model {self.name!r}", self.factory, options)

    def __call__(self, in_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
        known = {"in_shape": in_shape, "classes": classes}
        arguments = {k: v for k, v in known.items() if _own.takes(self.factory, k)}
        with _arguments.told_of("model"):
            model = _own.made(self.name, self.factory, **{**arguments, **options})
            if not isinstance(model, nn.Module):
                raise ValueError(
                    f"got {self.name!r}; it returned {type(model).__name__}, not a torch.nn.Module"
                )
        return model
