"""The paper's networks, and small ones beside them."""

from sim.models._build import MODELS, build, first_linear

__all__ = ["MODELS", "build", "first_linear"]
