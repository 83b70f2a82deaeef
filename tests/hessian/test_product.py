"""Matrix products by either library."""

import pytest
import torch

import hessian
from hessian._runtime import matrix_products as _product


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("size", [3, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_in_any_strides(monkeypatch, faster, size, dtype):
    if faster and not torch.backends.mkldnn.is_available():
        pytest.fail("this build of torch has no oneDNN, which the project's own pin has")
    used = []
    onednn = _product._onednn
    monkeypatch.setattr(_product, "prefers_onednn", lambda: faster)
    monkeypatch.setattr(_product, "_onednn", lambda a, b: used.append(1) or onednn(a, b))
    torch.manual_seed(0)
    a = torch.randn(size, 2 * size + 1, dtype=dtype)
    b = torch.randn(2 * size + 1, size + 2, dtype=dtype)
    for left in (a, a.t().contiguous().t(), a.repeat(1, 2)[:, : a.shape[1]]):
        for right in (b, b.t().contiguous().t()):
            found = hessian.product(left, right)
            expected = left.double() @ right.double()
            # Sums of 161 products of size 1, some 10 times that in all.
            slack = 50 * torch.finfo(dtype).eps * 10
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=slack)
    large = dtype == torch.float32 and size == 80
    assert len(used) == (6 if faster and large else 0)


def test_it_can_be_differentiated_all_the_same(monkeypatch):
    monkeypatch.setattr(_product, "prefers_onednn", lambda: True)
    a = torch.randn(80, 80, requires_grad=True)
    hessian.product(a, torch.eye(80)).sum().backward()
    assert torch.equal(a.grad, torch.ones(80, 80))


@pytest.mark.parametrize("shapes", [((3,), (3, 2)), ((2, 3), (2, 3)), ((1, 2, 3), (3, 2))])
def test_what_is_no_product_is_refused(shapes):
    a, b = map(torch.zeros, shapes)
    with pytest.raises(ValueError, match="a, b: got"):
        hessian.product(a, b)


def test_products_without_onednn(monkeypatch):
    """Where the operation is missing or disagrees, ``torch.mm`` does the work."""

    def wrong(a, b):
        return 1.01 * (a @ b)

    def missing(a, b):
        raise AttributeError("no such operator")

    monkeypatch.setattr(_product, "_vendor", lambda: "AuthenticAMD")
    for broken in (wrong, missing):
        monkeypatch.setattr(_product, "_onednn", broken)
        _product.prefers_onednn.cache_clear()
        try:
            assert not _product.prefers_onednn()
            a = torch.randn(128, 128)
            torch.testing.assert_close(_product.product(a, a), a @ a)
        finally:
            _product.prefers_onednn.cache_clear()


def test_the_library_goes_by_the_processor(monkeypatch):
    """Not by a stopwatch: two processes on one machine give the same bits."""
    for vendor in ("GenuineIntel", "AuthenticAMD"):
        monkeypatch.setattr(_product, "_vendor", lambda vendor=vendor: vendor)
        _product.prefers_onednn.cache_clear()
        try:
            usable = torch.backends.mkl.is_available() and _product._agrees()
            assert _product.prefers_onednn() == (usable and vendor == "AuthenticAMD")
        finally:
            _product.prefers_onednn.cache_clear()
    assert _product.rates(torch.zeros(1)) is _product.CPU


def test_measuring_leaves_the_random_state_alone():
    """What a GPU is asked, on the CPU."""
    before = torch.get_rng_state()
    speed = _product._measured(torch.device("cpu"), torch.float32)
    assert torch.equal(before, torch.get_rng_state())
    assert min(speed.product, speed.small, speed.square, speed.move) > 1e6


def test_the_first_callers_settings_do_not_decide_for_all():
    """Which library is taken is found out once a process, whatever is set at that moment."""
    want = _product._agrees()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _product._agrees() == want
    torch.set_default_dtype(torch.float64)
    try:
        assert _product._agrees() == want
    finally:
        torch.set_default_dtype(torch.float32)
