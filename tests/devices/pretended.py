"""A pretended device: real values, computed on the CPU, under the rules of another device.

`register` makes the device type "pretend" known to torch, which a process can do once, and before
its first backward pass: autograd starts a thread for every device then. `Pretended` wraps a tensor
on the CPU and says that it is on the device; what is asked of it is done on the CPU, by
`__torch_dispatch__` and by a fallback for what is made on the device. It refuses what CUDA refuses:
tensors of the CPU beside its own (but for single numbers, and indices), generators of the CPU, and
the step to NumPy. The device has a random state of its own, and may be without float64.

Autograd runs above it as it is, double backward included. What stays different from a GPU: no call
returns before its result is there, and memory is the CPU's.
"""

import contextlib

import torch
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
aten = torch.ops.aten
# A scalar on the CPU is a number beside tensors of the device, but not where memory is joined.
JOINS = {aten.cat.default, aten.stack.default, aten.index_select.default, aten.mm.default}
# Indices may be on the CPU, what they index not.
INDEXES = {
    *(aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default),
    *(aten.index_put_.default, aten._index_put_impl_.default, aten._unsafe_index_put.default),
}
COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default,
          aten._copy_from_and_resize.default}  # fmt: skip


class Rules:
    """What the device can do; tests change it for a while."""

    float64 = True


# Of generators by their address: what torch hands on is another object of Python's.
PLACES = {}


class Generator(torch.Generator):
    """Generators of the CPU and of the device, under one name."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.place = PLACES[made._cdata] = torch.device(device)
        return made

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return self.place


class Module:
    """What is found as `torch.pretend`, with a random state of the device's own."""

    def __init__(self):
        self.state = torch.Generator("cpu")

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def synchronize(self, device=None):
        pass

    def mem_get_info(self, device=None):
        return 2**33, 2**34

    def get_device_name(self, device=None):
        return "pretended"

    def get_rng_state(self, device=None):
        return self.state.get_state()

    def set_rng_state(self, state, device=None):
        self.state.set_state(state)

    def manual_seed(self, seed):
        self.state.manual_seed(seed)

    def manual_seed_all(self, seed):
        self.state.manual_seed(seed)

    def _is_in_bad_fork(self):
        return False

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


class Pretended(torch.Tensor):
    """A tensor on the device: `inner` holds its values on the CPU."""

    # Not among the attributes, which code may carry over from one tensor to another.
    __slots__ = ("inner",)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, *args, **(kwargs or {}))

    def __repr__(self, *, tensor_contents=None):
        return f"pretended: {self.inner!r}"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = Pretended(self.inner.clone()).requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        if not isinstance(other, Pretended):
            raise RuntimeError("incompatible tensor type: the new data is on another device")
        torch.Tensor.data.__set__(self, other)
        self.inner = other.inner

    def numpy(self, *, force=False):
        if force:
            return self.detach().inner.numpy()
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy; use Tensor.cpu()")

    def __array__(self, dtype=None):
        return self.numpy()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        made = tensor(data, dtype=dtype or self.dtype, device=device or self.device)
        return made.requires_grad_(requires_grad)

    def tolist(self):
        return self.inner.tolist()

    def data_ptr(self):
        return self.inner.data_ptr()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def cpu(self, memory_format=torch.preserve_format):
        return self.to("cpu", memory_format=memory_format)


def on_device(device):
    return device is not None and torch.device(device).type == NAME


def compute(function, *args, **kwargs):
    """Do on the CPU what was asked of the device, after a look at its rules."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, Pretended)]
    here = [t for t in tensors if not isinstance(t, Pretended)]
    target = bool(there) if kwargs.get("device") is None else on_device(kwargs["device"])
    if function is aten.copy_.default:
        target = isinstance(args[0], Pretended)
    elif function not in COPIES:
        _refuse_mixtures(function, args, there, here)
    generators = [leaf for leaf in leaves if isinstance(leaf, torch._C.Generator)]
    kinds = {PLACES.get(g._cdata, torch.device("cpu")).type for g in generators}
    if kinds - {NAME if target else "cpu"}:
        raise RuntimeError(
            f"Expected a '{NAME if target else 'cpu'}' device type for generator but found {kinds}"
        )
    if "device" in kwargs and kwargs["device"] is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map(_inner, (args, kwargs))
    with _random_state(function, target and not generators):
        result = FUSED.get(function, function)(*plain_args, **plain_kwargs)
    if target:
        _refuse_float64(function, result)
    return _returned(function, args, kwargs, there, result, target)


def _inner(value):
    return value.inner if isinstance(value, Pretended) else value


def _refuse_mixtures(function, args, there, here):
    large = [t for t in here if t.dim() > 0 or function in JOINS]
    if not there or not large:
        return
    if function in INDEXES and isinstance(args[0], Pretended):
        indices = [t for t in tree_leaves(args[1]) if isinstance(t, torch.Tensor)]
        large = [t for t in large if not any(t is index for index in indices)]
    if large:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu! ({function}, {[tuple(t.shape) for t in large]})"
        )


def _refuse_float64(function, result):
    wide = (torch.float64, torch.complex128)
    if not Rules.float64 and any(getattr(t, "dtype", None) in wide for t in tree_leaves(result)):
        raise TypeError(f"Cannot convert a {NAME} Tensor to float64: not supported ({function})")


@contextlib.contextmanager
def _random_state(function, wanted):
    """Draws on the device are from its own state, not the CPU's."""
    if not wanted or torch.Tag.nondeterministic_seeded not in function.tags:
        yield
        return
    state = torch.pretend.state
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(state.get_state())
    try:
        yield
    finally:
        state.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(before)


def _returned(function, args, kwargs, there, result, target):
    """What came out, on the device; what was changed in place is the tensor that was given."""
    written = [
        kwargs.get(argument.name, args[i] if i < len(args) else None)
        for i, argument in enumerate(function._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    for tensor in tree_leaves(written):
        if isinstance(tensor, Pretended) and tensor.shape != tensor.inner.shape:
            torch.Tensor.data.__set__(tensor, Pretended(tensor.inner))
    if written and function._schema.name.endswith("_"):
        return written[0] if function._schema.returns else None
    known = {id(t.inner): t for t in (*there, *tree_leaves(written)) if isinstance(t, Pretended)}

    def wrapped(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, Pretended):
            return value
        if id(value) in known:
            return known[id(value)]
        return Pretended(_physical(value)) if target else value

    return tree_map(wrapped, result)


def _physical(value):
    """A tensor without what torch puts off, and would not see to below a wrapper."""
    if value._is_zerotensor():
        return torch.zeros(value.shape, dtype=value.dtype)
    return value.resolve_conj().resolve_neg()


def _lstm_cell(input_gates, hidden_gates, cx, input_bias=None, hidden_bias=None):
    """What torch has as one kernel for GPUs, and asks of every device that it does not know."""
    gates = _with(input_gates, input_bias) + _with(hidden_gates, hidden_bias)
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(grad_hy, grad_cy, cx, cy, workspace, has_bias):
    i, f, g, o = workspace.chunk(4, 1)
    hy = torch.zeros_like(cx) if grad_hy is None else grad_hy
    c = hy * o * (1 - cy.tanh() ** 2) + (0 if grad_cy is None else grad_cy)
    gates = [c * g * i * (1 - i), c * cx * f * (1 - f), c * i * (1 - g * g),
             hy * cy.tanh() * o * (1 - o)]  # fmt: skip
    gates = torch.cat(gates, 1)
    return gates, c * f, gates.sum(0) if has_bias else None


def _gru_cell(input_gates, hidden_gates, hx, input_bias=None, hidden_bias=None):
    ir, iz, new = _with(input_gates, input_bias).chunk(3, 1)
    hr, hz, hn = _with(hidden_gates, hidden_bias).chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (new + r * hn).tanh()
    return n + z * (hx - n), torch.cat([r, z, n, hx, hn], 1)


def _gru_cell_backward(grad_hy, workspace, has_bias):
    r, z, n, hx, hn = workspace.chunk(5, 1)
    new = grad_hy * (1 - z) * (1 - n * n)
    update, reset = grad_hy * (hx - n) * z * (1 - z), new * hn * r * (1 - r)
    inputs, hidden = torch.cat([reset, update, new], 1), torch.cat([reset, update, new * r], 1)
    sums = (inputs.sum(0), hidden.sum(0)) if has_bias else (None, None)
    return inputs, hidden, grad_hy * z, *sums


def _with(gates, bias):
    return gates if bias is None else gates + bias


FUSED = {
    aten._thnn_fused_lstm_cell.default: _lstm_cell,
    aten._thnn_fused_lstm_cell_backward_impl.default: _lstm_cell_backward,
    aten._thnn_fused_gru_cell.default: _gru_cell,
    aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
}


def tensor(data, *, dtype=None, device=None, requires_grad=False, pin_memory=False):
    """`torch.tensor`, which looks for no Python fallback on its way to a device."""
    made = _tensor(data, dtype=dtype, device="cpu" if on_device(device) else device)
    return made.to(device or made.device).requires_grad_(requires_grad)


_tensor = torch.tensor
_LIBRARIES = []


def register():
    """Make the device known to torch, for the life of the process."""
    from torch.utils import backend_registration

    torch.Generator, torch.tensor = Generator, tensor
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(compute, "PrivateUse1")
    _LIBRARIES.append(library)
