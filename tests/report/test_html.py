"""The page shows the report's figures, escapes every name, stands alone, and stays small."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser

import msgspec
import pytest

import graphprune
from graphprune.cost import Cost, Product
from graphprune.fidelity import Fidelity
from graphprune.report import (
    GroupReport,
    KernelReport,
    Member,
    OperatorReport,
    PinReport,
    Ratios,
    Report,
    Role,
    StepReport,
    html,
    size_text,
)
from tests.report.samples import EMPTY, EVIL, KERNELS, RESNET, ROOT, TARGET, TIMINGS, TRADEOFF

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, and the text as it is read; fails on tags that do not pair up."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def stands_alone(page: Page) -> bool:
    """Whether the page refers to nothing but its own anchors, and runs its own script alone."""
    assert page.count("script") == 1
    script = (ROOT / "graphprune" / "report" / "report.js").read_bytes()
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    policy = next(attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv"))
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    for tag, attrs in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "img", "image", "use", "base", "form"}
        assert not {name for name in attrs if name.startswith("on")}
        assert not {"src", "srcset", "data", "xlink:href", "action"} & set(attrs)
        if "href" in attrs:
            assert attrs["href"][0] == "#"
            assert attrs["href"][1:] in ids
    return True


def test_figures_are_the_reports(report):
    text = html.render(report)
    page = Page(text)
    assert stands_alone(page)
    for cost in (report.before, report.after):
        for value in (cost.channels, cost.parameters, cost.macs):
            assert f"{value:,}" in page.text
    for share in (report.kept.channels, report.kept.parameters, report.kept.macs):
        assert f"{share:.1%}" in page.text
    assert "cut against zeroing, at the outputs " + html._power(report.law_error).replace("\xa0", " ") in page.text
    assert "x86-64 library against onnxruntime 2.5 × 10⁻⁷ 10⁻⁴" in page.text
    assert "Faster ×4.00 4.00 → 1.00 ms: compiled, x86-64 against original, onnxruntime" in page.text
    assert f"Output error {report.fidelity.error:.1%} of the original’s outputs, over 12 made-up inputs" in page.text
    assert f"Left alone {len(report.pinned)} axes, for 4 reasons" in page.text
    assert "1.00 ms ×0.25" in page.text
    assert "1,234 rounds" in page.text
    assert "604 kB in its folder; 23 kernels: 22 ours, 1 fallback" in page.text
    assert "a command" in page.text
    assert "1 × 1 × 28 × 28" in page.text
    for package, version in report.versions.items():
        assert f"{package} {version}" in page.text
    for step in report.steps:
        assert step.step in page.text


def test_latencies_start_with_the_baseline_and_show_the_spread(report):
    text = html.render(report)
    assert "original, onnxruntime: median 4.00 ms, quartiles 3.50 and 5.00 ms" in text
    assert 'width="80.00%"' in text  # 4 of 5 ms
    assert 'x1="18.00%" x2="30.00%"' in text  # 0.9 to 1.5 of 5 ms
    assert text.index("original, onnxruntime: median") < text.index("compiled, x86-64: median")


def test_every_layer_has_bars_and_a_row(report):
    text = html.render(report)
    page = Page(text)
    layers = [o for o in report.operators if o.before]
    assert len(layers) == 22
    for number, layer in enumerate(layers, 1):
        before, after = layer.before, layer.after
        assert f"<title>{number}. {layer.node}: {before.macs:,} → {after.macs:,} MACs</title>" in text
        assert f"<title>{number}. {layer.node}: {before.channels:,} → {after.channels:,} channels</title>" in text
        assert f"{before.channels} → {after.channels} {before.macs:,} → {after.macs:,}" in page.text
    assert 'y="50.00%" width="70%" height="50.00%"' in text


def test_every_group_has_its_axes_a_line_and_a_picture(report):
    text = html.render(report)
    page = Page(text)
    for number, group in enumerate(report.groups, 1):
        assert f"<title>{number}. {group.name}: {group.kept} of {group.units} units kept</title>" in text
        assert all(axis in page.words for axis in group.axes)
        for member in group.members:
            operator = report.operators[member.operator]
            said = " and ".join(member.roles)
            assert f"<title>{operator.operator} {operator.node} {said} the units</title>" in text
            ends = f"<title>{number}: {operator.operator} {operator.node} {said}</title>" in text
            assert ends == (member.roles != [Role.CARRIES])
    pictures = sum(attrs.get("class") == "view" for _, attrs in page.elements)
    assert pictures == 1 + len(report.groups)


def test_the_plot_marks_the_choice_and_leaves_out_what_would_flatten_it(report):
    text = html.render(report)
    assert "<title>predicted error against MACs kept</title>" in text
    assert "<title>taken: 50%, 0.125</title>" in text
    assert "<title>40%, 0.5</title>" in text
    assert "<title>20%, 0.75</title>" not in text
    assert "1 choices of a larger error are not shown" in text
    assert "<title>output error against median latency, ms</title>" in text


def test_without_predicted_errors_the_page_says_why_there_is_no_plot(report):
    text = html.render(msgspec.structs.replace(report, tradeoff=None, fidelity=None))
    assert "No curve of predicted errors" in text
    assert 'class="plot"' not in text
    assert "Error and cost" not in html.render(EMPTY)


def test_kernels_are_listed_with_their_times(report):
    page = Page(html.render(report))
    assert "Every kernel, in the order of a run 0.062 ms" in page.text
    assert "conv 3 × 3, tile 8 × 48 /0/0.0/Conv , /1/Relu 12.5 fused_add TVM /2/Add 50.0" in page.text
    untimed = [msgspec.structs.replace(k, seconds=None) for k in KERNELS]
    target = msgspec.structs.replace(report.targets[0], calls=untimed)
    page = Page(html.render(msgspec.structs.replace(report, targets=[target])))
    assert "Single kernels are timed only where the library runs in the process that compiles it." in page.text
    assert "/2/Add –" in page.text


def test_an_inspected_model_has_groups_and_reasons():
    found = graphprune.inspect(RESNET).report
    page = Page(html.render(found))
    assert stands_alone(page)
    assert "448 units in 12 groups can be pruned. Nothing was changed." in page.text
    assert "Work 31.0 M multiply-accumulates" in page.text.replace("\xa0", " ")
    assert "No pass was run." not in page.text
    assert "Summary" not in page.words
    assert "141 axes" in page.text or f"{len(found.pinned)} axes" in page.text


def test_every_pin_is_listed_under_its_reason_with_what_would_free_it(report):
    page = Page(html.render(report))
    reasons = {p.reason for p in report.pinned}
    left_out = {r for r in reasons if r.endswith(html.LEFT_OUT)}
    assert left_out
    assert reasons - left_out == {"graph input", "graph output", "Conv depends on every position of this axis"}
    assert page.count("details") == 3 + 1 + len(report.groups) + 3  # and layers, kernels, stages of compilation
    assert "--include or --exclude What would free it: other expressions; it was asked for." in page.text
    assert "graph output What would free it: nothing: it is the interface of the model" in page.text
    for pin in report.pinned:
        assert f"{pin.tensor}[{pin.axis}] of {pin.size}" in page.text
        assert pin.node in page.text


def test_reasons_left_out_on_request_are_one():
    pins = [PinReport(f"w{k}", 0, 8, "", "", f"group w{k}[0] {html.LEFT_OUT}") for k in range(3)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, pinned=pins)))
    assert page.count("details") == 1
    assert "w2[0] of 8, group w2[0] is left out" in page.text


def test_advice_speaks_of_reasons_that_exist():
    files = [ROOT / "graphprune" / name for name in ("coupling.py", "groups.py", "report/__init__.py")]
    source = "".join(f.read_text() for f in [*files, *(ROOT / "graphprune" / "rules").glob("*.py")])
    said = source.replace("graph {kind}", "graph input, graph output")
    for phrase in html.ADVICE:
        assert phrase in said


def test_every_reason_says_what_would_free_the_axis():
    pins = [PinReport("w", 0, 8, "n", "Op", "a reason of a third party's rule")]
    page = Page(html.render(msgspec.structs.replace(EMPTY, pinned=pins)))
    assert "What would free it: another form of this node" in page.text


@pytest.mark.parametrize("many", [False, True])
def test_names_can_contain_anything(many):
    report = Report(
        EVIL,
        EVIL,
        {EVIL: (1, 2)},
        Cost(4, 4, 4, 4),
        Cost(2, 2, 2, 2),
        Ratios(0.5, 0.5, 0.5),
        [StepReport(EVIL, 0.5, 3, 1e-6, 1e-5, True, 1e-7), StepReport(EVIL, 0.0, 3, 0.25)],
        [GroupReport(EVIL, 4, 2, [EVIL] * (5000 if many else 1), [Member(0, [Role.MAKES], [])])],
        [PinReport(EVIL, 0, 4, EVIL, EVIL, EVIL, EVIL)] * (5000 if many else 1),
        {EVIL: EVIL},
        operators=[OperatorReport(EVIL, EVIL, Product(8, 4), Product(4, 2))],
        tradeoff=TRADEOFF,
        targets=[
            msgspec.structs.replace(
                TARGET,
                name=EVIL,
                seconds={EVIL: 1.0},
                kernels={EVIL: 1},
                calls=[KernelReport(EVIL, EVIL, EVIL, (EVIL,), 1.0)],
            )
        ],
        latency={EVIL: TIMINGS["original, onnxruntime"], EVIL + "2": TIMINGS["compiled, x86-64"]},
        seconds={EVIL: 1.0},
        notes=[EVIL],
        fidelity=Fidelity(0.5, 0.9, {EVIL: 0.5}, 12, EVIL),
    )
    text = html.render(report)
    page = Page(text)
    assert stands_alone(page)
    assert text.count("<script") == 1
    assert "49" not in page.words
    shown = page.text.replace("\xa0", " ")
    assert shown.count(" ".join(EVIL.split())) >= 15
    assert ("and 3,000 more, in the JSON report" in shown) == many


@pytest.mark.parametrize("count", [0, 1, 5, 31, 500])
def test_any_number_of_groups(count):
    groups = [GroupReport(f"w{k}[0]", 8 * (k % 7 + 1), 8, [f"w{k}[0]"]) for k in range(count)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, groups=groups)))
    assert stands_alone(page)
    assert sum(attrs.get("class") == "group" for _, attrs in page.elements) == count
    assert ("there is nothing to choose from" in page.text) == (not count)


def test_without_cut_latency_targets_or_steps(report):
    page = Page(html.render(EMPTY))
    assert "Nothing was changed" in page.text
    assert "Latency" not in page.words
    assert "Proofs" not in page.words
    assert "Nothing is pinned." in page.text
    page = Page(html.render(msgspec.structs.replace(report, latency={}, targets=[])))
    assert "Latency – not measured" in page.text
    assert "kernels" not in page.words
    assert "Faster" not in page.words


@pytest.mark.parametrize(
    ("outputs", "inner", "said"),
    [
        (0.0, 8.1e-7, "to 8.1 × 10⁻⁷ of a tensor’s largest value"),
        (3e-7, None, "to 3.0 × 10⁻⁷ of a tensor’s largest value"),
        (0.0, 0.0, "exactly"),
    ],
)
def test_the_lead_gives_the_largest_error_of_the_law(outputs, inner, said):
    steps = [StepReport("cut", 0.1, 5, outputs, 1e-5, True, inner)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, steps=steps)))
    assert f"the cut equals zeroing {said}." in page.text


def test_a_change_on_purpose_is_measured_not_bounded():
    steps = [StepReport("calibrate", 1.0, 5, 0.25, None)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, steps=steps)))
    assert "calibrate 1.000 5 2.5 × 10⁻¹ on purpose" in page.text.replace("\xa0", " ")
    assert "Nothing was removed" in page.text
    assert "Proofs" not in page.words


def test_equal_reports_give_equal_pages(report):
    again = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert html.render(again) == html.render(report)


def test_a_large_model_gives_a_page_of_less_than_two_megabytes():
    name = "/model/backbone/stages.3/blocks.17/a_long_module_name/conv2/Conv_output_0"
    groups = [GroupReport(f"{name}{k}[0]", 512, 256, [f"{name}{k}_{j}[1]" for j in range(40)]) for k in range(500)]
    pins = [PinReport(f"{name}{k}", 1, 512, name, "Conv", f"reason {k % 9}", f"{name}[1]") for k in range(20_000)]
    layers = [OperatorReport(f"{name}{k}", "Conv", Product(k, 512), Product(k, 256)) for k in range(1, 20_001)]
    text = html.render(msgspec.structs.replace(EMPTY, groups=groups, pinned=pins, operators=layers))
    assert len(text.encode()) < 2e6
    assert "20000. " in text
    assert "19,500 layers with less work" in text
    page = Page(text)
    assert "20,000 axes" in page.text
    assert "and 36 more, in the JSON report" in page.text
    assert "and 2,001 more, in the JSON report" in page.text


def test_figures_are_readable():
    assert [html._power(v) for v in (0, 1e-5, 9.86e-8, 0.25)] == [
        "0",
        "10⁻⁵",
        "9.9\xa0×\xa010⁻⁸",
        "2.5\xa0×\xa010⁻¹",
    ]
    assert [size_text(n) for n in (0, 999, 603_959, 1_094_632, 98_000_000_000)] == [
        "0 B",
        "999 B",
        "604 kB",
        "1.09 MB",
        "98 GB",
    ]
    assert html._percent(1, 0) == "0.00%"
