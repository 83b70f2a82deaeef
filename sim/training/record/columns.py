"""The columns of a run's tables."""

STEP_COLUMNS = (
    "loss",
    "objective",
    "accuracy",
    "decrease_batch",
    "decrease_held_out",
)
LAYER_COLUMNS = ("gradient_abs", "stride")
EPOCH_LAYER_COLUMNS = (
    "gradient_abs",
    "gradient_mean_abs",
    "gradient_deviation",
    "stride",
    "path",
    "displacement",
)
EPOCH_COLUMNS = (
    "epoch",
    "last_step",
    "steps",
    "batch_size",
    "samples",
    "whole",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
)
CURVATURE_COLUMNS = (
    "step",
    "parameter",
    "size",
    "gradient_abs",
    "curvature_abs",
    "radius_median",
    "radius_low",
    "radius_high",
    "zero_curvature",
    "negative_curvature",
)
TABLES = ("steps", "epochs", "layer_steps", "layer_epochs", "curvature")


def columns(table: str) -> tuple[str, ...]:
    """The columns of a run's table.

    >>> columns("layer_steps")
    ('step', 'epoch', 'parameter', 'gradient_abs', 'stride')
    """
    return {
        "steps": ("step", "epoch", "batch_size", "lr", *STEP_COLUMNS),
        "epochs": EPOCH_COLUMNS,
        "layer_steps": ("step", "epoch", "parameter", *LAYER_COLUMNS),
        "layer_epochs": ("epoch", "parameter", "size", "steps", *EPOCH_LAYER_COLUMNS),
        "curvature": CURVATURE_COLUMNS,
    }[table]
