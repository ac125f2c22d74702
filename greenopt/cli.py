"""Solve instances to proven optimality, check and certify solutions."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from greenopt._version import __version__
from greenopt.errors import GreenoptError, InputError, InstanceError, ModelError, Problem
from greenopt.problems import PROBLEMS, instance_class
from greenopt.showing import Column, Fact, amount, number, showing, table, union

SOLVED, NOT_AS_ASKED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 everything solved (or checked) as asked, 1 something was infeasible, not proved to the gap
    asked, or failed its check, 2 wrong usage or unreadable input, 130 interrupted.
    """
    try:
        options = _parser().parse_args(arguments)
        if options.verbose:
            logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        _say("interrupted; files are whole or not there")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; there is nobody to tell
        return UNUSABLE
    except (GreenoptError, OSError) as error:
        _say(str(error))
        return UNUSABLE


def _say(text: str) -> None:
    for line in text.splitlines():
        print(f"greenopt: {line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="greenopt", description=__doc__)
    parser.add_argument("--version", action="version", version=f"greenopt {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log to standard error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    solve = commands.add_parser("solve", help="solve instances and prove the result")
    solve.add_argument(
        "paths", nargs="+", metavar="PATH", help="instance files, or folders of them"
    )
    solve.add_argument(
        "--method", default="exact", help="exact, or one that `greenopt methods` lists"
    )
    solve.add_argument(
        "--solver", default="highs", help="one that `greenopt solvers` lists; default: highs"
    )
    solve.add_argument(
        "--isolation",
        choices=("auto", "in-process", "worker"),
        default="auto",
        help="where the solver runs; default: auto",
    )
    solve.add_argument(
        "--time-limit", type=_positive, metavar="S", help="solver seconds per instance"
    )
    solve.add_argument("--gap", type=_non_negative, default=1e-6, help="relative gap, default 1e-6")
    solve.add_argument(
        "--no-bound", action="store_true", help="skip the extra bound of integer models"
    )
    solve.add_argument(
        "--no-explain", action="store_true", help="take infeasibility on the solver's word"
    )
    solve.add_argument(
        "--start", type=Path, metavar="PATH", help="solution file, or folder of NAME.solution.json"
    )
    solve.add_argument("--threads", type=_count, default=1, help="of the solver, default 1")
    solve.add_argument("--seed", type=int, default=0, help="default 0")
    solve.add_argument("--jobs", type=_count, default=1, metavar="N", help="processes, default 1")
    solve.add_argument("--out", type=Path, metavar="DIR", help="write NAME.solution.json here")
    solve.add_argument(
        "--plot", action="store_true", help="also write NAME.png to --out (default .)"
    )
    solve.add_argument("--json", action="store_true", help="one JSON object per instance on stdout")
    solve.set_defaults(run=_solve)

    for name, text, run in (
        ("check", "recompute a solution's feasibility and metrics", _check),
        ("certify", "prove a solution's bound without a solver", _certify),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("instance", help="instance file")
        command.add_argument("solution", help="solution file")
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
        command.set_defaults(run=run)
        if run is _certify:
            command.add_argument(
                "--gap", type=_non_negative, default=1e-6, help="what counts as optimal, 1e-6"
            )
            command.add_argument(
                "--reprove", metavar="SOLVER", help="ask a second solver for a claimed bound"
            )
            command.add_argument(
                "--time-limit", type=_positive, metavar="S", help="of the second solver"
            )

    explain = commands.add_parser("explain", help="why an instance has no plan, what would help")
    explain.add_argument("instance", help="instance file")
    explain.add_argument(
        "--time-limit", type=_positive, default=60.0, metavar="S", help="seconds, default 60"
    )
    explain.add_argument(
        "--solver", default="highs", help="one that keeps a model between solves; default: highs"
    )
    explain.add_argument("--json", action="store_true", help="one JSON object on stdout")
    explain.set_defaults(run=_explain)

    directions = union("DIRECTIONS")
    marginals = commands.add_parser(
        "marginals", help="what one more request or GPU does to every metric"
    )
    marginals.add_argument("instance", help="instance file")
    marginals.add_argument(
        "solution", nargs="?", help="solution file whose whole numbers are held; default: solve"
    )
    marginals.add_argument(
        "--of",
        action="append",
        choices=tuple(directions),
        help=f"{', '.join(dict.fromkeys(directions.values()))}; repeat; default: all",
    )
    marginals.add_argument(
        "--metric",
        action="append",
        metavar="M",
        help="a metric; repeat for more; default: the main ones",
    )
    marginals.add_argument("--top", type=_count, default=10, metavar="N", help="rows, default 10")
    marginals.add_argument(
        "--out", type=_table_file, metavar="FILE", help="write all of them, as .csv or .json"
    )
    marginals.add_argument(
        "--time-limit", type=_positive, default=60.0, metavar="S", help="seconds, default 60"
    )
    marginals.add_argument("--seed", type=int, default=0, help="default 0")
    marginals.add_argument("--json", action="store_true", help="one JSON object on stdout")
    marginals.set_defaults(run=_marginals)

    info = commands.add_parser("info", help="what an instance holds and where it came from")
    info.add_argument("paths", nargs="+", metavar="PATH", help="instance files, or folders of them")
    info.add_argument("--json", action="store_true", help="one JSON object per instance on stdout")
    info.set_defaults(run=_info)

    plot = commands.add_parser("plot", help="draw a solution")
    plot.add_argument("instance", help="instance file")
    plot.add_argument("solution", help="solution file")
    plot.add_argument(
        "--kind", choices=tuple(union("PLOTS")), default="overview", help="default: overview"
    )
    plot.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="write it, as .png, .svg or .pdf"
    )
    plot.add_argument(
        "--time-limit",
        type=_positive,
        default=60.0,
        metavar="S",
        help="of marginal_carbon, default 60",
    )
    plot.set_defaults(run=_plot)

    solvers = commands.add_parser("solvers", help="which solvers are usable here, and for what")
    solvers.add_argument("--json", action="store_true", help="one JSON object per solver")
    solvers.set_defaults(run=_solvers)

    methods = commands.add_parser("methods", help="what besides exact solves a problem")
    methods.add_argument("problem", nargs="?", default="placement", help="default: placement")
    methods.add_argument("--json", action="store_true", help="one JSON object per method")
    methods.set_defaults(run=_methods)

    export = commands.add_parser("export", help="write the model for other solvers")
    export.add_argument("instance", help="instance file")
    export.add_argument("--format", choices=("mps", "lp"), default="mps", help="default mps")
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    export.set_defaults(run=_export)

    schema = commands.add_parser("schema", help="print the JSON Schema of a problem's instances")
    schema.add_argument("problem", help=", ".join(PROBLEMS))
    schema.set_defaults(run=_schema)

    reweight = commands.add_parser("reweight", help="write an instance with another objective")
    reweight.add_argument("instance", help="instance file")
    reweight.add_argument(
        "--term",
        action="append",
        required=True,
        type=_term,
        metavar="METRIC=WEIGHT[/SCALE][:max|:mean]",
        help="one term of the weighted sum; repeat for more",
    )
    reweight.add_argument("--name", help="name of the new instance")
    reweight.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    reweight.set_defaults(run=_reweight)
    return parser


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _positive(text: str) -> float:
    value = _real(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _non_negative(text: str) -> float:
    value = _real(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def _table_file(text: str) -> Path:
    if not text.endswith((".csv", ".json", ".json.gz")):
        raise argparse.ArgumentTypeError(f"{text!r} ends in neither .csv nor .json")
    return Path(text)


def _term(text: str) -> tuple[dict[str, Any], str]:
    """``water_l=60/1000:max`` as an objective term, and the word behind the colon."""
    metric, _, rest = text.partition("=")
    amounts, _, word = rest.partition(":")
    weight, _, scale = amounts.partition("/")
    try:
        term: dict[str, Any] = {"metric": metric, "weight": float(weight)}
        if scale:
            term["scale"] = float(scale)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not METRIC=WEIGHT[/SCALE][:max|:mean]"
        ) from None
    return term, word


def _files(paths: Iterable[str]) -> list[Path]:
    """Instance files named or found in folders; solutions and bounds there are passed over."""
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.name.endswith((".json", ".json.gz")))
        inside = [
            p for p in inside if ".solution.json" not in p.name and "best_known" not in p.name
        ]
        if not inside:
            raise InstanceError(text, [Problem("$", "this folder holds no instance files")])
        found += inside
    return found


# -- solve ---------------------------------------------------------------------------------------


def _solve(options: argparse.Namespace) -> int:
    from greenopt.solving import refuse_unknown

    refuse_unknown(options.method, options.solver)
    files = _files(options.paths)
    folder = options.out or (Path() if options.plot else None)
    if folder is not None:
        _refuse_equal_names(files)
        folder.mkdir(parents=True, exist_ok=True)
    worst, records = SOLVED, []
    for path, outcome in _outcomes(files, options, folder):
        if isinstance(outcome, str):
            _say(outcome)
            worst = max(worst, UNUSABLE)
            continue
        record, details = outcome
        if record["status"] != "optimal":
            worst = max(worst, NOT_AS_ASKED)
        if options.json:
            print(json.dumps(record, allow_nan=False), flush=True)
        else:
            _say(f"{path}: {record['status']} in {record['runtime_s']:.2f} s")
        for line in details["messages"]:
            _say(f"{record['instance']}: {line}")
        records.append((record, details))
    if records and not options.json:
        _print_tables(records)
    return worst


def _refuse_equal_names(files: list[Path]) -> None:
    """Two files of one name would write one solution over the other."""
    seen: dict[str, Path] = {}
    for path in files:
        if (other := seen.setdefault(_stem(path), path)) != path:
            text = (
                f"and {other} would both write {_stem(path)}.solution.json; use two --out folders"
            )
            raise InstanceError(str(path), [Problem("$", text)])


def _outcomes(
    files: list[Path], options: argparse.Namespace, folder: Path | None
) -> Iterable[tuple[Path, Any]]:
    """Solve every file, in this process or in several, in the order given."""
    jobs = [(path, options, folder) for path in files]
    if min(options.jobs, len(files)) == 1:
        yield from zip(files, map(_solve_file, jobs), strict=True)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        bare = [(path, _without_run(options), folder) for path in files]
        yield from zip(files, pool.map(_solve_file, bare), strict=True)


def _without_run(options: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**{k: v for k, v in vars(options).items() if k != "run"})


def _solve_file(job: tuple[Path, argparse.Namespace, Path | None]) -> Any:
    """Solve, certify and save one instance: a record with details, or an error message."""
    from greenopt.certifying import certify
    from greenopt.io import load
    from greenopt.solving import solve

    path, options, folder = job
    try:
        instance = load(path)
        solution = solve(
            instance,
            options.method,
            solver=options.solver,
            isolation=options.isolation,
            time_limit=options.time_limit,
            gap=options.gap,
            bound=not options.no_bound,
            explain=not options.no_explain,
            start=_start_of(path, options.start),
            seed=options.seed,
            threads=options.threads,
        )
        saved = None
        if folder is not None:
            saved = folder / f"{_stem(path)}.solution.json"
            solution.save(saved)
        if options.plot and solution.decision:
            from greenopt.plots import plot

            plot(instance, solution, folder / f"{_stem(path)}.png")  # type: ignore[operator]
    except GreenoptError as error:
        text = str(error)
        return text if isinstance(error, InputError) else f"{path}: {text}"
    record = {**solution.summary(), "solution": None if saved is None else str(saved)}
    messages = list(solution.report.get("explanation", []))
    if "stopped" in solution.report:
        messages.append(solution.report["stopped"])
    if record["status"] == "limit" and options.method == "exact":
        messages.append("no plan was found in time; more time, or a --start, may help")
    elif record["status"] == "limit":
        messages.append(solution.report["message"])
    report = solution.report.get("start")
    if report is not None:
        how = "accepted" if report["accepted"] else "refused"
        messages.append(f"the start was {how}: {report['reason']}")
    if record["status"] == "error":
        messages.append(f"the solver ended with: {solution.report.get('message')}")
    if "contradiction" in solution.report:
        messages.append(f"solver and checker disagree: {solution.report['contradiction']}")
    details = {
        "messages": messages,
        "measurements": _measurements_line(instance),
        "breakdown": _breakdown(solution),
        "certificate": _certificate_line(certify(instance, solution)) if solution.stages else "",
        "plot": str(folder / f"{_stem(path)}.png")
        if options.plot and solution.decision and folder
        else "",
    }
    return record, details


def _measurements_line(instance: Any) -> str:
    """How the figures of a table were measured, of instances that carry a label of it."""
    label = getattr(instance, "label", "")
    return f"{instance.name}: measurements: {label}" if label else ""


def _breakdown(solution: Any) -> tuple[list[str], list[list[str]]] | None:
    """Head and rows of the table along an axis, if the problem has one and the solution a plan."""
    breakdown = showing(solution.problem).BREAKDOWN
    if breakdown is None or not solution.metrics_by:
        return None
    axis, columns = breakdown
    labels = solution.sets[axis]
    lacking = [None] * len(labels)
    values = [solution.metrics_by[axis].get(metric, lacking) for metric, *_ in columns]
    forms = [form for _, _, form in columns]
    rows = [
        [label, *(number(own[i], form) for own, form in zip(values, forms, strict=True))]
        for i, label in enumerate(labels)
    ]
    return [axis, *(title for _, title, _ in columns)], rows


def _start_of(path: Path, start: Path | None) -> Any:
    """The solution to start from: the file given, or that of the instance's name in a folder."""
    from greenopt.io import load_solution

    if start is not None and start.is_dir():
        start = start / f"{_stem(path)}.solution.json"
        if not start.exists():
            return None
    return None if start is None else load_solution(start)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def _certificate_line(certificate: Any) -> str:
    last = certificate.stages[-1]
    if last.proved_bound is None:
        return "no bound proved"
    if not certificate.ok:
        return f"NOT proved: claimed bound {last.claimed_bound}, proved {last.proved_bound}"
    gap = "" if last.proved_gap is None else f", gap {last.proved_gap:.1e}"
    if last.kind != "proved":
        return f"relaxation bound {last.proved_bound:.9g} proved{gap}; tree bound only claimed"
    return f"bound {last.proved_bound:.9g} proved anew from the solution's prices{gap}"


def _print_tables(records: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """A table a problem, and what else there is to say of each instance."""
    problems = list(dict.fromkeys(record["problem"] for record, _ in records))
    for problem in problems:
        if problem != problems[0]:
            print()
        own = [record for record, _ in records if record["problem"] == problem]
        _print_totals(showing(problem).COLUMNS, own)
    for record, details in records:
        if len(records) == 1 and details["breakdown"]:
            print()
            _print_table(*details["breakdown"])
        print()
        if details["measurements"]:
            print(details["measurements"])
        if details["certificate"]:
            print(f"{record['instance']}: {details['certificate']}")
        for what in ("solution", "plot"):
            if place := (record if what == "solution" else details)[what]:
                print(f"{record['instance']}: {what} in {place}")


def _print_totals(columns: Sequence[Column], records: Sequence[dict[str, Any]]) -> None:
    titles = (title for _, title, _ in columns)
    head = ["instance", "status", "objective", "gap", *titles, "time s"]
    rows = [
        [
            record["instance"],
            record["status"],
            number(record["objective"], ".9g"),
            number(record["gap"], ".1e"),
            *(number(record["metrics"].get(name), form) for name, _, form in columns),
            f"{record['runtime_s']:.2f}",
        ]
        for record in records
    ]
    _print_table(head, rows)


def _print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ("status",)
) -> None:
    for line in table(head, rows, left):
        print(line)


# -- check, certify ------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    from greenopt.checking import check
    from greenopt.io import load, load_solution

    instance = load(options.instance)
    report = check(instance, load_solution(options.solution))
    if options.json:
        record = {
            "ok": report.ok,
            "findings": report.lines(),
            "objective": report.objective,
            "metrics": report.metrics,
            "notes": report.notes,
        }
        print(json.dumps(record, allow_nan=False))
    else:
        print("ok: feasible, and every metric is what the file says" if report.ok else "NOT ok")
        for line in report.lines():
            print(f"  {line}")
        for line in showing(instance.problem).notes(report.notes):
            print(f"  {line}")
    return SOLVED if report.ok else NOT_AS_ASKED


def _certify(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from greenopt.certifying import certify
    from greenopt.io import load, load_solution

    instance, solution = load(options.instance), load_solution(options.solution)
    certificate = certify(
        instance,
        solution,
        gap=options.gap,
        reprove=options.reprove,
        time_limit=options.time_limit,
    )
    verdict, status = _verdict(certificate, options.gap)
    if options.json:
        print(json.dumps(asdict(certificate), allow_nan=False))
        return status
    for at, stage in enumerate(certificate.stages, start=1):
        claimed, proved = (
            number(bound, ".12g") for bound in (stage.claimed_bound, stage.proved_bound)
        )
        print(
            f"stage {at}: {stage.kind}; claimed {claimed}, proved {proved}, "
            f"gap {number(stage.proved_gap, '.2e')}"
        )
        if stage.second_opinion:
            print(f"stage {at}: {stage.second_opinion}")
    print(verdict)
    return status


def _verdict(certificate: Any, gap: float) -> tuple[str, int]:
    """What a certificate amounts to, in words and as an exit status."""
    if not certificate.stages:
        return "NOT ok: the solution has no plan and no bound to prove", NOT_AS_ASKED
    if not certificate.ok:
        return "NOT ok: a claimed bound or objective contradicts what can be proved", NOT_AS_ASKED
    if certificate.optimal:
        return "ok", SOLVED
    if certificate.confirmed:
        return "ok: optimal to the gap by two solvers' searches, not by weak duality", SOLVED
    if any(stage.kind.startswith("claimed") for stage in certificate.stages):
        text = "not proved optimal: nothing is wrong, but a search's bound is a claim"
        return f"{text} (--reprove SOLVER asks another)", NOT_AS_ASKED
    text = f"not optimal: the bound is proved, but not optimality to a gap of {gap:g}"
    return text, NOT_AS_ASKED


# -- marginals -----------------------------------------------------------------------------------


def _marginals(options: argparse.Namespace) -> int:
    from greenopt.errors import NoOptimumError
    from greenopt.io import load, load_solution
    from greenopt.ranging import marginals

    instance = load(options.instance)
    solution = load_solution(options.solution) if options.solution else None
    try:
        found = marginals(
            instance,
            solution,
            of=options.of,
            metrics=options.metric,
            time_limit=options.time_limit,
            seed=options.seed,
        )
    except NoOptimumError as error:
        _say(str(error))
        return NOT_AS_ASKED
    if options.out:
        found.save(options.out)
    if options.json:
        print(json.dumps(found.document(), allow_nan=False))
    else:
        _print_marginals(found, options, showing(instance.problem).DIRECTIONS)
        if line := _measurements_line(instance):
            print(f"\n{line}")
    return SOLVED


def _print_marginals(
    found: Any, options: argparse.Namespace, directions: Mapping[str, str]
) -> None:
    print(f"{found.instance}: objective {found.objective:.9g}")
    if found.integers_fixed:
        print("whole numbers are held at the plan's; changing them could gain more")
    if found.integers_relaxed:
        print("whole numbers are relaxed: the objective and the rates are of the relaxation")
    for name, own in found.of.items():
        _print_marginal(directions[name], own, (options.metric or ["objective"])[0], options.top)
    if options.out:
        print(f"\nall of them in {options.out}")


def _print_marginal(what: str, own: Any, by: str, top: int) -> None:
    """The largest marginals of one kind by one rate, those without a plan before all."""
    rows = [row for row in own.rows() if row[by] != 0]
    rows.sort(key=lambda row: -abs(row[by]) if row[by] == row[by] else 1.0)
    size, shown = own.valid_up_to.size, min(top, len(rows))
    print(f"\n{what}: {shown} of {size}, those that change {by} most", end="")
    print(f"; {size - len(rows)} do not change it" if len(rows) < size else "")
    if not rows:
        return
    rates = [f"{rate} per {own.unit}" for rate in own.rates]
    head = [*own.labels, *rates, f"valid up to, {_plural(own.unit)}", "note"]
    lines = [
        [
            *(row[axis] for axis in own.labels),
            *(_finite(row[rate], "+.4g", "-") for rate in own.rates),
            _finite(row["valid_up_to"], ".4g", "any" if row[by] == row[by] else "-"),
            _note(row, by),
        ]
        for row in rows[:top]
    ]
    _print_table(head, lines, left=(*own.labels, "note"))
    if own.tied:
        print(f"other optimal plans may have other rates of {', '.join(own.tied)}")


def _plural(unit: str) -> str:
    return f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"


def _finite(value: float, form: str, other: str) -> str:
    return format(value, form) if math.isfinite(value) else other


def _note(row: dict[str, Any], by: str) -> str:
    if math.isinf(row[by]):
        return "no plan"
    if math.isnan(row[by]):
        return "unknown"
    return "degenerate" if row["degenerate"] else ""


# -- info, export, schema, reweight --------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    from greenopt.describing import describe
    from greenopt.io import load

    for path in _files(options.paths):
        instance = load(path)
        found = describe(instance)
        if options.json:
            print(json.dumps(found, allow_nan=False), flush=True)
        else:
            _print_info(instance, found)
        for line in found["warnings"]:
            _say(f"{instance.name}: {line}")
    return SOLVED


def _print_info(instance: Any, found: dict[str, Any]) -> None:
    provenance, said = instance.provenance, showing(instance.problem)
    print(f"{instance.name} ({instance.problem}): {provenance.description}")
    print(f"  sets: {', '.join(f'{size} {axis}' for axis, size in found['sets'].items())}")
    _print_facts(said.FACTS, found)
    _print_table(
        ["  series", "min", "median", "max", "unit", "note"],
        [_series_row(name, own) for name, own in found["series"].items()],
        left=("unit", "note"),
    )
    _print_facts(said.MODEL_FACTS, found)
    _print_model(found)
    print(f"  sha256 {found['sha256']}")
    print(f"  data licence {provenance.data_licence}; built by {provenance.builder}")
    for line in said.objective(instance):
        print(f"  {line}")
    for rule in provenance.rules:
        print(f"  rule: {rule}")
    for source in provenance.sources:
        print(f"  source: {source.name} ({source.licence}): {source.attribution}")


def _print_facts(facts: Mapping[str, Fact], found: Mapping[str, Any]) -> None:
    for name, fact in facts.items():
        for line in fact.text(found[name]).splitlines():
            print(f"  {line}")


def _series_row(name: str, own: dict[str, Any]) -> list[str]:
    counts = [
        f"{own[key]} of {own['entries']} {text}"
        for key, text in (("negative", "negative"), ("null", "null"))
        if own[key]
    ]
    middle = [amount(own[key]) for key in ("min", "median", "max")]
    return [f"    {name}", *middle, own["unit"], ", ".join(counts)]


def _print_model(found: dict[str, Any]) -> None:
    model, structure = found["model"], found["structure"]
    print(
        f"  model: {model['columns']} columns, {model['rows']} rows, "
        f"{model['coefficients']} coefficients, {model['integer']} integer"
    )
    for title, blocks in (("columns", model["column_blocks"]), ("rows", model["row_blocks"])):
        print(f"    {title}: {', '.join(f'{name} {size}' for name, size in blocks.items())}")
    for name, own in found["coefficients"].items():
        text = (
            "none"
            if own is None
            else (
                f"{own['smallest']:.3g} ({own['smallest_in']}) to {own['largest']:.3g} "
                f"({own['largest_in']}), ratio {own['ratio']:.1e}"
            )
        )
        print(f"    {name}: {text}")
    print(f"  structure: {_structure_line(structure)}")


def _structure_line(structure: dict[str, Any]) -> str:
    least = structure["least_columns"]
    if structure["parts"] == 1:
        return f"no independent parts of {least} columns or more, also without its dense rows"
    coupling = ", ".join(f"{count} {name}" for name, count in structure["coupling"].items())
    without = f" without its dense rows ({coupling})" if coupling else ""
    text = f"falls into {structure['parts']} independent parts of about {least} columns or more"
    suits = f"; --solver {structure['solver']} suits it" if structure["solver"] else ""
    return f"{text}{without}{suits}"


# -- plot ----------------------------------------------------------------------------------------


def _plot(options: argparse.Namespace) -> int:
    from greenopt.errors import NoOptimumError
    from greenopt.io import load, load_solution
    from greenopt.plots import plot

    instance, solution = load(options.instance), load_solution(options.solution)
    try:
        plot(instance, solution, options.out, options.kind, time_limit=options.time_limit)
    except NoOptimumError as error:
        _say(str(error))
        return NOT_AS_ASKED
    print(f"{instance.name}: {options.kind} in {options.out}")
    return SOLVED


def _explain(options: argparse.Namespace) -> int:
    """Explain one instance: 0 if it has a plan, else 1."""
    from greenopt.explaining import explain
    from greenopt.io import load

    instance = load(options.instance)
    found = explain(instance, time_limit=options.time_limit, solver=options.solver)
    if options.json:
        print(json.dumps({"instance": instance.name, **found.document()}, allow_nan=False))
    else:
        print("\n".join(found.sentences))
    return SOLVED if found.infeasible is False else NOT_AS_ASKED


def _solvers(options: argparse.Namespace) -> int:
    from greenopt.solvers import available

    found = available()
    if options.json:
        for solver in found:
            print(json.dumps(solver))
        return SOLVED
    can = ("continuous", "integer", "quadratic", "duals", "start", "incumbents")
    head = ["solver", "version", "runs", *can, "what"]
    rows = [
        [s["name"], s["version"] or "-", s["where"], *(_ability(s[n]) for n in can), s["about"]]
        for s in found
    ]
    _print_table(head, rows, left=("runs", "what", *can))
    for reason in dict.fromkeys(s["reason"] for s in found if not s["usable"]):
        names = ", ".join(s["name"] for s in found if s["reason"] == reason)
        print(f"not usable: {names}: {reason}")
    return SOLVED


def _ability(value: bool | str) -> str:
    return str(value) if isinstance(value, str) else ("yes" if value else "no")


def _methods(options: argparse.Namespace) -> int:
    from greenopt.solving import methods_of

    if options.problem not in PROBLEMS:
        raise ModelError(f"unknown problem {options.problem!r}; known are {sorted(PROBLEMS)}")
    found = methods_of(options.problem)
    if options.json:
        for name, about in found.items():
            print(json.dumps({"method": name, "about": about}))
    else:
        _print_table(["method", "what"], [[*item] for item in found.items()], left=("what",))
    return SOLVED


def _export(options: argparse.Namespace) -> int:
    from greenopt.io import load, to_model
    from greenopt.solvers.highs import write_model

    instance = load(options.instance)
    write_model(to_model(instance), options.out, options.format)
    if len(instance.objective) > 1:
        _say(f"{options.out}: stage 1 of {len(instance.objective)}; a file holds one objective")
    return SOLVED


def _schema(options: argparse.Namespace) -> int:
    if options.problem not in PROBLEMS:
        raise ModelError(f"unknown problem {options.problem!r}; known are {', '.join(PROBLEMS)}")
    print(json.dumps(instance_class(options.problem).json_schema(), indent=1))
    return SOLVED


def _reweight(options: argparse.Namespace) -> int:
    from greenopt.io import load

    instance = load(options.instance)
    name = options.name or f"{instance.name}-reweighted"
    terms = [_with_suffix(instance, *term) for term in options.term]
    instance.replace(name=name, objective=[{"terms": terms}]).save(options.out)
    return SOLVED


def _with_suffix(instance: Any, term: dict[str, Any], word: str) -> dict[str, Any]:
    """A term with the word behind the colon in the field that the problem has for it."""
    if not word:
        return term
    field = showing(instance.problem).TERM_SUFFIX
    if field is None:
        text = f"{instance.name}: terms of {instance.problem} are METRIC=WEIGHT[/SCALE]"
        raise ModelError(f"{text}, without the :{word} of {term['metric']}")
    return {**term, field: word}


if __name__ == "__main__":
    sys.exit(main())
