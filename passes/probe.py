"""Set the predicted errors of the groups against what taking some of their units does to the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Calibration, layers
from graphprune.calibration.activations import Inputs, batched, has_images, run, synthetic
from graphprune.calibration.importance import answers
from graphprune.calibration.noise import KINDS
from graphprune.calibration.refit import calibrated, write
from graphprune.calibration.statistics import mismatch
from graphprune.cost import CostModel
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.obs import fit
from graphprune.progress import track
from graphprune.state import State

WORK = 5e11  # multiply-accumulates that all probes may take
UNSEEN = 7  # added to the seed, so that no layer was fitted to these inputs
UNKNOWN = 0.5  # trust in inputs where nothing is known of real ones
LEAST = 1e-6  # added to errors before they are divided


@dataclass(frozen=True)
class Probe:
    """Error curves scaled to what was measured of a few of their points, as far as the inputs can be trusted.

    ``obs`` predicts a group's error where its layers end, on the inputs that these were fitted to. How much of it
    reaches the outputs, and how much larger it is on other inputs, differs by group: most where layers are wide and
    deep. So each group alone loses some of its units, its readers are refitted, and the outputs are compared, on noise
    that no layer has seen. A curve is multiplied by measured over predicted error, raised to the trust: exp(-d) for a
    kind of noise whose moments are d off those that BatchNorm remembers, in squared standard deviations, and a half
    where nothing is remembered. Models without images, and groups that no linear layer reads, keep their curves.

    Attributes:
        shares: of a group's units that go, one after another.
        count: inputs of each kind, fewer for large models.
        damp: as of the refit that follows.
        seed: of the noise.
        spread: range of the floating-point inputs.
    """

    shares: Sequence[float] = (0.25, 0.5)
    count: int = 8
    damp: float = 0.01
    seed: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)

    def __call__(self, state: State) -> State:
        """Change ``scores``; the order of the units of a group stays."""
        calibration = calibrated(state, "probe")
        if not has_images(state.model) or not state.groups:
            return state
        model, kinds = batched(state.model), list(KINDS)
        macs = len(state.groups) * len(self.shares) * len(kinds) * max(CostModel(state.model).at().macs, 1)
        count = int(np.clip(WORK / macs, 1, self.count))
        inputs = [synthetic(model, kind, count, self.seed + UNSEEN, self.spread) for kind in kinds]
        together = {
            n: np.concatenate([x[n] for x in inputs]) if first.ndim else first for n, first in inputs[0].items()
        }
        known = calibration.statistics
        trust = [np.exp(-mismatch(model, known, x)) if known else UNKNOWN for x in inputs]
        compared = answers(model)
        dense = _outputs(model, compared, together, len(kinds))
        scores = dict(state.scores)
        for group in track(state.groups):
            curve = np.sort(scores[group.name])
            order = np.argsort(scores[group.name], kind="stable")
            powers = []
            for share in self.shares:
                units = order[: max(1, int(share * group.size))]
                without = self._without(model, calibration, group, units)
                if without is None or not np.isfinite(curve[len(units) - 1]):
                    continue
                errors = _errors(_outputs(without, compared, together, len(kinds)), dense)
                off = np.log((errors + LEAST) / (curve[len(units) - 1] + LEAST))
                powers.append(np.mean(trust * off))
            if powers and np.isfinite(powers).all():
                scores[group.name] = scores[group.name] * np.exp(np.mean(powers))
        return replace(state, scores=scores)

    def _without(self, model: Model, calibration: Calibration, group: Group, units: np.ndarray) -> Model | None:
        """The model whose layers read nothing of some units, and are refitted; ``None`` where no layer reads them."""
        result = model.copy()
        gone = np.isin(np.arange(group.size), units)
        nodes, changed = layers(result)[0], False
        for dim in group.weights:
            moments = calibration.reader(dim)
            if moments is None:
                continue
            inputs = np.zeros(model.constants[dim.tensor].shape[dim.axis], bool)
            inputs[group.positions(dim)[gone]] = True
            matrices = []
            for weights, second, kept in moments.left(inputs, None):
                matrix = np.zeros_like(weights)
                matrix[:, kept] = fit(weights, second, kept, self.damp)
                matrices.append(matrix)
            node, layer = nodes[dim.tensor]
            write(result, node, layer, np.stack(matrices)[:, :, : None if layer.shiftable else -1])
            changed = True
        return replace(result) if changed else None


def _outputs(model: Model, wanted: Sequence[str], inputs: Inputs, kinds: int) -> list[list[np.ndarray]]:
    """What a model makes of every kind of input, float64 [positions, channels] for each that is ``wanted``."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for values in run(model, wanted, inputs):
        for name in wanted:
            parts[name].append(values[name])
    split = [np.array_split(np.concatenate(p), kinds) for p in parts.values()]
    return [[_rows(x) for x in kind] for kind in zip(*split, strict=True)]


def _rows(values: np.ndarray) -> np.ndarray:
    """A tensor by position, its channels on axis 1 of images, else on the last: float64 [positions, channels]."""
    moved = np.moveaxis(values, 1, -1) if values.ndim >= 4 else values
    return moved.reshape(-1, moved.shape[-1]).astype(np.float64)


def _errors(outputs: list[list[np.ndarray]], dense: list[list[np.ndarray]]) -> np.ndarray:
    """Squared error as a share of how much the outputs vary, the mean over outputs, by kind: float64 [kinds]."""

    def error(a: np.ndarray, b: np.ndarray) -> float:
        varies = np.square(b - b.mean(axis=0)).sum() or np.square(b).sum()
        return float(np.square(a - b).sum() / (varies or 1.0)) if a.shape == b.shape else 1.0

    pairs = zip(outputs, dense, strict=True)
    return np.array([np.mean([error(a, b) for a, b in zip(x, y, strict=True)]) for x, y in pairs])
