"""Recipes and rows of the papers have the settings of the papers and of the Readings."""

import json
import re
from pathlib import Path

import pytest
import torch

import actrec_models.networks
from actrec.features.scene_flow import FlowCrop
from actrec.recordings.skeleton_files import KINECT_V2_COLOR
from actrec_models.data.samples import unused_augmentation
from actrec_models.networks import sem_net
from actrec_models.training import paper_tables, recipe

ROOT = Path(__file__).parents[3]
PAPERS = sorted(
    path for path in (ROOT / "models/recipes/papers").glob("*.yaml") if path.name != Path(paper_tables.FILE).name
)


@pytest.mark.parametrize(
    "name", ["c3d_flow", "c3d_flow_at1", "c3d_flow_at2", "flow_skeleton_frozen", "flow_skeleton_joint"]
)
@pytest.mark.parametrize("changes", [{}, {"options.scale": 1 / 128}])
def test_recipe_of_scene_flow_keeps_the_papers_crop_in_ntus_color_image(name: str, changes: dict[str, float]) -> None:
    options = recipe.read(f"papers/{name}_ntu60", changes).options
    camera = KINECT_V2_COLOR
    _, _, across, down = FlowCrop(share=options["share"]).center_crop(camera.width, camera.height)
    assert down / camera.fy == pytest.approx(240 / 365, rel=0.01)
    assert across / camera.fx == pytest.approx(320 / 365, rel=0.01)
    assert changes.get("options.scale") == options.get("scale")


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_recipe_of_a_paper_sets_no_augmentation_without_effect(path: Path) -> None:
    settings = recipe.read(path)
    for stage in settings.plan():
        own = settings.for_stage(stage)
        with torch.device("meta"):
            options = json.loads(json.dumps(own.network_options()))
            network = actrec_models.networks.create(own.model, num_classes=10, **options)
        if stage.name:
            network.stage(stage.name)
        made = [spec.name for spec in network.stage_input_specs]
        assert unused_augmentation(network.input_specs, own, made) == ""


def test_row_separable_sta_is_vpns_attention_without_coupler_and_embedding() -> None:
    for name, paper in {
        "vpn:5": {"cs": 92.2, "cv": 94.6, "cs1": 83.8, "cs2": 82.5},
        "vpn:6": {"cs": 54.2, "cv1": 35.2, "cv2": 50.3},
        "vpn:7": {"v3": 92.4},
    }.items():
        assert paper_tables.tables()[name].rows["separable_sta"].paper == paper
        options = recipe.read(f"papers/{name}:separable_sta").options
        assert (options["pose_backbone"], options["attention"], options["embedding"]) == ("lstm", "dissociated", "none")


@pytest.mark.parametrize(
    "row", ["deepacts:1:st_gcn_body", "deepacts:3:st_gcn_yan", "deepacts:5:st_gcn_yan", "sem_spa:9:st_gcn"]
)
def test_row_of_st_gcn_has_its_dropout(row: str) -> None:
    assert recipe.read(f"papers/{row}").options["dropout"] == 0.5


def test_measured_figures_state_a_kernel_over_fewer_frames() -> None:
    for table in paper_tables.tables().values():
        for key, row in table.rows.items():
            for each in row.measured:
                options = recipe.read(each.recipe).options if each.recipe else {}
                frames = options.get("spa_options", options).get("temporal", 0)
                assert not frames or f"kernel of {frames} frames" in each.note, (table.name, key)


def test_sem_spa_recipes_are_described_by_the_reading() -> None:
    text = " ".join(str(sem_net.__doc__).split()).split("**Training.**")[1].split("- **")[0]
    alone = recipe.read("papers/sem_spa_shrec17")
    assert f"batch {alone.batch}" in text and f"smoothed by {alone.label_smoothing}" in text
    assert recipe.read("papers/sem_net_ntu60").learning_rate == 1e-3 and "NTU: to 1e-3, batch 64" in text


def test_figures_beside_the_papers_state_their_streams() -> None:
    text = (ROOT / "docs/networks/index.md").read_text(encoding="utf-8")
    rows = text.split("| dataset | networks | streams |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == 7 and all(re.fullmatch(r"\d", row.split("|")[3].strip()) for row in rows)
