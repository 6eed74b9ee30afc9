"""Plans on live PyTorch modules: the module computes what the plainly pruned file computes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import graphprune
from graphprune.errors import UsageError

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
PLAIN = "fold_shapes, fold_constants, magnitude, uniform(ratio=0.5), cut"
EXPORTERS = {
    "traced": {"dynamo": False},
    "with BatchNorm kept": {"dynamo": False, "training": 2, "do_constant_folding": False},
    "dynamo": {"dynamo": True, "external_data": False},
}


class Net(torch.nn.Module):
    """A grouped and a depthwise convolution, a normalisation each, and a transposed one, before two Linears."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.depth, self.bn2 = nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 16, 2)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = torch.relu(self.bn2(self.depth(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc2(torch.relu(self.fc1(torch.relu(self.up(x)).mean((2, 3))[:, None])))[:, 0]


@pytest.fixture
def module():
    torch.manual_seed(0)
    net = Net().eval()
    for norm in (net.bn1, net.bn2):
        for tensor in (norm.weight, norm.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return net


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_module_computes_what_the_pruned_file_computes(tmp_path: Path, module, exporter):
    from graphprune.torch import apply, apply_state_dict

    x = torch.randn(1, 3, 8, 8)
    momentum = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    module(x).sum().backward()
    momentum.step()
    file = tmp_path / "m.onnx"
    options = dict(EXPORTERS[exporter])
    if "training" in options:
        options["training"] = torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), file, **options)
    result = graphprune.prune(file, passes=PLAIN)
    result.save(tmp_path / "s.onnx")
    session = ort.InferenceSession(tmp_path / "s.onnx")
    expected = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]

    state = apply_state_dict(module.state_dict(), result.plan, original=file)
    apply(module, result.plan, original=file, optimizer=momentum)
    assert {n: t.shape for n, t in module.state_dict().items()} == {n: t.shape for n, t in state.items()}
    assert (module.conv1.out_channels, module.bn1.num_features) == (8, 8)
    assert (module.depth.groups, module.depth.in_channels, module.up.in_channels) == (8, 8, 8)
    assert (module.fc1.out_features, module.fc2.in_features) == (16, 16)
    got = module(x).detach().numpy()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    module(x).sum().backward()
    momentum.step()


def test_attention_widths_that_a_module_cannot_have_are_refused():
    from graphprune.plan import Plan, Removal
    from graphprune.torch import apply

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim = 4, 4
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                self.add_module(name, torch.nn.Linear(16, 16))

    def plan(*names: str, removed: list[int]) -> Plan:
        rows = [Removal(f"{n}.{part}", 0, 16, removed) for n in names for part in ("weight", "bias")]
        return Plan(2, "m", {}, [], rows, [])

    module = Attention()
    with pytest.raises(UsageError, match="queries and values"):
        apply(module, plan("v_proj", removed=[0, 4, 8, 12]))
    assert module.v_proj.weight.shape == (16, 16)
    apply(module, plan("q_proj", "k_proj", "v_proj", removed=[4, 5, 6, 7]))
    assert (module.num_heads, module.head_dim, module.q_proj.out_features) == (3, 4, 12)
    narrow = apply(Attention(), plan("q_proj", "k_proj", "v_proj", removed=[0, 4, 8, 12]))
    assert (narrow.num_heads, narrow.head_dim) == (4, 3)


def test_norms_that_would_average_over_fewer_are_refused():
    from graphprune.plan import Plan, Removal
    from graphprune.torch import apply

    norm = torch.nn.Sequential(torch.nn.LayerNorm(16))
    rows = [Removal(f"0.{part}", 0, 16, [3, 4]) for part in ("weight", "bias")]
    with pytest.raises(UsageError, match="statistics"):
        apply(norm, Plan(2, "m", {}, [], rows, []))
    assert norm[0].weight.shape == (16,)
