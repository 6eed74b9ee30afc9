"""Pipelines: text in, passes found by entry point, every step checked and recorded."""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from graphprune.branches import Branch, named, silenced
from graphprune.choices import choices, choosing
from graphprune.cut import Gone, gone, zeroed
from graphprune.errors import GraphpruneError, InvalidModelError, UsageError, VerificationError
from graphprune.model import Model
from graphprune.plugins import installed
from graphprune.proof import (
    LAW_RTOL,
    LAYERS_RTOL,
    REWRITE_RTOL,
    Agreement,
    Arrays,
    Runner,
    compare,
    compare_layers,
    judge,
    rtol,
    seeded_inputs,
    watched,
)
from graphprune.rules import Dim
from graphprune.state import Pass, State

ENTRY_POINTS = "graphprune.passes"

# The common roads. Shape arithmetic is folded before a cut so that it pins nothing; what a cut leaves dead, and what
# can be folded once widths are final, goes after. What is asked for is filled in in braces.
BEFORE, AFTER = (
    "fold_states, fold_loops, fold_shapes, fold_constants, fuse_norms",
    "fold_constants, fold_batchnorm, clean",
)
CALIBRATED = f"{BEFORE}, fold_batchnorm, calibrate({{calibration}})"
REFITTED = f"cut, broaden({{noise}}), reconstruct, {{sparsify}}refit_in_order, repair, {AFTER}"
SCORED = "fold_batchnorm, calibrate(count=8), obs"  # what a sensitivity view is made of, after ``BEFORE``
PRESETS = {
    "obs": f"{CALIBRATED}, obs, {{probe}}{{choice}}, {REFITTED}",
    "fisher": f"{CALIBRATED}, fisher, {{choice}}, {REFITTED}",
    "spare": f"{BEFORE}, fold_batchnorm, calibrate(count=8, {{sampled}}), obs(damp=0.0001, most=0.01), {{choice}}, "
    f"cut(needed=False), reconstruct(damp=0.0001), {AFTER}",
    "sparse": f"{CALIBRATED}, {{experts}}{{sparsify}}repair, {AFTER}",
    "magnitude": f"{BEFORE}, magnitude(power=2), {{choice}}, cut, {AFTER}",
    "l1": f"{BEFORE}, magnitude(power=1), {{choice}}, cut, {AFTER}",
    "slimming": f"{BEFORE}, batchnorm_scale, {{choice}}, cut, {AFTER}",
    "dfpc": f"{BEFORE}, fold_batchnorm, dfpc, {{choice}}, cut, {AFTER}",
    "lbyl": f"{BEFORE}, magnitude(power=2), {{choice}}, lbyl, cut, {AFTER}",
    "obspa": f"{CALIBRATED}, obspa, {{choice}}, cut, obspa_update, {AFTER}",
    "pq_index": f"{BEFORE}, magnitude(power=1), {{choice}}, cut, {AFTER}",
    "layer_adaptive": f"{CALIBRATED}, obs, {{choice}}, {REFITTED}",
    "random": f"{BEFORE}, random_score(seed={{seed}}), {{choice}}, cut, {AFTER}",
    "slice": f"{BEFORE}, fold_norms, rotate({{sampled}}), {{choice}}, cut, {AFTER}",
    "clean": f"{BEFORE}, {{experts}}{AFTER}",
}
# The pass that meets a target, where it is not ``choose``.
CHOICES = {"obs": "allocate", "fisher": "allocate", "layer_adaptive": "layer_adaptive", "pq_index": "pq_index"}


def preset(
    name: str,
    choice: str,
    *,
    seed: int = 0,
    calibration: str = "",
    sampled: str = "",
    sparsify: str = "",
    experts: str = "",
    layers: str = "",
    noise: str = "",
    probed: bool = False,
) -> str:
    """The text of a preset with what is asked for filled in.

    Args:
        name: one of ``PRESETS``.
        choice: the passes that choose what goes.
        seed: of random scores.
        calibration: arguments of the pass that calibrates.
        sampled: arguments of passes that run the model on some inputs by themselves.
        sparsify, experts, layers: passes that make zeros, choose experts and remove layers, with their commas.
        noise: arguments of passes that make noise of their own.
        probed: whether groups are probed before the choice.
    """
    parts = {"calibration": calibration, "sampled": sampled, "sparsify": sparsify, "experts": experts, "noise": noise}
    parts["probe"] = f"probe({noise}), " if probed else ""
    return PRESETS[name].format(choice=choice, seed=seed, **parts).replace(BEFORE, BEFORE + layers, 1)


@dataclass(frozen=True)
class Step:
    """A pass with the text it was written as."""

    text: str
    run: Pass


@dataclass(frozen=True)
class Record:
    """What one step did.

    Attributes:
        text: the pass as written.
        seconds: wall time of the pass, without the check.
        agreement: the proof, where the step changed the model: against the zeroed model for a cut, else the same model.
        layers: for a cut, the same law at every inner tensor.
        cut: the axes the step cut and which of their positions went, bool [old axis size]; empty for other steps.
        layers_gone: the residual branches the step removed.
        prepares: whether later steps need what the step left in ``data``, so that a replay has to run it.
        before: the state the step started from.
        nodes: number of nodes after the step.
        replay: what a replay runs in its place.
    """

    text: str
    seconds: float
    agreement: Agreement | None
    layers: Agreement | None
    cut: Mapping[Dim, np.ndarray]
    before: State
    nodes: int
    prepares: bool = False
    layers_gone: tuple[Branch, ...] = ()
    replay: str = ""

    @property
    def law(self) -> bool:
        """Whether the step removed what is proved by silencing it."""
        return bool(self.cut or self.layers_gone)


@cache
def available() -> dict[str, type]:
    """Every installed pass by name.

    Raises:
        UsageError: two installed packages offer the same name, or one cannot be loaded.
    """
    return installed(ENTRY_POINTS, "pass")


def parse(text: str) -> list[Step]:
    """Read a pipeline: passes separated by commas, options as keyword arguments with constant values.

    Example:
        ``"fold_shapes, magnitude(power=1), uniform(ratio=0.5, multiple=8), cut, clean"``

    Raises:
        UsageError: the text is no such list, or a pass or option does not exist.
    """
    try:
        body = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError:
        body = None
    if not isinstance(body, ast.List):
        raise UsageError(f"pipeline '{text}' cannot be read", 'write e.g. "magnitude, uniform(ratio=0.3), cut"')
    return [_step(node) for node in body.elts]


def _step(node: ast.expr) -> Step:
    text = ast.unparse(node)
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name) or call.args or any(k.arg is None for k in call.keywords):
        raise UsageError(f"'{text}' is not a pass", "write name or name(option=value)")
    name = call.func.id
    if name not in available():
        raise UsageError(f"no pass is called '{name}'", f"installed: {', '.join(sorted(available()))}")
    try:
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return Step(text, available()[name](**options))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"pass '{text}': {error}", "options take constant values; see the README for their names"
        ) from error


# Sums in another order round otherwise: on one thread the weights come out the same on any number of cores.
@threadpool_limits.wrap(limits=1, user_api="blas")
def run(
    state: State, steps: Sequence[Step], *, seed: int = 0, announce: Callable[[str], None] = lambda text: None
) -> tuple[State, list[Record]]:
    """Run the passes in order, proving after each that changed the model that it computes what it must.

    A rewriting pass must leave the outputs as they were; the pass that consumes ``drop`` must give a model equal to the
    one before it with the dropped units zeroed (the law; where an inexact group loses units, how far the two
    are apart is measured and recorded, with no bound), and the pass that consumes ``layers`` one equal to it with the
    output of those branches multiplied by zero. A pass that changes outputs on purpose, by fitting weights
    anew, says so with a class attribute ``approximate = True``; its effect is measured and recorded, with no bound.
    One that leaves in ``data`` what passes after the cut need says ``prepares = True``. One that chooses by times,
    which another run would measure otherwise, has a method ``settled``: of the state after it, it makes a text that
    chooses the same.

    Args:
        state: where to start.
        steps: from ``parse``.
        seed: of the inputs used for the proofs.
        announce: called with a step's text before it runs.

    Raises:
        VerificationError: a pass broke the model; names the pass and the output.
    """
    records = []
    prove = _Prover(state.model, seed)
    for step in steps:
        announce(step.text)
        before = state
        began = time.perf_counter()
        try:
            state = step.run(before)
        except (GraphpruneError, MemoryError):
            raise
        except Exception as error:
            raise GraphpruneError(
                f"pass '{step.text}' failed on {state.model.name}: {type(error).__name__}: {error}",
                "run again with -v for the traceback, and report it",
            ) from error
        seconds = time.perf_counter() - began
        agreement = layers = None
        cut: Gone = {}
        branches: tuple[Branch, ...] = ()
        if state.model is not before.model:
            cut = gone(before.prunable, before.drop) if before.drop and not state.drop else {}
            branches = tuple(named(before.model, before.layers)) if before.layers and not state.layers else ()
            inexact = any(g.inexact and len(before.drop.get(g.name, ())) for g in before.prunable) if cut else False
            silent = _silent(step, before, cut, branches)
            agreement, layers = prove(step, before.model, state.model, cut, silent, bounded=not inexact)
        prepares = getattr(step.run, "prepares", False)
        nodes = len(state.model.graph.nodes)
        settled = getattr(step.run, "settled", None)
        replay = settled(state) if settled else step.text
        records.append(Record(step.text, seconds, agreement, layers, cut, before, nodes, prepares, branches, replay))
    return state, records


def _silent(step: Step, before: State, cut: Gone, branches: Sequence[Branch]) -> Model | None:
    """What the model after a removal must compute: the one before, with what went silenced."""
    if cut:
        return zeroed(before.model, cut)
    if branches:
        keep_caches = getattr(step.run, "caches", "keep") == "keep"
        return silenced(before.model, [b.sum for b in branches], keep_caches=keep_caches)
    return None


class _Prover:
    """Runs models on the same inputs, and remembers the outputs of the latest."""

    def __init__(self, model: Model, seed: int) -> None:
        self._inputs = seeded_inputs(model, seed)
        self._known: tuple[Model, Arrays] | None = None

    def __call__(
        self, step: Step, before: Model, after: Model, cut: Gone, silent: Model | None, *, bounded: bool
    ) -> tuple[Agreement, Agreement | None]:
        """The agreement of ``after`` with what it must compute; raises ``VerificationError`` where it has none."""
        agreement, layers, reference, result = self._compared(step, before, after, cut, silent, bounded)
        self._known = (after, result)
        if not _all_hold(agreement, layers):
            agreement, layers = self._alike(step, before, after, cut, silent, bounded) or (agreement, layers)
        for kind, proof in (("output", agreement), ("inner tensor", layers)):
            if proof is not None and not proof.holds:
                _refuse_nan(before, reference)
                worst = max(proof.outputs, key=lambda name: proof.outputs[name])
                raise VerificationError(
                    f"after '{step.text}' {kind} '{worst}' is off by {proof.error:.2e}, "
                    f"more than {proof.rtol:.0e} (relative to its largest value)",
                    "nothing was written; please report the model, or leave layers out with --exclude",
                )
        return agreement, layers

    def _compared(
        self, step: Step, before: Model, after: Model, cut: Gone, silent: Model | None, bounded: bool
    ) -> tuple[Agreement, Agreement | None, Arrays, Arrays]:
        """Agreement of outputs and, after a removal, of inner tensors; the outputs it must have, and those it has."""
        if silent is not None:
            _check(after, step.text)
            made_from = {name: sources for name, sources in watched(before).items() if name in after.shapes}
            reference: Arrays = Runner(silent, also=made_from)(self._inputs)
            result = self._run(step, after, made_from)
            layers = compare_layers(
                result, reference, made_from, cut, rtol(after, LAYERS_RTOL) if bounded else math.inf
            )
            allowed = rtol(after, LAW_RTOL) if bounded else math.inf
            agreement = judge(result, reference, allowed, silent, self._inputs)
            reference, result = ({n: t[n] for n in after.outputs} for t in (reference, result))
            return agreement, layers, reference, result
        same = self._known and self._known[0] is before
        reference = self._known[1] if self._known and same else Runner(before)(self._inputs)
        _check(after, step.text)  # after the model before has run: what does not fit there is not the pass's fault
        result = self._run(step, after)
        allowed = math.inf if getattr(step.run, "approximate", False) else rtol(after, REWRITE_RTOL)
        return judge(result, reference, allowed, before, self._inputs), None, reference, result

    def _alike(
        self, step: Step, before: Model, after: Model, cut: Gone, silent: Model | None, bounded: bool
    ) -> tuple[Agreement, Agreement | None] | None:
        """The same once both choose alike, if both choose and from the same numbers; else ``None``."""
        made = choices(after)
        if not made or made.keys() - choices(before).keys():
            return None
        chosen = Runner(silent or before, also=made)(self._inputs)
        given = {name: chosen[name] for name in made}
        before, after = choosing(before, given), choosing(after, given)
        silent = choosing(silent, given) if silent is not None else None
        numbers = {name for names in made.values() for name in names}
        try:
            first, second = (Runner(model, also=numbers)(self._inputs) for model in (silent or before, after))
            if not compare(second, {name: first[name] for name in numbers}, rtol(after, LAW_RTOL)).holds:
                return None
            agreement, layers, *_ = self._compared(step, before, after, cut, silent, bounded)
        except (InvalidModelError, VerificationError):
            return None
        return msgspec.structs.replace(agreement, given=[*made]), layers

    def _run(self, step: Step, model: Model, also: Collection[str] = ()) -> Arrays:
        try:
            return Runner(model, also=also)(self._inputs)
        except InvalidModelError as error:
            raise VerificationError(
                f"pass '{step.text}' made a model that does not run: {error}", "please report the model"
            ) from error


def _all_hold(*proofs: Agreement | None) -> bool:
    return all(proof is None or proof.holds for proof in proofs)


def _refuse_nan(model: Model, outputs: Arrays) -> None:
    """A model that computes NaN proves nothing: NaN equals nothing."""
    lost = [name for name, values in outputs.items() if values.dtype.kind == "f" and np.isnan(values).any()]
    if lost:
        floats = ((n, c) for n, c in model.constants.items() if getattr(c.dtype, "kind", "") == "f")
        culprit = next(
            (f"weight '{n}' holds NaN or infinity" for n, c in floats if not np.isfinite(c.values).all()), ""
        )
        raise InvalidModelError(
            f"{model.name} computes NaN at output '{lost[0]}', so that nothing can be proved",
            culprit or "give sizes of real inputs with --input-shape, or the model may have diverged in training",
        )


def _check(model: Model, text: str) -> None:
    """Types and shapes must fit together at every node."""
    try:
        _ = model.shapes
    except InvalidModelError as error:
        raise VerificationError(f"pass '{text}' made an invalid graph: {error}", "please report the model") from error
