"""``graphprune plan``: what can be done with plans besides replaying them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphprune.cli.flags import verb
from graphprune.cli.terminal import Terminal
from graphprune.errors import UsageError

app = typer.Typer(
    name="plan",
    help="Merge plans, apply them to the weights of the source framework, and see their schema.",
    no_args_is_help=True,
)

PlanFile = Annotated[Path, typer.Argument(help="A plan.", metavar="PLAN.json")]
Original = Annotated[
    Path | None, typer.Option("--model", help="The ONNX file that the plan was made for.", metavar="ORIGINAL.onnx")
]


@verb(app)
def schema(terminal: Terminal) -> None:
    """Print the JSON schema of plan files.

    Example: graphprune plan schema > plan.schema.json
    """
    import msgspec

    from graphprune import plan as plans

    typer.echo(msgspec.json.format(msgspec.json.encode(plans.schema()), indent=2).decode())


@verb(app)
def merge(
    terminal: Terminal,
    first: PlanFile,
    second: Annotated[Path, typer.Argument(help="A plan of the same model, or of what the first one left of it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The plan to write.")],
    model: Original = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result.")] = False,
) -> None:
    """Write one plan that removes what two plans remove.

    Example: graphprune plan merge channels.plan.json heads.plan.json -o both.plan.json
    """
    from graphprune import plan as plans
    from graphprune.model import load
    from graphprune.output import claim_file, new_files
    from graphprune.plan.merge import merge as merged

    claim_file(output, force, first)
    claim_file(output, force, second)
    one, other = plans.read(first), plans.read(second)
    plan = merged(one, other, load(model, input_shapes=one.input_shapes) if model else None)
    with new_files(output) as folder:
        (folder / output.name).write_bytes(plans.to_json(plan))
    terminal.data(plan)
    terminal.show(f"wrote {output}")


@verb(app)
def apply(
    terminal: Terminal,
    plan: PlanFile,
    weights: Annotated[Path, typer.Argument(help="Weights of the exported module.", metavar="WEIGHTS.safetensors")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The smaller weights to write.")],
    model: Original = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result.")] = False,
) -> None:
    """Write what a plan leaves of the weights that the model was exported from. Needs the extra `torch`.

    Example: graphprune plan apply small.plan.json model.safetensors --model model.onnx -o small.safetensors
    """
    try:
        from graphprune.torch import apply_file
    except ImportError as error:
        raise UsageError(f"applying a plan needs {error.name}", 'pip install "graphprune[torch]"') from error

    apply_file(weights, plan, output, original=model, force=force)
    terminal.show(f"wrote {output}")
