"""Each way to end badly has an exit code of its own."""

from __future__ import annotations

from graphprune import errors


def test_exit_codes() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.GraphpruneError)]
    assert {k.__name__: k.exit_code for k in kinds} == {
        "GraphpruneError": 1,
        "UsageError": 2,
        "InvalidModelError": 3,
        "NothingToPruneError": 4,
        "TargetNotReachedError": 5,
        "VerificationError": 6,
        "OutputError": 7,
        "CompileError": 8,
        "LimitError": 9,
    }


def test_message_and_hint() -> None:
    error = errors.UsageError("what is wrong", "what to do")
    assert (str(error), error.hint) == ("what is wrong", "what to do")
    assert errors.UsageError("alone").hint == ""
