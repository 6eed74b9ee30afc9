"""The steps that options ask for: a preset with the amounts filled in, a pipeline spelled out, or a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphprune import pipeline
from graphprune import plan as plans
from graphprune.calibration.images import scale_of
from graphprune.cost import CostModel
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.options import PruneOptions, asked
from graphprune.pipeline import BEFORE, CALIBRATED, CHOICES, PRESETS, Step, parse
from graphprune.plan import Plan
from graphprune.plan.origins import traced
from graphprune.state import State
from graphprune.typed import means

# Finding what is nearly free calibrates, which should take seconds: larger models are only cleaned unless asked.
LARGEST_MACS, LARGEST_PARAMETERS = 5e9, 6e7


def targets_of(options: PruneOptions) -> dict[str, float]:
    """What targets were given, by their option of ``graphprune.budget.Target``; sizes and latencies as given."""
    latency = options["target_latency"] if options["target_latency"] is not None else options["target_latency_ms"]
    found = {"macs": options["target_macs"], "params": options["target_params"], "size": options["target_size"]}
    return {name: share for name, share in {**found, "latency": latency}.items() if share is not None}


def check(options: PruneOptions) -> None:
    """Raise ``UsageError`` for options that exclude each other, or a preset that there is not or cannot do it."""
    target = next(iter(targets_of(options).values()), None)
    ways = {"ratio": options["ratio"], "target": target, "passes": options["passes"], "plan": options["plan"]}
    given = [name for name, way in ways.items() if way is not None]
    for name in ("sparsity", "remove_layers", "remove_experts"):
        given += [name] * (options[name] is not None and bool({"passes", "plan"} & {*given}))
    if None not in (options["target_latency"], options["target_latency_ms"]):
        given = ["target_latency", "target_latency_ms"]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other", "give one way to say what to remove")
    preset = options["preset"]
    if preset not in PRESETS:
        raise UsageError(f"no preset is called '{preset}'", f"presets: {', '.join(sorted(PRESETS))}")
    if options["sparsity"] and "{sparsify}" not in PRESETS[preset]:
        raise UsageError(f"preset '{preset}' cannot make weights zero", "use the preset obs with --sparsity")
    by = means(options["latency_by"])
    if by != "best" and "latency" not in targets_of(options):
        raise UsageError(f"--latency-by {by} without a latency", "give one with --target-latency 60%")
    if by in ("zeros", "both") and means_of(options) == ("channels",):
        raise UsageError(f"a latency cannot be met by {by}, since these options leave channels only")


def means_of(options: PruneOptions) -> tuple[str, ...]:
    """What a latency of a compiled model may be met by: zeros only where nothing else says how many."""
    if options["sparsity"] is not None or "{sparsify}" not in PRESETS[options["preset"]]:
        return ("channels",)
    return ("zeros", "channels", "both") if options["latency_by"] == "best" else (options["latency_by"],)


def as_steps(
    options: PruneOptions, model: Model, shares: Mapping[str, float], milliseconds: float | None = None
) -> list[Step]:
    """The passes asked for, in whichever way.

    Args:
        options: as checked.
        model: the original.
        shares: what targets come to, by their option of ``graphprune.budget.Target``.
        milliseconds: what zeros are to bring the latency down to.
    """
    if (plan := options["plan"]) is not None:
        return replay(plan, model)
    return parse(_text(options, model, shares, milliseconds) if options["passes"] is None else options["passes"])


def as_curves(options: PruneOptions) -> list[Step]:
    """The passes that find what channels and what zeros cost and save in every layer."""
    timed = f"obs, time_layers(multiple={options['round_to']}), curve_zeros"
    calibrated = CALIBRATED.format(calibration=_calibration(options))
    return parse(f"{calibrated}, {timed}".replace(BEFORE, BEFORE + _layers(options), 1))


def replay(plan: Plan, original: Model) -> list[Step]:
    """The passes of a plan, and its removals."""

    def choose(state: State) -> State:
        groups = traced(original, state.model, state.prunable)
        return replace(state, drop=plans.as_drop(plan, original, groups))

    cut = [Step("replay plan", choose), *parse("cut")] if plan.removals else []
    return [*parse(", ".join(plan.before)), *cut, *parse(", ".join(plan.after))]


def spares(options: PruneOptions) -> bool:
    """Whether what is nearly free may go, because nothing says what to remove."""
    return not asked(options) and options["preset"] == "obs"


def too_large(model: Model) -> str:
    """Why a model is not calibrated without being asked; empty where it is."""
    cost = CostModel(model).at()
    if not model.streamed and cost.macs <= LARGEST_MACS and cost.parameters <= LARGEST_PARAMETERS:
        return ""
    has = f"{cost.macs / 1e9:.1f} G multiply-accumulates and {cost.parameters / 1e6:.0f} M parameters"
    limits = f"{LARGEST_MACS / 1e9:g} G and {LARGEST_PARAMETERS / 1e6:g} M"
    return (
        f"the model was only cleaned: with {has} (limits: {limits}), finding what is nearly free takes long, and needs "
        "an amount to be asked for"
    )


def _text(options: PruneOptions, model: Model, shares: Mapping[str, float], milliseconds: float | None) -> str:
    """The text of a preset with the amounts filled in; without an amount, what is nearly free goes."""
    preset, ratio, multiple, sparsity = options["preset"], options["ratio"], options["round_to"], options["sparsity"]
    if not ratio and not shares:
        zeros = sparsity or milliseconds
        preset = "sparse" if zeros else "spare" if spares(options) and not too_large(model) else "clean"
    experts = _experts(options) if options["remove_experts"] else ""
    if ratio is not None:
        choice = f"uniform(ratio={ratio}, multiple={multiple})"
    elif preset == "spare":
        choice = f"spare(multiple={multiple})"
    else:
        targets = "".join(f"{name}={share}, " for name, share in shares.items())
        choice = f"{CHOICES.get(preset, 'choose')}({targets}multiple={multiple})"
        if "latency" in shares:
            choice = f"time_layers(multiple={multiple}), {choice}"
    if milliseconds:
        sparsify = f"curve_zeros, sparsify(milliseconds={milliseconds}), "
    elif isinstance(sparsity, str):
        sparsify = f"sparsify(pattern='{sparsity}', block=1), "
    else:
        sparsify = f"sparsify(ratio={sparsity}), " if sparsity else ""
    return pipeline.preset(
        preset,
        f"{experts}, {choice}" if experts else choice,
        sparsify=sparsify,
        seed=options["seed"],
        sampled=_spelled(options),
        calibration=_calibration(options),
        layers=_layers(options),
        experts=f"{experts}, cut, " if experts else "",
        noise=_noise(options),
        probed=ratio is None,
    )


def _calibration(options: PruneOptions) -> str:
    """The arguments of the pass that calibrates."""
    provider = options["provider"] if options["provider"] != "cpu" else None
    return _spelled(options, effort=options["effort"] or None, vocabulary=options["vocab"], provider=provider)


def _spelled(options: PruneOptions, **others: object) -> str:
    """The arguments of a pass that runs the model on some inputs."""
    given = True if options["calibration_data"] is not None else None
    asked = {"seed": options["seed"], "given": given, **others, "spread": _spread(options)}
    return ", ".join(f"{name}={value!r}" for name, value in asked.items() if value is not None)


def _noise(options: PruneOptions) -> str:
    """The arguments of a pass that makes noise of its own."""
    spread = _spread(options)
    return f"seed={options['seed']}" + (f", spread={spread}" if spread else "")


def _spread(options: PruneOptions) -> tuple[float, float] | None:
    """The range of floating-point inputs, where an option gives it."""
    scale = scale_of(options["mean"], options["std"], options["input_range"])
    return options["input_range"] or (scale.spread if scale else None)


def _layers(options: PruneOptions) -> str:
    """The passes that remove layers, before anything is calibrated; none where no layers are to go."""
    if not options["remove_layers"]:
        return ""
    choice = f", choose_layers(count={options['remove_layers']}, {_spelled(options)}), remove_layers"
    return choice + "(caches='remove')" * options["remove_caches"]


def _experts(options: PruneOptions) -> str:
    """The pass that chooses experts, which the cut then takes with what else is chosen."""
    return f"choose_experts(count={options['remove_experts']}, {_spelled(options)})"
