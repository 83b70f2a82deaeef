"""The ten equations, in words and symbols of our own, each beside what follows.

G is the full gradient, Σ the covariance of one sample's gradient, H the Hessian, B the batch size.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import (
    Derivative,
    Integral,
    Limit,
    Matrix,
    Rational,
    Subs,
    Sum,
    Symbol,
    Tuple,
    diff,
    oo,
    simplify,
    solve,
    sqrt,
)

from theory import Equation, Small, Step
from theory.symbols import EPSILON, N, k, m

B = Symbol("B", positive=True)
rate = Symbol("varepsilon", positive=True)
loss = Symbol("L", real=True)
gradient = Symbol("{|G|}", positive=True)
curved = Symbol(r"{G^\top HG}", positive=True)
noise = Symbol(r"{\mathrm{tr}\Sigma}", positive=True)
curved_noise = Symbol(r"{\mathrm{tr}(H\Sigma)}", positive=True)
covariance = Symbol(r"{\Sigma}", positive=True)
multiple = Symbol("lambda", positive=True)
share = Symbol("kappa", positive=True)
scale = Symbol(r"{B_\mathrm{noise}}", positive=True)
small, big = (Symbol(name, positive=True) for name in ("B_s", "B_b"))
least_steps = Symbol(r"{S_\min}", positive=True)
least_examples = Symbol(r"{E_\min}", positive=True)
_slope = Symbol(r"{G^\top V}", real=True)
_bend = Symbol(r"{V^\top HV}", real=True)
_third = Symbol(r"{D^3L[V,V,V]}", real=True)
_along = loss - rate * _slope + rate**2 * _bend / 2 - rate**3 * _third / 6
SAMPLED = "the samples of a batch are drawn independently, with replacement"
QUADRATIC = "the loss is quadratic along the step"
CURVED = "the curvature GᵀHG + tr(HΣ)/B is positive; where it is not no rate is best"


def after_step(variance: Any = covariance / B) -> Any:
    """The mean loss after a step, from the moments of the batch's gradient; tr(H·) is linear."""
    second = curved + curved_noise * variance / covariance
    return loss - rate * gradient**2 + rate**2 * second / 2


def best_rate(mean: Any) -> Any:
    """The rate of the lowest mean loss."""
    (best,) = solve(diff(mean, rate), rate)
    return best


_largest = gradient**2 / curved
_noise = curved_noise / curved
_best = best_rate(after_step())
_decrease = simplify(loss - after_step().subs(rate, _best))
_finite = covariance / B * (N - B) / (N - 1)
_steps = least_steps + least_examples / B
_fixed = 2 * share - share**2 * (1 + scale / B)

# Two dimensions and noise of four equally likely values: enough for a quadratic form's mean.
_g1, _g2, _h1, _h2, _h3, _c1, _c2, _c3 = (
    Symbol(name, real=True) for name in ("G_1", "G_2", "H_1", "H_2", "H_3", "C_1", "C_2", "C_3")
)
_full, _hessian = Matrix([_g1, _g2]), Matrix([[_h1, _h2], [_h2, _h3]])
_root = Matrix([[_c1, 0], [_c2, _c3]])


def _quadratic_mean() -> Any:
    signs = [Matrix([a, b]) for a in (1, -1) for b in (1, -1)]
    vectors = [_full + _root * sign / sqrt(B) for sign in signs]
    return sum(((v.T * _hessian * v)[0] for v in vectors), 0) / 4


def _squared(batch: Any) -> Any:
    """The mean of |G_B|²."""
    return gradient**2 + noise / batch


_EQUATIONS = (
    Equation(
        label="1",
        section="2.2",
        kind="result",
        title="The gradient of a batch: mean and covariance",
        subject=r"\mathrm{Cov}(G_\mathrm{est})",
        printed=covariance / B,
        derived=Sum(covariance, (k, 1, B)) / B**2,
        assumptions=(SAMPLED,),
        note="The mean of B samples has the mean of one and the Bth part of its covariance.",
        steps=(
            Step(
                "The means of B samples add, and B of them over B are G.",
                Sum(gradient, (k, 1, B)) / B,
                gradient,
            ),
            Step(
                "Covariances of independent samples add.",
                Sum(covariance, (k, 1, B)) / B**2,
                covariance / B,
            ),
        ),
    ),
    Equation(
        label="2",
        section="2.2",
        kind="result",
        title="The loss along a step",
        subject=r"L(\theta - \varepsilon V)",
        printed=loss - rate * _slope + rate**2 * _bend / 2,
        derived=_along,
        small=Small("the rate", rate, ((rate, EPSILON * rate),), loss - rate * _slope),
        assumptions=("the loss has a third derivative along the step",),
        note=(
            "Taylor's expansion: what is left out is of the third order in the rate. It is exact "
            "where the loss is quadratic; how far it reaches in a network is for claim-one-step."
        ),
        steps=(
            Step(
                "The slope along the step is that of the gradient.",
                Subs(Derivative(_along, rate), rate, 0),
                -_slope,
            ),
            Step(
                "The second derivative along the step is that of the Hessian.",
                Subs(Derivative(_along, (rate, 2)), rate, 0),
                _bend,
            ),
            Step(
                "What is left out vanishes faster than the square of the rate.",
                Limit((_along - loss + rate * _slope - rate**2 * _bend / 2) / rate**2, rate, 0),
                0,
            ),
        ),
    ),
    Equation(
        label="3",
        section="2.2",
        kind="result",
        title="The mean loss after a step of SGD",
        subject=r"\mathrm{E}\,L(\theta - \varepsilon G_\mathrm{est})",
        printed=loss - rate * gradient**2 + rate**2 * (curved + curved_noise / B) / 2,
        derived=after_step(),
        assumptions=(SAMPLED, QUADRATIC),
        note=(
            "The mean of a quadratic form is that of the mean plus the trace with the covariance. "
            "It needs no Gaussian gradients."
        ),
        steps=(
            Step(
                "A quadratic form's mean, with noise of four values and covariance CCᵀ/B.",
                _quadratic_mean(),
                (_full.T * _hessian * _full)[0] + (_hessian * _root * _root.T).trace() / B,
            ),
            Step(
                "The slope is linear in the batch's gradient, so its mean is |G|².",
                after_step().coeff(rate, 1),
                -(gradient**2),
            ),
            Step(
                "The square's coefficient has both curvatures.",
                2 * after_step().expand().coeff(rate, 2),
                curved + curved_noise / B,
            ),
        ),
    ),
    Equation(
        label="4",
        section="2.2",
        kind="result",
        title="The best rate",
        subject=r"\varepsilon_\mathrm{opt}(B)",
        printed=_largest / (1 + _noise / B),
        derived=_best,
        assumptions=(SAMPLED, QUADRATIC, CURVED),
        note=(
            "The minimum of equation 3 over the rate. It exists only where GᵀHG + tr(HΣ)/B is "
            "positive, which is not said: at initialisation a transformer has points where it is "
            "negative."
        ),
        steps=(
            Step(
                "The mean loss is stationary at the best rate.",
                Subs(Derivative(after_step(), rate), rate, _best),
                0,
            ),
            Step(
                "It is a minimum, since the curvature is positive.",
                0,
                Subs(Derivative(after_step(), (rate, 2)), rate, _best),
                "<",
            ),
            Step("For large batches it is |G|² over GᵀHG.", Limit(_best, B, oo), _largest),
            Step("At B = B_noise it is half of that.", _best.subs(B, _noise), _largest / 2),
        ),
    ),
    Equation(
        label="5",
        section="2.2",
        kind="result",
        title="The best decrease",
        subject=r"\Delta L_\mathrm{opt}(B)",
        printed=gradient**4 / (2 * curved) / (1 + _noise / B),
        derived=_decrease,
        assumptions=(SAMPLED, QUADRATIC, CURVED),
        note="Equation 3 at the best rate: half the rate times |G|².",
        steps=(
            Step(
                "At the best rate half of the first order is left.",
                _decrease,
                _best * gradient**2 / 2,
            ),
            Step(
                "For large batches it is ½|G|⁴/GᵀHG.",
                Limit(_decrease, B, oo),
                gradient**4 / (2 * curved),
            ),
        ),
    ),
    Equation(
        label="6",
        section="2.2",
        kind="result",
        title="The simple noise scale",
        subject=r"B_\mathrm{noise}",
        printed=noise / gradient**2,
        derived=_noise.subs(
            {curved: multiple * gradient**2, curved_noise: multiple * noise}, simultaneous=True
        ),
        assumptions=("the Hessian is a multiple λ of the identity",),
        note=(
            "λ cancels. Of any other Hessian the two differ by the curvature along the noise over "
            "that along the gradient, tr(HΣ)/tr Σ over GᵀHG/|G|²."
        ),
        steps=(
            Step(
                "With H = λI the curvature along the gradient is λ|G|².",
                (_full.T * (multiple * Matrix.eye(2)) * _full)[0],
                multiple * (_g1**2 + _g2**2),
            ),
            Step(
                "And tr(HΣ) is λ tr Σ.",
                (multiple * Matrix.eye(2) * _root * _root.T).trace(),
                multiple * (_root * _root.T).trace(),
            ),
            Step(
                "In general they differ by the quotient of two mean curvatures.",
                _noise / (noise / gradient**2),
                (curved_noise / noise) / (curved / gradient**2),
            ),
        ),
    ),
    Equation(
        label="7",
        section="A.1",
        kind="result",
        title="Slope and noise from norms at two batch sizes",
        subject="",
        printed=Tuple(gradient**2, noise),
        derived=Tuple(
            simplify((big * _squared(big) - small * _squared(small)) / (big - small)),
            simplify((_squared(small) - _squared(big)) / (1 / small - 1 / big)),
        ),
        assumptions=(SAMPLED,),
        note=(
            "Both estimates are unbiased, whether or not the small batch is a part of the big one. "
            "Their quotient is not: to leading order 𝒮/𝒢 is too large by the relative variance of "
            "𝒢 less its relative covariance with 𝒮, which is why both are averaged first."
        ),
        steps=(
            Step(
                "The mean of |G_B|² is |G|² + tr Σ/B, of one dimension and two-valued noise.",
                ((gradient + sqrt(noise / B)) ** 2 + (gradient - sqrt(noise / B)) ** 2) / 2,
                _squared(B),
            ),
            Step(
                "The noise cancels from 𝒢.",
                (big * _squared(big) - small * _squared(small)) / (big - small),
                gradient**2,
            ),
            Step(
                "The slope cancels from 𝒮.",
                (_squared(small) - _squared(big)) / (1 / small - 1 / big),
                noise,
            ),
            Step(
                "A reciprocal's mean is larger than the reciprocal of the mean: of 𝒢 = 1 ± x.",
                1,
                (1 / (1 + share / 4) + 1 / (1 - share / 4)) / 2,
                "<",
            ),
        ),
    ),
    Equation(
        label="8",
        section="2.3",
        kind="result",
        title="Steps against examples",
        subject=r"(S/S_\min - 1)(E/E_\min - 1)",
        printed=1,
        derived=simplify((_steps / least_steps - 1) * (B * _steps / least_examples - 1)),
        assumptions=(
            "each step is best (equation 5), and so small that sums over steps are integrals",
            "the loss alone says where a run is: ΔL_max and B_noise at a loss do not depend on B",
        ),
        note=(
            "S = ∫ dL/ΔL_opt = ∫ (1 + B_noise/B) dS_min, so S = S_min + E_min/B with "
            "E_min = ∫ B_noise dS_min; B_noise may vary along the run, and B_crit = E_min/S_min "
            "is its mean over the steps at large batches. That the path does not depend on B is "
            "assumed, not derived."
        ),
        steps=(
            Step(
                "A step's share of the way shrinks as equation 5 says (constant B_noise).",
                Integral((1 + scale / B) / 1, (m, 0, least_steps)),
                least_steps + scale * least_steps / B,
            ),
            Step(
                "With a B_noise that grows along the run too: here linearly.",
                Integral(1 + scale * m / B, (m, 0, least_steps)),
                least_steps + Integral(scale * m, (m, 0, least_steps)) / B,
            ),
            Step(
                "Steps above the least.", _steps / least_steps - 1, least_examples / least_steps / B
            ),
            Step(
                "Examples above the least.",
                B * _steps / least_examples - 1,
                B * least_steps / least_examples,
            ),
            Step(
                "A fifth more examples are at a fifth of B_crit.",
                (B * _steps / least_examples).subs(B, least_examples / least_steps / 5),
                Rational(6, 5),
            ),
        ),
    ),
    Equation(
        label="9",
        section="2.2",
        kind="absent",
        title="The decrease at one rate for all batch sizes",
        subject=r"\Delta L / \Delta L_\mathrm{max}",
        printed=None,
        derived=_fixed,
        assumptions=(SAMPLED, QUADRATIC, "the rate is κ of the largest best one, whatever B is"),
        note=(
            "Not in the text. The decrease is no longer a hyperbola in B: it ends at "
            "B = κB_noise/(2 - κ), below which the loss rises. For small κ it does not depend on "
            "B at all. With a rate that goes as B^α the law of equation 4 is met where α is the "
            "power of ε_opt, 1/(1 + B/B_noise): one below B_noise, nought above."
        ),
        steps=(
            Step(
                "Equation 3 at κ of the largest best rate.",
                simplify(
                    (loss - after_step()).subs(rate, share * _largest)
                    / (gradient**4 / (2 * curved))
                ),
                _fixed.subs(scale, _noise),
            ),
            Step(
                "It is best at κ = 1/(1 + B_noise/B), as equation 4 says.",
                Subs(Derivative(_fixed, share), share, 1 / (1 + scale / B)),
                0,
            ),
            Step(
                "There it is equation 5's.",
                _fixed.subs(share, 1 / (1 + scale / B)),
                1 / (1 + scale / B),
            ),
            Step(
                "It is nought at B = κB_noise/(2 - κ).",
                _fixed.subs(B, share * scale / (2 - share)),
                0,
            ),
            Step("For small κ it does not depend on B.", Limit(_fixed / (2 * share), share, 0), 1),
            Step(
                "The power of ε_opt in B.",
                B * Derivative(1 / (1 + scale / B), B) * (1 + scale / B),
                1 / (1 + B / scale),
            ),
        ),
    ),
    Equation(
        label="10",
        section="2.2",
        kind="absent",
        title="The best rate without replacement",
        subject=r"\varepsilon_\mathrm{opt}(B)",
        printed=None,
        derived=best_rate(after_step(_finite)),
        assumptions=("a batch is drawn from N samples without replacement", QUADRATIC, CURVED),
        note=(
            "Not in the text. Drawn without replacement the covariance has the factor "
            "(N - B)/(N - 1): B is replaced by B(N - 1)/(N - B) in equations 3 to 5, and at B = N "
            "there is no noise. With momentum m a gradient acts 1/(1 - m) times over, and so does "
            "its noise: over many steps all is as at the rate ε/(1 - m), and B_noise stays."
        ),
        steps=(
            Step(
                "Two of N samples without replacement have the covariance -Σ/(N - 1).",
                (covariance * B + B * (B - 1) * (-covariance / (N - 1))) / B**2,
                _finite,
            ),
            Step("With the whole set there is no noise.", _finite.subs(B, N), 0),
            Step(
                "With momentum a sum is m times itself and a gradient more: 1/(1 - m) gradients.",
                m / (1 - m) + 1,
                1 / (1 - m),
                "=",
                ((m, (Rational(1, 10), Rational(9, 10))),),
            ),
            Step(
                "So B becomes B(N - 1)/(N - B).",
                best_rate(after_step(_finite)),
                _best.subs(B, B * (N - 1) / (N - B)),
                "=",
                ((N, (20, 30)), (B, (1, 10))),
            ),
        ),
    ),
)
EQUATIONS: Mapping[str, Equation] = MappingProxyType({each.label: each for each in _EQUATIONS})
