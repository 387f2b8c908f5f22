import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import actrec_models.networks
from actrec.inference.onnxruntime_backend import STEP_METADATA, StreamingSession
from actrec.utils.errors import ConfigError, InputError, PackageError
from actrec_models.export import onnx_graph
from actrec_models.networks.deepacts import receptive_field
from actrec_models.networks.streaming import Step
from benchmarks.networks import complexity

SEM = {"channels": (8, 8, 16), "strides": (2, 1, 2), "heads": 2, "embedding": 4, "frames": 12, "causal": True}
GRAPH = {"width": 4, "modalities": ("body", "bones"), "kernel": 3, "padding": "none", "frames": 48}


def network(name, **options):
    """A small network whose normalization layers have statistics and whose attention is uneven."""
    torch.manual_seed(1)
    made = actrec_models.networks.create(name, num_classes=5, **options)
    for module in made.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    for parameter_name, value in made.named_parameters():
        if parameter_name.endswith(("alpha_hat", "mask")):
            value.data.uniform_(0, 1)
    return made.eval()


def sequence(model, frames, batch=1):
    generator = torch.Generator().manual_seed(2)
    return {
        s.name: torch.randn(batch, *s.shape[:2], frames, s.shape[3], generator=generator) for s in model.input_specs
    }


def window(clip, first, last):
    return {name: value[:, :, :, max(first, 0) : last] for name, value in clip.items()}


def run(session, clip):
    """Logits of each frame."""
    frames = next(iter(clip.values())).shape[3]
    return [session.step({name: v.numpy() for name, v in window(clip, t, t + 1).items()}) for t in range(frames)]


@pytest.mark.parametrize(
    "options",
    [{}, {"attention": "single_frame"}, {"streams": "fuse", "bodies": 1, "kernels": (3, 5), "dilations": (1, 2)}],
)
def test_sem_net_stream_equals_causal_network_on_frames_so_far(options):
    model = network("sem_net", **{**SEM, **options})
    clip = sequence(model, 40)
    found = run(StreamingSession(onnx_graph.step_to_onnx(model)), clip)
    for t in (0, 1, 5, 11, 12, 20, 39):  # below, at and far beyond T = 12
        with torch.no_grad():
            expected = model(**window(clip, 0, t + 1)).numpy()
        np.testing.assert_allclose(found[t], expected, atol=1e-4)


def test_deepacts_graph_stream_equals_unpadded_window():
    model = network("deepacts_graph", **GRAPH)
    clip = sequence(model, 100)
    found = run(StreamingSession(onnx_graph.step_to_onnx(model)), clip)
    for t in (47, 48, 49, 50, 99):  # every phase of the strides
        with torch.no_grad():
            expected = model(**window(clip, t - 47, t + 1)).numpy()
        np.testing.assert_allclose(found[t], expected, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), [("sem_net", SEM), ("deepacts_graph", GRAPH)])
def test_exported_stream_equals_exported_window(name, options):
    model = network(name, **options)
    clip = sequence(model, options["frames"], batch=2)
    session = onnxruntime.InferenceSession(onnx_graph.to_onnx(model), providers=["CPUExecutionProvider"])
    expected = session.run(None, {key: value.numpy() for key, value in clip.items()})[0]
    stream = StreamingSession(onnx_graph.step_to_onnx(model), batch=2)
    np.testing.assert_allclose(run(stream, clip)[-1], expected, atol=1e-4)
    stream.reset()
    again = run(stream, clip)[-1]
    np.testing.assert_allclose(again, expected, atol=1e-4)


def test_unpadded_network_takes_padded_weights():
    padded, unpadded = network("deepacts_graph", **{**GRAPH, "padding": "same"}), network("deepacts_graph", **GRAPH)
    unpadded.load_state_dict(padded.state_dict())
    clip = sequence(padded, 48)
    block = [m.branches["body"].blocks[0] for m in (padded, unpadded)]
    with torch.no_grad():
        x = clip["body"][0]
        torch.testing.assert_close(block[0](x)[:, :, 1:-1], block[1](x))


def test_stream_absent_modality_adds_nothing_after_a_window():
    model = network("deepacts_graph", **GRAPH)
    session = StreamingSession(onnx_graph.step_to_onnx(model))
    clip = sequence(model, 60)
    clip["bones"][:, :, :, 3:] = 0
    found = run(session, clip)
    alone = network("deepacts_graph", **{**GRAPH, "modalities": ("body",)})
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if ".body." in k})
    with torch.no_grad():
        np.testing.assert_allclose(found[59], alone(body=clip["body"][:, :, :, 12:60]).numpy(), atol=1e-4)
        np.testing.assert_allclose(found[49], model(**window(clip, 2, 50)).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sem_net", {"causal": True}),
        ("deepacts_graph", {}),
        ("deepacts_graph", {"kernel": 3, "padding": "none"}),
    ],
)
def test_step_of_published_size_costs_a_tenth_of_its_window(name, options):
    model = actrec_models.networks.create(name, num_classes=60, **options)
    step = Step(model)
    assert complexity(step, step.example_inputs).multiply_adds <= complexity(model).multiply_adds / 10


def test_step_to_onnx_suits_tensorrt_and_stores_states():
    model = onnx.load_model_from_string(onnx_graph.step_to_onnx(network("sem_net", **SEM)))
    assert onnx_graph.tensorrt_problems(model) == []
    steps = json.loads({p.key: p.value for p in model.metadata_props}[STEP_METADATA])
    assert steps["body.0.branch3"] == 7  # a dilation of 7 at full rate
    assert steps["body.1.branch3"] == 14  # and behind a stride of 2


def test_step_unsuited_network_refused():
    with pytest.raises(ConfigError, match="looks ahead.*causal: true"):
        Step(network("sem_net", **{**SEM, "causal": False}))
    with pytest.raises(ConfigError, match="DeepActsCnn cannot run frame by frame; these can: SemNet, DeepActsGraph"):
        Step(actrec_models.networks.create("deepacts_cnn", num_classes=2, cnn_width=0.1, size=32, modalities=("body",)))


def test_receptive_field_bounds_unpadded_clip():
    assert (receptive_field(9), receptive_field(3)) == (153, 39)
    network("deepacts_graph", **{**GRAPH, "frames": 39})
    with pytest.raises(ConfigError, match="frames is 38: without padding, kernel 3 needs 39"):
        network("deepacts_graph", **{**GRAPH, "frames": 38})


def test_streaming_session_bad_frame_or_file_refused(tmp_path):
    model = network("sem_net", **SEM)
    session = StreamingSession(onnx_graph.step_to_onnx(model))
    with pytest.raises(InputError, match=r"a frame holds bones, but the network takes 'body'"):
        session.step({"bones": np.zeros((2, 3, 1, 25))})
    with pytest.raises(InputError, match=r"'body' is \[2, 3, 1, 20\], expected .*\[1, 2, 3, 1, 25\]"):
        session.step({"body": np.zeros((2, 3, 1, 20))})
    assert session.time == 0
    assert session.step({"body": np.zeros((2, 3, 1, 25))}).shape == (5,)
    with pytest.raises(PackageError, match=r"gone\.onnx: No such file"):
        StreamingSession(tmp_path / "gone.onnx")
    with pytest.raises(PackageError, match="cannot be opened"):
        StreamingSession(b"nothing")
    with pytest.raises(PackageError, match="is no step network"):
        StreamingSession(onnx_graph.to_onnx(model))
