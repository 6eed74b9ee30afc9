"""The sweep of OBSPA in a whole pipeline."""

from __future__ import annotations

import numpy as np

import graphprune
from models import find


def test_it_makes_up_for_some_of_what_was_cut() -> None:
    path = find("fashion_resnet20").path
    text = "fold_batchnorm, calibrate(count=4), obspa, uniform(ratio=0.25), cut{refit}, clean"
    errors = []
    for refit in ("", ", obspa_update"):
        fidelity = graphprune.prune(path, passes=text.format(refit=refit)).report.fidelity
        assert fidelity is not None
        errors.append(fidelity.error)
    assert np.isfinite(errors).all()
    assert errors[0] > 1.1 * errors[1]
