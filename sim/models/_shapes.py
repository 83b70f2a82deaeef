"""Sizes and shapes that the models have in common."""


def scaled(size: int, width: float) -> int:
    """A layer's size times the width factor: rounded, at least one."""
    return max(1, round(size * width))


def image(name: str, in_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`in_shape` as channels, height and width."""
    if len(in_shape) != 3:
        raise ValueError(
            f"in_shape: {in_shape} is not the shape of an image, which {name} needs; "
            "give (channels, height, width) or take the model mlp"
        )
    channels, height, breadth = in_shape
    return channels, height, breadth
