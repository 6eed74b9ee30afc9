"""Sequences for models that read words: token ids drawn from the vocabulary, or text that the model writes itself.

Liu et al. 2023, "LLM-QAT", section 3: what a language model generates has the statistics of what it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod
from types import MappingProxyType

import numpy as np
import onnx

from graphprune.errors import InvalidModelError, UsageError
from graphprune.model import Model
from graphprune.model.shapes import symbol, symbolic_axes
from graphprune.progress import track
from graphprune.proof import Runner, seeded_inputs, whole_number_readers

SAMPLES = 2.5  # tokens for each input of the widest layer: two is what second moments need
WRITTEN = 10.0  # the same where a model with caches writes them, which is cheap: what is fitted then holds elsewhere
HALVINGS = 3  # sequences are drawn of the whole length, of half of it, and so on
SWEEPS = 6  # times that a model goes over what it writes
TEMPERATURE = 1.0
HELD = 1 << 27  # bytes of logits held at a time
HELD_CACHES = 3 << 28  # bytes of keys and values held at a time, while one token is written after another


@dataclass(frozen=True)
class Reader:
    """How a model reads tokens.

    Attributes:
        ids: the input that holds token ids, int [batch, sequence].
        vocabulary: ids are below this.
        length: tokens of one sequence.
        past: inputs for keys and values of earlier tokens, with the axis that counts these, left empty.
        present: for such inputs, the outputs that are them with what was read now behind.
        logits: the output that predicts the next token, float [batch, sequence, vocabulary], where there is one.
    """

    ids: str
    vocabulary: int
    length: int
    past: Mapping[str, int]
    present: Mapping[str, str] = field(default_factory=dict)
    logits: str | None = None

    @property
    def remembers(self) -> bool:
        """Whether what was read can be handed back, so that the next token costs no more than itself."""
        return bool(self.past) and self.past.keys() == self.present.keys()

    def __str__(self) -> str:
        written = f"; '{self.logits}' predicts the next token" if self.logits else ""
        return f"'{self.ids}' holds tokens of a vocabulary of {self.vocabulary:,}{written}"


def reader(model: Model, vocabulary: int | None = None) -> Reader | None:
    """How a model reads tokens; ``None`` where no input of whole numbers looks rows up in a table of weights.

    Args:
        model: any.
        vocabulary: how many tokens there are; by default the length of the embedding.

    Raises:
        UsageError: a vocabulary is given for a model that reads no tokens, or one beyond its embedding.
    """
    tables: dict[str, int] = {}
    for name, node, place in whole_number_readers(model):
        table = model.constants.get(node.inputs[0].name) if node.op == "Gather" and place == 1 else None
        if table is not None and table.dtype.kind == "f" and len(table.shape) == 2 and not node.attrs.get("axis", 0):
            tables[name] = min(int(table.shape[0]), tables.get(name, int(table.shape[0])))
    tables = {n: rows for n, rows in tables.items() if len(model.input_shapes[n]) == 2 and not _counts(n)}
    if not tables:
        if vocabulary is not None:
            raise UsageError(f"{model.name} has no input of token ids", "leave --vocab out")
        return None
    ids = max(tables, key=lambda name: tables[name])  # others are segments
    if vocabulary is not None and not 1 <= vocabulary <= tables[ids]:
        raise UsageError(f"{model.name} knows {tables[ids]:,} tokens, not {vocabulary:,}", "give a smaller --vocab")
    past = _past(model, ids)
    return Reader(ids, vocabulary or tables[ids], model.input_shapes[ids][1], past, _present(model, past))


def writer(model: Model, read: Reader) -> Reader:
    """The same with the output that predicts the next token, if there is one, found by running the model."""
    for name in model.outputs:
        shape = model.shapes.get(name) or ()
        if len(shape) == 3 and (shape[2] or 0) >= read.vocabulary and _looks_back(model, read, name):
            return replace(read, logits=name)
    return read


def drawn(read: Reader, count: int, seed: int) -> np.ndarray:
    """Tokens from the vocabulary, all of them alike, int [count, length]."""
    return np.random.default_rng([seed, 0]).integers(0, read.vocabulary, (count, read.length))


def sequences(model: Model, read: Reader, count: int, seed: int) -> dict[str, np.ndarray]:
    """``count`` sequences: written by the model where it predicts the next token, else drawn from the vocabulary."""
    ids = drawn(read, count, seed)
    if read.logits is not None:
        ids = _continued(model, read, ids[:, :1], seed) if read.remembers else _written(model, read, ids, seed)
    return inputs_for(model, read, ids)


def lengths(model: Model, read: Reader) -> list[int]:
    """How long sequences are, each kind with as many tokens as the others.

    What a token becomes depends on how many are read with it. A text that the model writes holds all lengths up to its
    own; where each token sees all others, and nothing fixes their number, shorter sequences are drawn as well.
    """
    whole = all(x.ndim == 2 and x.dtype.kind in "iub" for x in seeded_inputs(model).values())
    if read.logits is not None or 1 not in symbolic_axes(model.inputs[read.ids]) or not whole:
        return [read.length]
    return [n for n in (read.length >> k for k in range(HALVINGS + 1)) if n > 1] or [read.length]


def enough(columns: int, read: Reader) -> int:
    """How many sequences the second moments of a layer of ``columns`` inputs need."""
    return ceil((WRITTEN if read.remembers and read.logits else SAMPLES) * columns / read.length)


def inputs_for(
    model: Model, read: Reader, ids: np.ndarray, past: Mapping[str, np.ndarray] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """All inputs of a model for given tokens, int [sequences, tokens].

    Nothing is masked, positions count on from what is past, and segments are the first; what else a model takes is made
    up as for proofs, once for each sequence.

    Args:
        model: any.
        read: how it reads them.
        ids: the tokens.
        past: keys and values of the tokens before, by the names of the inputs; none by default.
    """
    found = {}
    before = max((past[name].shape[axis] for name, axis in read.past.items() if name in past), default=0)
    own = symbol(model.inputs[read.ids].type.tensor_type.shape.dim[1])
    for name, template in seeded_inputs(model).items():
        shape = (len(ids), *template.shape[1:])
        if name == read.ids:
            found[name] = ids.astype(template.dtype)
        elif name in past:
            found[name] = past[name]
        elif name in read.past:
            axis = read.past[name]
            found[name] = np.zeros((*shape[:axis], 0, *shape[axis + 1 :]), template.dtype)
        elif template.dtype.kind in "iub" and template.ndim == 2:
            if _counts(name):
                values = np.broadcast_to(np.arange(before, before + ids.shape[1]), ids.shape)
            else:
                now = symbol(model.inputs[name].type.tensor_type.shape.dim[1]) == own
                values = np.full((len(ids), ids.shape[1] + (0 if now else before)), not _looks_up(model, name))
            found[name] = values.astype(template.dtype)
        elif template.ndim:
            found[name] = np.concatenate([template] * ceil(len(ids) / len(template)))[: len(ids)]
        else:
            found[name] = template
    return found


# ------------------------------------------------------------------------------------------------------------- parts


def _counts(name: str) -> bool:
    """Whether an input says where in the sequence tokens are; every exporter calls it so."""
    return "position" in name


def _looks_up(model: Model, name: str) -> bool:
    return any(n == name and node.op == "Gather" and place == 1 for n, node, place in whole_number_readers(model))


def _past(model: Model, ids: str) -> dict[str, int]:
    """Float inputs with an open axis, not the batch, of a size that token ids do not have: what was read before."""
    own = {symbol(dim) for dim in model.inputs[ids].type.tensor_type.shape.dim}
    found = {}
    for name, info in model.inputs.items():
        dims = info.type.tensor_type.shape.dim
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).kind
        axes = [k for k in symbolic_axes(info) if k and symbol(dims[k]) not in own]
        if kind == "f" and len(axes) == 1 and len(dims) == 4:
            found[name] = axes[0]
    return found


def _present(model: Model, past: Mapping[str, int]) -> dict[str, str]:
    """The outputs that are past inputs with something behind them on the axis that counts tokens."""
    found = {}
    for tensor in model.graph.inputs:
        for node in tensor.outputs if tensor.name in past else ():
            y = node.outputs[0]
            longer = node.op == "Concat" and node.inputs[0] is tensor and len(node.inputs) == 2
            if longer and node.attrs["axis"] % 4 == past[tensor.name] and y.name in model.outputs:
                found[tensor.name] = y.name
    return found


def _looks_back(model: Model, read: Reader, output: str) -> bool:
    """Whether an output at one token depends on no later token, seen by changing the last."""
    ids = np.random.default_rng(0).integers(0, read.vocabulary, (1, read.length))
    other = ids.copy()
    other[:, -1] = (other[:, -1] + 1) % read.vocabulary
    if read.length < 2:
        return False
    try:
        runner = Runner(model)
        first, second = (runner(inputs_for(model, read, tokens))[output] for tokens in (ids, other))
    except InvalidModelError:
        return False
    return bool(np.allclose(first[:, :-1], second[:, :-1], 1e-4, 1e-4) and not np.allclose(first, second, 1e-4, 1e-4))


def _written(model: Model, read: Reader, ids: np.ndarray, seed: int) -> np.ndarray:
    """Text of the model's own, from a first token drawn from the vocabulary.

    All tokens of a text are drawn at once, from what the model makes of those before them in the last sweep, always
    with the same random numbers: what a sweep leaves as it was is exactly what writing token after token would give
    (Song et al. 2021, "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving"; the maximum of
    logits plus Gumbel noise is a sample). The first ``SWEEPS`` tokens are exact, later ones at least fit together.
    """
    runner = Runner(model, optimise=True, keep=False)
    step = max(1, HELD // (4 * read.length * read.vocabulary))
    result = ids.copy()
    assert read.logits is not None
    for start in track(range(0, len(ids), step)):
        tokens = result[start : start + step]
        for _ in range(SWEEPS):
            logits = runner(inputs_for(model, read, tokens))[read.logits][:, :-1, : read.vocabulary]
            noise = np.random.default_rng([seed, 1, start]).gumbel(size=logits.shape)
            tokens[:, 1:] = np.argmax(logits / TEMPERATURE + noise, axis=2)
    return result


def _continued(model: Model, read: Reader, ids: np.ndarray, seed: int) -> np.ndarray:
    """Text of the model's own behind first tokens, int [sequences, 1]: token after token, each a sample."""
    runner = Runner(model, optimise=True, keep=False)
    shapes = ((model.input_shapes[name], axis) for name, axis in read.past.items())
    token = sum(4 * prod(shape[1:]) // shape[axis] for shape, axis in shapes)
    step = max(1, HELD_CACHES // (2 * read.length * token))
    texts = []
    for start in track(range(0, len(ids), step)):
        text = ids[start : start + step]
        rng = np.random.default_rng([seed, 2, start])
        past: dict[str, np.ndarray] = {}
        while text.shape[1] < read.length:
            now = text[:, -1:] if past else text
            outputs = runner(inputs_for(model, read, now, past))
            past = {name: outputs[longer] for name, longer in read.present.items()}
            assert read.logits is not None
            logits = outputs[read.logits][:, -1, : read.vocabulary] / TEMPERATURE
            text = np.c_[text, np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)]
        texts.append(text)
    return np.concatenate(texts)
