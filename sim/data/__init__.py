"""Data sets, whole in memory, with their provenance."""

from sim.data._cifar10 import download_cifar10
from sim.data._dataset import Batches, Dataset
from sim.data._load import DATASETS, SPLITS, load

__all__ = ["DATASETS", "SPLITS", "Batches", "Dataset", "download_cifar10", "load"]
