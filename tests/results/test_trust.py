"""Ranks of short against long runs, on studies made by hand."""

import itertools
import json

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from scipy import stats

from experiments.results import trust
from experiments.results.reading import sweep_trials

SHORT, LONG = "10 steps", "30 steps"


def study(values, pruned=None, known=None, attributes=None):
    """A study whose trial i has this value; those in `pruned` came to evaluation pruned[i] of 5."""
    made = optuna.create_study(direction="maximize")
    pruned, known = pruned or {}, known or {}
    for i, value in enumerate(values):
        ends = pruned.get(i, 5)
        given = {
            "place": i,
            "metrics": {"val/AP": value},
            "steps": 2 * ends,
            "num_steps": 10,
        }
        if i in known:
            given["known"] = known[i]
        made.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if i in pruned else TrialState.COMPLETE,
                value=value,
                params={"optim.lr": 1e-4 * (i + 1)},
                distributions={"optim.lr": FloatDistribution(1e-5, 1)},
                intermediate_values={e: value * e / ends for e in range(1, ends + 1)},
                user_attrs=given | (attributes[i] if attributes else {}),
            )
        )
    return made


def results(short, again):
    """`again`: number of the sweep's trial -> value at the longer rung."""
    attributes = [{"trial": number, "rung": LONG} for number in again]
    longer = study(list(again.values()), attributes=attributes) if again else None
    spec = {"objectives": {"val/AP": "maximize"}, "rungs": [SHORT, LONG]}
    return sweep_trials.SweepResults("parent", spec, short, longer)


def frame(short):
    return sweep_trials.trial_frame(short, {"val/AP": "maximize"})


def test_finished_trials_rank_before_pruned_ones_and_later_pruned_before_earlier():
    ranked = trust.ranking(frame(study([0.1, 0.3, 0.9, 0.2, 0.5], pruned={2: 1, 4: 3})), "val/AP", "maximize")
    assert ranked["number"].tolist() == [1, 3, 0, 4, 2] and ranked["rank"].tolist() == [1, 2, 3, 4, 5]
    assert trust.ranking(frame(study([0.1, 0.3, 0.1])), "val/AP", "minimize")["rank"].tolist() == [1, 1, 3]


def test_spread_holds_the_best_the_last_and_a_known_recipe():
    ranked = trust.ranking(frame(study(np.linspace(0, 1, 24), known={22: "official"})), "val/AP", "maximize")
    numbers = trust.spread(ranked, 6)
    assert len(set(numbers)) == 6 and numbers[0] == 23 and numbers[-1] == 0 and 22 in numbers
    assert trust.spread(ranked.head(4), 6) == [23, 22, 21, 20]


def test_screening_only_until_six_configurations_were_run_again():
    short = study([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert trust.label(results(short, {})) == "screening only"
    assert trust.label(results(short, dict.fromkeys(range(5), 0.5))) == "screening only"
    assert "tau 1.00, N = 6" in trust.label(results(short, {i: 0.1 * i for i in range(6)}))


def test_tau_and_regret_of_a_known_case():
    short = study([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    # the sweep's best (5) comes second, and 4 overtakes it by 5 AP points; all other pairs agree: 14 of 15
    found = trust.trust_summary(results(short, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 4: 0.65, 5: 0.6}))[0]
    assert found.tau == pytest.approx(13 / 15) and found.n == 6
    assert found.p == pytest.approx(2 * 6 / 720)  # of 720 orders 1 has no pair out of order, 5 have one; two sides
    assert found.regret == pytest.approx(0.05) and found.regret_AP == pytest.approx(0.05)
    assert "5 AP points" in found.sentence and "N = 6" in found.sentence


def test_the_regression_is_about_all_finished_trials():
    values = np.random.default_rng(0).normal(0.3, 0.05, 24).round(3).tolist()
    short = study(values, pruned={3: 2})
    again = {i: values[i] + 0.01 * (-1) ** i for i in (0, 3, 5, 9, 13, 20, 23)}
    found = trust.trust_summary(results(short, again))[0]
    ended = [i for i in again if i != 3]  # 3 has a value, but of a shorter run
    finished = [value for i, value in enumerate(values) if i != 3]
    want = trust.regression_tau([values[i] for i in ended], [again[i] for i in ended], finished)
    assert found.regression == pytest.approx(want) and (found.n, found.num_finished) == (7, 23)
    assert (
        f"; over all 23 finished trials, by regression, {want[0]:.2f} ({want[1]:.2f} to {want[2]:.2f})"
        in found.sentence
    )
    same = trust.trust_summary(results(study([0.1] * 6), {i: 0.1 * i for i in range(6)}))[0]
    assert "regression" not in same.sentence


def test_interval_of_tau_covers_rankings_of_mallows_model():
    """Drawn from the model itself by enumeration, the interval covers the true tau at least 95 % of the time."""
    orders = list(itertools.permutations(range(5)))
    discordant = np.array([sum(a > b for a, b in itertools.combinations(order, 2)) for order in orders])
    intervals = {d: trust.tau_interval(range(5), orders[np.flatnonzero(discordant == d)[0]]) for d in range(11)}
    for q in (0.2, 0.5, 0.8, 1.0):
        weights = q**discordant / (q**discordant).sum()
        truth = 1 - 2 * (weights * discordant).sum() / 10
        covered = np.array([intervals[d][0] <= truth <= intervals[d][1] for d in discordant])
        assert 0.95 <= (weights * covered).sum() <= 1


def test_interval_of_tau_is_one_sided_for_full_agreement_and_symmetric():
    low, high = trust.tau_interval(range(6), range(6))
    assert high == pytest.approx(1) and 0.3 < low < 0.6
    assert trust.tau_interval(range(6), range(5, -1, -1)) == pytest.approx((-high, -low))


def test_a_place_counts_once_and_belongs_to_the_earliest_that_has_not_failed():
    made = optuna.create_study(direction="maximize")

    def add(place, state, **attributes):
        value = 0.5 if state == TrialState.COMPLETE else None
        given = {"place": place, "steps": 4, "num_steps": 10} | attributes
        made.add_trial(optuna.trial.create_trial(state=state, value=value, user_attrs=given))

    add(0, TrialState.FAIL)  # died
    add(1, TrialState.COMPLETE)
    add(0, TrialState.COMPLETE)  # took its place
    add(1, TrialState.FAIL, **{"surplus": True})
    add(2, TrialState.FAIL, **{"reason": "InputError"})
    table = frame(made)
    assert dict(zip(table["number"], table["state"], strict=True)) == {
        0: "retried",
        1: "finished",
        2: "finished",
        4: "failed",
    }
    assert sweep_trials.holders(made)[0].number == 2


def test_steps_saved_counts_what_the_pruner_cut_and_not_what_diverged():
    attributes = [{}, {}, {}, {"reason": "diverged"}]
    table = frame(study([0.1, 0.2, 0.3, 0.4], pruned={1: 2, 3: 1}, attributes=attributes))
    assert sweep_trials.steps_saved(table) == pytest.approx(6 / 32)  # of 3 x 10 + 2 planned steps, 6 were left out


def test_figure_marks_pruned_configurations():
    short = study([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], pruned={0: 2})
    figure = trust.trust_figure(results(short, {i: 0.1 * i for i in range(6)}))
    assert list(figure.data[0].marker.symbol).count("circle-open") == 1
    assert json.loads(figure.to_json())["data"][0]["y"][0] == pytest.approx(50)


def order_with(discordant: int, n: int) -> list[int]:
    """A ranking of n with so many pairs out of order, by its Lehmer code."""
    left, order = list(range(n)), []
    for place in range(n):
        jump = min(discordant, n - 1 - place)
        discordant -= jump
        order.append(left.pop(jump))
    return order


def test_interval_of_tau_is_finite_for_every_number_of_discordant_pairs():
    for n in [*range(5, 13), 24, 40]:
        pairs = n * (n - 1) // 2
        for discordant in range(0, pairs + 1, 1 if n <= 12 else 13):
            low, high = trust.tau_interval(range(n), order_with(discordant, n))
            tau = 1 - 2 * discordant / pairs
            assert -1 - 1e-12 <= low <= tau + 1e-9 and tau - 1e-9 <= high <= 1 + 1e-12 and low < high


def test_interval_of_tau_of_six_is_what_it_always_was():
    before = {
        0: (0.424421039361, 1.0),
        3: (-0.165724500549, 0.923520427101),
        9: (-0.738798436951, 0.497457158878),
        14: (-0.996619156982, -0.169304614110),
    }
    for discordant, interval in before.items():
        assert trust.tau_interval(range(6), order_with(discordant, 6)) == pytest.approx(interval, abs=1e-9)


def test_regression_tau_covers_whatever_was_chosen_by_the_short_value():
    """Top four, 16th and last of 24: 88 to 97 % and narrower than 0.70, where six spread ones rank by rank have 1.1."""
    rng, tau = np.random.default_rng(0), 0.33
    rho = np.sin(np.pi * tau / 2)
    found = []
    for _ in range(300):
        short = np.sort(rng.normal(size=24))[::-1]
        long = rho * short + np.sqrt(1 - rho**2) * rng.normal(size=24)
        chosen = [0, 1, 2, 3, 15, 23]
        found.append(trust.regression_tau(short[chosen], long[chosen], short))
    estimate, low, high = np.transpose(found)
    assert 0.88 <= np.mean((low <= tau) & (tau <= high)) <= 0.97
    assert np.mean(high - low) <= 0.70 and np.mean(estimate) == pytest.approx(tau, abs=0.05)


def test_regression_tau_is_exact_in_the_noncentral_t():
    short, long = np.array([0.1, 0.3, 0.2, 0.5, 0.45, 0.6]), np.array([0.2, 0.25, 0.3, 0.4, 0.3, 0.55])
    fit = stats.linregress(short, long)
    estimate, low, high = trust.regression_tau(short, long, short)
    assert estimate == pytest.approx(2 / np.pi * np.arcsin(_rho(fit, short)))
    assert trust.regression_tau(short, 7 + 1e-3 * long, short) == pytest.approx((estimate, low, high))
    to_nc = np.sqrt(np.sum((short - short.mean()) ** 2)) / np.std(short, ddof=1)
    for bound, p in ((low, 0.975), (high, 0.025)):
        nc = np.tan(np.pi / 2 * bound) * to_nc
        assert stats.nct.cdf(fit.slope / fit.stderr, 4, nc) == pytest.approx(p, abs=1e-3)


def _rho(fit, short):
    residual = fit.stderr * np.sqrt(np.sum((short - short.mean()) ** 2))
    g = fit.slope * np.std(short, ddof=1) / residual
    return g / np.sqrt(1 + g**2)


def test_regression_tau_is_unknown_without_spread_and_certain_on_a_line():
    assert np.isnan(trust.regression_tau([0, 0, 0], [1, 2, 3], [0, 0, 0])).all()  # nothing is detected yet
    assert np.isnan(trust.regression_tau([1, 2, 3], [0, 0, 0], [1, 2, 3])).all()
    assert np.isnan(trust.regression_tau([1, 2], [1, 2], [1, 2])).all()
    assert trust.regression_tau([1, 2, 3], [6, 4, 2], [1, 2, 3]) == (-1, -1, -1)
    with pytest.raises(ValueError, match="3 short values and 2 long"):
        trust.regression_tau([1, 2, 3], [1, 2], [1, 2, 3])
