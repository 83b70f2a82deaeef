"""Deliberate errors in `hessian`, each of which some test must see.

`before` stands exactly once in the file; `after` takes its place. `tests` are where it is looked
for first; what survives there is looked for in all of the tests of the package.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    """One deliberate error: what it is, where, the right text and the wrong one, who sees it."""

    what: str
    file: str
    before: str
    after: str
    tests: str


MUTATIONS = [
    # ---------------------------------------------------------------- the certificate's lists
    Mutation(
        "tanh is taken for piecewise linear",
        "_tape/operations.py",
        '"Tanh": Operation(CURVED,',
        '"Tanh": Operation(PIECEWISE,',
        "test_exactness.py test_certificate.py",
    ),
    Mutation(
        "a product of two factors with the same parameter is affine",
        "_tape/operations.py",
        '"Mul": Operation(\n        FACTORS_01,',
        '"Mul": Operation(\n        AFFINE,',
        "test_certificate.py test_random.py test_exactness.py",
    ),
    Mutation(
        "a matrix product with the same parameter on both sides is affine",
        "_tape/operations.py",
        '"Mm": Operation(FACTORS_01,',
        '"Mm": Operation(AFFINE,',
        "test_certificate.py test_random.py test_exactness.py",
    ),
    Mutation(
        "layer norm is affine in its input",
        "_tape/operations.py",
        '"NativeLayerNorm": Operation(Dependence(nonlinear=(0,)),',
        '"NativeLayerNorm": Operation(AFFINE,',
        "test_exactness.py test_certificate.py",
    ),
    Mutation(
        "batch norm in training mode is affine in its input",
        "_tape/operations.py",
        'return BATCH_NORM if getattr(node, "_saved_training", True) else FACTORS_01',
        "return FACTORS_01",
        "test_exactness.py test_certificate.py",
    ),
    Mutation(
        "a sum over samples keeps them apart",
        "_tape/layouts.py",
        "return [Mark.CONFLICT if axis in axes else lay._replace(axis=axis)]",
        "return [lay._replace(axis=axis)]",
        "test_operations.py",
    ),
    Mutation(
        "an index along the samples keeps them apart",
        "_tape/layouts.py",
        "return [Mark.CONFLICT if source is None else lay._replace(axis=source)]",
        "return [lay._replace(axis=source or 0)]",
        "test_operations.py",
    ),
    Mutation(
        "samples in the second factor of a sum of products are in the first",
        "_tape/layouts.py",
        "axis = lay._replace(axis=lay.axis + 1)",
        "axis = lay",
        "test_operations.py",
    ),
    Mutation(
        "a softmax along the samples keeps them apart",
        "_tape/layouts.py",
        "return [Mark.CONFLICT if axis == lay.axis and not whole else lay] * len(dims)",
        "return [lay] * len(dims)",
        "test_exactness.py test_certificate.py test_random.py",
    ),
    Mutation(
        "a permutation leaves samples on the axis they had",
        "_tape/layouts.py",
        "source = _axes(order[lay.axis], len(out)).pop()",
        "source = lay.axis",
        "test_certificate.py test_random.py test_modules.py",
    ),
    Mutation(
        "a loss that multiplies two outputs is linear in them",
        "_tape/certificate.py",
        "return not multiplied and not inputs & set(rule.nonlinear)",
        "return not at & set(rule.nonlinear)",
        "test_exactness.py test_diagonal.py test_random.py",
    ),
    Mutation(
        "terms that join two entries of a parameter are sums over entries",
        "_tape/certificate.py",
        "        elif linear or (\n",
        "        elif linear or entries or (\n",
        "test_exactness.py test_diagonal.py test_certificate.py",
    ),
    # -------------------------------------------------------------------- the affine route
    Mutation(
        "the columns' weights are left out of the squares",
        "_site/contraction.py",
        "return values.mul_(weights.unsqueeze(-1))",
        "return values",
        "test_exactness.py test_contraction.py",
    ),
    Mutation(
        "a position is paired with itself twice",
        "_site/contraction.py",
        "row[0] *= 0.5  # a position",
        "row[0] *= 1.0  # a position",
        "test_contraction.py",
    ),
    Mutation(
        "pairs of positions are counted once",
        "_site/contraction.py",
        "twice = 2 * x",
        "twice = 1 * x",
        "test_contraction.py",
    ),
    Mutation(
        "the scale of a product is not squared",
        "_site/contraction.py",
        "s2 *= self.site.scale**2",
        "s2 *= self.site.scale",
        "test_diagonal.py",
    ),
    Mutation(
        "several uses of a parameter are squared apart",
        "_site/sums.py",
        "total = total + site.gradient(adjoint[portion], place)",
        "total = (total.square() + site.gradient(adjoint[portion], place).square()).sqrt()",
        "test_exactness.py test_random.py",
    ),
    Mutation(
        "a column's weight is another's in the columns route",
        "_routes/affine.py",
        "weights = torch.stack([factor.weights[c, s] for c, s in jobs])",
        "weights = torch.stack([factor.weights[0, s] for c, s in jobs])",
        "test_exactness.py test_modules.py test_random.py",
    ),
    # --------------------------------------------------------------------- the chain route
    Mutation(
        "tanh's second derivative is halved",
        "_routes/_chain/steps/elementwise.py",
        "self.second = (-2 * y if tanh",
        "self.second = (-1 * y if tanh",
        "test_chain.py test_exactness.py",
    ),
    Mutation(
        "layer norm's Jacobian leaves out the variance",
        "_routes/_chain/steps/norms.py",
        "pulled = (base - base.mean(-1, keepdim=True)).sub_(hat * share)",
        "pulled = (base - base.mean(-1, keepdim=True)).sub_(0 * hat * share)",
        "test_chain.py test_exactness.py",
    ),
    Mutation(
        "softmax's own curvature is left out in one term",
        "_routes/_chain/steps/softmax.py",
        "block = torch.diag_embed(g) - outer - outer.transpose(-1, -2)",
        "block = torch.diag_embed(g) - outer",
        "test_chain.py test_exactness.py test_random.py",
    ),
    Mutation(
        "the curvature of an elementwise function is left out",
        "_routes/_chain/steps/elementwise.py",
        "self.second = self.where.flat(second.detach(), self.children[0])",
        "self.second = 0 * self.where.flat(second.detach(), self.children[0])",
        "test_chain.py test_exactness.py",
    ),
    Mutation(
        "an embedding's repeated rows do not meet",
        "_site/embedding.py",
        "sums = (curved * same.unsqueeze(1)).sum(3)  # [n, c, p]",
        "sums = curved.diagonal(dim1=2, dim2=3).clone()",
        "test_chain.py test_exactness.py test_modules.py",
    ),
    # ------------------------------------------------------- pre-activation and parameter route
    Mutation(
        "products at a site are halved",
        "_routes/preactivation.py",
        "curved[:, c, :, q] = product[part[:, c]]",
        "curved[:, c, :, q] = product[part[:, c]] / 2",
        "test_modules.py test_random.py test_diagonal.py",
    ),
    Mutation(
        "the batched products run along twice the unit vector",
        "_routes/parameter.py",
        "units[rows, entries] = 1.0",
        "units[rows, entries] = 2.0",
        "test_exactness.py test_diagonal.py",
    ),
    Mutation(
        "single products read a neighbour's entry",
        "_routes/parameter.py",
        "product.reshape(-1)[entry].detach()",
        "product.reshape(-1)[entry - 1].detach()",
        "test_diagonal.py test_random.py test_exactness.py",
    ),
    # ------------------------------------------------------------------ batches, parts, loaders
    Mutation(
        "batches of a loader weigh the same",
        "_call/batches.py",
        "return 1.0 / sum(items) if weight is None else 1.0",
        "return 1.0 / len(items) if weight is None else 1.0",
        "test_exactness.py test_diagonal.py",
    ),
    Mutation(
        "what the loss adds by itself is added by every part",
        "_batch/pieces.py",
        "    division.note(len(slices))\n    return whole.own()[0]",
        "    division.note(len(slices))\n    return {k: 3 * v for k, v in whole.own()[0].items()}",
        "test_pieces.py test_parts.py",
    ),
    Mutation(
        "a batch's part of the operator has no weight",
        "_operator.py",
        "into.add_(h, alpha=batch.a)",
        "into.add_(h, alpha=1.0)",
        "test_operator.py",
    ),
    # --------------------------------------------------------------------------- estimators
    Mutation(
        "the empirical Fisher of a mean is that of a sum",
        "_estimate.py",
        'count = 1.0 if weight == "sum" else float(of_all(analysis))',
        "count = 1.0",
        "test_estimate.py",
    ),
    Mutation(
        "the sampled Gauss-Newton takes the negative part for positive",
        "_estimate.py",
        "weights.append(exact.weights.new_full((n,), sign))",
        "weights.append(exact.weights.new_full((n,), 1.0))",
        "test_estimate.py",
    ),
    Mutation(
        "what is taken exactly is probed again",
        "_estimators/probe.py",
        "probed[edge] = probe, h - a * (weights * dot)",
        "probed[edge] = probe, h - 0 * a * (weights * dot)",
        "test_estimate.py",
    ),
    Mutation(
        "Becker and LeCun's rule does not square the weights",
        "_estimators/becker_lecun.py",
        "left = None if b is None else alpha * (out @ b.square().transpose(-1, -2))",
        "left = None if b is None else alpha * (out @ b.abs().transpose(-1, -2))",
        "test_becker_lecun.py",
    ),
    Mutation(
        "the standard error divides by n instead of n - 1",
        "_standard_error.py",
        "self.count / (self.count - 1)",
        "1.0",
        "test_standard_error.py",
    ),
    Mutation(
        "sampled values are those of the next entry",
        "_sample.py",
        "part = batch.a * h[name].reshape(-1)[places]",
        "part = batch.a * h[name].reshape(-1).roll(-1)[places]",
        "test_sample.py",
    ),
    # --------------------------------------------------------------- state and precision
    Mutation(
        "threads compute at once",
        "_runtime/ledger.py",
        "        _LOCK.acquire()\n",
        "",
        "test_threads.py",
    ),
    Mutation(
        "modes stay on the stack after an interrupt",
        "_runtime/ledger.py",
        "            _stack(self.functions)\n",
        "            pass\n",
        "test_interrupted.py",
    ),
    Mutation(
        "a mode left on the stack takes part in the undoing",
        "_runtime/ledger.py",
        "with torch._C.DisableTorchFunction():",
        "if True:",
        "test_interrupted.py",
    ),
    Mutation(
        "a normal number that NumPy holds back is forgotten",
        "_call/state.py",
        ' and not self._state["has_gauss"]',
        "",
        "test_state.py",
    ),
    Mutation(
        "autocast inside the model stays on",
        "_call/precision.py",
        "            self._follow(hooks)\n        if under_autocast():\n",
        "            self._follow(hooks)\n        if False:\n",
        "test_precision.py",
    ),
    Mutation(
        "a float64 check rounds what is turned to float32 on its way",
        "_call/precision.py",
        "if name in _REAL_TYPES or name in _COMPLEX_TYPES:",
        "if name in _COMPLEX_TYPES:",
        "test_precision.py",
    ),
    Mutation(
        "what is written to a tensor in another dtype is lost",
        "_call/precision.py",
        "            args = (self._written(args[0]), *args[1:])\n",
        "            args = tuple(args)\n",
        "test_precision.py",
    ),
    Mutation(
        "noise is drawn in the dtype of the computation",
        "_call/precision.py",
        "if self.drawn != self.dtype and self._random(name, args, kwargs):",
        "if False:",
        "test_precision.py",
    ),
    # ------------------------------------------------------- what autograd is not trusted with
    Mutation(
        "a custom function is known by its name",
        "_tape/graph.py",
        "getattr(torch._C._functions, kind.__name__, None) is not kind",
        "False",
        "test_provenance.py test_certificate.py",
    ),
    Mutation(
        "weight norm divides by the norm of another axis",
        "_call/replacements.py",
        "axes = [axis for axis in range(v.dim()) if dim != -1 and axis != dim]",
        "axes = [axis for axis in range(v.dim()) if dim != -1 and axis == dim]",
        "test_provenance.py test_replacements.py test_random.py",
    ),
    Mutation(
        "gradient hooks stay where they are",
        "_call/hooks.py",
        "        owe(partial(_refill, hooks, dict(hooks)))\n        hooks.clear()",
        "        pass",
        "test_hooks.py",
    ),
    Mutation(
        "a penalty's fused norm keeps its deviation fixed",
        "_call/penalties.py",
        "scale = (variance + eps).rsqrt()",
        "scale = (variance + eps).rsqrt().detach()",
        "test_penalties.py",
    ),
    Mutation(
        "what a call writes to a parameter stays until the end",
        "_call/objective.py",
        "        self._written.restore()\n        (randomness",
        "        (randomness",
        "test_written.py",
    ),
    # ------------------------------------------------------------------- outputs and parts
    Mutation(
        "one tensor in two places is two outputs",
        "_call/outputs.py",
        "have = first.setdefault((edge.node, edge.output_nr), i)",
        "have = first.setdefault((edge.node, edge.output_nr, i), i)",
        "test_outputs.py",
    ),
    Mutation(
        "ways from the loss into the network are not looked for",
        "_tape/hidden.py",
        "if node in made or (number is not None and number() < start):",
        "if False:",
        "test_outputs.py test_parts.py",
    ),
    Mutation(
        "a part's outputs may differ from the whole's",
        "_batch/comparison.py",
        "return bool(same.all())",
        "return bool(same.any())",
        "test_rehearsal.py",
    ),
    Mutation(
        "only the first part is compared at other weights",
        "_batch/rehearsal.py",
        "            for part in slices:\n                call = _compare(",
        "            for part in slices[:1]:\n                call = _compare(",
        "test_rehearsal.py",
    ),
    Mutation(
        "the adjoint of a part is another part's",
        "_batch/parts.py",
        "slope = by_sample(read.slope.detach(), layout, whole.samples)[part.samples]",
        "slope = by_sample(read.slope.detach(), layout, whole.samples).roll(1, 0)[part.samples]",
        "test_parts.py",
    ),
    # --------------------------------------------------------------- broadcasts, precision
    Mutation(
        "rows of an entry that is spread over several places are averaged",
        "_routes/_chain/steps/broadcast.py",
        "total = full.sum([len(lead) + a for a in axes])",
        "total = full.mean([len(lead) + a for a in axes])",
        "test_broadcast.py test_chain.py",
    ),
    # -------------------------------------------------------------------------- the oracle
    Mutation(
        "the oracle divides by the step, not its square",
        "_verification/differences.py",
        "tableau.add((up + down) / s**2, 4 * self.sigma / s**2)",
        "tableau.add((up + down) / s**1, 4 * self.sigma / s**2)",
        "test_differences.py",
    ),
    Mutation(
        "the oracle extrapolates in powers of the step",
        "_verification/differences.py",
        "tableau = _Tableau(4.0)",
        "tableau = _Tableau(2.0)",
        "test_differences.py",
    ),
    Mutation(
        "the oracle takes a kink for smooth",
        "_verification/differences.py",
        "if (error > 1e-3 * abs(value) and ladder.jumps()) or ladder.bends(k - j):",
        "if False:",
        "test_differences.py",
    ),
    Mutation(
        "the oracle's step is shorter than it says",
        "_verification/values.py",
        "data[where] = start + displacement",
        "data[where] = start + 0.9 * displacement",
        "test_differences.py test_exactness.py",
    ),
    Mutation(
        "the oracle holds what a custom function computes",
        "_verification/frozen.py",
        "inside and self.wanted and not torch.is_inference_mode_enabled()",
        "False",
        "test_verify.py",
    ),
    # ---------------------------------------------------------------- minima along a line
    Mutation(
        "a search that was cut ends where it stood, not at the least value seen",
        "_descent.py",
        "torch.where(ended, t, self.at_least), (self.here - v)",
        "t, (self.here - v)",
        "test_descent.py test_coordinate.py",
    ),
    Mutation(
        "the least value seen is the last one",
        "_descent.py",
        "less = v < self.least[lanes]",
        "less = v == v",
        "test_descent.py test_coordinate.py",
    ),
    Mutation(
        "slopes that disagree with the values are believed",
        "_descent.py",
        "ended[lanes[(narrow & ~lie) | flat]] = True",
        "ended[lanes[narrow | flat]] = True",
        "test_descent.py test_coordinate.py",
    ),
    # ---------------------------------------------------------------- derivatives of parts
    Mutation(
        "derivatives of parts are not compared with the whole's",
        "_batch/rehearsal.py",
        "raise NotInParts(SLOPES)",
        "pass",
        "test_rehearsal.py",
    ),
    Mutation(
        "the derivative of a part differs in every sample and passes",
        "_batch/rehearsal.py",
        "APART, KINKED = 1e-2, 0.01",
        "APART, KINKED = 1e-2, 1.0",
        "test_rehearsal.py",
    ),
    Mutation(
        "forward mode is left on",
        "_batch/rehearsal.py",
        "    owe(_end_forward_mode)\n",
        "",
        "test_rehearsal.py",
    ),
]
