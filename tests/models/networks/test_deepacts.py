"""DeepActsNet's convolutional and fused networks; the graph network's own tests are in test_deepacts_graph.py."""

import hashlib
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import actrec_models.networks
from actrec import features
from actrec.features.clips import example_clip
from actrec.skeleton import layouts
from actrec.utils.errors import ConfigError
from actrec_models.export import onnx_graph
from actrec_models.layers.cnn2d import EfficientNetB0, ResNet50, StochasticDepth
from actrec_models.layers.st_gcn import adjacency, partition, present
from actrec_models.networks.deepacts import MODALITIES, Hcn, StampBranch, motion_matrix

BODY, BODY_HANDS_FACE = ("body",), ("body", "hands", "face")

TABLE_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "1, HCN, body": ("deepacts_cnn", {"cnn": "hcn", "modalities": BODY}),
    "1, ResNet50, body": ("deepacts_cnn", {"cnn": "resnet50", "modalities": BODY}),
    "1, EfficientNet, body": ("deepacts_cnn", {"modalities": BODY}),
    "1, ST-GCN, body": ("deepacts_graph", {"modalities": BODY}),
    "1, HCN, DeepActs": ("deepacts_cnn", {"cnn": "hcn"}),
    "1, ResNet50, DeepActs": ("deepacts_cnn", {"cnn": "resnet50"}),
    "1, EfficientNet, DeepActs": ("deepacts_cnn", {}),
    "1, ST-GCN, DeepActs": ("deepacts_graph", {}),
    "2, A": ("deepacts", {"modalities": BODY}),
    "2, B": ("deepacts", {"modalities": BODY_HANDS_FACE}),
    "2, C": ("deepacts", {"modalities": (*BODY_HANDS_FACE, "motion")}),
    "2, D": ("deepacts", {"modalities": tuple(MODALITIES)}),
    "2, E": ("deepacts_graph", {}),
    "2, F": ("deepacts_cnn", {}),
    "2, G": ("deepacts", {}),
    "2, H": ("deepacts_multi", {}),
}
"""Row of the paper's Tables 1 and 2 to the network and the options that reproduce it."""

SMALL = {"frames": 16, "size": 32, "cnn_width": 0.05, "cnn_depth": 0.1, "width": 4}
TWO = ("body", "hands")


def network(name, seed=1, **options):
    """Small, in evaluation mode, with statistics of its own in each normalization."""
    fields = actrec_models.networks.NETWORKS.get(name).config_class.__dataclass_fields__
    small = {key: value for key, value in SMALL.items() if key in fields}
    torch.manual_seed(seed)
    model = actrec_models.networks.create(name, num_classes=5, **{**small, "modalities": TWO, **options}).eval()
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.uniform_(-0.2, 0.2)
    return model


def inputs_of(model, size=3):
    rng = torch.Generator().manual_seed(2)
    scale = {True: 255.0, False: 1.0}
    return {s.name: torch.rand(size, *s.shape, generator=rng) * scale["stamp" in s.name] for s in model.input_specs}


# -- Eq. 2 and the graphs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["kinect_v2_25", "hand_21", "face_68"])
def test_adjacency_equals_equation_2(layout):
    a, skeleton = adjacency(layout), layouts.get(layout)
    edges = {frozenset((v, p)) for v, p in enumerate(skeleton.parents) if v != p}
    for i in range(len(skeleton)):
        for j in range(len(skeleton)):
            assert a[i, j] == (1 if frozenset((i, j)) in edges else 0)
    assert len(edges) == len(skeleton) - 1  # a tree: every joint is connected


def test_partition_two_hands_are_unconnected():
    both, one = partition("hand_21", 2), partition("hand_21")
    assert both.shape == (3, 42, 42)
    torch.testing.assert_close(both[:, :21, :21], one)
    torch.testing.assert_close(both[:, 21:, 21:], one)
    assert not both[:, :21, 21:].any() and not both[:, 21:, :21].any()


def test_modalities_have_papers_nodes():
    assert {name: len(joints) for name, joints in MODALITIES.items()} == {
        "body": 25, "bones": 25, "hands": 42, "face": 68, "motion": 25,
    }  # fmt: skip
    model = network("deepacts_graph", modalities=tuple(MODALITIES), frames=60)
    assert [s.shape for s in model.input_specs] == [(1, 3, 60, n) for n in (25, 25, 42, 68, 25)]


# -- the convolutional networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network_class", "parameters", "entries", "digest"),
    [
        (EfficientNetB0, 5_288_548, 360, "9da4cc5e2bca07908a7e2983542c49c6fae67a46450d6b3687b03bb6887ee86f"),
        (ResNet50, 25_557_032, 320, "614cd53ddf84966979ca9f6b3cf723cba0ad398675e7d0db3550943789819c17"),
    ],
)
def test_image_networks_have_torchvision_names(network_class, parameters, entries, digest):
    """The digest is of torchvision 0.29's own state_dict, "name [shape]" a line."""
    with torch.device("meta"):
        model = network_class(1000)
    assert sum(p.numel() for p in model.parameters()) == parameters
    state = model.state_dict()
    assert len(state) == entries
    lines = "\n".join(f"{name} {list(value.shape)}" for name, value in state.items())
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


def test_hcn_has_published_layers():
    # conv1 to conv4 twice, conv5, conv6, fc7, fc8 with T = 32, V = 25: 64, 32, 32, 64, 128, 256, 256 channels.
    stream = (3 * 64 + 64) + (64 * 32 * 3 + 32) + (25 * 32 * 9 + 32) + (32 * 64 * 9 + 64)
    expected = 2 * stream + (128 * 128 * 9 + 128) + (128 * 256 * 9 + 256) + (256 * 2 * 2 * 256 + 256) + (256 * 60 + 60)
    assert sum(p.numel() for p in Hcn(60, 32, 25).parameters()) == expected


@pytest.mark.parametrize(("name", "cnn"), [("deepacts", "hcn"), ("deepacts", "resnet50"), ("deepacts_cnn", "hcn")])
def test_pitch_of_the_axes_holds_for_every_input_of_joints(name, cnn):
    specs = network(name, cnn=cnn, pitch_deg=15.0, modalities=("body", "bones")).input_specs
    pitches = {spec.name: spec.preprocessing.get("pitch_deg", 0.0) for spec in specs}
    assert {key: value for key, value in pitches.items() if "stamp" not in key} == {"body": 15.0, "bones": 15.0}


def test_motion_matrix_gives_stretched_differences():
    joints = torch.randn(4, 3, 20, 25)
    difference = joints[:, :, 1:] - joints[:, :, :-1]
    expected = torch.nn.functional.interpolate(difference, size=(20, 25), mode="bilinear", align_corners=False)
    torch.testing.assert_close(torch.matmul(motion_matrix(20), joints), expected)


def test_hcn_takes_maximum_over_bodies():
    torch.manual_seed(1)
    net = Hcn(5, 16, 25).eval()
    joints = torch.randn(2, 3, 3, 16, 25)
    torch.testing.assert_close(net(joints), net(joints.flip(1)))
    torch.testing.assert_close(net(joints[:, [0, 0, 0]]), net(joints[:, :1]))


def test_stamp_branch_normalizes_and_averages_bodies():
    torch.manual_seed(1)
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, pictures):
            seen.append(pictures)
            return pictures.mean(dim=(2, 3))

    branch = StampBranch(Watch(), 3)
    stamps = torch.rand(2, 3, 3, 8, 8) * 255
    stamps[0, 2] = 0  # the first sample has two bodies
    scores = branch(stamps)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for c in range(3):
        np.testing.assert_allclose(seen[0][4, c], (stamps[1, 1, c] / 255 - mean[c]) / std[c], atol=1e-5)
    each = seen[0].mean(dim=(2, 3)).reshape(2, 3, 3)
    torch.testing.assert_close(scores, torch.stack([each[0, :2].mean(dim=0), each[1].mean(dim=0)]))


# -- fusion ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deepacts", "deepacts_multi"])
def test_deepacts_sums_scores_of_branches(name):
    model = network(name)
    inputs = inputs_of(model)
    with torch.no_grad():
        total = sum(model.graph.branches[m](inputs[m]) for m in TWO)
        for cnn in model.cnns.values():
            total = total + sum(cnn.branches[m](inputs[f"{m}_stamp"]) for m in TWO)
        torch.testing.assert_close(model(**inputs), total)
    assert list(model.cnns) == (["efficientnet_b0"] if name == "deepacts" else ["efficientnet_b0", "resnet50"])


@pytest.mark.parametrize(
    ("name", "options"), [("deepacts", {}), ("deepacts_cnn", {"cnn": "hcn"}), ("deepacts_graph", {})]
)
def test_deepacts_missing_modality_adds_nothing(name, options):
    """In a batch, a sample without hands has the logits of its body alone; the others are unchanged."""
    model, alone = network(name, **options), network(name, modalities=("body",), **options)
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if k in alone.state_dict()})
    inputs = inputs_of(model)
    with torch.no_grad():
        whole = model(**inputs)
        for key in inputs:
            if key.startswith("hands"):
                inputs[key][1] = 0
        found, body = model(**inputs), alone(**{k: v for k, v in inputs.items() if k.startswith("body")})
    torch.testing.assert_close(found[1], body[1])
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])
    assert not torch.allclose(found[1], whole[1])
    with torch.no_grad():
        assert not model(**{k: torch.zeros_like(v) for k, v in inputs.items()}).any()


def test_present_is_per_sample():
    value = torch.zeros(4, 2, 3)
    value[1, 1, 2], value[2, 0, 0] = 1e-3, -5
    torch.testing.assert_close(present(value), torch.tensor([[0.0], [1.0], [1.0], [0.0]]))


@pytest.mark.slow
def test_deepacts_onnx_missing_modality_adds_nothing():
    model = network("deepacts", bodies=2)
    session = onnxruntime.InferenceSession(onnx_graph.to_onnx(model), providers=["CPUExecutionProvider"])
    inputs = inputs_of(model)
    inputs["hands"][0], inputs["hands_stamp"][0], inputs["body_stamp"][1, 1] = 0, 0, 0
    with torch.no_grad():
        expected = model(**inputs).numpy()
    found = session.run(None, {k: v.numpy() for k, v in inputs.items()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


# -- the papers' tables, options, inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE_ROWS)
def test_deepacts_rows_of_tables_build(row):
    name, options = TABLE_ROWS[row]
    model = network(name, **{"modalities": tuple(MODALITIES), **options})
    inputs = inputs_of(model, 1)
    with torch.no_grad():
        assert model(**inputs).shape == (1, 5)
    graphs, cnns = name != "deepacts_cnn", {"deepacts_graph": 0, "deepacts_multi": 2}.get(name, 1)
    branches = [k for k in model.state_dict() if k.endswith(("fc.weight", "classifier.1.weight", "fc8.weight"))]
    assert len(branches) == len(model.config.modalities) * (graphs + cnns)


def test_deepacts_has_published_sizes():
    """One ImageNet network and one ST-GCN a modality."""
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in actrec_models.networks.create(name, num_classes=60).parameters())
            for name in ("deepacts_graph", "deepacts_cnn", "deepacts", "deepacts_multi")
        }
    efficientnet = 5_288_548 - 1281 * (1000 - 60)
    resnet = 25_557_032 - 2049 * (1000 - 60)
    assert sizes["deepacts_cnn"] == 5 * efficientnet
    assert sizes["deepacts"] == sizes["deepacts_graph"] + 5 * efficientnet
    assert sizes["deepacts_multi"] == sizes["deepacts"] + 5 * resnet
    assert sizes["deepacts_graph"] == pytest.approx(5 * 3.1e6, rel=0.02)


def test_deepacts_defaults_are_papers():
    with torch.device("meta"):
        model = actrec_models.networks.create("deepacts", num_classes=60)
    shapes = {spec.name: spec.shape for spec in model.input_specs}
    assert shapes == {
        "body": (1, 3, 60, 25), "bones": (1, 3, 60, 25), "hands": (1, 3, 60, 42), "face": (1, 3, 60, 68),
        "motion": (1, 3, 60, 25), **{f"{name}_stamp": (1, 3, 224, 224) for name in MODALITIES},
    }  # fmt: skip
    assert (model.window.frames, model.window.clip_frames, model.window.starts) == (60, 60, (0,))


@pytest.mark.parametrize("name", ["deepacts_multi", "deepacts_cnn"])
def test_deepacts_inputs_are_made_from_clip(name):
    model = network(name, modalities=tuple(MODALITIES), bodies=2)
    clip = example_clip(model.input_specs, 16, bodies=2)
    made = features.inputs(clip, model.input_specs)
    assert {k: v.shape for k, v in made.items()} == {s.name: s.shape for s in model.input_specs}
    with torch.no_grad():
        assert torch.isfinite(model(**{k: torch.from_numpy(v)[None] for k, v in made.items()})).all()


@pytest.mark.parametrize(
    ("name", "options"), [("deepacts_graph", {}), ("deepacts", {}), ("deepacts_cnn", {"cnn": "hcn"})]
)
def test_deepacts_hand_layout_is_placed_by_palm(name, options):
    model = network(name, layout="hand_22", modalities=("body", "bones"), **options)
    assert {spec.layout for spec in model.input_specs} == {"hand_22"}
    assert {spec.preprocessing["center"] for spec in model.input_specs} == {"palm"}
    assert {spec.preprocessing["root_bone"] for spec in model.input_specs} == {"origin"}
    clip = example_clip(model.input_specs, 16)
    assert clip["bodies"].shape == (1, 16, 22, 3)
    made = features.inputs(clip, model.input_specs)
    with torch.no_grad():
        assert torch.isfinite(model(**{k: torch.from_numpy(v)[None] for k, v in made.items()})).all()


@pytest.mark.parametrize(("name", "options"), [("deepacts_graph", {}), ("deepacts_cnn", {"cnn": "hcn"})])
@pytest.mark.parametrize("layout", ["kinect_v2_25", "hand_22"])
def test_deepacts_motion_modalities_follow_joints_and_bones(name, options, layout):
    model = network(name, layout=layout, modalities=("body", "bones", "body_motion", "bones_motion"), **options)
    clip = example_clip(model.input_specs, 16)
    made = features.inputs(clip, model.input_specs)
    for place in ("body", "bones"):
        np.testing.assert_allclose(made[f"{place}_motion"][:, :, 1:], np.diff(made[place], axis=2), atol=1e-6)
    with torch.no_grad():
        scores = model(**{k: torch.from_numpy(v)[None] for k, v in made.items()})
    assert scores.shape == (1, model.config.num_classes) and torch.isfinite(scores).all()


def test_deepacts_extrema_reach_inputs():
    extrema = {"hands": [-2.5, 3.0]}
    specs = {s.name: s.preprocessing for s in network("deepacts", extrema=extrema).input_specs}
    assert (specs["hands_stamp"]["minimum"], specs["hands_stamp"]["maximum"]) == (-2.5, 3.0)
    assert specs["body_stamp"]["minimum"] == -4.0
    assert specs["body_stamp"]["frames"] == 16
    assert "minimum" not in specs["hands"]


def test_deepacts_imagenet_weights_fill_every_branch():
    model = network("deepacts_multi")
    assert model.weight_targets == {
        **{name: tuple(f"cnns.{name}.branches.{m}.net" for m in TWO) for name in ("efficientnet_b0", "resnet50")},
        "deepacts_graph": ("graph",),
    }
    for name, net in (("efficientnet_b0", EfficientNetB0(5, 0.05, 0.1)), ("resnet50", ResNet50(5, 0.05, 0.1))):
        for target in model.weight_targets[name]:
            model.get_submodule(target).load_state_dict(net.state_dict())
    assert network("deepacts_cnn", cnn="hcn").weight_targets == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "deepacts_graph",
            {"modalities": ("body", "voice")},
            r"modalities is body, voice; choose from body, bones, hands",
        ),
        ("deepacts", {"modalities": ()}, "modalities is empty"),
        (
            "deepacts",
            {"modalities": ("body", "body_motion")},
            "there is no stamp of body_motion: choose from body, bones",
        ),
        ("deepacts_cnn", {"modalities": ("body", "body")}, "each once"),
        ("deepacts_graph", {"kernel": 4}, "kernel is 4"),
        ("deepacts_cnn", {"cnn": "vgg16"}, "cnn is 'vgg16', allowed: efficientnet_b0, resnet50, hcn"),
        ("deepacts_cnn", {"cnn": "hcn", "frames": 12}, "frames is 12: HCN"),
        ("deepacts_cnn", {"pitch_deg": 15.0}, "pitch_deg turns joints, but efficientnet_b0 takes stamps"),
        ("deepacts_multi", {"cnns": ("hcn",)}, "cnns is hcn; choose from efficientnet_b0, resnet50"),
        ("deepacts_cnn", {"extrema": {"voice": [0, 1]}}, "extrema names voice"),
        ("deepacts_cnn", {"extrema": {"body": [1, -1]}}, r"extrema: body is \[1, -1\], expected \[c_min, c_max\]"),
        ("deepacts_cnn", {"extrema": {"body": 3}}, "extrema: body is 3"),
        ("deepacts_graph", {"layout": "hand_22"}, r"a clip of hand_22 has no hands: set modalities to \[body, bones\]"),
        ("deepacts_cnn", {"size": 16}, "size is 16, allowed: 32 to 1024"),
    ],
)
def test_deepacts_bad_options_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        network(name, **options)


def test_deepacts_dropout_defaults_to_networks_own():
    def rates(**options):
        return {m.p for m in network("deepacts_cnn", **options).modules() if isinstance(m, torch.nn.Dropout)}

    assert (rates(), rates(cnn="resnet50"), rates(cnn="hcn")) == ({0.2}, {0.0}, {0.5})
    assert rates(cnn_dropout=0.3) == {0.3}


def test_stochastic_depth_applies_in_training_only():
    torch.manual_seed(1)
    net, picture = EfficientNetB0(5, 0.1, dropout=0.0), torch.randn(4, 3, 64, 64)
    shares = [round(part.p, 4) for part in net.modules() if isinstance(part, StochasticDepth)]
    assert shares == [round(0.2 * block / 16, 4) for block in range(16)]
    net.train()
    assert not torch.equal(net(picture), net(picture))
    net.eval()
    assert torch.equal(net(picture), net(picture))
