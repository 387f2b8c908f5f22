"""The names that users import: design section 6 and docs/api.md. Removing one breaks a user's program."""

import importlib
import inspect

import pytest

SURFACE = {
    "actrec": ["__version__", "load_model"],
    "actrec.types": ["RgbdFrame", "Body", "Hand", "Face", "Intrinsics", "Prediction"],
    "actrec.cameras": ["create", "Camera"],
    "actrec.datasets": ["create", "Clip", "ClipDataset"],
    "actrec.inference": ["load", "Prediction", "Session"],
    "actrec.perception": ["create", "Pipeline", "BodyPerception", "HandPerception", "FacePerception"],
    "actrec.recognition": ["ActionRecognizer", "ActionPrediction"],
    "actrec.recordings": ["open_recording"],
    "actrec.scene_flow": ["create", "SceneFlow"],
    "actrec_models": ["create", "list_models"],
    "actrec_models.data": ["create"],
    "actrec_calibration": ["Board", "calibrate_intrinsics", "calibrate_depth", "calibrate_hand_eye", "calibrate_floor"],
}
PARAMETERS = {
    ("actrec", "load_model"): ["name_or_folder", "backend"],
    ("actrec.cameras", "create"): ["name"],
    ("actrec.inference", "load"): ["package", "backend"],
    ("actrec.scene_flow", "create"): ["name"],
    ("actrec_models", "create"): ["name", "num_classes"],
    ("actrec_models.data", "create"): ["name", "root", "split", "part"],
}
METHODS = {
    ("actrec.inference", "Session"): ["predict"],
    ("actrec.recognition", "ActionRecognizer"): [
        "add_skeletons", "add_hands", "add_faces", "add_scene_flow", "add_color", "predict", "events",
    ],
    ("actrec.cameras", "Camera"): ["read", "__enter__", "__exit__"],
    ("actrec.scene_flow", "SceneFlow"): ["estimate"],
}  # fmt: skip
NETWORKS = {
    "deepacts_cnn", "deepacts_graph", "deepacts", "deepacts_multi", "res_tcn_bjcn", "c3d_flow", "c3d_flow_at1",
    "c3d_flow_at2", "flow_skeleton", "p_i3d", "sem_net", "spa_net_3p1d", "spa_net_4d", "sem_spa", "vpn_i3d",
    "vpn_resnext101", "joint_tcn",
}  # fmt: skip
DATASETS = {
    "ntu60", "ntu120", "sysu", "nucla", "shrec17_14", "shrec17_28", "smarthome", "utd_mhad", "folder", "kinder_gator",
    "kard", "cad60", "florence3d", "utkinect", "msr_action3d", "bandai_namco", "hdm05", "everyday",
}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in SURFACE.items() for n in names])
def test_public_name_exists(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", [m for m in SURFACE if m not in {"actrec", "actrec.types"}])
def test_public_names_are_exported(module: str) -> None:
    assert set(SURFACE[module]) <= set(importlib.import_module(module).__all__)


@pytest.mark.parametrize(("module", "name"), PARAMETERS)
def test_public_function_keeps_its_parameters(module: str, name: str) -> None:
    parameters = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    assert parameters[: len(PARAMETERS[module, name])] == PARAMETERS[module, name]


@pytest.mark.parametrize(("module", "name"), METHODS)
def test_public_class_keeps_its_methods(module: str, name: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    assert [method for method in METHODS[module, name] if not hasattr(kind, method)] == []


def test_networks_and_datasets_keep_their_names() -> None:
    assert set(importlib.import_module("actrec_models").list_models()) >= NETWORKS
    assert set(importlib.import_module("actrec.datasets").DATASETS.names()) >= DATASETS
