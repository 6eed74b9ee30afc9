"""Error and cost of every choice of widths: what passes that share a budget out among groups decide by."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from graphprune.budget import Point, Target, Tradeoff, widths
from graphprune.budget import kept as share
from graphprune.cost import Cost, CostModel
from graphprune.state import State

PRICES = 48  # how many other budgets are tried to show what they would have given


class Budget:
    """The curves and legal widths of the groups, and what widths use of the budget."""

    def __init__(self, state: State, amounts: Target) -> None:
        """Of a state whose ``scores`` are error curves: sorted, the k-th is the group's error once k units are gone."""
        groups = amounts.competing(state.groups, state.scores)
        legal = widths(state.dependencies, groups, amounts.multiple, amounts.floor)
        self._model = CostModel(state.model, state.dependencies.groups, amounts.times(state.data))
        self._amounts = amounts
        self.full = {g.name: g.size for g in groups}
        self.options = {g.name: legal[g.name].counts for g in groups}
        self._curves = {g.name: np.append(0.0, np.sort(state.scores[g.name])) for g in groups}
        self._chosen = {name: len(units) for name, units in state.drop.items() if name not in self.full}
        self.before = msgspec.structs.replace(self._model.at({}), channels=sum(self.full.values()))

    def cost(self, kept: Mapping[str, int]) -> Cost:
        """What the model costs at these widths, without what is chosen already; of its channels, those that compete."""
        cost = self._model.at({**self._chosen, **{name: self.full[name] - count for name, count in kept.items()}})
        return msgspec.structs.replace(cost, channels=sum(kept.values()))

    def error(self, kept: Mapping[str, int]) -> float:
        """Sum over the groups of the error at their widths."""
        return float(sum(self.curve(name, count) for name, count in kept.items()))

    def curve(self, name: str, count: int) -> float:
        """The error of one group that keeps ``count`` units."""
        return float(self._curves[name][self.full[name] - count])

    def use(self, kept: Mapping[str, int]) -> float:
        """Share of the budget used: up to 1 is within it."""
        if {*self._amounts.asked} == {"units"}:  # the rest of the cost takes long to count
            return sum(kept.values()) / self.before.channels / self._amounts.units
        return self._amounts.use(self.cost(kept), self.before)

    def savings(self, kept: Mapping[str, int]) -> dict[str, float]:
        """What one unit less of each group saves at these widths, in shares of the targets that are set."""
        measures = self._amounts.asked or {"macs": 1.0}
        if {*measures} == {"units"}:
            return dict.fromkeys(kept, 1 / self.before.channels)
        at = self.cost(kept)

        def saved(name: str) -> float:
            step = 1 if kept[name] > 1 else -1
            less = self.cost({**kept, name: kept[name] - step})
            return step * sum(share(m, at, self.before) - share(m, less, self.before) for m in measures)

        return {name: saved(name) for name in kept}

    def cheapest(self, savings: Mapping[str, float]) -> dict[str, int]:
        """Widths of least error plus price, at the lowest price that keeps within the budget."""

        low, high = 0.0, 1.0
        while self.use(self.at_price(high, savings)) > 1 and high < 1e15:
            low, high = high, high * 8
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.use(self.at_price(middle, savings)) <= 1 else (middle, high)
        return self.at_price(high, savings)

    def at_price(self, price: float, savings: Mapping[str, float]) -> dict[str, int]:
        """Widths of least error plus price, each group by itself."""
        chosen = {}
        for name, counts in self.options.items():
            each = np.asarray(counts)
            paid = self._curves[name][self.full[name] - each] + price * savings[name] * each
            chosen[name] = int(each[len(each) - 1 - np.argmin(paid[::-1])])
        return chosen

    def tradeoff(self, chosen: Mapping[str, int], savings: Mapping[str, float]) -> Tradeoff:
        """The widths at prices from nothing to the most, by what they cost and the error predicted for them."""
        taken = self._point(chosen)
        tried = [taken, *(self._point(self.at_price(price, savings)) for price in np.geomspace(1e-4, 1e4, PRICES))]
        of = "parameters" if {"params", "size"} & {*self._amounts.asked} and self._amounts.macs == 1 else "macs"
        points: list[Point] = []
        for point in sorted(tried, key=lambda p: (getattr(p, of), p.error)):
            if not points or point.error < points[-1].error:
                points.append(point)
        return Tradeoff(of, taken, points)

    def _point(self, kept: Mapping[str, int]) -> Point:
        at, full = self.cost(kept), self.before
        return Point(at.macs / max(full.macs, 1), at.parameters / max(full.parameters, 1), self.error(kept))

    def filled(self, kept: Mapping[str, int]) -> dict[str, int]:
        """The same widths, widened step by step where that helps most for its cost, as far as the budget allows."""
        kept = dict(kept)
        open_ = {name for name in kept if kept[name] < self.options[name][-1]}
        while open_:
            gains = []
            at = self.use(kept)
            for name in sorted(open_):
                wider = {**kept, name: next(c for c in self.options[name] if c > kept[name])}
                if (use := self.use(wider)) <= 1:
                    gains.append(((self.error(kept) - self.error(wider)) / max(use - at, 1e-12), name, wider))
            if not gains:
                break
            _, name, kept = max(gains, key=lambda g: (g[0], g[1]))
            open_ = {n for n in kept if kept[n] < self.options[n][-1]}
        return kept
