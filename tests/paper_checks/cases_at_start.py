"""The other judges' cases of `test_deciding.py`; made of those of `made_up_at_start.py`."""

import numpy as np


def table(M, P, Case):
    """The case of each judge of gradients and curvature, by its id."""
    same = M.same

    def constant_curvature(rng, distance):
        """Tensors whose typical distance is so many times that with one curvature for all."""
        columns = {"gradient_abs_median": 1.0, "curvature_abs_mean": 1.0, "fit_entries": 100}
        return P.networks(rng, fit_distance=distance, **columns)

    return {
        "fig3": Case(
            lambda rng: P.falling(rng),
            lambda rng: P.falling(rng, 0.38),
            lambda rng: P.falling(rng, 0.95, noise=0.5),
            # The corrected constant is the right one.
            lambda found: found.update(P.falling(np.random.default_rng(0), 0.798)),
        ),
        "fig-law": Case(
            lambda rng: P.law(rng),
            lambda rng: P.law(rng, 2.0, 2.0),
            lambda rng: P.law(rng, noise=0.5),
            lambda found: found.update(P.law(np.random.default_rng(0), trained=2.0)),
        ),
        "fig9": Case(
            lambda rng: P.discarded(rng, small=1.0),
            lambda rng: P.discarded(rng, small=-1.0, fixed_too=False),
            lambda rng: P.discarded(rng, fixed_too=False, noise=0.5),
            # Random discarding does the same.
            lambda found: [
                case["values"].update(random=case["values"]["small"]) for case in found["cases"]
            ],
        ),
        "fig-radius": Case(
            lambda rng: P.ranked(rng, rank=0.9),
            lambda rng: P.ranked(rng, rank=-0.5),
            lambda rng: P.ranked(rng, rank=0.4, positive=0.88),
            # In the right order, but a hundred times off.
            lambda found: [row.update(log10_error=2.0) for row in found["rows"]],
        ),
        "fig-b": Case(
            lambda rng: P.placed(rng, 1.0),
            lambda rng: P.placed(rng, 0.0),
            lambda rng: P.placed(rng, 0.9, 0.9),
            # Only weight decay makes it so.
            lambda found: [row.update(share=0.1) for row in found["rows"]],
        ),
        "fig-bend": Case(
            lambda rng: P.bent(rng),
            lambda rng: P.bent(rng, 8.0),
            lambda rng: P.bent(rng, 2.0, width=2.0),
            lambda found: [
                case.update(bend=2 * case["bend"], interval=[2 * end for end in case["interval"]])
                for case in found["cases"]
            ],
        ),
        "fig-mclr-batch": Case(
            lambda rng: P.critical(rng),
            lambda rng: P.critical(rng, 0, 0),
            lambda rng: P.critical(
                rng, rng.integers(0, 6, 5).tolist(), rng.integers(0, 6, 5).tolist()
            ),
            # LARS, whose rate grows too, does not break down.
            lambda found: found["cases"][1].update(losses=[[1.0] * 5] * 5),
        ),
        "fig-convergence": Case(
            lambda rng: P.convergent(rng),
            lambda rng: P.convergent(rng, 3.0, power=0.4),
            lambda rng: P.convergent(rng, 1.2, power=0.08, groups=4, noise=0.5),
            # Real layers are three times as noisy as the law has them.
            lambda found: [
                found["cases"][1]["spread"].update({rule: [3 * v for v in values]})
                for rule, values in found["cases"][1]["spread"].items()
            ],
        ),
        "fig-spread": Case(
            lambda rng: P.warmed(rng, warm=-0.3, full=-0.1),
            lambda rng: P.warmed(rng, warm=0.3),
            lambda rng: P.warmed(rng, noise=0.5),
            # The full rate does as much.
            lambda found: found.update(P.warmed(np.random.default_rng(0), warm=-0.3, full=-0.3)),
        ),
        "claim-warmup-flattens": Case(
            lambda rng: P.warmed(rng, top=-1.0),
            lambda rng: P.warmed(rng, top=1.0),
            lambda rng: P.warmed(rng, noise=0.3),
            lambda found: found.update(P.warmed(np.random.default_rng(0), top=-1.0, top_full=-1.0)),
        ),
        "claim-high-loss-larger-gradients": Case(
            lambda rng: P.ranks(rng, 0.8, 0.9),
            lambda rng: P.ranks(rng, -0.5, -0.5),
            lambda rng: P.ranks(rng, noise=0.3),
            # The norms shuffled give the same.
            lambda found: [case.update(ranks_shuffled=case["ranks"]) for case in found["cases"]],
        ),
        "claim-other-enlargers": Case(
            lambda rng: P.enlarged(rng, 2.0, 2.0, 2.0),
            lambda rng: P.enlarged(rng, 0.5, 0.5, 0.5),
            lambda rng: P.enlarged(rng, noise=0.5),
            # What is left out leaves less.
            lambda found: found["values"].update(
                {"small values left out": [v / 4 for v in found["values"]["small values left out"]]}
            ),
        ),
        "claim-gradients-fall-to-zero": Case(
            lambda rng: P.fallen(rng),
            lambda rng: P.fallen(rng, 0.5),
            lambda rng: P.fallen(rng, 0.25, 0.1),
            # The means stay.
            lambda found: found.update(P.fallen(np.random.default_rng(0), 0.2)),
        ),
        "claim-minimum-at-zero": Case(
            lambda rng: P.networks(rng, fit_entries=100, fit_weight=1.0, fit_distance=1.2),
            lambda rng: P.networks(rng, fit_entries=100, fit_weight=1.0, fit_distance=50.0),
            lambda rng: P.networks(
                rng, fit_entries=100, fit_weight=1.0, fit_distance=P.chance(0.5, 1.2, 50.0)
            ),
            # A minimum at the weight itself is as far from zero as the weight.
            lambda found: [
                row.update(fit_distance=0.01) for net in found["networks"] for row in net["rows"]
            ],
        ),
        "claim-majority-inaccurate": Case(
            lambda rng: P.networks(rng, error_count=900, within_factor_2=0.01) | {"factor": 2.0},
            lambda rng: P.networks(rng, error_count=900, within_factor_2=0.95) | {"factor": 2.0},
            lambda rng: (
                P.networks(rng, 1, error_count=9000, within_factor_2=lambda rng, k: rng.uniform())
                | {"factor": 2.0}
            ),
            # Equation 17 is exact.
            lambda found: [
                row.update(within_factor_2=1.0) for net in found["networks"] for row in net["rows"]
            ],
        ),
        "claim-layer-statistics-usable": Case(
            lambda rng: P.networks(rng, **P.statistics(1.0)),
            lambda rng: P.networks(rng, **P.statistics(-1.0)),
            lambda rng: P.networks(rng, 6, **P.statistics(0.12, noise=0.4)),
            # In the right order, but compressed.
            lambda found: [
                row.update(eq23=row["eq23"] ** 0.2)
                for net in found["networks"]
                for row in net["rows"]
            ],
        ),
        "claim-curvature-varies": Case(
            lambda rng: P.layers(rng, 4.0),
            lambda rng: P.layers(rng, 0.3),
            lambda rng: P.layers(rng, 1.0, noise=0.5),
            # Inside the layers it varies more.
            lambda found: [
                row.update(log_radius_variance=50.0)
                for net in found["networks"]
                for row in net["rows"]
            ],
        ),
        "claim-mclr-because-gradients-shrink": Case(
            lambda rng: P.critical(rng, growth=(30.0, 10.0)),
            lambda rng: P.critical(rng, growth=(10.0, 10.0)),
            lambda rng: P.critical(rng, growth=(15.0, 10.0), noise=0.5),
            # LARS's grows as much.
            lambda found: found["cases"][1].update(sharpness=found["cases"][0]["sharpness"]),
        ),
        "fig2": Case(
            lambda rng: P.curvatures(rng),
            lambda rng: P.curvatures(rng, 2.0),
            lambda rng: P.curvatures(rng, 10.0, noise=1.0),
            # Only the biases differ.
            lambda found: found["ratios"].update(weights=[2.0, 2.1, 1.9, 2.0]),
        ),
        "fig-minimum": Case(
            lambda rng: P.stepped(rng),
            lambda rng: P.stepped(rng, 0.1),
            lambda rng: P.stepped(rng, 0.5, count=60),
            # With few samples it is not so.
            lambda found: [
                point.update(newton=9 * point["true"])
                for point in found["points"]
                if point["samples"] == 64
            ],
        ),
        "fig-shortcut": Case(
            lambda rng: P.shortcuts(rng),
            lambda rng: P.shortcuts(rng, 4.0),
            lambda rng: P.shortcuts(rng, noise=1.0),
            # At initialisation it takes the gradients themselves to know it.
            lambda found: [
                row.update(free=row["free"] / 5) for row in found["rows"] if row["epochs"] == 0
            ],
        ),
        "fig-shortcut-alexnet": Case(
            lambda rng: P.shortcuts_of_layers(rng),
            lambda rng: P.shortcuts_of_layers(rng, 4.0),
            lambda rng: P.shortcuts_of_layers(rng, noise=1.0),
            lambda found: [
                row.update(free=row["free"] / 5) for row in found["rows"] if row["epochs"] == 0
            ],
        ),
        "fig-gaussian": Case(
            lambda rng: P.shaped(rng),
            lambda rng: P.shaped(rng, 300.0),
            lambda rng: P.shaped(rng, 32.0, noise=1.0),
            # Single gradients are not Gaussian, means of 32 are.
            lambda found: [
                row.update(excess=[v + 8 for v in row["excess"]]) for row in found["rows"]
            ],
        ),
        "claim-gaussian-initially": Case(
            lambda rng: P.shaped(rng, 1.0, 10.0),
            lambda rng: P.shaped(rng, 10.0, 1.0),
            lambda rng: P.shaped(rng, 1.0, 1.0, noise=1.0),
            # It grows, but not by a factor.
            lambda found: found.update(P.shaped(np.random.default_rng(0), 1.0, 1.5)),
        ),
        "claim-sigma-constant": Case(
            lambda rng: P.shaped(rng),
            lambda rng: P.shaped(rng, sigma=0.1),
            lambda rng: P.shaped(rng, sigma=0.5, noise=1.0),
            lambda found: [
                row.update(sigma=row["sigma"] / 10)
                for row in found["rows"]
                if "trained" in row["network"] and row["parameter"] == "fc1.weight"
            ],
        ),
        "claim-weight-decay-centres-minimum": Case(
            lambda rng: P.decayed(rng, trained=0.3),
            lambda rng: P.decayed(rng, trained=2.0),
            lambda rng: P.decayed(rng, noise=0.5),
            # β added at the end does as much, as it does for parabolas drawn at random.
            same("arm", "trained with it", "added at the end", "misfit"),
        ),
        "claim-lars-special-case": Case(
            lambda rng: P.rates(rng),
            lambda rng: P.rates(rng, -1.0),
            lambda rng: P.rates(rng, 0.0, noise=0.5),
            # Plain SGD: one rate for all layers.
            lambda found: [
                row.update(rate=1.0) for net in found["networks"] for row in net["rows"]
            ],
        ),
        "claim-percentdelta-special-case": Case(
            lambda rng: P.rates(rng),
            lambda rng: P.rates(rng, -1.0),
            lambda rng: P.rates(rng, 0.0, noise=0.5),
            lambda found: found.update(identity=0.1),
        ),
        "claim-same-failure-conditions": Case(
            lambda rng: P.failing(rng),
            lambda rng: P.failing(rng, 1.0, 1.0),
            lambda rng: P.failing(rng, 10.0, 10.0, noise=1.0),
            # An average over the layer hides a single entry.
            lambda found: found.update(P.failing(np.random.default_rng(0), single=1.001)),
        ),
        "claim-centre-on-minimum": Case(
            lambda rng: P.stepped(rng, near=1.0),
            lambda rng: P.stepped(rng),
            lambda rng: P.stepped(rng, near=0.5, count=60),
            # With few samples, few are near.
            lambda found: [
                point.update(true=5.0) for point in found["points"] if point["samples"] == 64
            ],
        ),
        "claim-morse-validated": Case(
            lambda rng: P.stepped(rng, 1.0, 0.3),
            lambda rng: P.stepped(rng, 0.3, 0.6),
            lambda rng: P.stepped(rng, 0.85, 0.85, count=80),
            lambda found: [
                point.update(newton=9 * point["true"])
                for point in found["points"]
                if point["samples"] == 64
            ],
        ),
        "claim-squared-gradient-negligible": Case(
            lambda rng: P.squared(rng),
            lambda rng: P.squared(rng, 1.0, 0.5),
            lambda rng: P.squared(rng, 0.01, 0.01, noise=3.0),
            # A loss ten times as large.
            lambda found: [
                row.update(largest=100 * row["largest"], quantile=100 * row["quantile"])
                for row in found["rows"]
            ],
        ),
        "claim-second-derivative-costly": Case(
            lambda rng: P.costly(rng),
            lambda rng: P.costly(rng, 10.0, 10.0),
            lambda rng: P.costly(rng, 300.0, 300.0, noise=1.5),
            # Where samples are not coupled it is cheap.
            lambda found: [
                row.update(diagonal_seconds=10.0)
                for row in found["rows"]
                if row["network"] == "net"
            ],
        ),
        "claim-bias-factor-ten": Case(
            lambda rng: P.biased(rng),
            lambda rng: P.biased(rng, 0.1),
            lambda rng: P.biased(rng, 1.0, noise=2.0),
            # Smaller, but not by ten.
            lambda found: found.update(P.biased(np.random.default_rng(0), 1.5)),
        ),
        "claim-distance-constant-curvature": Case(
            lambda rng: constant_curvature(rng, 1.2),
            lambda rng: constant_curvature(rng, 50.0),
            lambda rng: constant_curvature(rng, P.chance(0.5, 1.2, 50.0)),
            # The mean of |h| is that of a few large ones.
            lambda found: [
                row.update(curvature_abs_mean=50.0)
                for net in found["networks"]
                for row in net["rows"]
            ],
        ),
        "claim-sigma-of-the-layer": Case(
            lambda rng: P.layer_sigma(rng),
            lambda rng: P.layer_sigma(rng, 0.38),
            lambda rng: P.layer_sigma(rng, 0.95, error=0.5),
            # The corrected constant is the right one.
            lambda found: found.update(P.layer_sigma(np.random.default_rng(0), 0.798)),
        ),
        "claim-sigma-and-curvature": Case(
            lambda rng: P.quotients(rng),
            lambda rng: P.quotients(rng, 5.0),
            lambda rng: P.quotients(rng, 1.25, noise=1.5),
            # After training it is not so.
            lambda found: found.update(P.quotients(np.random.default_rng(0), trained=5.0)),
        ),
        "claim-eliminating-sharp-minima": Case(
            lambda rng: P.eliminated(rng, smooth=0.03),
            lambda rng: P.eliminated(rng, smooth=-0.03),
            lambda rng: P.eliminated(rng, noise=0.05),
            # Noise on the gradient does as much.
            lambda found: found.update(P.eliminated(np.random.default_rng(0), 0.03, 0.03)),
        ),
    }
