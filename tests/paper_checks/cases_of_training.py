"""The training judges' cases of `test_deciding.py`; made of the measurements of `made_up.py`."""

FALLING = (0.9, 0.8, 0.6, 0.4)


def table(M, Case):
    """The case of each judge of training, by its id."""
    OURS, same, same_rule = M.OURS, M.same, M.same_rule
    return {
        "fig4": Case(
            lambda rng: M.first_epoch(rng, stride=-0.5, path=-1.5, displacement=-1.0),
            lambda rng: M.first_epoch(rng, stride=0.2, path=0.2, displacement=0.2),
            lambda rng: M.first_epoch(rng, noise=1.0),
            # Another power of n is no equation 6.
            lambda found: [
                row.update(stride=row["stride"] * row["n"] ** 0.2) for row in found["rows"]
            ],
        ),
        "fig7": Case(
            lambda rng: M.first_epoch(rng, batch=-1.0, held=-1.0),
            lambda rng: M.first_epoch(rng, batch=0.3, held=0.3),
            lambda rng: M.first_epoch(rng, noise=1.0),
            # On held-out images the decrease does not depend on n.
            lambda found: [
                row.update(decrease_held_out=row["decrease_held_out"] * row["n"])
                for row in found["rows"]
            ],
        ),
        "fig10": Case(
            lambda rng: M.discarding(rng, small=0.03),
            lambda rng: M.discarding(rng, small=-0.03),
            lambda rng: M.discarding(rng, noise=0.05),
            same("protocol", "small losses", "random", "accuracy_late"),
        ),
        "fig11": Case(
            lambda rng: M.schedules(rng, stumble={OURS: 0.01}),
            lambda rng: M.schedules(rng, stumble={OURS: 0.5}),
            lambda rng: M.schedules(rng, stumble=dict.fromkeys(M.PROTOCOLS, 0.11) | {OURS: 0.1}),
            same("protocol", OURS, "warm-up", "losses"),
        ),
        "fig12": Case(
            lambda rng: M.schedules(rng, dip={OURS: 0.001}, spread={"baseline": 0.1, OURS: 0.002}),
            lambda rng: M.schedules(rng, dip={OURS: 0.5}, spread={"baseline": 0.002, OURS: 0.1}),
            lambda rng: M.schedules(rng, dip=dict.fromkeys(M.PROTOCOLS, 0.055) | {OURS: 0.05}),
            same("protocol", OURS, "baseline", "accuracies"),
        ),
        "fig13": Case(
            lambda rng: M.schedules(rng, loss={OURS: 0.3}),
            lambda rng: M.schedules(rng, loss={OURS: 0.9}),
            lambda rng: M.schedules(rng, noise=0.5),
            same("protocol", OURS, "only the batch", "losses"),
        ),
        "fig14": Case(
            lambda rng: M.schedules(rng, accuracy={OURS: 0.9}),
            lambda rng: M.schedules(rng, accuracy={OURS: 0.7}),
            lambda rng: M.schedules(rng, spread=dict.fromkeys(M.PROTOCOLS, 0.1)),
            same("protocol", OURS, "warm-up", "accuracies"),
        ),
        "fig16": Case(
            lambda rng: M.ruled(rng, noise=0.002),
            lambda rng: M.ruled(rng, mclr=0.7),
            lambda rng: M.ruled(rng, noise=0.05),
            lambda found: M.ends_cut(found, "lars"),
        ),
        "fig-cblr": Case(
            lambda rng: M.ruled(rng, cblr=0.9),
            lambda rng: M.ruled(rng, cblr=0.7),
            lambda rng: M.ruled(rng, noise=0.05),
            # Plain SGD does as well: the cap was all of it.
            same_rule("cblr", "sgd"),
        ),
        "claim-mclr-falls-behind": Case(
            lambda rng: M.ruled(rng, mclr=(0.8, 0.8, 0.6)),
            lambda rng: M.ruled(rng, mclr=(0.7, 0.8, 0.85)),
            lambda rng: M.ruled(rng, noise=0.05),
            # At equal steps it does not fall.
            lambda found: M.swap("rule", "mclr", "lars")(
                {"rows": [row for row in found["rows"] if row["series"] == "steps"]}
            ),
        ),
        "claim-layer-wise-necessary": Case(
            lambda rng: M.ruled(rng, sgd=0.7),
            lambda rng: M.ruled(rng, sgd=0.9),
            lambda rng: M.ruled(rng, noise=0.05, sgd=0.79),
            lambda found: M.ends_cut(found, "sgd"),
        ),
        "fig1": Case(
            lambda rng: M.tuned(rng, FALLING, FALLING),
            lambda rng: M.tuned(rng, FALLING[::-1]),
            lambda rng: M.tuned(rng, noise=0.05),
            # As many steps, and it is as good.
            lambda found: M.steps_like_epochs(found, accuracy=lambda n, value: 0.9),
        ),
        "claim-large-batch-doomed": Case(
            lambda rng: M.tuned(rng, steps=FALLING),
            lambda rng: M.tuned(rng, FALLING),
            lambda rng: M.tuned(rng, steps=(0.9, 0.9, 0.9, 0.89), noise=0.05),
            lambda found: M.rates_cut(found, 256),
        ),
        "claim-gap-worsens": Case(
            lambda rng: M.tuned(rng, FALLING, FALLING),
            lambda rng: M.tuned(rng, FALLING[::-1]),
            lambda rng: M.tuned(rng, noise=0.05),
            lambda found: M.steps_like_epochs(found, accuracy=lambda n, value: 0.9),
        ),
        "claim-training-stuck": Case(
            lambda rng: M.tuned(rng, steps=(0.9, 0.9, 0.9, 0.2)),
            lambda rng: M.tuned(rng),
            lambda rng: M.tuned(rng, steps=(0.9, 0.9, 0.9, 0.5), noise=0.3),
            # The small batch does not leave chance either.
            lambda found: M.steps_like_epochs(found, train_accuracy=lambda n, value: 0.1),
        ),
        "claim-training-longer": Case(
            lambda rng: M.tuned(rng, (0.9, 0.9, 0.9, 0.5), longer=5.0),
            lambda rng: M.tuned(rng, steps=(0.9, 0.9, 0.9, 0.5), longer=5.0),
            lambda rng: M.tuned(rng, noise=0.05),
            lambda found: M.steps_like_epochs(found, path=lambda n, value: value / 10),
        ),
        "claim-searching-space": Case(
            lambda rng: M.tuned(rng, path=lambda rate, rng: 1.0 + (rate == 1) + 0.1 * rng.normal()),
            lambda rng: M.tuned(rng, path=lambda rate, rng: 3.0 - (rate == 1) + 0.1 * rng.normal()),
            lambda rng: M.tuned(rng, path=lambda rate, rng: rng.uniform(1, 2)),
            # The path is that of another rate.
            lambda found: [row.update(path=[-v for v in row["path"]]) for row in found["rows"]],
        ),
        "claim-global-rate-small-batch": Case(
            lambda rng: M.tuned(rng, cost=(0.0, 0.1, 0.2, 0.3)),
            lambda rng: M.tuned(rng, cost=(0.3, 0.2, 0.1, 0.0)),
            lambda rng: M.tuned(rng, noise=0.05),
            lambda found: M.steps_like_epochs(found, accuracy=lambda n, value: 0.9),
        ),
        "fig5": Case(
            lambda rng: M.whole(rng, paths=(8, 4, 2, 1), accuracy=(0.9, 0.8, 0.7, 0.6)),
            lambda rng: M.whole(rng, paths=(1, 2, 4, 8), accuracy=(0.9, 0.8, 0.7, 0.6)),
            lambda rng: M.whole(rng, noise=1.0),
            # At equal steps, where all are trained alike, it is the other way round.
            lambda found: [
                row.update(accuracy=1 - row["accuracy"])
                for row in found["rows"]
                if row["series"] == "steps"
            ],
        ),
        "fig8": Case(
            lambda rng: M.whole(rng, absolute=dict.fromkeys(M.WHOLE, (4, 1, 2, 4))),
            lambda rng: M.whole(rng, absolute=dict.fromkeys(M.WHOLE, (4, 3, 2, 1))),
            lambda rng: M.whole(rng, noise=1.0),
            # In whole batches it is not U-shaped.
            lambda found: [
                row.update(absolute=row["absolute"] / 8)
                for row in found["rows"]
                if row["n"] == 256 and not row["remainder"]
            ],
        ),
        "claim-two-instabilities": Case(
            lambda rng: M.whole(
                rng, absolute={(False, "one"): (4, 1, 2, 4), (False, "grows"): (1, 1, 1, 1)}
            ),
            lambda rng: M.whole(
                rng, absolute={(False, "one"): (1, 4, 2, 1), (False, "grows"): (1, 1, 1, 4)}
            ),
            lambda rng: M.whole(rng, noise=1.0),
            # Longer steps do not calm it.
            lambda found: [
                row.update(absolute=4.0 + 0.01 * row["seed"])
                for row in found["rows"]
                if row["n"] == 256 and not row["remainder"]
            ],
        ),
        "claim-sharp-minima": Case(
            lambda rng: M.sharp(rng, 9.0, 9.0),
            lambda rng: M.sharp(rng, 1.0, 1.0),
            lambda rng: M.sharp(rng, noise=1.0),
            # At a rate that grows with n it is not so.
            lambda found: [
                row.update(sharpness=row["sharpness"] / 9)
                for row in found["rows"]
                if row["rates"] == "grows" and row["n"] == 1413
            ],
        ),
        "claim-works-below-8192": Case(
            lambda rng: M.ruled(rng, sizes=(29, 118), series=("epochs",)),
            lambda rng: M.ruled(rng, sizes=(29, 118), series=("epochs",), mclr=0.7),
            lambda rng: M.ruled(rng, sizes=(29, 118), series=("epochs",), noise=0.08),
            lambda found: M.lift(found, "lars", 0.05),
        ),
        "claim-discarding-fades": Case(
            lambda rng: M.discarding(rng, noise=0.002, small=(0.05, 0.05, 0.0)),
            lambda rng: M.discarding(rng, small=(0.0, 0.0, 0.05)),
            lambda rng: M.discarding(rng, noise=0.05),
            # The effect was not there before either.
            lambda found: [
                row.update(accuracy_late=[v - 0.05 for v in row["accuracy_late"]])
                for row in found["rows"]
                if row["protocol"] == "small losses" and row["n"] < 471
            ],
        ),
        "claim-first-epoch-amplifies": Case(
            lambda rng: M.schedules(rng, first_stride={OURS: 3.0}, first_path={OURS: 3.0}),
            lambda rng: M.schedules(rng, first_stride={OURS: 0.3}, first_path={OURS: 0.3}),
            lambda rng: M.schedules(rng, noise=1.0),
            lambda found: [
                row.update(first_stride=row["first_stride"] / 10)
                for row in found["rows"]
                if row["protocol"] == OURS
            ],
        ),
        "claim-schedule-is-step-length": Case(
            lambda rng: M.schedules(
                rng,
                first_stride=dict(zip(M.PROTOCOLS, (1, 2, 3, 4, 1, 5), strict=True)),
                accuracy=dict(zip(M.PROTOCOLS, (0.5, 0.6, 0.7, 0.8, 0.5, 0.9), strict=True)),
            ),
            lambda rng: M.schedules(
                rng,
                first_stride=dict(zip(M.PROTOCOLS, (5, 4, 3, 2, 1, 1), strict=True)),
                accuracy=dict(zip(M.PROTOCOLS, (0.5, 0.6, 0.7, 0.8, 0.5, 0.9), strict=True)),
            ),
            lambda rng: M.schedules(rng, noise=1.0),
            # As many steps more do the same.
            same("protocol", OURS, "as many steps more", "accuracies"),
        ),
    }
