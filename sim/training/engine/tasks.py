"""Which configurations of a sweep are trained together, and where their checkpoint lies."""

from collections.abc import Container
from pathlib import Path

from sim import _arguments
from sim.training.config.train_config import TrainConfig
from sim.training.engine.fast.vectorise import groups
from sim.training.engine.loop import CHECKPOINT
from sim.training.record import store

# What the folders of lanes that train together begin with.
LANES = "lanes-"


def tasks_of(
    configs: list[TrainConfig], vectorise: bool, workers: int, out: Path | None
) -> list[list[TrainConfig]]:
    """What is trained together: one run each, or lanes.

    Lanes that have begun stay together, whatever is asked for beside them, or they would begin
    anew; and no run that has come to its end is a lane again.
    """
    if not vectorise:
        return [[config] for config in configs]
    tasks, left = [], dict.fromkeys(configs)
    if out is not None:
        tasks += _begun(out, left)
        for group in tasks:
            for config in group:
                del left[config]
        finished = [config for config in left if (out / config.hash / "run.json").is_file()]
        tasks += [[config] for config in finished]
        for config in finished:
            del left[config]
    return tasks + groups(list(left), workers)


def _begun(out: Path, among: Container[TrainConfig]) -> list[list[TrainConfig]]:
    """The groups of lanes that stand in a checkpoint, and are all among those wanted."""
    begun: list[list[TrainConfig]] = []
    for path in sorted(out.glob(f"{LANES}*/{CHECKPOINT}")):
        try:
            saved = store.read_tensors(path)
            group = [TrainConfig.read(config) for config in saved["configs"]]
        except Exception:  # whoever trains in this folder says what is wrong with it
            continue
        taken = [config for other in begun for config in other]
        same = saved.get("version") == group[0].version
        if same and all(c in among and c not in taken for c in group):
            begun.append(group)
    return begun


def checkpoint_folder(configs: list[TrainConfig], out: Path) -> Path:
    """Where the checkpoint of runs lies that are trained together."""
    if len(configs) == 1:
        return out / configs[0].hash
    # The group as a whole goes on, or the lanes would be others and round otherwise.
    return out / f"{LANES}{_arguments.digest([config.hash for config in configs])}"
