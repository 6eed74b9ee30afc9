"""The law on many random graphs: chains of the operator table's tiny nets, and nets that part and meet again.

    python -m benchmarks.chains [--graphs 20000] [--first 0]

Every graph is drawn from a number of its own, so that one that breaks the law is found again with
``--first NUMBER --graphs 1``. Three of four are chains. Prints how many graphs held, how many units were cut, how large
the error got and how many operators were met; ends with 1 where a graph broke the law or crashed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto
from rich.console import Console
from rich.progress import track

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.proof import LAW_RTOL
from graphprune.rules import RULES
from tests.law import agree, halves
from tests.random_nets import random_net
from tests.tiny_nets import random_chain

SHARES = (0.1, 0.5, 0.9, 1.0)


def drawn(number: int) -> tuple[ModelProto, bool]:
    """The graph of a number, and whether it is a chain."""
    rng = np.random.default_rng(number)
    chain = bool(rng.integers(0, 4))
    return (random_chain if chain else random_net)(lambda n: int(rng.integers(0, n))), chain


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, cut and judge; the number of graphs that are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=20_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    options = parser.parse_args(arguments)
    console = Console()
    met: Counter[str] = Counter()
    wrong = cut = chains = coarse = 0
    largest = 0.0
    numbers = range(options.first, options.first + options.graphs)
    for number in track(numbers, "graphs", console=console, disable=not console.is_terminal):
        share = SHARES[number % len(SHARES)]
        try:
            proto, chain = drawn(number)
            model = load(proto)
            groups = analyse(model).groups
            agreement = agree(model, groups, drop := halves(groups, number, share), number, amplifies=chain)
            found = None if agreement.holds else f"off by {agreement.error:.2e}, {agreement.rtol:.0e} allowed"
        except Exception as error:  # anything is worth a line here
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if found is not None:
            wrong += 1
            console.print(f"graph {number}: {found}", highlight=False, soft_wrap=True)
            continue
        chains += chain
        cut += sum(map(len, drop.values()))
        if agreement.rtol > LAW_RTOL["float32"]:  # float32 can tell no more, and nothing computes it in float64
            coarse += 1
        else:
            largest = max(largest, agreement.error)
        met.update({f"{n.domain}.{n.op_type}".removeprefix(".") for n in proto.graph.node} & RULES.keys())
    console.print(
        f"{options.graphs - wrong:,} of {options.graphs:,} graphs hold the law ({chains:,} of them chains); "
        f"{cut:,} units cut, largest error {largest:.1e} ({coarse:,} judged by what the last bits of weights do), "
        f"{len(met)} of {len(RULES)} operators met",
        highlight=False,
        soft_wrap=True,
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main() > 0)
