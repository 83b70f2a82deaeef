"""The symbols in which the equations and the laws are written.

The names are those of the whole project: n batch size, N training-set size, w weight, g gradient,
h second derivative, R radius. Substitute into `Equation.printed` or `Equation.derived` with these
objects, because sympy tells two symbols of one name but different assumptions apart.

>>> from theory import EQUATIONS, symbols
>>> EQUATIONS["4"].derived.subs({symbols.sigma: 1, symbols.n: 8})
1/(2*sqrt(pi))
"""

from typing import Any

from sympy import Dummy, Function, Symbol

n = Symbol("n", positive=True)
N = Symbol("N", positive=True)
P = Symbol("P", positive=True)
k = Symbol("k", integer=True, nonnegative=True)
i = Symbol("i", integer=True, positive=True)

sigma = Symbol("sigma", positive=True)
mu = Symbol("mu", real=True)
lr = Symbol("lr", positive=True)
m = Symbol("m", nonnegative=True)

w = Symbol("w", real=True)
g = Symbol("g", real=True)
h = Symbol("h", real=True)
R = Symbol("R", positive=True)
R_m = Symbol("R_m", positive=True)
x = Symbol("x", positive=True)
eta = Symbol("eta", positive=True)
gamma = Symbol("gamma", positive=True)
beta = Symbol("beta", nonnegative=True)

a = Symbol("a", positive=True)
b = Symbol("b", real=True)
c = Symbol("c", real=True)
t = Symbol("t", real=True)  # third derivative of the loss at its minimum
d = Symbol("d", real=True)

s_w = Symbol("s_w", positive=True)  # standard deviation of the weights of a layer
s_g = Symbol("s_g", positive=True)  # standard deviation of the gradients of a layer
w_m = Symbol("w_m", real=True)
g_m = Symbol("g_m", real=True)

# What a small quantity is multiplied by; the leading order is what is left as it goes to zero.
EPSILON: Any = Dummy("epsilon", positive=True)

median: Any = Function("median")
W: Any = Function("w", real=True)  # w(i) and G(i): entry i of a layer's weights and gradients
G: Any = Function("g", real=True)

# x is left out: it stands for nothing in the paper, and a caller's x may be anything.
BY_NAME: dict[str, Any] = {
    value.name: value
    for value in list(globals().values())
    if type(value) is Symbol and value is not x
}
