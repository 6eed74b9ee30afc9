"""Accuracy against the latency of compiled models: `python -m benchmarks.pareto`.

Every target is a share of onnxruntime's latency on the original, one thread, and is met three times as
`graphprune compile --target-latency` would with `--latency-by channels`, `zeros` and `both`; what comes before
the choice is done once for all. No data, no labels, no training: accuracy is that of the compiled library on the
labelled items of the zoo, the same for every row. Latencies are shares of onnxruntime's, taken in turn in one run. Rows
that are there are not made again; the table is printed, and the plot written beside them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from benchmarks import results
from graphprune import runtime
from graphprune.clocks import compiled_clock
from graphprune.compiler import compile_model
from graphprune.compiler.targets import Target, resolve_all
from graphprune.cost import CostModel
from graphprune.errors import NothingToPruneError, TargetNotReachedError
from graphprune.fidelity import measure
from graphprune.latency import interleave
from graphprune.model import Model, load
from graphprune.options import PruneOptions, declared
from graphprune.pipeline import Record
from graphprune.proof import Runner, seeded_inputs
from graphprune.rounds import met
from graphprune.state import State
from models import find
from models.zoo import Items, ZooModel, compiled_run

ROWS = Path(__file__).parent.parent / "docs" / "pareto.json"
DENSE = "not pruned"
WAYS = ("channels", "zeros", "both")


class Row(msgspec.Struct, frozen=True):
    """One result.

    Attributes:
        model: of the zoo.
        way: what was given up, or ``DENSE``.
        target: share of onnxruntime's latency asked for.
        latency: what was measured, compiled, by onnxruntime's on the original.
        accuracy: top-1 of the compiled library.
        error: of the outputs on the inputs optimised to be like real ones.
        macs: share of multiply-accumulates left, those that meet a zero counted.
        zeros: share of those left in layers with zeros that meet one.
        seconds: it took, without what rows share.
        why: it could not be made.
    """

    model: str
    way: str
    target: float
    latency: float = 0.0
    accuracy: float = 0.0
    error: float = 0.0
    macs: float = 1.0
    zeros: float = 0.0
    seconds: float = 0.0
    why: str = ""

    @property
    def key(self) -> tuple[str, str, float]:
        """What no two rows share."""
        return self.model, self.way, self.target


def main(
    name: Annotated[str, typer.Argument(help="A model of the zoo with labelled items.")] = "efficientnet_lite0",
    share: Annotated[list[float], typer.Option(help="Of onnxruntime's latency; repeatable.")] = [0.75, 0.6, 0.5, 0.4],  # noqa: B006
    way: Annotated[list[str], typer.Option(help="channels, zeros, both; repeatable.")] = [*WAYS],  # noqa: B006
    effort: Annotated[float, typer.Option(help="As of `graphprune compile`.")] = 1.0,
    seconds: Annotated[float, typer.Option(help="To time each result beside onnxruntime.")] = 5.0,
    rows: Annotated[Path, typer.Option(help="Where results are kept.")] = ROWS,
) -> None:
    """Make the rows that are missing, then print the table and draw the plot of all there are."""
    known = {row.key: row for row in read(rows)}
    wanted = [(kind, target) for kind in way for target in share if (name, kind, target) not in known]
    if wanted:
        for row in _made(find(name), wanted, effort, seconds, (name, DENSE, 1.0) in known):
            known[row.key] = row
            results.add(rows, row)
            print(_line(row), flush=True)
    own = [row for row in known.values() if row.model == name]
    print(table(own))
    draw(own, rows.with_suffix(".svg"))


def read(path: Path) -> list[Row]:
    """The rows of a results file, none where there is no such file."""
    return results.read(path, Row)


def _made(
    zoo: ZooModel, wanted: Sequence[tuple[str, float]], effort: float, seconds: float, dense_known: bool
) -> Iterator[Row]:
    """A row for every way and share; steps that follow the same steps are not run again."""
    bench = _Bench(zoo, load(zoo.path), zoo.items(), next(iter(resolve_all(["host"]).values())), seconds)
    ratio, accuracy = bench.measured(bench.model)
    if not dense_known:
        yield Row(zoo.name, DENSE, 1.0, ratio, accuracy)
    clock = compiled_clock(bench.target)
    defaults = {name: option.default for name, (_, option) in declared(PruneOptions).items()}
    start, records = State(bench.model, data={"profile": clock.profile}), list[Record]()
    for way, share in wanted:
        began = time.perf_counter()
        asked: Any = {**defaults, "effort": effort, "target_latency": share / ratio, "latency_by": way}
        try:
            _, state, _ = met(bench.model, start, clock, lambda text: None, asked, records)
        except (TargetNotReachedError, NothingToPruneError) as error:
            yield Row(zoo.name, way, share, why=str(error))
            continue
        spent = time.perf_counter() - began
        latency, accuracy = bench.measured(state.model)
        yield Row(
            zoo.name,
            way,
            share,
            latency,
            accuracy,
            error=round(measure(bench.model, state.model, given=state.data["calibration"].nearest).error, 4),
            macs=round(CostModel(state.model).at().macs / CostModel(bench.model).at().macs, 3),
            zeros=round(state.data.get("sparsity", 0.0), 3),
            seconds=round(spent, 1),
        )


@dataclass(frozen=True)
class _Bench:
    zoo: ZooModel
    model: Model
    items: Items
    target: Target
    seconds: float

    def measured(self, model: Model) -> tuple[float, float]:
        """The latency of a compiled model as a share of onnxruntime's on the original, and its top-1."""
        with tempfile.TemporaryDirectory() as folder:
            place = compile_model(model.proto(), Path(folder), self.target, model.chosen_shapes).folder
            inputs = seeded_inputs(self.model)
            calls = {
                "onnxruntime": partial(Runner(self.model, optimise=True, threads=1), inputs),
                "compiled": partial(runtime.load(place), inputs),
            }
            ratio = interleave(calls, seconds=self.seconds)["compiled"].ratio
            return ratio, round(float(self.zoo.evaluate(compiled_run(place), self.items)[0].accuracy), 5)


def table(rows: Sequence[Row]) -> str:
    """All rows, those that were to be the slowest first."""
    head = "| asked for | by | latency | top-1 | error | MACs left | zeros among them |\n" + "|---" * 7 + "|"
    return "\n".join([head, *(_line(row) for row in sorted(rows, key=lambda r: (-r.target, r.way)))])


def _line(row: Row) -> str:
    if row.why:
        return f"| {row.target:.0%} | {row.way} | not met: {row.why} | | | | |"
    shares = (row.latency, row.accuracy, row.error)
    cells = [row.way, *(f"{share:.1%}" for share in shares), f"{row.macs:.0%}", f"{row.zeros:.0%}"]
    return f"| {row.target:.0%} | {' | '.join(cells)} |"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against latency, a line for each way; nothing where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install 'graphprune[bench]'")
        return
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "graphprune", "font.size": 9}
    figure, place = plt.subplots(figsize=(4.5, 3.2))
    dense = [row for row in rows if row.way == DENSE]
    for way in dict.fromkeys(row.way for row in rows if row.way != DENSE and not row.why):
        points = sorted((100 * r.latency, 100 * r.accuracy) for r in rows if r.way == way and not r.why)
        place.plot(
            *zip(*[*points, *((100 * r.latency, 100 * r.accuracy) for r in dense)], strict=True), "o-", label=way
        )
    place.set_xlabel("latency, % of onnxruntime's on the original")
    place.set_ylabel("top-1, %")
    place.grid(alpha=0.3)
    place.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
