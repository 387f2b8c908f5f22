import dataclasses
import math
import shlex
from typing import Any

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import features, inference
from actrec.cli import main
from actrec.features.clips import example_clip, example_windows
from actrec.inference import package
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.export import exporter
from actrec_models.training import initial_weights
from tests.models.small import SMALL
from tests.models.training import public_checkpoints as public
from tests.tiny_model import tiny_description, tiny_onnx

SIZES = {
    "i3d": (12_697_264, 287),
    "c3d": (79_991_015, 22),
    "resnext3d_101": (48_340_816, 626),
    "efficientnet_b0": (5_288_548, 360),
    "resnet50": (25_557_032, 320),
}
"""Numbers of parameters and of state dict entries in the published checkpoints."""
USES = [
    ("p_i3d", "i3d", {}, 3),
    ("vpn_i3d", "i3d", {}, 1),
    ("vpn_resnext101", "resnext3d_101", {}, 1),
    ("c3d_flow", "c3d", {}, 1),
    ("c3d_flow_at1", "c3d", {}, 1),
    ("c3d_flow_at2", "c3d", {}, 1),
    ("flow_skeleton", "c3d", {}, 1),
    ("deepacts_cnn", "efficientnet_b0", {"modalities": ("body", "hands")}, 2),
    ("deepacts_cnn", "resnet50", {"modalities": ("body",), "cnn": "resnet50"}, 1),
    ("deepacts", "efficientnet_b0", {"modalities": ("body",), "width": 4}, 1),
    ("deepacts_multi", "efficientnet_b0", {"modalities": ("body", "face"), "width": 4}, 2),
    ("deepacts_multi", "resnet50", {"modalities": ("body", "face"), "width": 4}, 2),
]


def is_parameter(name):
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {kind: public.save(folder / f"{kind}.pt", shapes()) for kind, shapes in public.PUBLIC.items()}


def small_network(name, classes=5, **options):
    torch.manual_seed(1)
    return actrec_models.networks.create(name, num_classes=classes, **{**SMALL[name], **options})


@pytest.mark.parametrize("kind", list(public.PUBLIC))
def test_public_checkpoints_have_published_names(kind):
    shapes = public.PUBLIC[kind]()
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if is_parameter(name))
    assert (parameters, len(shapes)) == SIZES[kind]
    assert initial_weights.detect_format(public.tensors(shapes))[0] == kind


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "options", "copies"), USES)
def test_load_public_checkpoints_fill_networks(name, kind, options, copies, files):
    with torch.device("meta"):  # without memory, as the largest network has 150 M parameters
        network = actrec_models.networks.create(name, num_classes=5, **options)
    assert len(network.weight_targets[kind]) == copies
    report = initial_weights.load(network, name, files[kind])
    classifier = initial_weights.FORMATS[kind].classifier
    assert (report.missing, report.unfit, report.reshaped) == ((), (), ())
    assert all(entry.startswith(classifier) for entry in report.unexpected)
    expected = [entry for entry in public.PUBLIC[kind]() if not entry.startswith(classifier)]
    assert len(report.loaded) == copies * len(expected)
    for target in network.weight_targets[kind]:
        entries = [entry for entry in network.state_dict() if entry.startswith(f"{target}.")]
        remaining = set(entries) - set(report.loaded)
        assert not [entry for entry in remaining if is_parameter(entry) and entry not in report.kept]


@pytest.mark.parametrize(("name", "kind", "options"), [(n, k, o) for n, k, o, _ in USES if n[:3] in ("vpn", "dee")])
def test_load_public_checkpoints_values_are_in_place(name, kind, options, files):
    network = actrec_models.networks.create(name, num_classes=5, **options)
    initial_weights.load(network, name, files[kind])
    state = network.state_dict()
    for target in network.weight_targets[kind]:
        for position, entry in enumerate(public.PUBLIC[kind](), start=1):
            if not entry.startswith(initial_weights.FORMATS[kind].classifier):
                assert (state[f"{target}.{entry}"] == position).all(), entry


def test_detect_format_other_names_recognized(files, tmp_path):
    c3d = public.tensors(public.c3d())
    caffe = {"conv1": "conv1a", "conv2": "conv2a", "fc6": "fc6-1", "fc7": "fc7-1", "fc8": "fc8-1"}
    renamed = {".".join([caffe.get(n.split(".")[0], n.split(".")[0]), n.split(".")[1]]): v for n, v in c3d.items()}
    assert "fc6-1.weight" in renamed
    mmaction = {}
    for name, value in c3d.items():
        layer, part = name.split(".")
        layer = {"conv1": "conv1a", "conv2": "conv2a"}.get(layer, layer)
        mmaction[f"backbone.{layer}.conv.{part}" if layer.startswith("conv") else f"backbone.{layer}.{part}"] = value
    wrapped = {"arch": "c3d", "epoch": 3, "state_dict": {f"module.{n}": v for n, v in c3d.items()}}
    for content in (renamed, mmaction, wrapped):
        torch.save(content, tmp_path / "other.pt")
        kind, tensors = initial_weights.detect_format(initial_weights.read(tmp_path / "other.pt").tensors)
        assert kind == "c3d"
        assert {n: tuple(v.shape) for n, v in tensors.items()} == public.c3d()


def test_load_classifier_of_other_classes_is_kept(files):
    network: Any = actrec_models.networks.create("deepacts_cnn", num_classes=1000, modalities=("body",))
    report = initial_weights.load(network, "deepacts_cnn", files["efficientnet_b0"])
    assert report.kept == ()
    assert (network.branches["body"].net.classifier[1].weight == 359).all()
    network = actrec_models.networks.create("deepacts_cnn", num_classes=7, modalities=("body",))
    previous = network.branches["body"].net.classifier[1].weight.clone()
    report = initial_weights.load(network, "deepacts_cnn", files["efficientnet_b0"])
    assert len(report.kept) == 2
    assert torch.equal(network.branches["body"].net.classifier[1].weight, previous)
    assert "2 classifier kept" in str(report)


def test_reshape_weight_keeps_response():
    rgb = torch.randn(8, 3, 7, 7)
    for channels in (1, 2, 6):
        reshaped = initial_weights.reshape_weight(rgb, (8, channels, 7, 7))
        torch.testing.assert_close(reshaped.sum(dim=1), rgb.sum(dim=1))
    clip = initial_weights.reshape_weight(rgb, (8, 3, 5, 7, 7))
    torch.testing.assert_close(clip.sum(dim=2), rgb)
    torch.testing.assert_close(initial_weights.reshape_weight(rgb, (8, 2, 5, 7, 7)).sum(dim=(1, 2)), rgb.sum(dim=1))
    assert initial_weights.reshape_weight(torch.ones(4, 6, 1, 1, 1), (4, 6)).shape == (4, 6)
    for shape in ((9, 3, 7, 7), (8, 3, 5, 5), (8, 3, 7), (8 * 3 * 49,)):
        assert initial_weights.reshape_weight(rgb, shape) is None
    assert initial_weights.reshape_weight(torch.ones(8, 16, 3, 3), (8, 4, 3, 3)) is None, "not the first convolution"


def test_load_partly_fitting_file_refused(files):
    network = small_network("vpn_i3d")
    previous = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"i3d.pt .*of another shape \(visual\..* → .*\): it does not fit vpn_i3d"):
        initial_weights.load(network, "vpn_i3d", files["i3d"])
    assert all(torch.equal(value, previous[name]) for name, value in network.state_dict().items())
    assert len(str(initial_weights.Report("f", "k", missing=tuple("abcdefghij"))).splitlines()) == 1


def test_load_foreign_format_lists_accepted(files, tmp_path):
    with pytest.raises(ConfigError, match=r"c3d.pt holds C3D .*; p_i3d takes: Inception I3D"):
        initial_weights.load(small_network("p_i3d"), "p_i3d", files["c3d"])
    with pytest.raises(ConfigError, match=r"res_tcn_bjcn takes: its own alone"):
        initial_weights.load(small_network("res_tcn_bjcn"), "res_tcn_bjcn", files["c3d"])
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(ConfigError, match=r"foreign.pt has unknown names \(layer.weight\)"):
        initial_weights.load(small_network("p_i3d"), "p_i3d", tmp_path / "foreign.pt")


class CodeInPickle:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_read_file_with_code_refused(tmp_path):
    torch.save({"state_dict": CodeInPickle(tmp_path / "boom")}, tmp_path / "code.pt")
    with pytest.raises(PackageError, match=r"code.pt is refused: .*safetensors"):
        initial_weights.read(tmp_path / "code.pt")
    assert not (tmp_path / "boom").exists()


def test_read_damaged_file_refused(tmp_path, files):
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "cut.pt").write_bytes(files["c3d"].read_bytes()[:2000])
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    torch.save({"a.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.pt")
    for name in (
        "text.pt",
        "cut.pt",
        "text.safetensors",
        "list.pt",
        "empty.pt",
        "nan.pt",
        "gone.pt",
        "gone.safetensors",
    ):
        with pytest.raises(PackageError, match=name) as raised:
            initial_weights.read(tmp_path / name)
        assert "\n" not in str(raised.value)
    torch.save({f"{name}.weight": torch.zeros(9) for name in range(300)}, tmp_path / "whole.pt")
    complete = (tmp_path / "whole.pt").read_bytes()
    for length in range(0, len(complete), len(complete) // 40):  # for some lengths, PyTorch raises "Invalid argument"
        (tmp_path / "cut.pt").write_bytes(complete[:length])
        with pytest.raises(PackageError, match=r"cut.pt is (refused: it is no plain file|no file that torch)"):
            initial_weights.read(tmp_path / "cut.pt")


@pytest.mark.parametrize("fused", [[], [{"name": "joints"}, {"name": "bones"}]])
def test_read_package_without_weights_names_remedy(tmp_path, fused):
    description = tiny_description()
    provenance = dataclasses.replace(description.provenance, figures={"fused": fused} if fused else {})
    package.write(tmp_path / "bare", dataclasses.replace(description, provenance=provenance), tiny_onnx())
    export_again = "export it again from its checkpoint, or take a package that has it"
    remedy = "take one of its networks, joints, bones" if fused else export_again
    for read in (initial_weights.read, initial_weights.identity):
        with pytest.raises(PackageError, match=rf"bare came without model\.safetensors: {remedy}"):
            read(tmp_path / "bare")


def test_read_weights_of_a_package_have_its_trainings(tmp_path):
    """Else a package's file would pass the check of overlapping data that its folder does not pass."""
    description = tiny_description()
    known = dataclasses.replace(description.provenance, figures={"recordings": ["one"]})
    tensors = exporter.weights_bytes(small_network("res_tcn_bjcn"))
    described = dataclasses.replace(description, provenance=known)
    folder = package.write(tmp_path / "own", described, tiny_onnx(), tensors).path
    whole, file = (initial_weights.read(path) for path in (folder, folder / "model.safetensors"))
    assert whole.trainings and (file.trainings, file.recordings) == (whole.trainings, ("one",))
    assert file.tensors.keys() == whole.tensors.keys()


def test_load_own_weights_fill_network(tmp_path):
    source, target = small_network("res_tcn_bjcn"), small_network("res_tcn_bjcn")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    (tmp_path / "model.safetensors").write_bytes(exporter.weights_bytes(source))
    report = initial_weights.load(target, "res_tcn_bjcn", tmp_path / "model.safetensors")
    assert set(report.loaded) == set(source.state_dict())
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())
    more_classes = small_network("res_tcn_bjcn", classes=9)
    report = initial_weights.load(more_classes, "res_tcn_bjcn", tmp_path / "model.safetensors")
    assert report.kept and not report.unfit
    other_width = small_network("res_tcn_bjcn", width=16)
    with pytest.raises(ConfigError, match="of another shape"):
        initial_weights.load(other_width, "res_tcn_bjcn", tmp_path / "model.safetensors")


def checkpoint(path, name, network):
    """Write the parts of a training checkpoint that initial weights need."""
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    parameters = {"recipe": {"model": name}, "classes": list("abcde")}
    torch.save({"hyper_parameters": parameters, "state_dict": state}, path)
    return path


def test_load_parts_fill_joint_network(tmp_path):
    joint = small_network("sem_spa")
    options, shared = SMALL["sem_spa"], {"num_classes": 5, "bodies": 2}
    parts = {
        "sem_net": actrec_models.networks.create(
            "sem_net", **shared, **options["sem_options"], frames=16, streams="fuse"
        ),
        "spa_net_4d": actrec_models.networks.create("spa_net_4d", **shared, **options["spa_options"], frames=8),
    }
    for name, target in {"sem_net": "sem", "spa_net_4d": "spa"}.items():
        file = checkpoint(tmp_path / f"{name}.ckpt", name, parts[name])
        report = initial_weights.load(joint, "sem_spa", file)
        assert (report.missing, report.unexpected, report.unfit) == ((), (), ())
        filled = joint.get_submodule(target).state_dict()
        assert all(torch.equal(filled[key], value) for key, value in parts[name].state_dict().items())
    file = checkpoint(tmp_path / "other.ckpt", "spa_net_3p1d", small_network("spa_net_3p1d"))
    with pytest.raises(ConfigError, match="holds weights of spa_net_3p1d; sem_spa takes: weights of sem_net"):
        initial_weights.load(joint, "sem_spa", file)


def test_load_trained_part_fills_whole(tmp_path):
    part, complete = small_network("c3d_flow"), small_network("flow_skeleton")
    checkpoint(tmp_path / "c3d_flow.ckpt", "c3d_flow", part)
    report = initial_weights.load(complete, "flow_skeleton", tmp_path / "c3d_flow.ckpt")
    assert torch.equal(complete.state_dict()["c3d.conv1.weight"], part.state_dict()["c3d.conv1.weight"])
    assert report.kind == "c3d_flow"
    assert any(name.startswith("skeleton.") for name in report.missing)


@pytest.mark.slow
def test_export_untrained_network_works(tmp_path, capsys, caplog):
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(exporter.weights_bytes(small_network("res_tcn_bjcn", classes=2)))
    options = [word for key, value in SMALL["res_tcn_bjcn"].items() for word in ("--option", f"{key}={value}")]
    command = ["export", "--network", "res_tcn_bjcn", *options, "--classes", "wave, point"]
    assert main([*command, "--seed", "7", "--out", str(tmp_path / "random")]) == 0
    assert "untrained; its labels mean nothing" in capsys.readouterr().out
    assert main([*command, "--init", str(weights), "--out", str(tmp_path / "begun")]) == 0
    assert "initialized from start.safetensors, not trained" in capsys.readouterr().out
    assert "start.safetensors (res_tcn_bjcn):" in caplog.text
    for name, text_part in {"random": "untrained", "begun": "initialized from start.safetensors"}.items():
        text = (tmp_path / name / "README.md").read_text()
        assert "not trained" in text and text_part in text and "Accuracy" not in text
        assert main(["models", str(tmp_path / name)]) == 0
        assert "its labels mean nothing" in capsys.readouterr().out
    assert (tmp_path / "begun/model.safetensors").exists() and not (tmp_path / "random/model.safetensors").exists()
    # The command in its provenance reproduces the package, with the same random weights.
    repeated = shlex.split(package.load(tmp_path / "random").provenance.recipe[0])
    assert repeated[:4] == ["actrec", *command[:3]] and repeated[repeated.index("--seed") + 1] == "7"
    assert main([*repeated[1:-1], str(tmp_path / "once_more")]) == 0
    first, second = (inference.load(tmp_path / name) for name in ("random", "once_more"))
    x = example_windows(first.package.inputs, first.package.window, first.package.bodies, 2)
    np.testing.assert_allclose(first.backend.run(x), second.backend.run(x), rtol=1e-4)
    # A package gives initial weights too.
    assert main([*command, "--init", str(tmp_path / "begun"), "--out", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a checkpoint or a --network"),
        (["--network", "res_tcn_bjcn"], "needs --classes with at least two"),
        (["--network", "res_tcn_bjcn", "--classes", "a,unknown"], "'unknown' is reserved"),
        (["--network", "res_tcn_bjcn", "--classes", "a,Unknown"], "'Unknown' is reserved"),
        (["--calibrate", "my_package"], "--calibrate took my_package as its recipe"),
        (["missing.ckpt", "--events", "0.5"], "--events needs a package"),
        (["deepacts_graph_nucla", "--events", "0.5", "--calibrate"], "--events and --calibrate are two steps"),
        (["--network", "res_tcn_bjcn", "--classes", "a,b,a"], "the class 'a' appears twice: a, b, a"),
        (["--network", "lstm", "--classes", "a,b"], "unknown network 'lstm'"),
        (["--network", "res_tcn_bjcn", "--classes", "a,b", "--option", "depth=3"], "unknown option depth"),
        (["--network", "res_tcn_bjcn", "--classes", "a,b", "--option", "depth"], "expected KEY=VALUE"),
        (
            ["--network", "res_tcn_bjcn", "--classes", "a,b", "--calibrate"],
            "--calibrate needs a package",
        ),
        (["run.ckpt", "--network", "res_tcn_bjcn"], "either a checkpoint or a --network"),
        (["run.ckpt", "--classes", "a,b"], "--classes belongs to --network; run.ckpt has its own"),
        (["run.ckpt", "--seed", "0"], "--seed belongs to --network"),
        (["run.ckpt", "--figures", "gone.json"], "--figures needs a package"),
        (["--network", "sem_net", "--no-weights"], "--no-weights belongs to a checkpoint or a package"),
        (["run.ckpt", "--option", "a=b", "--init", "x"], "--option belongs to --network"),
    ],
)
def test_export_wrong_use_refused(arguments, message, tmp_path, capsys):
    assert main(["export", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_load_variant_lists_missing_values(tmp_path, caplog):
    """VPN, Sect. 3.3: the visual backbone is trained first, without attention."""
    backbone, complete = small_network("vpn_i3d", attention="none", embedding="none"), small_network("vpn_i3d")
    checkpoint(tmp_path / "l1.ckpt", "vpn_i3d", backbone)
    with caplog.at_level("WARNING"):
        report = initial_weights.load(complete, "vpn_i3d", tmp_path / "l1.ckpt")
    assert set(report.loaded) == set(backbone.state_dict())
    assert report.missing and f"{len(report.missing)} missing" in caplog.text
    name = "visual.Mixed_3b.b0.conv3d.weight"
    assert torch.equal(complete.state_dict()[name], backbone.state_dict()[name])


@pytest.mark.parametrize("name", ["spa_net_3p1d", "spa_net_4d", "sem_spa"])
def test_load_new_input_channels_start_at_zero(name, tmp_path):
    original = small_network(name)
    added: dict[str, object] = {"positions": True}
    if name == "sem_spa":
        added = {"spa_options": {**SMALL[name]["spa_options"], **added}}
    complete = small_network(name, **added)
    report = initial_weights.load(complete, name, checkpoint(tmp_path / "last.ckpt", name, original))
    assert (report.missing, report.unexpected, report.unfit) == ((), (), ())
    assert len(report.reshaped) == 2
    assert logits_of(complete).equal(logits_of(original))
    if name != "sem_spa":
        other_layout = small_network(name, layout="hand_22", bodies=1)
        other_report = initial_weights.load(complete, name, checkpoint(tmp_path / "hand.ckpt", name, other_layout))
        assert len(other_report.unfit) == 2
    reverse_report = initial_weights.load(original, name, checkpoint(tmp_path / "more.ckpt", name, complete))
    assert len(reverse_report.unfit) == 2


def logits_of(network):
    """Return the logits of one example clip."""
    clip = example_clip(network.input_specs, network.config.frames, 1)
    inputs = features.inputs(clip, network.input_specs)
    with torch.no_grad():
        return network.eval()(**{key: torch.from_numpy(value[None]) for key, value in inputs.items()})
