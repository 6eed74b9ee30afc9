"""Flags, config files and the library have the same options; flags win over files, and mistakes name what was meant."""

from __future__ import annotations

import inspect
import json
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import graphprune
from graphprune import api
from graphprune.cli import verbs
from graphprune.errors import UsageError
from graphprune.options import PruneOptions, declared
from graphprune.typed import memory, shapes, share, sizes

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"


def call(*arguments: object):
    return CliRunner().invoke(verbs.app, list(map(str, arguments)))


def kept(*arguments: object) -> dict[str, float]:
    result = call("prune", RESNET, "--dry-run", "--json", "--preset", "magnitude", *arguments)
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)["kept"]


def test_every_option_is_a_flag_of_the_verbs_that_take_it():
    help_text = {verb: call(verb, "--help").stdout for verb in ("prune", "compile")}
    for name, (_, option) in declared(PruneOptions).items():
        flag = "--" + (option.name or name.replace("_", "-"))
        assert all(flag in text for text in help_text.values())


def test_every_verb_prints_json_is_quiet_or_wordy_and_shows_an_example():
    app = typer.main.get_command(verbs.app)
    found = dict(app.commands)  # type: ignore[attr-defined]
    found |= {f"plan {name}": verb for name, verb in found.pop("plan").commands.items()}
    assert {"inspect", "prune", "compile", "sweep", "verify", "bench", "targets", "doctor", "plan merge"} <= set(found)
    for name, command in found.items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {"--json", "-q", "--quiet", "-v", "--verbose"} <= flags, name
        assert f"graphprune {name}" in command.help, name


def test_the_library_lists_and_checks_them():
    parameters = inspect.signature(graphprune.prune).parameters
    assert parameters["round_to"].default == 8
    assert set(declared(PruneOptions)) < set(parameters)
    assert "round_to: every axis that is cut" in str(graphprune.prune.__doc__)
    with pytest.raises(TypeError, match="target_mac"):
        graphprune.prune(RESNET, target_mac=0.5)


@pytest.mark.parametrize("given", [["--target-macs", "50%"], ["--target-macs=0.5"], ["--target-macs=50%"]])
def test_shares_are_percentages_or_numbers(given):
    assert 0.4 < kept(*given)["macs"] <= 0.5


def test_a_config_file_has_the_keys_of_the_flags_and_flags_win(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('target-macs = "50%"\nround-to = 4\ninput-shape = ["image:1,1,28,28"]\n')
    assert 0.45 < kept("--config", config)["macs"] <= 0.5
    assert 0.75 < kept("--config", config, "--target-macs", "80%")["macs"] <= 0.8
    config.write_text("target-macs = 0.5\ninput-shape = 'image:3,1,28,28'\n")
    assert kept("--config", config)["macs"] <= 0.5


def test_the_effective_options_are_saved_and_replay(tmp_path):
    config, saved, again = (tmp_path / name for name in ("c.toml", "saved.toml", "again.toml"))
    config.write_text('target-macs = "50%"\nround-to = 4\n')
    shares = kept("--config", config, "--round-to", "2", "--input-shape", "image:2,1,28,28", "--save-config", saved)
    effective = tomllib.loads(saved.read_text())
    assert (effective["target-macs"], effective["round-to"], effective["seed"]) == ("50%", 2, 0)
    assert effective["input-shape"] == ["image:2,1,28,28"]
    assert effective["dry-run"] is True
    assert "ratio" not in effective
    assert kept("--config", saved, "--save-config", again) == shares
    assert tomllib.loads(again.read_text()) == effective
    assert call("prune", RESNET, "--dry-run", "--save-config", saved).exception.exit_code == 7


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("target-mac = 0.5", "'target-mac'", "did you mean 'target-macs'"),
        ("target_macs = 0.5", "'target_macs'", "did you mean 'target-macs'"),
        ("zzz = 1", "'zzz'", "calibration-data"),
        ("config = 'other.toml'", "'config'", ""),
        ("ratio = ", "is not TOML", ""),
        ("[prune]\nratio = 0.5", "'prune'", ""),
        ("[ratio]\nx = 0.5", "a table 'ratio'", ""),
    ],
)
def test_mistakes_in_a_config_file(tmp_path, text, says, hint):
    config = tmp_path / "c.toml"
    config.write_text(text)
    error = call("prune", RESNET, "--config", config).exception
    assert isinstance(error, UsageError)
    assert says in str(error)
    assert hint in error.hint


def test_values_of_a_config_file_are_checked_as_flags_are(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('round-to = "eight"')
    assert call("prune", RESNET, "--config", config).exit_code == 2
    config.write_text('target-macs = "lots"')
    assert "lots" in str(call("prune", RESNET, "--config", config).exception)
    assert isinstance(call("prune", RESNET, "--config", tmp_path / "none.toml").exception, UsageError)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (share, "80%", 0.8),
        (share, "0.8", 0.8),
        (shapes, ["a:b:1,2", "c:3"], {"a:b": (1, 2), "c": (3,)}),
        (sizes, ["n=2"], {"n": 2}),
        (memory, "8GB", 8_000_000_000),
        (memory, "512MB", 512_000_000),
        (memory, "0", 0),
    ],
)
def test_texts_are_read(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"), [(share, "lots"), (shapes, ["a"]), (shapes, ["a:x"]), (sizes, ["a"]), (memory, "8QB")]
)
def test_texts_that_mean_nothing(read, text):
    with pytest.raises(UsageError):
        read(text)


def test_verbs_of_the_library_agree_on_types():
    assert inspect.signature(api.compile).parameters["seed"] == inspect.signature(api.prune).parameters["seed"]
