"""Routing on-line: streams with known answers, waits by hand, and never better than offline."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.routing import LLAMA, instances, limit, plain, small, term

import greenopt as go
from greenopt.problems.routing import online
from greenopt.problems.routing.instance import RoutingInstance
from greenopt.problems.routing.room import Counted, Counts

MANY = 1000
"""Instances of a deployment at which nobody waits."""


def tables(
    energy_kwh: list[list[float]], runtime_s: float | list[list[float]] = 1.0, **changes: Any
) -> RoutingInstance:
    """Kinds of one query each with a table of energies, which are to be least."""
    energy = np.array(energy_kwh)
    queries, deployments = energy.shape
    document = plain([(1.0, 10.0, 10.0)] * queries)
    document["deployments"] = [
        {"name": name, "model": name, "gpu_type": "x", "gpus": 1, "accuracy_percent": accuracy}
        for name, accuracy in zip("abcde"[:deployments], range(50, 100, 10), strict=False)
    ]
    document["energy_j"] = (3.6e6 * energy).tolist()
    document["runtime_s"] = np.broadcast_to(runtime_s, energy.shape).tolist()
    return RoutingInstance.parse({**document, **changes})


def arriving(instance: RoutingInstance, servers: int = MANY, **changes: Any) -> online.Stream:
    """A stream of an instance with the same number of servers everywhere, in 100 s."""
    given: dict[str, Any] = {
        "horizon_s": 100.0,
        "instances": dict.fromkeys(instance.sets["deployment"], servers),
        **changes,
    }
    return online.stream(instance, **given)


def in_order(instance: RoutingInstance, **changes: Any) -> online.Stream:
    """A stream of single queries in the order of the instance, one each second."""
    n = len(instance.queries)
    return arriving(instance, time_s=np.arange(n), kind=np.arange(n), **changes)


def sent(run: online.OnlineRun) -> str:
    """Letters of the deployments that the queries went to."""
    return "".join("abcde"[k] for k in run.deployment)


def limits(*given: tuple[str, float | None, float | None], metric: str = "queries") -> list[Any]:
    """Limits on the deployments named by the letters of a word."""
    return [limit(f"on {names}", metric, list(names), lower, upper)
            for names, lower, upper in given]  # fmt: skip


# Streams


def test_stream_has_every_query_once() -> None:
    """Kinds arrive as often as there are queries, at times that rise."""
    inst = RoutingInstance.parse(plain([(5.0, 10.0, 20.0), (3.0, 30.0, 40.0), (0.0, 1.0, 1.0)]))
    made = arriving(inst)
    assert np.bincount(made.kind, minlength=3).tolist() == [5, 3, 0]
    assert (np.diff(made.time_s) >= 0).all()
    assert made.time_s[0] > 0
    assert (made.factor == 1).all()


def test_arrivals_are_poisson() -> None:
    """Gaps between many have the mean horizon / queries, and a coefficient of variation of 1."""
    inst = RoutingInstance.parse(plain([(40_000.0, 10.0, 20.0)]))
    gaps = np.diff(arriving(inst, horizon_s=8000.0).time_s, prepend=0.0)
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert gaps.std() == pytest.approx(0.2, rel=0.02)


def test_prediction_errors_have_the_spread_that_was_asked_for() -> None:
    """Lognormal factors with mean 1 and the relative standard deviation, all above 0."""
    inst = RoutingInstance.parse(plain([(40_000.0, 10.0, 20.0)]))
    factor = arriving(inst, prediction_error=0.4).factor
    assert factor.min() > 0
    assert factor.mean() == pytest.approx(1.0, abs=0.01)
    assert factor.std() == pytest.approx(0.4, rel=0.03)
    assert np.log(factor).mean() == pytest.approx(-math.log(1.16) / 2, abs=0.01)


def test_stream_repeats_with_its_seed() -> None:
    """The same seed gives the same stream, another one another; errors only move predictions."""
    inst = RoutingInstance.parse(plain([(20.0, 10.0, 20.0), (30.0, 30.0, 40.0)]))
    one, same, other, wrong = (
        arriving(inst, **given)
        for given in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"seed": 1, "prediction_error": 0.2})
    )
    assert one.document() == same.document()
    assert one.time_s.tolist() != other.time_s.tolist()
    assert one.kind.tolist() != other.kind.tolist()
    assert (wrong.time_s.tolist(), wrong.kind.tolist()) == (one.time_s.tolist(), one.kind.tolist())
    assert (wrong.factor != 1).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"horizon_s": 0.0}, r"\$\.horizon_s: is 0\.0; expected a number above 0"),
        ({"horizon_s": math.nan}, r"\$\.horizon_s: is nan; expected"),
        ({"prediction_error": -0.1}, r"\$\.prediction_error: is -0\.1; expected"),
        ({"instances": {"a": 1}}, r"\$\.instances: has no number for 'b'"),
        ({"instances": {"a": 1, "b": 0}}, r"\$\.instances: is 0 for 'b'; expected a whole number"),
        ({"instances": {"a": 1, "b": 1, "z": 1}}, r"'z' is not one of the deployments"),
        ({"instances": 3}, r"\$\.instances: is 3; expected a number for each"),
        ({"time_s": [0.0]}, r"\$\.time_s: has the shape \(1,\); expected \(2,\)"),
        ({"time_s": [2.0, 1.0]}, r"\$\.time_s\[1\]: is 1\.0; expected a time not before"),
        ({"time_s": [-1.0, 1.0]}, r"\$\.time_s\[0\]: is -1\.0"),
        ({"time_s": ["now", 1.0]}, r"\$\.time_s: is not a list of numbers"),
        ({"kind": [0, 2]}, r"\$\.kind\[1\]: is 2; expected a whole number from 0 to 1"),
        ({"kind": [0, 0]}, r"\$\.kind: has 'q0' 2 times; the instance has it 1 times"),
    ],
)
def test_bad_streams_are_refused(changes: dict[str, Any], said: str) -> None:
    """Each mistake is named with its place and what was expected."""
    with pytest.raises(go.InputError, match=said):
        arriving(tables([[1.0, 2.0], [1.0, 2.0]]), **changes)


def test_every_mistake_is_named_at_once() -> None:
    """Two mistakes, two lines."""
    with pytest.raises(go.InputError) as caught:
        arriving(tables([[1.0]]), horizon_s=-1.0, prediction_error="much")
    assert len(caught.value.problems) == 2


# Policies by hand


def test_cheapest_takes_each_querys_own_best() -> None:
    """Without limits that is the offline optimum."""
    inst = tables([[1.0, 2.0], [5.0, 3.0], [4.0, 4.5]])
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert sent(run) == "aba"
    assert run.objective == pytest.approx(8.0)
    assert run.gap == pytest.approx(0.0, abs=1e-12)
    assert run.plan.status == "optimal"
    assert run.cost.tolist() == pytest.approx([1.0, 3.0, 4.0])


def test_cheapest_fills_what_is_cheap_first() -> None:
    """The first query takes the only place, which the second one would have needed more."""
    inst = tables([[1.0, 2.0], [1.0, 9.0]], limits=limits(("a", None, 1.0)))
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert sent(run) == "ab"
    assert run.objective == pytest.approx(10.0)
    assert run.bound == pytest.approx(3.0)
    assert run.gap == pytest.approx(0.7)
    assert run.gap_abs == pytest.approx(7.0)


def test_prices_keep_the_place_for_who_needs_it() -> None:
    """At a price of the place between 1 and 8, the first query leaves it to the second."""
    inst = tables([[1.0, 2.0], [1.0, 9.0]], limits=limits(("a", None, 1.0)))
    run = online.simulate(inst, in_order(inst), online.DualPrice({"on a": -4.0}, None))
    assert sent(run) == "ba"
    assert run.gap == pytest.approx(0.0, abs=1e-12)


def test_short_queues_pay() -> None:
    """One server each, 10 s a query: the third would wait behind two, the fourth behind one."""
    inst = tables([[1.0, 1.25]] * 5, runtime_s=10.0)
    made = in_order(inst, servers=1)
    # Waiting before each: none; none (one in service); one on a; one on a, none on b; ...
    assert sent(online.simulate(inst, made, "cheapest")) == "aaaaa"
    short = online.simulate(inst, made, online.CheapestShortQueue(0.2))
    # a; a waits; a has 1 waiting (1.2 < 1.25), so a; now 2 waiting (1.4): b; b serves (1.25): b
    assert sent(short) == "aaabb"
    assert short.wait_s.tolist() == [0.0, 9.0, 18.0, 0.0, 9.0]
    assert sent(online.simulate(inst, made, online.CheapestShortQueue(0.0))) == "aaaaa"


def test_who_is_served_now_waits_no_more() -> None:
    """One server, 2 s a query: at 2 s the second begins, so nobody waits when the third comes."""
    inst = tables([[1.0, 1.1]] * 4, runtime_s=2.0)
    run = online.simulate(inst, in_order(inst, servers=1), online.CheapestShortQueue(0.2))
    assert sent(run) == "aaab"


def test_round_robin_takes_turns() -> None:
    """One after the other; a full deployment is skipped."""
    costs = [[1.0, 1.0, 1.0]] * 7
    inst = tables(costs, limits=limits(("b", None, 1.0)))
    assert sent(online.simulate(inst, in_order(inst), "round-robin")) == "abcacac"


def test_random_goes_everywhere_and_repeats() -> None:
    """All deployments get about their share; the seed decides."""
    inst = RoutingInstance.parse(plain([(3000.0, 10.0, 20.0)]))
    made = arriving(inst)
    runs = [online.simulate(inst, made, online.Random(seed)) for seed in (1, 1, 2)]
    first, same, other = (run.deployment.tolist() for run in runs)
    assert first == same != other
    assert min(np.bincount(first)) > 900


def test_predictions_decide_and_truth_counts() -> None:
    """An answer thought to be short goes to where long ones are dear, and costs what it is."""
    laws = [([0.0, 1.0, 0.0], 0.0), ([5.0, 0.1, 0.0], 0.0)]
    names = ("per_token_in", "per_token_out", "per_product")
    document = plain([(1.0, 10.0, 100.0)])
    document["deployments"] = [
        {
            **document["deployments"][0],
            "name": name,
            "energy": dict(zip(names, law, strict=True)),
        }
        for name, (law, _) in zip("ab", laws, strict=True)
    ]
    inst = RoutingInstance.parse(document)  # a: out; b: 50 + out / 10
    made = arriving(inst)
    short = online.Stream(**{**vars(made), "prediction_error": 0.5, "factor": np.array([0.4])})
    assert sent(online.simulate(inst, made, "cheapest")) == "b"
    run = online.simulate(inst, short, "cheapest")  # thought to be 40 against 54
    assert sent(run) == "a"
    assert run.objective == pytest.approx(100 / 3.6e6)
    assert run.bound == pytest.approx(60 / 3.6e6)


def test_tables_are_taken_to_be_proportional_to_the_output() -> None:
    """Half the length that is thought of is half the use of a limit that is thought of."""
    inst = tables([[1.0, 2.0]] * 2, limits=limits(("a", None, 1.5), metric="energy_kwh"))
    made = in_order(inst)
    assert sent(online.simulate(inst, made, "cheapest")) == "ab"
    half = online.Stream(**{**vars(made), "prediction_error": 0.5, "factor": np.full(2, 0.5)})
    run = online.simulate(inst, half, "cheapest")
    assert sent(run) == "aa"
    assert run.violations == ("limit 'on a', at most 1.5 kWh at a: off by 0.5",)
    assert run.plan.status == "error"
    assert run.gap_abs is not None
    assert run.gap_abs < 0


def test_what_was_used_is_known_exactly() -> None:
    """The first query is thought to take 2 of 2.5 kWh and takes 1, so the second fits too."""
    inst = tables([[1.0, 2.0]] * 3, limits=limits(("a", None, 2.5), metric="energy_kwh"))
    made = in_order(inst)
    wrong = online.Stream(**{**vars(made), "factor": np.array([2.0, 1.0, 1.0])})
    run = online.simulate(inst, wrong, "cheapest")
    assert sent(run) == "aab"
    assert run.violations == ()


# Limits


def test_upper_limits_close_and_lower_limits_reserve() -> None:
    """The last queries go where some are still missing."""
    inst = tables([[1.0, 2.0, 3.0]] * 6, limits=limits(("a", None, 3.0), ("c", 2.0, None)))
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert sent(run) == "aaabcc"
    assert run.violations == ()


def test_limits_on_others_numbers_reserve_too() -> None:
    """A lower limit of tokens, 20 a query, and one of energy: as many queries as needed."""
    inst = tables([[1.0, 2.0]] * 5, limits=limits(("b", 30.0, None), metric="tokens"))
    assert sent(online.simulate(inst, in_order(inst), "cheapest")) == "aaabb"


def test_an_accuracy_floor_is_reserved() -> None:
    """Of 50 % on a and 60 % on b, 56 % are asked: three of five queries go to b, the last."""
    inst = tables([[1.0, 2.0]] * 5, accuracy_floor_percent=56.0)
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert sent(run) == "aabbb"
    assert run.violations == ()


def test_nested_limits_that_can_be_met_are_met() -> None:
    """Two for a and b together, of which one for a: b may not take both places."""
    inst = tables([[2.0, 1.0, 0.0]] * 4, limits=limits(("ab", 2.0, 2.0), ("a", 1.0, None)))
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert sent(run) == "ccba"
    assert run.gap == pytest.approx(0.0, abs=1e-12)


def test_who_may_go_nowhere_else_is_a_violation() -> None:
    """The second query may only go to a, which the first one has filled: said, not hidden."""
    inst = tables(
        [[1.0, 2.0], [1.0, 9.0]],
        limits=limits(("a", None, 1.0)),
        allowed=[[True, True], [True, False]],
    )
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert sent(run) == "aa"
    assert run.violations == ("limit 'on a', at most 1 queries at a: off by 1",)
    assert "1 violations" in repr(run)


def test_offline_infeasible_leaves_no_gap() -> None:
    """More is asked than there are queries: no bound, no gap, and the violation is named."""
    inst = tables([[1.0, 2.0]] * 2, limits=limits(("a", 3.0, None)))
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert run.optimum["status"] == "infeasible"
    assert (run.bound, run.gap, run.gap_abs) == (None, None, None)
    assert len(run.violations) == 1


def completions(sets: list[Counted], deployments: int, left: int, used: list[int]) -> bool:
    """Whether some numbers of further queries meet the limits, by trying all of them."""
    for added in product(range(left + 1), repeat=deployments):
        if sum(added) == left and all(
            lower <= sum(used[k] + added[k] for k in own) <= upper for own, lower, upper in sets
        ):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_counts_say_exactly_what_can_be_completed(data: st.DataObject) -> None:
    """The slack is at least 0 if and only if there is a way; nested or disjoint sets."""
    shapes = [frozenset(own) for own in ("0", "1", "01", "2", "3", "23", "0123")]
    sides = st.tuples(st.integers(0, 3), st.integers(0, 4)).map(sorted)
    sets = [
        Counted(frozenset(map(int, own)), *map(float, data.draw(sides)))
        for own in data.draw(st.lists(st.sampled_from(shapes), max_size=5))
    ]
    used = [data.draw(st.integers(0, 2)) for _ in range(4)]
    left = data.draw(st.integers(0, 4))
    counts = Counts(sets, 4)
    for k, number in enumerate(used):
        counts.take(k, number)
    assert (counts.slack(left) >= 0) == completions(sets, 4, left, used)


@settings(max_examples=40, deadline=None)
@given(
    instances(query_limits=True, limits=False, floor=False, stages=False, allowed=False,
              context=False, runtime_limit=False, accuracy_min=False, ranges=False),
    st.sampled_from(list(online.POLICIES)),
    st.integers(0, 3),
)  # fmt: skip
def test_counts_are_kept_wherever_they_can_be(inst: Any, name: str, seed: int) -> None:
    """If all queries may go everywhere and the offline problem has a plan, nothing is violated."""
    best = go.solve(inst, explain=False)
    nested = all(
        a.issubset(b) or b.issubset(a) or not a & b
        for a in map(members, inst.limits) for b in map(members, inst.limits)
    )  # fmt: skip
    if best.status != "optimal" or not nested or name == "dual-price-history":
        return
    run = online.simulate(inst, arriving(inst, prediction_error=0.3), name, optimum=best)
    assert run.violations == ()


def members(limit: Any) -> frozenset[str]:
    """Deployments of a limit; there are k0 to k2 at most."""
    return frozenset(limit.deployments or ("k0", "k1", "k2"))


# Against the optimum


@settings(max_examples=60, deadline=None)
@given(
    instances(stages=False),
    st.sampled_from(["cheapest", "cheapest-short-queue", "dual-price", "round-robin", "random"]),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 3),
)
def test_no_policy_beats_the_offline_optimum(inst: Any, name: str, error: float, seed: int) -> None:
    """A plan without violations is worth no less than the bound, and passes the checker."""
    best = go.solve(inst, explain=False)
    if best.status != "optimal":
        return
    made = arriving(inst, seed=seed, prediction_error=error)
    run = online.simulate(inst, made, name, optimum=best)
    if not run.violations:
        room = 1e-7 * max(1.0, float(np.abs(run.cost).sum()))
        assert run.objective >= run.bound - room
        assert go.check(inst, run.plan).ok
    assert run.cost.sum() == pytest.approx(run.objective, abs=1e-7)
    assert np.bincount(run.deployment).sum() == inst.count.sum()


@pytest.mark.parametrize("seed", range(5))
def test_perfect_prices_reach_the_optimum(seed: int) -> None:
    """One place is dear: between what it saves the last to get one and the first to get none."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(1.0, 2.0, (60, 4)) - [0.5, 0.0, 0.0, 0.0]
    inst = tables(cost.tolist(), limits=limits(("a", None, 12.0)))
    saved = np.sort(cost[:, 1:].min(axis=1) - cost[:, 0])[::-1]
    price = -float(saved[11:13].mean())
    run = online.simulate(inst, arriving(inst, seed=seed), online.DualPrice({"on a": price}, None))
    assert run.gap == pytest.approx(0.0, abs=1e-9)
    assert run.plan.status == "optimal"


@pytest.mark.parametrize("seed", range(5))
def test_prices_of_the_optimum_reach_it_up_to_ties(seed: int) -> None:
    """Of a transportation problem with single queries: one tie a limit, and who it displaces."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(1.0, 2.0, (200, 4)) - [0.3, 0.2, 0.1, 0.0]
    full = limits(("a", None, 30.0), ("b", None, 30.0), ("c", None, 40.0))
    inst = tables(cost.tolist(), limits=full)
    best = go.solve(inst)
    made = arriving(inst, seed=seed)
    prices = online.prices_of(best)
    run = online.simulate(inst, made, online.DualPrice(prices, None), optimum=best)
    assert run.violations == ()
    moved = best.decision["assigned"].dense() - run.plan.decision["assigned"].dense()
    assert np.abs(moved).sum() / 2 <= 2 * len(full)
    greedy = online.simulate(inst, made, "cheapest", optimum=best)
    assert run.gap_abs is not None
    assert greedy.gap_abs is not None
    assert run.gap_abs < greedy.gap_abs / 10


def test_prices_without_ties_are_optimal_by_hand() -> None:
    """The place is worth 8 to the second query and 3 to the third; its price is between."""
    inst = tables([[1.0, 2.0], [1.0, 9.0], [1.0, 4.0]], limits=limits(("a", None, 1.0)))
    run = online.simulate(inst, in_order(inst), online.DualPrice({"on a": -5.0}, None))
    assert sent(run) == "bab"
    assert run.objective == pytest.approx(7.0)
    assert go.solve(inst).objective == pytest.approx(7.0)


def crowded() -> RoutingInstance:
    """2,000 queries on three Llama-2 models: the small ones are full, the large one has a least."""
    rng = np.random.default_rng(3)
    queries = [(1.0, float(i), float(o)) for i, o in rng.integers(8, 800, (2000, 2))]
    names = list(LLAMA)
    return RoutingInstance.parse(
        plain(
            queries,
            limits=[
                limit("7b", "queries", names[:1], upper=900.0),
                limit("13b", "gpu_h", names[1:2], upper=8.0),
                limit("70b", "queries", names[2:], lower=300.0),
            ],
        )
    )


def test_learned_prices_come_near_the_optimum() -> None:
    """Learned in the stream or on another day, they leave a fraction of the greedy rule's gap."""
    inst = crowded()
    best = go.solve(inst)
    made = arriving(inst, seed=1)
    greedy, learned, history = (
        online.simulate(inst, made, name, optimum=best).gap
        for name in ("cheapest", "dual-price", "dual-price-history")
    )
    assert None not in (greedy, learned, history)
    assert learned < greedy / 5
    assert history < greedy / 5


def test_another_day_is_as_long_and_not_the_same() -> None:
    """As many queries under the same limits, and reproducible."""
    inst = crowded().replace(count=np.full(2000, 2.0))
    day, same, other = (online.another_day(inst, seed) for seed in (1, 1, 2))
    assert day.count.sum() == inst.count.sum()
    assert day.limits == inst.limits
    assert day.count.tolist() == same.count.tolist() != other.count.tolist()


def test_prices_of_a_solution_are_by_name() -> None:
    """Of limits and of the floor; a plan without prices is refused."""
    inst = tables([[1.0, 2.0]] * 5, accuracy_floor_percent=56.0, limits=limits(("a", None, 4.0)))
    assert set(online.prices_of(go.solve(inst))) == {"on a", "accuracy_floor"}
    nothing = tables([[1.0]], limits=limits(("a", 3.0, None)))
    with pytest.raises(go.ModelError, match="has no prices"):
        online.prices_of(go.solve(nothing, explain=False))


# Waits


def test_md1_by_hand() -> None:
    """Four queries of 2 s at two instances in 10 s: rate 0.2/s, utilisation 0.4, wait 2/3 s."""
    inst = tables([[1.0, 2.0]] * 4, runtime_s=2.0)
    run = online.simulate(inst, in_order(inst, servers=2, horizon_s=10.0), "cheapest")
    own, other = run.waits
    assert (own.queries, own.rate_per_s, own.service_s) == (4, 0.2, 2.0)
    assert own.utilisation == pytest.approx(0.4)
    assert own.md1_s == pytest.approx(0.2 * 2.0**2 / (2 * (1 - 0.4)))
    assert own.mg1_s == own.md1_s
    assert (other.queries, other.utilisation, other.md1_s, other.simulated_s) == (0, *[None] * 3)
    assert run.wait_md1_s == pytest.approx(2 / 3)


def test_variable_service_waits_longer() -> None:
    """Times of 1 s and 3 s: cv² 1/4, so by Pollaczek and Khinchine a quarter more."""
    inst = tables([[1.0]] * 2, runtime_s=[[1.0], [3.0]])
    (wait,) = online.simulate(inst, in_order(inst, horizon_s=10.0, servers=1), "cheapest").waits
    assert wait.service_cv2 == pytest.approx(0.25)
    assert wait.md1_s is not None
    assert wait.mg1_s == pytest.approx(1.25 * wait.md1_s)


def test_overload_is_named() -> None:
    """At a utilisation of 1 there is no finite wait: None, and the deployment is named."""
    inst = tables([[1.0, 2.0]] * 5, runtime_s=2.0)
    run = online.simulate(inst, in_order(inst, servers=1, horizon_s=10.0), "cheapest")
    assert run.waits[0].utilisation == pytest.approx(1.0)
    assert (run.waits[0].md1_s, run.waits[0].mg1_s) == (None, None)
    assert run.overloaded == ("a",)
    assert run.wait_md1_s is None
    assert run.wait_simulated_s == pytest.approx(np.mean([0, 1, 2, 3, 4]))


def test_simulated_waits_by_hand() -> None:
    """Two servers, 5 s a query, an arrival each second: first come, first served."""
    inst = tables([[1.0]] * 6, runtime_s=5.0)
    run = online.simulate(inst, in_order(inst, servers=2), "cheapest")
    assert run.wait_s.tolist() == [0.0, 0.0, 3.0, 3.0, 6.0, 6.0]
    (wait,) = run.waits
    assert (wait.simulated_s, wait.simulated_max_s) == (3.0, 6.0)


def test_an_instance_of_a_batch_answers_several_at_once() -> None:
    """One instance with a concurrency of 2.5 is two slots, as two instances of one are."""
    inst = tables([[1.0]] * 6, runtime_s=5.0)
    document = inst.document()
    document["deployments"][0]["concurrency"] = 2.5
    batched = RoutingInstance.parse(document)
    run = online.simulate(batched, in_order(batched, servers=1), "cheapest")
    assert run.wait_s.tolist() == [0.0, 0.0, 3.0, 3.0, 6.0, 6.0]
    (wait,) = run.waits
    assert wait.slots == 2
    assert wait.utilisation == pytest.approx(6 * 5.0 / 100.0 / 2)


def test_simulated_waits_come_to_the_formula() -> None:
    """One server, 60,000 Poisson arrivals of equal service at a utilisation of 0.7."""
    inst = RoutingInstance.parse(plain([(60_000.0, 20.0, 100.0)]))
    service = online.simulate(inst, arriving(inst), "cheapest").waits[0].service_s
    made = arriving(inst, servers=1, horizon_s=60_000 * service / 0.7, seed=5)
    wait = online.simulate(inst, made, "cheapest").waits[0]
    assert wait.utilisation == pytest.approx(0.7)
    assert wait.simulated_s == pytest.approx(wait.md1_s, rel=0.05)


# Results


def test_a_runs_plan_is_a_solution_like_others(tmp_path: Path) -> None:
    """It passes the checker, its bound is proved, and its metrics are those of its queries."""
    inst = crowded()
    run = online.simulate(inst, arriving(inst, prediction_error=0.2), "dual-price")
    report = go.check(inst, run.plan)
    assert report.ok == (not run.violations)
    assert go.certify(inst, run.plan).ok
    assert run.metrics["queries"] == 2000
    counts = np.bincount(run.deployment, minlength=3).tolist()
    assert run.metrics_by["deployment"]["queries"] == counts


def test_runs_are_saved_and_read(tmp_path: Path) -> None:
    """Everything comes back, compressed or not."""
    inst = tables([[1.0, 2.0], [1.0, 9.0]], limits=limits(("a", None, 1.0)))
    run = online.simulate(inst, in_order(inst, prediction_error=0.1), "dual-price-history")
    for name in ("run.json", "run.json.gz"):
        run.save(tmp_path / name)
        read = online.OnlineRun.load(tmp_path / name)
        assert read.document() == run.document()
        assert repr(read) == repr(run)
        assert repr(read.stream) == repr(run.stream)


def test_damaged_files_are_refused() -> None:
    """Each damage is named with its place."""
    inst = tables([[1.0, 2.0]] * 2)
    document = json.loads(json.dumps(online.simulate(inst, in_order(inst), "cheapest").document()))

    def damaged(**changes: Any) -> str:
        with pytest.raises(go.SolutionError) as caught:
            online.OnlineRun.parse({**document, **changes}, "file")
        return str(caught.value)

    assert "deployment: has 1 entries, expected 2 as in stream" in damaged(deployment=[0])
    assert "9 is beyond the last deployment, 1" in damaged(deployment=[0, 9])
    assert "$.wait_s[0]" in damaged(wait_s=[-1.0, 0.0])
    assert "time_s: has 0 entries" in damaged(stream={**document["stream"], "time_s": []})
    assert "file: plan: $" in damaged(plan={})
    del document["policy"]
    assert "$.policy: is missing" in damaged()


def test_repeats_bit_for_bit() -> None:
    """The same seed, the same run, whatever ran before with the same policy."""
    inst = crowded()
    policy = online.DualPrice()
    made = arriving(inst, seed=4, prediction_error=0.4)
    best = go.solve(inst)
    first, second = (online.simulate(inst, made, policy, optimum=best) for _ in range(2))
    assert first.deployment.tolist() == second.deployment.tolist()
    assert first.objective == second.objective


def test_refusals() -> None:
    """Several stages, streams and optima of others, unknown policies and choices, bad settings."""
    inst = tables([[1.0, 2.0]] * 2)
    made = in_order(inst)
    with pytest.raises(go.ModelError, match="its objective has 2 stages"):
        online.simulate(small(), arriving(small()), "cheapest")
    other = tables([[1.0, 3.0]] * 2)
    with pytest.raises(go.InputError, match=r"stream: .*is of another instance"):
        online.simulate(other, made, "cheapest")
    with pytest.raises(go.InputError, match=r"optimum: .*is of another instance"):
        online.simulate(inst, made, "cheapest", optimum=go.solve(other))
    with pytest.raises(go.ModelError, match="unknown policy 'best'; known are cheapest, "):
        online.simulate(inst, made, "best")
    with pytest.raises(go.ModelError, match=r"first is 0\.7; expected a share"):
        online.DualPrice(first=0.7)
    with pytest.raises(go.ModelError, match="weight is -1; expected a finite number"):
        online.CheapestShortQueue(-1)
    with pytest.raises(go.ModelError, match="the price of 'on a' is 'high'"):
        online.DualPrice({"on a": "high"})  # type: ignore[dict-item]
    with pytest.raises(go.ModelError, match="prices are given for 'on z'; expected limits"):
        online.simulate(inst, made, online.DualPrice({"on z": 1.0}))
    nowhere = tables([[1.0, 2.0]], allowed=[[False, False]])
    with pytest.raises(go.ModelError, match="'q0' may go to no deployment"):
        online.simulate(nowhere, in_order(nowhere), "cheapest")


def test_a_policy_of_ones_own() -> None:
    """Anything with the four names will do; what is not open is refused."""

    class Last:
        name = "last"
        wrong = False

        def settings(self) -> dict[str, Any]:
            return {}

        def begin(self, known: Any) -> None:
            assert known.queries == 3

        def choose(self, query: online.Query, state: online.State) -> int:
            assert len(state.seen) + state.left == 3
            assert state.used.tolist() == [min(len(state.seen), 1)]
            return 1 if self.wrong else int(state.open[-1])

    inst = tables([[1.0, 2.0]] * 3, limits=limits(("b", None, 1.0)))
    policy = Last()
    run = online.simulate(inst, in_order(inst), policy)
    assert (run.policy, sent(run)) == ("last", "baa")
    policy.wrong = True
    with pytest.raises(go.ModelError, match=r"last chose 1; expected one of \[0\]"):
        online.simulate(inst, in_order(inst), policy)


def test_sweep_has_a_row_for_each_run() -> None:
    """Errors by seeds by policies, each as `simulate` has it; wrong lengths cost something."""
    inst = crowded()
    servers = dict.fromkeys(inst.sets["deployment"], 20)
    rows = online.sweep(
        inst,
        horizon_s=3e4,
        instances=servers,
        errors=(0.0, 0.8),
        policies=("cheapest", online.DualPrice()),
        seeds=(0, 1),
    )
    keys = [(row["prediction_error"], row["seed"], row["policy"]) for row in rows]
    assert keys == list(product((0.0, 0.8), (0, 1), ("cheapest", "dual-price")))
    made = online.stream(inst, horizon_s=3e4, instances=servers, seed=1, prediction_error=0.8)
    run = online.simulate(inst, made, "dual-price")
    assert rows[-1]["objective"] == run.objective
    assert rows[-1]["gap"] == run.gap
    assert rows[-1]["wait_simulated_s"] == run.wait_simulated_s
    right, wrong = (
        np.mean([row["gap"] for row in rows if (row["prediction_error"], row["policy"]) == key])
        for key in ((0.0, "dual-price"), (0.8, "dual-price"))
    )
    assert right < wrong


# Published figures

PUBLISHED = {"7B": (74.770, 13.701), "13B": (132.753, 23.397), "70B": (985.157, 115.374)}
"""kWh and mean service time in s of 52,002 Alpaca queries on one model (thesis, simulation)."""


@pytest.mark.parametrize(("size", "k"), [("7B", 0), ("13B", 1), ("70B", 2)])
def test_published_totals_of_one_model(size: str, k: int) -> None:
    """Energy, mean run time and the formula's wait if all queries go to one model."""
    inst = go.load(ROOT / "instances" / "routing" / "alpaca-52k.json.gz")
    allowed = np.zeros((len(inst.queries), 3), dtype=bool)
    allowed[:, k] = True
    alone = inst.replace(limits=[], allowed=allowed)
    servers = dict(zip(alone.sets["deployment"], (800, 3200, 3000), strict=True))
    made = online.stream(alone, horizon_s=1e4, instances=servers)
    run = online.simulate(alone, made, "cheapest")
    kwh, service_s = PUBLISHED[size]
    assert run.metrics["energy_kwh"] == pytest.approx(kwh, abs=6e-4)
    assert run.metrics["runtime_mean_s"] == pytest.approx(service_s, abs=6e-4)
    wait = run.waits[k]
    assert wait.service_s == pytest.approx(service_s, abs=2e-3)  # nobody works for less than 0 s
    assert wait.service_s > service_s
    rate = 5.2002 / servers[alone.sets["deployment"][k]]
    by_hand = rate * wait.service_s**2 / (2 * (1 - rate * wait.service_s))
    assert wait.md1_s == pytest.approx(by_hand)


def test_published_totals_to_every_digit() -> None:
    """The same against the published table itself."""
    lines = shared("data/wilkins/simulation_results.csv").read_text().splitlines()
    head = lines[0].split(",")
    rows = [dict(zip(head, line.split(","), strict=True)) for line in lines[1:]]
    for size, (kwh, service_s) in PUBLISHED.items():
        row = next(row for row in rows if row["Method"] == f"Llama-2 ({size})")
        assert float(row["Total Energy (kWh)"]) == pytest.approx(kwh, abs=6e-4)
        assert float(row["Mean Service Time (s)"]) == pytest.approx(service_s, abs=6e-4)


# Recorded runs


def recorded() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record of the benchmark, and its runs."""
    record = json.loads((ROOT / "benchmarks" / "results" / "routing_online.json").read_text())
    return record, [dict(zip(record["columns"], row, strict=True)) for row in record["runs"]]


def test_recorded_runs_are_proved_and_never_better_than_offline() -> None:
    """Every bound proved; a plan within limits passed its check and is no better than the bound."""
    _, runs = recorded()
    assert len(runs) > 300
    for run in runs:
        assert run["bound_proved"]
        assert run["optimum_status"] == "optimal"
        assert run["checked"] == (run["violations"] == 0)
        if not run["violations"]:
            assert run["gap"] >= -1e-9
    assert all(not run["violations"] for run in runs if run["instance"] == "alpaca-52k")


def test_recorded_controls_and_single_models_are_as_published() -> None:
    """One model: the published totals. Round robin: nearly, since the queries are a resample."""
    record, runs = recorded()
    published = {row[0]: row[1:] for row in record["published"]["rows"]}
    own = {run["policy"]: run for run in runs if run["study"] == "zeta"}
    for name in ("Llama-2 7B only", "Llama-2 13B only", "Llama-2 70B only"):
        assert own[name]["energy_kwh"] == pytest.approx(published[name][0], abs=6e-4)
    robin = own["round-robin"]
    assert robin["queries"] == published["round robin"][2]
    assert robin["energy_kwh"] == pytest.approx(published["round robin"][0], rel=5e-3)
    assert robin["accuracy_percent"] == pytest.approx(published["round robin"][1], rel=1e-3)


def test_published_rows_are_those_of_the_file() -> None:
    """Every figure that is cited, against the published table."""
    lines = shared("data/wilkins/simulation_results.csv").read_text().splitlines()
    head = lines[0].split(",")
    found = {}
    for line in lines[1:]:
        row = dict(zip(head, line.split(","), strict=True))
        zeta = f"{float(row['Zeta']):g}"
        name = {"Online": f"on-line, zeta {zeta}", "Round Robin": "round robin", "Random": "random"}
        label = name.get(row["Method"], row["Method"].replace("(", "").replace(")", "") + " only")
        found.setdefault(label.replace("zeta 0.8", "zeta 0.8 to 1"), row)
    rows = recorded()[0]["published"]["rows"]
    assert len(rows) == 14
    for policy, kwh, accuracy, queries, wait_s in rows:
        row = found[policy]
        assert float(row["Total Energy (kWh)"]) == pytest.approx(kwh, abs=6e-4)
        assert float(row["Accuracy (%)"]) == pytest.approx(accuracy, abs=6e-4)
        assert [int(row[f"Num Queries Llama-2 ({size})"]) for size in PUBLISHED] == queries
        given = row["Mean Wait Time (s)"]
        assert (float(given) if given else None) == (
            wait_s if wait_s is None else pytest.approx(wait_s, abs=0.06)
        )


def test_alpaca_runs_and_its_limits_hold() -> None:
    """All 52,002 queries: limits kept by every policy, prices far ahead of the greedy rules."""
    inst = go.load(ROOT / "instances" / "routing" / "alpaca-52k.json.gz")
    servers = dict(zip(inst.sets["deployment"], (800, 3200, 3000), strict=True))
    made = online.stream(inst, horizon_s=1e4, instances=servers, prediction_error=0.2)
    best = go.solve(inst)
    runs = {name: online.simulate(inst, made, name, optimum=best) for name in online.POLICIES}
    assert all(run.violations == () for run in runs.values())
    gaps = {name: run.gap for name, run in runs.items()}
    assert max(gaps["dual-price"], gaps["dual-price-history"]) < gaps["cheapest"] / 10
    assert gaps["cheapest"] < min(gaps["round-robin"], gaps["random"])


def test_terms_of_another_normalisation_add_up() -> None:
    """By range, each query's part has its share of the shift."""
    by_range = [{"terms": [term("energy_kwh", 1.0, "range", scale=2.0), term("tokens", 0.0)]}]
    inst = tables([[1.0, 2.0], [3.0, 5.0]], objective=by_range)
    run = online.simulate(inst, in_order(inst), "cheapest")
    assert run.cost.tolist() == pytest.approx([0.0, 0.25])
    assert run.objective == pytest.approx(0.25)
