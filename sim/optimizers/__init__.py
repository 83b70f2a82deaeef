"""The paper's rule and its layer-wise relatives as ordinary `torch.optim.Optimizer` classes.

All of them step along the gradient g, each with another learning rate for the weights w; norms and
medians are those of a tensor, or of a parameter group.

| rule | learning rate |
|---|---|
| `CBLR` | γ R, R = (1 + g²)^{3/2} / abs(d²L/dw²), for each entry by itself (equations 9 to 11) |
| `MCLR` | γ times a median of abs(w/g) (equations 20 to 22) |
| `LARS` | γ ‖w‖₂ / ‖g‖₂ (equation 23) |
| `PercentDelta` | γ size(w) / ‖g/w‖₁ (equation 24) |
| `LAMB` | γ ‖w‖₂ / ‖u‖₂, along Adam's direction u instead of g |
"""

from sim.optimizers._cblr import CBLR
from sim.optimizers._lamb import LAMB
from sim.optimizers._lars import LARS
from sim.optimizers._mclr import MCLR
from sim.optimizers._percent_delta import PercentDelta

__all__ = ["CBLR", "LAMB", "LARS", "MCLR", "PercentDelta"]
