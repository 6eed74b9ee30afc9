"""What operators make of a change of their inputs, transposed: of every operator, the nodes that hand gradients on."""

from __future__ import annotations

from collections.abc import Mapping

from graphprune.calibration.adjoints import elementwise, linear, movement, normalization, reduction
from graphprune.calibration.adjoints.tape import Adjoint, Tape

__all__ = ["ADJOINTS", "Adjoint", "Tape"]

ADJOINTS: Mapping[str, Adjoint] = {
    name: adjoint
    for module in (elementwise, linear, movement, normalization, reduction)
    for name, adjoint in module.ADJOINTS.items()
}
