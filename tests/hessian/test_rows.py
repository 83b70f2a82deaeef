"""Rows in blocks and what is made of them, against rows written out."""

import itertools

import pytest
import torch
from torch import Tensor

from hessian._loss import pairs
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.source import Source, carrying

N, M, D = 2, 12, 24
LIKE = torch.zeros(0, dtype=torch.float64)
KINDS = ("identity", "shared 1", "shared 2", "own 1", "own 2", "own 3", "own 6")


def rows_of(kind: str, scaled: bool, d: int = D) -> JacobianRows:
    """Rows of a kind, drawn anew."""
    name, _, number = kind.partition(" ")
    scale = torch.randn(N, M if name == "identity" else d, dtype=torch.float64) if scaled else None
    if name == "identity":
        return JacobianRows(M, M, None, scale)
    blocks = int(number)
    shape = (M // blocks, d // blocks)
    base = torch.randn(shape if name == "shared" else (N * blocks, *shape), dtype=torch.float64)
    return JacobianRows(M, d, base, scale, blocks=blocks)


def naive(rows: JacobianRows) -> Tensor:
    """The rows written out entry by entry, ``[n, m, d]``."""
    out = torch.zeros(N, rows.m, rows.d, dtype=torch.float64)
    a, b = rows.m // rows.blocks, rows.d // rows.blocks
    for sample, i, j in itertools.product(range(N), range(rows.m), range(rows.d)):
        if rows.base is None:
            value = float(i == j)
        elif i // a != j // b:
            value = 0.0
        elif rows.base.dim() == 2:
            value = float(rows.base[i % a, j % b])
        else:
            value = float(rows.base[sample * rows.blocks + i // a, i % a, j % b])
        out[sample, i, j] = value * (1.0 if rows.scale is None else float(rows.scale[sample, j]))
    return out


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_fewer_blocks_are_the_same_rows(kind: str, scaled: bool) -> None:
    rows = rows_of(kind, scaled)
    want = naive(rows)
    assert torch.equal(rows.dense(LIKE, N), want)
    for blocks in (b for b in (1, 2, 3, 6) if (rows.grain or 6) % b == 0):
        a, b = rows.m // blocks, rows.d // blocks
        written = rows.written(blocks, LIKE, N).reshape(N, blocks, a, b)
        for sample, block in itertools.product(range(N), range(blocks)):
            part = want[sample, block * a : (block + 1) * a, block * b : (block + 1) * b]
            assert torch.equal(written[sample, block], part)


@pytest.mark.parametrize("scaled", [(False, False), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)), ids=str)
def test_sums_of_rows_in_blocks(kinds: tuple[str, str], scaled: tuple[bool, bool]) -> None:
    first, second = (rows_of(k, s, M) for k, s in zip(kinds, scaled, strict=True))
    want = naive(first) + naive(second)
    assert torch.allclose(first.plus(second, LIKE, N).dense(LIKE, N), want, rtol=1e-14)
    assert torch.allclose(second.times(3.0, LIKE, N).dense(LIKE, N), 3 * naive(second), rtol=1e-14)


def test_a_sum_leaves_rows_that_another_holds() -> None:
    rows, other = rows_of("own 1", False), rows_of("own 1", True)
    before = naive(rows)
    rows.plus(other, LIKE, N)
    assert torch.equal(naive(rows), before)
    assert rows.base is not None
    fresh = JacobianRows(M, D, rows.base.clone(), None, True)
    total = fresh.plus(other, LIKE, N)
    assert total.base is fresh.base  # nothing else holds it: written in place


# Channel c at position i is entry i·C + c, or positions lie inside channels, or anywhere.
PLACES = {
    "one": torch.arange(M).unsqueeze(1),
    "positions outside": torch.arange(M).view(3, 4).T,
    "positions outside, six": torch.arange(M).view(6, 2).T,
    "positions inside": torch.arange(M).view(3, 4),
    "anywhere": torch.tensor([[0, 11, 4], [7, 2, 9]]),
}


@pytest.mark.parametrize("scaled", [(False, False), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)), ids=str)
def test_contractions_of_rows_in_blocks(kinds: tuple[str, str], scaled: tuple[bool, bool]) -> None:
    a, b = (rows_of(k, s, M) for k, s in zip(kinds, scaled, strict=True))
    want = naive(a).mT @ naive(b)
    close = {"rtol": 1e-12, "atol": 1e-12}
    diagonal = pairs.diagonal(a, b, LIKE, N, Cost())
    assert torch.allclose(diagonal, want.diagonal(dim1=1, dim2=2), **close)
    if not (a.identity and b.identity):
        values, blocks = pairs.gram(a, b, LIKE, N, Cost())
        whole = JacobianRows(M, M, values, blocks=blocks)
        assert torch.allclose(whole.dense(LIKE, N), want, **close)
    for place in PLACES.values():
        blocks_at = torch.stack([want[:, at][:, :, at] for at in place], 1)
        assert torch.allclose(pairs.blocks(a, b, place, LIKE, N, Cost()), blocks_at, **close)


def form_of(kind: str) -> tuple[Quadratic, Tensor]:
    """A form of a kind and its matrix."""
    if kind == "diagonal":
        values = torch.randn(N, M, dtype=torch.float64)
        return Quadratic("diagonal", values), torch.diag_embed(values)
    parts = int(kind.split()[1])
    width = M // parts
    if kind.startswith("softmax"):
        p = torch.randn(N, parts, width, dtype=torch.float64).softmax(-1)
        t = -torch.rand(N, parts, dtype=torch.float64)
        spots = torch.arange(parts).repeat_interleave(width)
        form = Quadratic("softmax", t, p.flatten(1), spots if parts > 1 else None, parts)
        block = p.unsqueeze(-1) * p.unsqueeze(-2) - torch.diag_embed(p)
        block = block * t.view(N, parts, 1, 1)
    else:
        block = torch.randn(N, parts, width, width, dtype=torch.float64)
        block = block + block.mT
        form = Quadratic("full", block.flatten(0, 1), parts=parts)
    rows = JacobianRows(M, M, block.flatten(0, 1), blocks=parts)
    return form, naive(rows)


FORMS = ("diagonal", "full 1", "full 2", "full 3", "full 6", "softmax 1", "softmax 3", "softmax 6")


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("form_kind", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_forms_in_parts_below_rows_in_blocks(kind: str, form_kind: str, scaled: bool) -> None:
    rows = rows_of(kind, scaled, M)
    form, matrix = form_of(form_kind)
    want = naive(rows).mT @ matrix @ naive(rows)
    edge = (object(), 0)
    sources = [Source(form, {edge: rows})]
    if rows.identity and not scaled and not form_kind.startswith("softmax"):
        sources.append(carrying(form, edge, LIKE, N))
    close = {"rtol": 1e-12, "atol": 1e-12}
    for source in sources:
        diagonal = source.diagonal(edge, LIKE, N, Cost())
        assert torch.allclose(diagonal, want.diagonal(dim1=1, dim2=2), **close)
        gram = source.gram(edge, LIKE, N, Cost())
        merged = Source(gram, {edge: JacobianRows(M, M)}).gram(edge, LIKE, N, Cost())
        for whole in (gram, merged):
            written = whole.cut(1, N).matrix() if whole.kind == "full" else whole.matrix()
            assert torch.allclose(written, want, **close)
        for place in PLACES.values():
            blocks = torch.stack([want[:, at][:, :, at] for at in place], 1)
            values = source.blocks(edge, place, LIKE, N, Cost())
            assert torch.allclose(values, blocks, **close)
