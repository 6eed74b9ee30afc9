"""A rule for an operator of another domain, as a package of its own would bring it."""

from graphprune.rules import Call, Rule, Ties, tie


def _sampled(call: Call) -> Ties:
    """Every channel is sampled at the same places; the axes of the image and of the grid stay."""
    image, grid = call.inputs
    yield tie(image, 0, call.y, 0)  # batch
    yield tie(grid, 0, call.y, 0)
    yield tie(image, 1, call.y, 1)  # a channel passes through


SAMPLE = Rule(_sampled)
