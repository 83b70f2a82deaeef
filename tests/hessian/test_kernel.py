"""The fused kernel in Triton's interpreter, which needs no GPU, against the portable form."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from packaging.version import Version

import hessian
from hessian._site import contraction as _contraction
from hessian._site import kernel as _kernel

# Triton decides when it is imported whether to interpret, so this runs in a process of its own.
INTERPRETED = """
import torch
from hessian._site import kernel as _kernel
from hessian._site.contraction import batched_squares

assert _kernel.available(torch.zeros(1))
assert not _kernel.available(torch.zeros(1, dtype=torch.float64))
torch.manual_seed(0)
# [m, c, g, o, p], k: tiles that are full, cut and several; one position; fewer samples than splits
for (m, c, g, o, p), k in (
    ((3, 2, 1, 5, 7), 6), ((17, 1, 2, 33, 16), 32), ((2, 3, 1, 40, 20), 50), ((1, 1, 3, 1, 1), 1),
):
    s, u = torch.randn(m, c, g, o, p), torch.randn(m, g, k, p)
    weights = torch.randn(m, c)
    into = torch.randn(g, o, k)
    start = into.double()
    want = start.clone()
    batched_squares(s.double(), u.double(), weights.double(), want)
    _kernel.fused_squares(s.transpose(0, 1).contiguous().transpose(0, 1), u, weights, into)
    gap = (into - want).abs().max() / want.abs().max()
    assert gap < 1e-5, (m, c, g, o, p, k, float(gap))
    wrong = torch.zeros(g, o, k)  # what this check would see if weights were left out
    _kernel.fused_squares(s, u, torch.ones_like(weights), wrong)
    assert m == 1 or (wrong - (want - start)).abs().max() > 1e-2 * want.abs().max()
print("agreed")
"""


def interpreted(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


# What a GPU would run, compiled for three generations without one.
COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from hessian._site import kernel as _kernel

tensors = dict.fromkeys(("s", "u", "weights", "partial"), "*fp32")
sizes = dict.fromkeys(("samples", "columns", "groups", "o", "k", "p", "each"), "i32")
tiles = {n: getattr(_kernel, n) for n in ("TILE_O", "TILE_K", "TILE_P")}
signature = {**tensors, **sizes, **dict.fromkeys(tiles, "constexpr")}
source = ASTSource(_kernel._kernel(), signature=signature, constexprs=tiles)
for generation in (70, 80, 90):
    code = compile(source, target=GPUTarget("cuda", generation, 32)).asm
    assert code["cubin"] and "fma" in code["ptx"] and "tf32" not in code["ptx"]
print("compiled")
"""


needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64",
    reason="Triton has no build for this platform",
)


def interpreter_fails():
    """Triton's interpreter before 3.7 takes arrays of one entry for numbers; NumPy 2.4 does not."""
    try:
        before = Version(version("triton")) < Version("3.7")
    except PackageNotFoundError:
        return False
    return before and Version(version("numpy")) >= Version("2.4")


@needs_triton
@pytest.mark.skipif(interpreter_fails(), reason="this Triton interprets with NumPy before 2.4 only")
def test_the_kernel_gives_what_the_portable_form_gives():
    done = interpreted(INTERPRETED)
    assert done.stdout == "agreed\n", done.stderr[-2000:]


@needs_triton
def test_the_kernel_compiles_for_gpus_without_reduced_precision(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == "compiled\n", done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [True, False])
def test_the_kernel_on_a_gpu(fused):
    torch.manual_seed(0)
    s, u = torch.randn(9, 3, 1, 40, 20), torch.randn(9, 1, 70, 20)
    weights, want = torch.randn(9, 3), torch.zeros(1, 40, 70, dtype=torch.float64)
    _contraction.batched_squares(s.double(), u.double(), weights.double(), want)
    into = torch.zeros(1, 40, 70).cuda()
    run = _kernel.fused_squares if fused else _contraction.batched_squares
    run(s.cuda(), u.cuda(), weights.cuda(), into)
    assert float((into.cpu() - want).abs().max() / want.abs().max()) < 1e-5


def precisions():
    b = torch.backends
    owners = (b, b.cuda.matmul, b.cudnn, b.cudnn.conv, b.mkldnn, b.mkldnn.matmul)
    return [getattr(o, "fp32_precision", None) for o in owners]


@pytest.mark.parametrize("owner", ["cuda.matmul", "cudnn.conv", "mkldnn.matmul"])
def test_reduced_precision_is_off_inside_and_as_found_after(owner):
    at = torch.backends
    for name in owner.split("."):
        at = getattr(at, name)
    if not hasattr(at, "fp32_precision"):
        pytest.skip("this torch has the older switches only")
    found, inside = at.fp32_precision, []

    def loss(output, target):
        inside.append(precisions())
        return (output - target).square().mean()

    try:
        at.fp32_precision = "tf32"
        before = precisions()
        x, y = torch.randn(2, 3), torch.randn(2, 1)
        hessian.diagonal(torch.nn.Linear(3, 1), loss, (x, y))
        assert precisions() == before
        assert before != inside[0]
        assert all(set(seen) == {"ieee"} for seen in inside)
    finally:
        at.fp32_precision = found


def test_the_older_switch_is_off_inside_too():
    before = torch.get_float32_matmul_precision()
    inside = []

    def loss(output, target):
        inside.append(torch.backends.cuda.matmul.fp32_precision)
        return (output - target).square().mean()

    try:
        torch.set_float32_matmul_precision("high")
        hessian.diagonal(torch.nn.Linear(3, 1), loss, (torch.randn(2, 3), torch.randn(2, 1)))
        assert torch.get_float32_matmul_precision() == "high"
        assert set(inside) == {"ieee"}
    finally:
        torch.set_float32_matmul_precision(before)


def test_memory_defaults_to_half_of_what_a_gpu_has_free(monkeypatch):
    from hessian._call import lending as _problem

    class OnGPU:
        is_cuda, device = True, torch.device("cuda", 0)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**10))
    assert _problem.default_memory([OnGPU()]) == 5 * 10**8
    assert _problem.default_memory([torch.zeros(1)]) == 2**30
