"""From recordings with color and depth to a package of scene flow: the required method, and the stated identity."""

import shlex

import pytest

from actrec import datasets
from actrec.cli import main
from actrec.datasets.store import PreparedDataset
from actrec.inference import package
from actrec_models.export.exporter import export_network
from tests.models.own_recordings import body, write_bag
from tests.models.small import SMALL

HEIGHT = ["--set", "flow.height=48"]


def options_of(network):
    return [word for name, value in SMALL[network].items() for word in ("--set", f"options.{name}={value}")]


def record(root, count, first_x):
    """Write recordings with joints, color and depth at 10 Hz, `count` of each of two actions; return the folder."""
    for label, step in (("walk", 0.1), ("stand", 0.0)):
        for number in range(count):
            x = first_x + 0.01 * number
            write_bag(root / label / f"{number}", lambda k, x=x, s=step: [body(x + s * k)], frames=12, images=True)
    return root


@pytest.mark.slow
def test_paper_recipe_refuses_dis_and_takes_what_its_message_prepares(tmp_path, capsys, caplog):
    mine, other = record(tmp_path / "mine", 2, 0.0), record(tmp_path / "other", 1, 0.5)
    prepare = ["prepare", "folder", "--root", str(mine), "--workers", "0", "--quiet"]
    of_dis = tmp_path / "dis/folder"
    assert main([*prepare, "--estimate", "flow", *HEIGHT, "--out", str(of_dis)]) == 0
    assert PreparedDataset(of_dis).scene_flow == {"method": "dis", "height": 48, "rate": 10.0}

    settings = ["dataset=folder", "split=all", "epochs=1", "batch=4", "precision=32-true"]
    settings.append("scene_flow={method: pd_flow, height: 48}")
    train = ["train", "papers/c3d_flow_ntu60", *options_of("c3d_flow")]
    train += [word for each in settings for word in ("--set", each)]
    train += ["--quiet", "--threads", "1", "--out", str(tmp_path / "run"), "--data"]
    capsys.readouterr()
    assert main([*train, str(tmp_path / "dis")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "takes scene flow of method pd_flow, but dataset 'folder' was prepared with dis" in line

    command = shlex.split(line[line.index("actrec prepare") : line.index("; or train")])
    words = [str(tmp_path / "pd_flow/folder") if word == "FOLDER" else word for word in command[1:]]
    assert main([*words, *HEIGHT, *prepare[2:]]) == 0
    assert main([*train, str(tmp_path / "pd_flow")]) == 0
    export = ["export", str(tmp_path / "run/last.ckpt"), "--data", str(tmp_path / "pd_flow")]
    assert main([*export, "--out", str(tmp_path / "model")]) == 0
    stated = package.load(tmp_path / "model").provenance.scene_flow
    assert stated == {"method": "pd_flow", "height": 48, "rate": 10.0}
    assert "pd_flow, 48 px, 10 Hz" in (tmp_path / "model/README.md").read_text()
    assert main(["models", str(tmp_path / "model")]) == 0 and "pd_flow, 48 px, 10 Hz" in capsys.readouterr().out

    for method in ("dis", "pd_flow"):
        words = ["--estimate", "flow", *HEIGHT, "--set", f"flow.method={method}", "--root", str(other)]
        assert main([*prepare, *words, "--out", str(tmp_path / f"other_{method}")]) == 0
    evaluate = ["eval", str(tmp_path / "model"), "--quiet", "--root"]
    caplog.clear()  # of the device that prepared
    assert main([*evaluate, str(tmp_path / "other_pd_flow"), "--strict-inputs"]) == 0
    assert "scene flow" not in caplog.text
    assert main([*evaluate, str(tmp_path / "other_dis")]) == 0
    assert caplog.text.count("model: scene flow has method dis, trained with pd_flow; actrec prepare the dataset") == 1
    capsys.readouterr()
    assert main([*evaluate, str(tmp_path / "other_dis"), "--strict-inputs"]) == 2
    assert "scene flow has method dis, trained with pd_flow" in capsys.readouterr().err

    # The recording is played with the package's own method and height; only its rate may be another.
    label = ["label", str(mine / "walk/0"), "--model", str(tmp_path / "model"), "--json"]
    assert main([*label, "--set", "strict_inputs=true"]) == 0
    said = capsys.readouterr().err
    assert "scene flow by pd_flow on" in said and "scene flow has" not in said
    assert main([*label, "--every", "2"]) == 0
    assert "scene flow has rate 5, trained with 10; use recordings of 10 Hz" in capsys.readouterr().err
    assert main([*label, "--every", "2", "--set", "strict_inputs=true"]) == 1
    assert "scene flow has rate 5, trained with 10; use recordings of 10 Hz" in capsys.readouterr().err


@pytest.mark.slow
def test_models_of_color_and_recordings_of_joints_are_one_line(published, tmp_path, capsys):
    """Train, eval, explain and label refuse recordings without color before they work."""
    model, bag = tmp_path / "p_i3d", write_bag(tmp_path / "walk", lambda k: [body(0.1 * k)])
    export_network("p_i3d", dict(SMALL["p_i3d"]), datasets.DATASETS.get("nucla").classes, model)
    nucla = ["--dataset", "nucla", "--split", "view", "--root", str(published)]
    train = ["train", "--quiet", "--root", str(published), "--out", str(tmp_path / "run")]
    for command in (
        [*train, "papers/p_i3d_nucla", *options_of("p_i3d")],
        [*train, "papers/vpn_nucla", *options_of("vpn_i3d")],
        ["eval", str(model), *nucla, "--quiet"],
        ["explain", str(model), "--out", str(tmp_path / "why"), *nucla],
        ["explain", str(model), str(bag), "--out", str(tmp_path / "why")],
        ["label", str(bag), "--model", str(model)],
    ):
        assert main(command) == 2, command
        (line,) = capsys.readouterr().err.splitlines()
        assert "color" in line and "use " in line and "recording" in line, (command, line)
