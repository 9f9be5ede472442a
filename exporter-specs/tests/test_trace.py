"""A graph is proven against PyTorch, and what cannot be traced is told in a line."""

import onnx
import pytest
import torch
from safelight_export import trace
from safelight_export.fault import Fault
from safelight_export.graphs import Graph

SETS = [trace.axis_sizes(2, 8, 8, 1), trace.axis_sizes(3, 8, 16, 1)]


class Module(torch.nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.compute = self.model = compute
        self.weight = torch.nn.Parameter(torch.ones(4, 4, 3, 3))

    def forward(self, sample):
        return self.compute(torch.nn.functional.conv2d(sample, self.weight, padding=1))


def traced(compute, outputs=(trace.BATCH, 4, trace.HEIGHT, trace.WIDTH)):
    edge = trace.Edge((trace.BATCH, 4, trace.HEIGHT, trace.WIDTH), trace.normal)
    return trace.Trace(Module(compute), {"sample": edge}, {"out_sample": outputs})


def test_the_distance_from_pytorch_is_found_and_axes_are_declared(tmp_path):
    found = trace.export(traced(torch.tanh), tmp_path / "model.onnx", SETS, None)
    assert 0 <= found["relative_l2"] < 1e-5 and len(found["sizes"]) == 2
    axes = onnx.load(tmp_path / "model.onnx").graph.output[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["batch_size", 4, "height", "width"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_graph_that_keeps_the_size_of_its_example_is_an_error(tmp_path):
    # The tracer sees a number here, and would write it down.
    fixed = lambda x: x * torch.arange(int(x.shape[3]), dtype=torch.float32)
    with pytest.raises(Exception, match="out_sample|broadcast|dimension"):
        trace.export(traced(fixed), tmp_path / "model.onnx", SETS, None)


def test_other_numbers_than_pytorchs_are_an_error(tmp_path):
    noisy = lambda x: x + torch.rand_like(x)
    with pytest.raises(Fault, match="out_sample at .* is .* from PyTorch, expected at most 1e-04"):
        trace.export(traced(noisy), tmp_path / "model.onnx", SETS, None)


def test_what_has_no_operator_is_told(tmp_path):
    with pytest.raises(Fault, match="cannot be traced: .*linalg_eigvals"):
        trace.export(traced(lambda x: torch.linalg.eigvals(x).real), tmp_path / "model.onnx", SETS[:1], None)


def test_large_graphs_keep_weights_in_pages_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Graph.save, "__defaults__", (100,))
    monkeypatch.setattr("safelight_export.graphs.INLINE_BYTES", 64)
    found = trace.export(traced(torch.tanh), tmp_path / "model.onnx", SETS, None)
    assert found["relative_l2"] < 1e-5
    tensor = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer[0]
    place = {entry.key: entry.value for entry in tensor.external_data}
    assert place["location"] == "model.onnx_data" and int(place["offset"]) % 4096 == 0
