"""A sweep makes every point once, says which are worth having, and is gone on with where it stopped."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from graphprune import sweep as sweeps
from graphprune.cli import verbs
from graphprune.errors import GraphpruneError, OutputError, TargetNotReachedError, UsageError
from graphprune.report.pareto import Table

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"
# Two convolutions whose channels differ, so that pruning costs something.
CONVS = f"""<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] image) => (float[1,4,8,8] y)
<float[16,3,1,1] w1 = {{{", ".join(str(k % 7 - 3) for k in range(48))}}},
 float[4,16,1,1] w2 = {{{", ".join(str(k % 5 - 2) for k in range(64))}}}>
{{ a = Conv(image, w1)  b = Relu(a)  y = Conv(b, w2) }}"""


@pytest.fixture
def model(tmp_path) -> Path:
    onnx.save(onnx.parser.parse_model(CONVS), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The names of the points that are made, one after another."""
    names: list[str] = []
    make = sweeps.make
    monkeypatch.setattr(sweeps, "make", lambda task: (names.append(Path(task.folder).name), make(task)))
    return names


def run(model: Path, **given) -> Table:
    options = {
        "amounts": [("ratio", 0.25), ("ratio", 0.5)],
        "presets": ["magnitude"],
        "round_to": 1,
        "timing_seconds": 0,
        **given,
    }
    return sweeps.sweep(model, model.parent / "s", **options)


def test_points_are_made_once_and_a_sweep_can_grow(model, made, tmp_path):
    table = run(model)
    assert made == ["magnitude-ratio-0.25", "magnitude-ratio-0.5"]
    assert [p.kept.channels for p in table.points if p.kept] == [0.75, 0.5]
    (tmp_path / "s" / "points" / "magnitude-ratio-0.5" / "report.json").unlink()  # killed before it was whole
    for file in (tmp_path / "s" / "points" / "magnitude-ratio-0.5").iterdir():
        file.unlink()
    (tmp_path / "s" / "points" / "magnitude-ratio-0.5").rmdir()
    made.clear()
    assert run(model, amounts=[("ratio", 0.25), ("ratio", 0.5), ("target_macs", 0.5)]).points[0] == table.points[0]
    assert made == ["magnitude-ratio-0.5", "magnitude-macs-0.5"]


def test_what_cannot_be_made_is_a_point_too(model, made):
    table = run(model, amounts=[("target_macs", 0.5), ("target_macs", 0.001)])
    assert "can be removed" in table.points[1].failure
    made.clear()
    assert run(model, amounts=[("target_macs", 0.5), ("target_macs", 0.001)]) == table
    assert made == []


def test_points_of_another_sweep_are_not_mixed_in(model, made):
    run(model)
    with pytest.raises(OutputError, match="round_to"):
        run(model, round_to=2)
    made.clear()
    run(model, round_to=2, force=True)
    assert len(made) == 2


def test_the_smallest_point_within_the_error_is_chosen(model):
    points = run(model).points
    assert 0 < points[0].error < points[1].error
    assert run(model, max_error=points[0].error).best == "magnitude-ratio-0.25"
    assert run(model, max_error=points[1].error).best == "magnitude-ratio-0.5"
    with pytest.raises(TargetNotReachedError, match="least error"):
        run(model, max_error=points[0].error / 2)


EVALUATION = """import sys, onnx
print("evaluating", sys.argv[2])
print(sum(len(t.dims) and t.dims[0] for t in onnx.load(sys.argv[1]).graph.initializer))
"""


def test_an_evaluation_of_the_users_own(model, tmp_path):
    script = tmp_path / "my eval.py"
    script.write_text(EVALUATION)
    command = f'"{sys.executable}" "{script}" {{model}} $HOME;ls'
    table = run(model, evaluation=command, min_score=13)
    assert [p.score for p in table.points] == [16, 12]
    assert (table.original_score, table.best) == (20, "magnitude-ratio-0.25")
    script.write_text("raise SystemExit(3)")  # known scores are not measured again
    assert run(model, evaluation=command, min_score=13) == table
    with pytest.raises(GraphpruneError, match="exit code 3"):
        run(model, evaluation=command + " again")
    script.write_text("print('good')")
    with pytest.raises(UsageError, match="no number"):
        run(model, evaluation=command + " again")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"evaluation": "python my_eval.py"}, "where the model goes"),
        ({"evaluation": "python 'my_eval.py {model}"}, "split into words"),
        ({"evaluation": "no-such-program {model}"}, "cannot be run"),
        ({"min_score": 0.5}, "needs scores"),
        ({"amounts": []}, "needs amounts"),
        ({"fastest": True}, "found by timing"),
    ],
)
def test_what_makes_no_sense(model, given, says):
    with pytest.raises(UsageError, match=says):
        run(model, **given)


def test_the_command_line_writes_tables_and_a_plot(model, tmp_path):
    arguments = ["--ratio", "25%,50%", "--preset", "magnitude,l1", "--round-to", "1", "--timing-seconds", "0.01"]
    result = CliRunner().invoke(verbs.app, ["sweep", str(model), *arguments, "--max-error", "100%", "--jobs", "2"])
    assert result.exit_code == 0, result.exception
    folder = tmp_path / "m.sweep"
    found = json.loads((folder / "pareto.json").read_bytes())
    assert [p["name"] for p in found["points"]].count(found["best"]) == 1
    assert f"points/{found['best']}/model.onnx" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:6])) <= 80
    assert all(p["latency_ms"]["onnxruntime"] > 0 for p in found["points"])
    table = list(csv.DictReader((folder / "pareto.csv").open()))
    assert len(table) == 4
    assert {row["point"] for row in table} == {p["name"] for p in found["points"]}
    assert float(table[0]["macs"]) == found["points"][0]["kept"]["macs"]
    assert (folder / "pareto.svg").read_text().count("<circle") == 4
    assert "| magnitude-ratio-0.25 |" in (folder / "pareto.md").read_text()


def test_sizes_and_latencies_are_amounts(model, tmp_path):
    arguments = ["--target-size", "300B,60%", "--target-latency", "100%", "--target-latency-ms", "1000"]
    options = ["--preset", "magnitude", "--round-to", "1", "--timing-seconds", "0", "--json"]
    result = CliRunner().invoke(verbs.app, ["sweep", str(model), *arguments, *options])
    assert result.exit_code == 0, result.exception
    points = {p["name"]: p for p in json.loads(result.stdout)["points"]}
    assert set(points) == {f"magnitude-{name}" for name in ("size-300", "size-0.6", "latency-1", "latency-ms-1000")}
    assert points["magnitude-size-300"]["bytes"] <= 300
    assert points["magnitude-size-0.6"]["bytes"] <= 0.6 * 112 * 4
    assert "can lose a unit" in points["magnitude-latency-ms-1000"]["failure"]  # it is fast enough as it is
    wrong = CliRunner().invoke(verbs.app, ["sweep", str(model), "--target-latency-ms", "soon"])
    assert "no time in milliseconds" in str(wrong.exception)


@pytest.mark.slow
def test_real_models_compiled_in_parallel(tmp_path):
    table = sweeps.sweep(
        RESNET, tmp_path / "s", amounts=[("target_macs", 0.7), ("target_macs", 0.4)], targets=["host"], jobs=2
    )
    assert [p.on_front for p in table.points] == [True, True]
    assert all(set(p.latency_ms) == {"onnxruntime", "compiled"} for p in table.points)
    assert table.points[0].error < 0.3


@pytest.mark.slow
def test_a_ray_cluster(model, tmp_path):
    pytest.importorskip("ray")
    table = run(model, ray="local")
    assert [p.kept.channels for p in table.points if p.kept] == [0.75, 0.5]
