"""Set the predicted errors of the groups against what taking some of their units does to the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Calibration, layers
from graphprune.calibration.activations import Inputs, assorted, batched, has_images, positions, run
from graphprune.calibration.importance import answers
from graphprune.calibration.noise import KINDS
from graphprune.calibration.refit import calibrated, write
from graphprune.calibration.statistics import FAR, mismatch
from graphprune.cost import CostModel
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.obs import fit
from graphprune.progress import track
from graphprune.state import State

WORK = 5e11  # multiply-accumulates that all probes may take
UNSEEN = 7  # added to the seed, so that no layer was fitted to these inputs
LEAST = 1e-6  # added to errors before they are divided


@dataclass(frozen=True)
class Probe:
    """Error curves scaled to what was measured of a few of their points.

    ``obs`` predicts a group's error where its layers end, on the inputs that these were fitted to. How much of it
    reaches the outputs, and how much larger it is on other inputs, differs by group: most where layers are wide and
    deep, or only gates. So each group alone loses some of its units, its readers are refitted, and the outputs are
    compared, on noise that no layer has seen. A curve is multiplied by measured over predicted error, the geometric
    mean over kinds of noise and trials; kinds whose moments are far from those that BatchNorm remembers have no say.
    Models without images, and groups that no linear layer reads, keep their curves.

    Attributes:
        shares: of a group's units that go, one trial each.
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
        model, known = batched(state.model), calibration.statistics
        macs = len(state.groups) * len(self.shares) * len(KINDS) * max(CostModel(state.model).at().macs, 1)
        count = int(np.clip(WORK / macs, 1, self.count))
        inputs = assorted(model, count * len(KINDS), self.seed + UNSEEN, self.spread)
        kinds = [{n: x[k] for n, x in _by_kind(inputs).items()} for k in range(len(KINDS))]
        near = np.array([not known or mismatch(model, known, kind) < FAR for kind in kinds])
        compared = [name for name in answers(model) if model.shapes.get(name)]
        if not near.any() or not compared:
            return state
        dense = _outputs(model, compared, inputs)
        scores = dict(state.scores)
        for group in track(state.groups):
            curve = np.sort(scores[group.name])
            order = np.argsort(scores[group.name], kind="stable")
            off = []
            for share in self.shares:
                units = order[: max(1, int(share * group.size))]
                without = self._without(model, calibration, group, units)
                if without is None or not np.isfinite(curve[len(units) - 1]):
                    continue
                errors = _errors(_outputs(without, compared, inputs), dense)
                off.append(np.log((errors[near] + LEAST) / (curve[len(units) - 1] + LEAST)).mean())
            if off and np.isfinite(off).all():
                scores[group.name] = scores[group.name] * np.exp(np.mean(off))
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


def _by_kind(values: Inputs) -> dict[str, list[np.ndarray]]:
    """Arrays that hold items of all kinds of noise, one kind after another, in as many parts; scalars in all."""
    parts = len(KINDS)
    return {name: np.array_split(x, parts) if x.ndim else [x] * parts for name, x in values.items()}


def _outputs(model: Model, wanted: Sequence[str], inputs: Inputs) -> list[list[np.ndarray]]:
    """What a model makes of every kind of input, float64 [positions, channels] for each that is ``wanted``.

    Of what a softmax over the channels reads, their mean is taken off: it makes no difference behind it.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for values in run(model, wanted, inputs):
        for name in wanted:
            parts[name].append(values[name])
    whole = _by_kind({name: np.concatenate(values) for name, values in parts.items()})
    found = [[positions(whole[name][k]) for name in wanted] for k in range(len(KINDS))]
    logits = [name not in model.outputs and len(model.shapes[name]) < 4 for name in wanted]
    return [
        [x - x.mean(axis=1, keepdims=True) if free else x for x, free in zip(xs, logits, strict=True)] for xs in found
    ]


def _errors(outputs: list[list[np.ndarray]], dense: list[list[np.ndarray]]) -> np.ndarray:
    """Squared error as a share of how much the outputs vary, the mean over outputs, by kind: float64 [kinds]."""

    def error(a: np.ndarray, b: np.ndarray) -> float:
        varies = np.square(b - b.mean(axis=0)).sum() or np.square(b).sum()
        return float(np.square(a - b).sum() / (varies or 1.0)) if a.shape == b.shape else 1.0

    pairs = zip(outputs, dense, strict=True)
    return np.array([np.mean([error(a, b) for a, b in zip(x, y, strict=True)]) for x, y in pairs])
