"""The command line: what it prints, writes and returns, on good input and bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphprune
from graphprune.cli import verbs

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Call the command line in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["graphprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            verbs.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def small(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
# Two convolutions with weights made of a range, so that every channel differs.
CONVS = f"""{HEAD}
net (float[1,3,8,8] image) => (float[1,4,8,8] y)
<float[16,3,1,1] w1 = {{{", ".join(str(k % 7 - 3) for k in range(48))}}},
 float[4,16,1,1] w2 = {{{", ".join(str(k % 5 - 2) for k in range(64))}}}>
{{ a = Conv(image, w1)  b = Relu(a)  y = Conv(b, w2) }}"""


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_prune_writes_a_smaller_file_and_its_plan(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    code, out, _ = run("prune", model, "--ratio", "50%", "--preset", "magnitude", "-o", "s.onnx")
    assert code == 0
    assert "50.0%" in out
    assert listing(tmp_path) == ["m.onnx", "s.onnx", "s.plan.json"]
    shapes = {t.name: list(t.dims) for t in onnx.load("s.onnx").graph.initializer}
    assert shapes == {"w1": [8, 3, 1, 1], "w2": [4, 8, 1, 1]}


def test_prune_writes_the_report_as_a_page_when_asked(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    code, out, _ = run("prune", model, "--ratio", "50%", "-o", "s.onnx", "--report", "r.html")
    assert code == 0
    assert "s.onnx, s.plan.json, r.html" in " ".join(out.split())
    assert "<h1>m</h1>" in Path("r.html").read_text("utf-8")
    assert listing(tmp_path) == ["m.onnx", "r.html", "s.onnx", "s.plan.json"]
    assert run("prune", model, "-o", "t.onnx", "--report", "r.html")[0] == 7
    assert run("prune", model, "-o", "t.onnx", "--report", "t.onnx")[0] == 2
    assert run("prune", model, "-o", "t.onnx", "--report", "t.html", "--dry-run")[0] == 0
    assert listing(tmp_path) == ["m.onnx", "r.html", "s.onnx", "s.plan.json"]


def test_plan_replays_to_the_same_bytes(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    assert run("prune", model, "--target-params", "60%", "-o", "a.onnx")[0] == 0
    assert run("prune", model, "--plan", "a.plan.json", "-o", "b.onnx")[0] == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert Path("a.plan.json").read_bytes() == Path("b.plan.json").read_bytes()


def test_verify_accepts_what_prune_wrote_and_nothing_else(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    assert run("prune", model, "--ratio", "0.5", "-o", "s.onnx")[0] == 0
    code, out, _ = run("verify", model, "s.onnx")
    assert (code, out.split(":")[0]) == (0, "ok")
    tampered = onnx.load("s.onnx")
    weight = onnx.numpy_helper.to_array(tampered.graph.initializer[0]).copy()
    weight.flat[0] += 0.5
    tampered.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, tampered.graph.initializer[0].name))
    onnx.save(tampered, "s.onnx")
    code, _, err = run("verify", model, "s.onnx")
    assert code == 6
    assert err.startswith("error: s.onnx is off by")


def test_inspect_writes_its_page_too(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    code, out, _ = run("inspect", model, "--report", "groups.html")
    assert code == 0
    assert "wrote groups.html" in out
    page = Path("groups.html").read_text("utf-8")
    assert "graphprune inspect" in page
    assert "Conv a" in page
    assert run("inspect", model, "--report", "groups.html")[0] == 7
    assert run("inspect", model, "--report", "groups.html", "--force")[0] == 0


def test_inspect_lists_groups_and_reasons(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    code, out, _ = run("inspect", model, "--json")
    report = json.loads(out)
    assert code == 0
    assert [(g["name"], g["units"]) for g in report["groups"]] == [("w1[0]", 16)]
    assert report["groups"][0]["axes"] == ["w1[0]", "w2[1]", "a[1]", "b[1]"]
    reasons = {(p["tensor"], p["axis"]): p["reason"] for p in report["pinned"]}
    assert reasons["y", 1] == "graph output"
    assert reasons["image", 1] == "graph input"
    assert reasons["w2", 0] == "graph output"
    assert report["before"]["macs"] == 64 * (3 * 16 + 16 * 4)


def test_dry_run_writes_nothing(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    assert run("prune", model, "--ratio", "0.5", "--dry-run")[0] == 0
    assert run("compile", model, "--ratio", "0.5", "--dry-run")[0] == 0
    assert listing(tmp_path) == ["m.onnx"]


def test_no_amount_removes_what_is_nearly_free_and_says_what_buys_more(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    code, out, _ = run("prune", model, "-o", "s.onnx")
    assert code == 0
    assert "nearly free" in out
    assert "--target-macs 80%" in out
    x = {"image": np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)}
    before, after = (ort.InferenceSession(str(f)).run(None, x)[0] for f in (model, "s.onnx"))
    np.testing.assert_allclose(before, after, atol=0.1 * np.abs(before).max())


def test_a_model_too_large_to_be_calibrated_unasked_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr("graphprune.presets.LARGEST_MACS", 1e3)
    model = small(tmp_path / "m.onnx", CONVS)
    _, out, _ = run("prune", model, "--dry-run")
    assert "only cleaned: with 0.0 G multiply-accumulates" in out
    assert "--target-macs 80%" in out
    assert "only cleaned" not in run("prune", model, "--dry-run", "--ratio", "0")[1]


def test_external_data_stays_external(run, tmp_path):
    model = tmp_path / "m.onnx"
    proto = onnx.parser.parse_model(CONVS)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(proto, model, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert run("prune", model, "-o", "s.onnx", "--ratio", "0.5")[0] == 0
    assert listing(tmp_path) == ["m.onnx", "s.onnx", "s.plan.json", "w.bin"]  # too small to be worth a file
    assert run("verify", model, "s.onnx")[0] == 0


BAD = {
    "not onnx": (b"hello, this is no model", 3),
    "empty": (b"", 3),
    "truncated": (RESNET.read_bytes()[:5000], 3),
}


@pytest.mark.parametrize("verb", ["inspect", "prune", "compile"])
@pytest.mark.parametrize("kind", BAD)
def test_unreadable_models(run, tmp_path, kind, verb):
    data, expected = BAD[kind]
    model = tmp_path / "m.onnx"
    model.write_bytes(data)
    code, out, err = run(verb, model)
    assert code == expected
    assert out == ""
    assert err.startswith("error: ")
    assert "m.onnx" in err.splitlines()[0]
    assert len(err.splitlines()) == 2
    assert err.splitlines()[1].startswith("hint: ")
    assert listing(tmp_path) == ["m.onnx"]


def make(text: str):
    return lambda path: small(path, text)


def external(location: str, length: int | None = None):
    def write(path: Path) -> None:
        proto = onnx.parser.parse_model(CONVS)
        tensor = proto.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        if length:
            tensor.external_data.add(key="length", value=str(length))
            (path.parent / location).write_bytes(b"short")
        path.write_bytes(proto.SerializeToString())

    return write


def with_opset(version: int):
    return make(CONVS.replace(": 17]", f": {version}]"))


UNKNOWN = f"{HEAD} net (float[1,4] x) => (float[1,4] y) {{ y = Frobnicate(x) }}"
# An operator of a foreign domain pins what it touches; what is prunable beside it cannot be proved without running it.
FOREIGN = CONVS.replace('"" : 17]', '"" : 17, "acme" : 1]').replace(
    "y = Conv(b, w2)", "c = Conv(b, w2)  y = acme.Frobnicate(c)"
)
PINNED = FOREIGN.replace("b = Relu(a)", "b = acme.Frobnicate(a)")
NOTHING = f"{HEAD} net (float[1,4] x) => (float[1,4] y) {{ y = Relu(x) }}"


@pytest.mark.parametrize(
    ("write", "arguments", "code", "says"),
    [
        (external("gone.bin"), [], 3, "gone.bin"),
        (external("../gone.bin"), [], 3, "outside the model's folder"),
        (external("w.bin", 192), [], 3, "too short"),
        (make(UNKNOWN), [], 3, "Frobnicate"),
        (make(FOREIGN), ["--ratio", "0.5"], 3, "Frobnicate"),
        (make(PINNED), ["--ratio", "0.5"], 4, "nothing to prune"),
        (with_opset(99), [], 3, "opset 99"),
        (with_opset(7), [], 3, "opset 7"),
        (make(NOTHING), ["--ratio", "0.5"], 4, "nothing to prune"),
        (make(CONVS), ["--target-macs", "0.1%"], 5, "can be removed"),
        (make(CONVS), ["--ratio", "0.1"], 5, "no group can lose a unit"),
        (make(CONVS), ["--ratio", "1.5"], 2, "1.5"),
        (make(CONVS), ["--ratio", "0.5", "--target-macs", "50%"], 2, "exclude each other"),
        (make(CONVS), ["--preset", "magic", "--ratio", "0.5"], 2, "magic"),
        (make(CONVS), ["--passes", "magic"], 2, "magic"),
        (make(CONVS), ["--passes", "uniform(ratio"], 2, "cannot be read"),
        (make(CONVS), ["--passes", "uniform(share=0.5)"], 2, "share"),
        (make(CONVS), ["--plan", "nowhere.json"], 2, "nowhere.json"),
        (make(CONVS), ["--input-shape", "picture:1,3,8,8"], 2, "picture"),
        (make(CONVS), ["--dim-param", "batch=2"], 2, "batch"),
        (make(CONVS), ["-o", "nowhere/s"], 7, "nowhere"),
    ],
)
@pytest.mark.parametrize("verb", ["prune", "compile"])
def test_bad_input_ends_in_one_line_and_a_code(run, tmp_path, write, arguments, code, says, verb):
    write(tmp_path / "m.onnx")
    before = listing(tmp_path)
    got, out, err = run(verb, tmp_path / "m.onnx", *arguments)
    assert (got, out) == (code, "")
    assert says in err.splitlines()[0]
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
    assert listing(tmp_path) == before


def test_existing_output_is_left_alone(run, tmp_path):
    model = small(tmp_path / "m.onnx", CONVS)
    (tmp_path / "s.onnx").write_text("precious")
    assert run("prune", model, "-o", "s.onnx")[0] == 7
    assert run("prune", model, "-o", "m.onnx", "--force")[0] == 7
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("precious")
    assert run("compile", model, "-o", "folder")[0] == 7
    assert run("compile", model, "-o", "folder", "--force")[0] == 7  # not a folder of ours
    assert (tmp_path / "s.onnx").read_text() == (tmp_path / "folder" / "note.txt").read_text() == "precious"


def test_usage_errors_of_the_parser(run, tmp_path):
    assert run("prune")[0] == 2
    assert run("prune", "m.onnx", "--target-macs", "lots")[0] == 2
    assert run("frobnicate")[0] == 2


def test_traceback_only_when_asked(run, tmp_path):
    assert "Traceback" not in run("inspect", "nowhere.onnx")[2]
    assert "Traceback" in run("inspect", "nowhere.onnx", "-v")[2]


def test_compile_ends_with_a_folder_that_runs(run, tmp_path):
    shutil.copy(RESNET, tmp_path / "m.onnx")
    code, out, _ = run("compile", "m.onnx", "--target-macs", "50%", "--json")
    assert code == 0
    folder = tmp_path / "m.graphprune"
    report = json.loads((folder / "report.json").read_bytes())
    assert report == json.loads(out)
    assert f"{report['after']['macs']:,}" in (folder / "report.html").read_text("utf-8")
    assert report["kept"]["macs"] <= 0.5
    assert max(s["error"] for s in report["steps"] if s["law"]) <= 1e-5
    assert report["targets"][0]["error"] <= 1e-4
    assert next(iter(report["latency"])) == "original, onnxruntime"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".graphprune")]

    library = graphprune.load(folder)
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    expected = ort.InferenceSession(str(folder / "model.onnx")).run(None, {"image": image})[0]
    np.testing.assert_allclose(
        library({"image": image})["logits"], expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )

    assert run("verify", "m.onnx", folder)[0] == 0
    assert run("bench", "m.onnx", folder, "--seconds", "0.2", "--json")[0] == 0
    assert run("compile", "m.onnx")[0] == 7
    assert run("compile", "m.onnx", "--force", "--ratio", "0")[0] == 0
    assert json.loads((folder / "report.json").read_bytes())["kept"]["macs"] == 1
