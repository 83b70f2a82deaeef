"""The random numbers of a run."""

from sim.training.config.train_config import TrainConfig

# Streams of random numbers beside each other: every draw of a run comes from
# (order seed, stream, number), so that nothing has to be stored to go on.
ORDER, MASKS, DISCARD, ENTRIES, HELD_OUT, AUGMENT = range(6)


def order_seed(config: TrainConfig) -> int:
    """The seed of all that is drawn in training."""
    return config.seed if config.order_seed is None else config.order_seed
