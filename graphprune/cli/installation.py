"""The verbs that look at the installation, not at a model."""

from __future__ import annotations

from graphprune.cli.terminal import Terminal
from graphprune.errors import GraphpruneError


def targets(terminal: Terminal) -> None:
    """List what can be compiled for, and what is missing here to do it or to run the result.

    Example: graphprune targets
    """
    from graphprune import execute
    from graphprune.cli import tables

    found = execute.survey()
    terminal.data(found)
    terminal.show(tables.targets(found))


def doctor(terminal: Terminal) -> None:
    """Check this installation: versions, onnxruntime, compilers, targets, and what runs their artefacts here.

    Ends with 0 where models can be pruned and compiled for this machine, else with 1; what else is missing is told of.

    Examples:

    graphprune doctor

    graphprune doctor --json
    """
    from graphprune.cli import tables
    from graphprune.cli.doctor import examine

    found = examine()
    terminal.data(found)
    terminal.show(*tables.diagnosis(found))
    if found.missing:
        worst = found.missing[0]
        raise GraphpruneError(f"{worst.what}: {worst.found}", worst.install)
