"""The pipeline that options ask for, where they do not spell one out."""

from __future__ import annotations

from graphprune.errors import UsageError
from graphprune.options import PruneOptions
from graphprune.pipeline import BEFORE, CHOICES, PRESETS


def pipeline_text(options: PruneOptions) -> str:
    """The text of a preset with the amounts filled in; without an amount nothing is cut.

    Raises:
        UsageError: no preset has this name, or it cannot do what is asked for.
    """
    preset, ratio, multiple, sparsity = (options[name] for name in ("preset", "ratio", "round_to", "sparsity"))
    if preset not in PRESETS:
        raise UsageError(f"no preset is called '{preset}'", f"presets: {', '.join(sorted(PRESETS))}")
    amounts = {"macs": options["target_macs"], "params": options["target_params"]}
    shares = {name: share for name, share in amounts.items() if share is not None}
    if not ratio and not shares:
        preset = "sparse" if sparsity else "clean"
    if sparsity and "{sparsify}" not in PRESETS[preset]:
        raise UsageError(f"preset '{preset}' cannot make weights zero", "use the preset obs with --sparsity")
    if ratio is not None:
        choice = f"uniform(ratio={ratio}, multiple={multiple})"
    else:
        targets = "".join(f"{name}={share}, " for name, share in shares.items())
        choice = f"{CHOICES.get(preset, 'choose')}({targets}multiple={multiple})"
    sparsify = f"sparsify(ratio={sparsity}), " if sparsity else ""
    return (
        PRESETS[preset]
        .replace(BEFORE, f"{BEFORE}{{layers}}", 1)
        .format(
            choice=choice,
            sparsify=sparsify,
            seed=options["seed"],
            sampled=_spelled(options),
            calibration=_spelled(options, effort=options["effort"] or None),
            layers=_layers(options) if options["remove_layers"] else "",
        )
    )


def _spelled(options: PruneOptions, **others: object) -> str:
    """The arguments of a pass that runs the model on some inputs."""
    given = True if options["calibration_data"] is not None else None
    asked = {"seed": options["seed"], "given": given, **others, "spread": options["input_range"]}
    return ", ".join(f"{name}={value}" for name, value in asked.items() if value is not None)


def _layers(options: PruneOptions) -> str:
    """The passes that remove layers, before anything is calibrated."""
    choice = f", choose_layers(count={options['remove_layers']}, {_spelled(options)}), remove_layers"
    return choice + "(caches='remove')" * options["remove_caches"]
