"""Where people train: Lightning, Hugging Face's Trainer, accelerate, a loop of one's own.

| question | name |
|---|---|
| the exact curvature of the batch at hand, for `sim.optimizers.CBLR` | `BatchCurvature` |
| traces, radii and noise scale by layer in Lightning's logger | `lightning.CurvatureMonitor` |
| the same in the logs of Hugging Face's Trainer | `transformers.CurvatureMonitor` |

The other rules of `sim.optimizers` need nothing: they are ordinary optimizers. `lightning` and
`transformers` are modules of their own, imported by name, and installed with
`cblr[integrations]`.
"""

from sim.integrations._batch_curvature import BatchCurvature

__all__ = ["BatchCurvature"]
