"""Build the API reference from the docstrings: `python -m docs [FOLDER]`; a warning is an error."""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path

# What users of the library, writers of passes and of rules build on; the rest may change without notice.
MODULES = [
    "graphprune",
    "graphprune.budget",
    "graphprune.cost",
    "graphprune.cut",
    "graphprune.errors",
    "graphprune.fidelity",
    "graphprune.groups",
    "graphprune.latency",
    "graphprune.model",
    "graphprune.passes",
    "graphprune.pipeline",
    "graphprune.plan",
    "graphprune.proof",
    "graphprune.report",
    "graphprune.rules",
    "graphprune.rules.base",
    "graphprune.runtime",
    "graphprune.state",
    "graphprune.sweep",
]
# What packages among these hold for graphprune itself.
INNER = ["graphprune.model.", "graphprune.plan.origins", "graphprune.report.(picture|plot)"]


def build(folder: Path) -> Path:
    """Write one page per module, and a search index; returns the first page.

    Raises:
        UserWarning: something that the pages should show cannot be shown.
    """
    import pdoc
    import pdoc.render

    import graphprune

    for name in graphprune.__all__:  # they are imported on first use
        value = vars(graphprune)[name] = getattr(graphprune, name)
        if inspect.isfunction(value):  # what is inside a decorator does not list the options
            vars(value).pop("__wrapped__", None)
            value.__doc__ = (value.__doc__ or "").replace("\nOptions:\n", "\nArgs:\n")
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pdoc.pdoc(*MODULES, *(f"!{name}" for name in INNER), output_directory=folder)
    return folder / "graphprune.html"


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")))
