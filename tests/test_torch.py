"""Plans on live PyTorch modules: the module computes what the plainly pruned file computes."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import graphprune
from graphprune.errors import UsageError

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
PLAIN = "fold_states, fold_shapes, fold_constants, magnitude, uniform(ratio=0.5), cut"
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


def export(module, tmp_path: Path, exporter: str, x) -> Path:
    """The module as a file of one of the exporters."""
    file, options = tmp_path / "m.onnx", dict(EXPORTERS[exporter])
    if "training" in options:
        options["training"] = torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), file, **options)
    return file


def same_as_the_file(module, tmp_path: Path, exporter: str, x) -> None:
    """Export, prune by half and apply: the module computes what the file does, and can be trained on."""
    from graphprune.torch import apply, apply_state_dict

    momentum = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    module(x).sum().backward()
    momentum.step()
    file = export(module, tmp_path, exporter, x)
    result = graphprune.prune(file, passes=PLAIN)
    result.save(tmp_path / "s.onnx")
    session = ort.InferenceSession(tmp_path / "s.onnx")
    expected = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]

    state = apply_state_dict(module.state_dict(), result.plan, original=file)
    apply(module, result.plan, original=file, optimizer=momentum)
    assert {n: t.shape for n, t in module.state_dict().items()} == {n: t.shape for n, t in state.items()}
    got = module(x).detach().numpy()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    module(x).sum().backward()
    momentum.step()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_module_computes_what_the_pruned_file_computes(tmp_path, module, exporter):
    same_as_the_file(module, tmp_path, exporter, torch.randn(1, 3, 8, 8))
    assert (module.conv1.out_channels, module.bn1.num_features) == (8, 8)
    assert (module.depth.groups, module.depth.in_channels, module.up.in_channels) == (8, 8, 8)
    assert (module.fc1.out_features, module.fc2.in_features) == (16, 16)


class Encoder(torch.nn.Module):
    """PyTorch's own transformer layers, each with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.layers, self.head = torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(32, 5)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, 0, 0.2)

    def forward(self, x):
        return self.head(self.layers(x).mean(1))


class Recurrent(torch.nn.Module):
    """A recurrent layer between two Linears."""

    def __init__(self, kind: str, **options) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 16)
        self.layer = getattr(torch.nn, kind)(16, 24, batch_first=True, **options)
        self.last = torch.nn.Linear(48 if options.get("bidirectional") else 24, 5)

    def forward(self, x):
        return self.last(self.layer(torch.relu(self.first(x)))[0])


@pytest.fixture
def no_fast_path():
    """PyTorch's short cut for whole transformer layers has no export."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("make", [Encoder, *(partial(Recurrent, kind) for kind in ("LSTM", "GRU", "RNN"))])
def test_attention_and_recurrent_layers(tmp_path, no_fast_path, make, exporter):
    if exporter == "dynamo" and make is not Encoder:
        pytest.skip("it unrolls recurrent layers")
    torch.manual_seed(0)
    module = make().eval()
    same_as_the_file(module, tmp_path, exporter, torch.randn(1, 7, 32 if make is Encoder else 8))
    if make is Encoder:
        attention = module.layers.layers[0].self_attn
        assert (attention.num_heads, attention.widths, attention.out_proj.weight.shape) == (2, [16] * 3, (32, 16))
        x = torch.randn(2, 7, 32)
        torch.backends.mha.set_fastpath_enabled(True)
        padding = torch.tensor([[False] * 7, [False] * 5 + [True] * 2])
        causal = torch.nn.Transformer.generate_square_subsequent_mask(7)
        assert module.layers(x, src_key_padding_mask=padding).isfinite().all()
        # What comes later cannot be seen through a causal mask.
        ahead = torch.cat([x[:, :-1], torch.zeros(2, 1, 32)], 1)
        seen, other = (module.layers(one, mask=causal)[:, :-1] for one in (x, ahead))
        torch.testing.assert_close(seen, other)
        assert attention(x, x, x, average_attn_weights=False)[1].shape == (2, 2, 7, 7)
    else:
        assert (module.layer.hidden_size, module.layer.input_size) == (12, 8)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2}])
def test_directions_and_layers_of_recurrent_modules(tmp_path, options):
    torch.manual_seed(0)
    module = Recurrent("LSTM", **options).eval()
    same_as_the_file(module, tmp_path, "traced", torch.randn(1, 7, 8))
    assert module.layer.hidden_size == 12


def test_layers_of_one_module_that_would_differ_in_width_are_refused():
    from graphprune.plan import Plan, Removal
    from graphprune.torch import apply

    rows = [
        Removal(f"layer.{part}_{kind}_l0", 0, 96, [h for h in range(96) if h % 24 < 8])
        for part in ("weight", "bias")
        for kind in ("ih", "hh")
    ]
    rows += [Removal("layer.weight_hh_l0", 1, 24, list(range(8))), Removal("layer.weight_ih_l1", 1, 24, list(range(8)))]
    module = Recurrent("LSTM", num_layers=2)
    with pytest.raises(UsageError, match="one width for all"):
        apply(module, Plan(2, "m", {}, [], rows, []))
    assert module.layer.weight_hh_l0.shape == (96, 24)


def test_the_state_of_an_optimizer_is_cut_as_its_parameters_are(tmp_path, module):
    from graphprune.torch import apply

    adam = torch.optim.Adam(module.parameters())
    module(torch.randn(4, 3, 8, 8)).square().sum().backward()
    adam.step()
    old = {name: adam.state[p]["exp_avg"].clone() for name, p in module.named_parameters()}
    file = export(module, tmp_path, "with BatchNorm kept", torch.randn(1, 3, 8, 8))
    plan = graphprune.prune(file, passes=PLAIN).plan
    apply(module, plan, original=file, optimizer=adam)
    (gone,) = (r.removed for r in plan.removals if (r.tensor, r.axis) == ("conv1.weight", 0))
    stays = [k for k in range(16) if k not in gone]
    assert len(stays) == 8
    torch.testing.assert_close(adam.state[module.conv1.weight]["exp_avg"], old["conv1.weight"][stays], rtol=0, atol=0)
    torch.testing.assert_close(adam.state[module.bn1.bias]["exp_avg"], old["bn1.bias"][stays], rtol=0, atol=0)


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


def removed(module) -> None:
    """Take positions 3 and 4 out of a normalisation over 16."""
    from graphprune.plan import Plan, Removal
    from graphprune.torch import apply

    rows = [Removal(f"0.{name}", 0, 16, [3, 4]) for name, _ in module[0].named_parameters()]
    apply(module, Plan(2, "m", {}, [], rows, []))


def test_a_layer_norm_counts_what_is_gone_as_zeros():
    norm = torch.nn.Sequential(torch.nn.LayerNorm(16))
    torch.nn.init.normal_(norm[0].weight)
    torch.nn.init.normal_(norm[0].bias)
    x = torch.randn(5, 16)
    x[:, [3, 4]] = 0
    stays = [k for k in range(16) if k not in (3, 4)]
    expected = norm(x)[:, stays]
    removed(norm)
    torch.testing.assert_close(norm(x[:, stays]), expected)
    assert (norm[0].normalized_shape, norm[0].width) == ((14,), 16)


def test_an_rms_norm_that_would_average_over_fewer_is_refused():
    norm = torch.nn.Sequential(torch.nn.RMSNorm(16))
    with pytest.raises(UsageError, match="statistics"):
        removed(norm)
    assert norm[0].weight.shape == (16,)
