"""`actrec doctor`: each check with a healthy and a broken installation, and the command."""

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from actrec import cli
from actrec.cli import doctor
from actrec.cli.doctor import Finding
from actrec.inference import zoo
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.errors import DeviceError, MissingLibraryError


def plug_in(usb: Path, vendor: str, product: str, speed: str = "5000", port: str = "2-1") -> None:
    """Create a USB device folder in the kernel's layout."""
    folder = usb / port
    folder.mkdir(parents=True)
    for name, text in {"idVendor": vendor, "product": product, "speed": speed}.items():
        (folder / name).write_text(text + "\n")


def test_check_cameras_without_camera_suggests_simulated_driver(tmp_path: Path) -> None:
    (finding,) = doctor.check_cameras(tmp_path)
    assert finding.state == "gap"
    assert "--driver simulated" in finding.remedy


@pytest.mark.parametrize(("speed", "links"), [("5000", 0), ("480", 2)])
def test_check_cameras_microphone_of_an_azure_kinect_is_no_slow_link(tmp_path: Path, speed: str, links: int) -> None:
    """It is a USB 2 device in any case."""
    plug_in(tmp_path, "045e", "Azure Kinect 4K Camera", speed=speed, port="2-1")
    plug_in(tmp_path, "045e", "Azure Kinect Microphone Array", speed="480", port="1-1")
    assert [finding.name for finding in doctor.check_cameras(tmp_path)].count("Azure Kinect link") == links


def test_check_cameras_unknown_speed_of_a_device_is_no_error(tmp_path: Path) -> None:
    """As Linux writes it."""
    plug_in(tmp_path, "1234", "Hub", speed="unknown", port="1-2")
    plug_in(tmp_path, "8086", "Intel(R) RealSense(TM) Depth Camera 435i", speed="unknown")
    assert "Intel RealSense link" not in [finding.name for finding in doctor.check_cameras(tmp_path)]


def test_check_cameras_realsense_names_driver_library(tmp_path: Path) -> None:
    plug_in(tmp_path, "8086", "Intel(R) RealSense(TM) Depth Camera 435i")
    finding = next(doctor.check_cameras(tmp_path))
    assert finding.name == "Intel RealSense"
    assert "435i" in finding.value
    assert finding.ok == (importlib.util.find_spec("pyrealsense2") is not None)
    assert "pyrealsense2" in finding.remedy


def test_check_cameras_realsense_lists_serials_and_calibrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actrec.cameras.realsense import device

    plug_in(tmp_path, "8086", "Intel(R) RealSense(TM) Depth Camera 435i")
    *_, found = doctor.check_cameras(tmp_path)
    assert not found.ok and found.value == "finds no device" and "udev" in found.remedy
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    lens = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
    calibration_files.write_intrinsics(calibration_files.path_of("12", calibration_files.COLOR), lens, "12")
    (tmp_path / "cameras/34_mount.yaml").write_text("parent_frame: base\n")
    monkeypatch.setattr(device, "connected", lambda context: dict.fromkeys(("12", "34", "56")))
    *_, found = doctor.check_cameras(tmp_path)
    assert found.ok and found.value.startswith("serial 12, own calibration of color; serial 34, ")
    assert "34_mount.yaml" in found.value and found.value.endswith("serial 56, factory calibration")


def test_check_cameras_azure_kinect_without_sdk_is_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actrec.cameras.azure_kinect import sdk

    def load(part: str) -> None:
        raise MissingLibraryError("no libk4a")

    plug_in(tmp_path, "045e", "Azure Kinect 4K Camera")
    monkeypatch.setattr(sdk, "load", load)
    *_, found = doctor.check_cameras(tmp_path)
    assert (found.name, found.ok, found.value) == ("libk4a", False, "no libk4a") and "K4A wrapper" in found.remedy
    monkeypatch.setattr(sdk, "load", lambda part: None)
    *_, found = doctor.check_cameras(tmp_path)
    assert found.ok


@pytest.mark.parametrize("depth_scale", [0.001, 0.01])
def test_check_frames_wrong_depth_unit_names_depth_scale_that_mends_it(data_root: Path, depth_scale: float) -> None:
    recording = {"path": str(data_root / "rgbd/person_turning"), "intrinsics": "525,525,319.5,239.5", "rate": 0.0}
    rate, unit = doctor.check_frames("replay", {**recording, "depth_scale": depth_scale})
    assert (rate.ok, rate.value) == (True, "30 Hz")
    assert unit.ok == (depth_scale == 0.001)
    assert unit.ok or ("wrong by a factor of 10" in unit.value and unit.remedy.startswith("set depth_scale to 0.001 m"))


def test_check_frames_of_a_camera_upside_down_takes_its_mount() -> None:
    camera = {"camera_roll": 180.0, "mount": "upside_down", "realtime": False, "actions": ["idle"]}
    rate, unit = doctor.check_frames("simulated", camera)
    assert rate.ok and unit.ok, (rate, unit)


def test_check_frames_slow_camera_without_people_names_rate_and_missing_person() -> None:
    camera = {"fps": 4.0, "actors": 0, "realtime": False, "width": 160, "height": 120}
    rate, unit = doctor.check_frames("simulated", camera)
    assert (rate.state, rate.remedy) == ("gap", "use a source of 5 Hz or more")
    assert "too few frames" in unit.value and "stand in view" in unit.remedy


def test_check_frames_without_onnxruntime_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in [
        name for name in sys.modules if name.startswith(("actrec.perception", "actrec.inference.onnxruntime_backend"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    _, unit = doctor.check_frames("simulated", {"realtime": False, "width": 160, "height": 120})
    assert unit.state == "gap" and "onnxruntime" in unit.value


def test_check_frames_single_frame_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MAX_FRAMES", 1)
    rate, _ = doctor.check_frames("simulated", {"realtime": False, "width": 160, "height": 120})
    assert (rate.state, rate.value) == ("gap", "unknown, frames: 1")


def test_doctor_model_without_driver_or_unknown_is_refused_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--model", "deepacts_graph_nucla"]) == 2
    assert cli.main(["doctor", "--driver", "simulated", "--model", "nosuch"]) in (1, 2)
    captured = capsys.readouterr()
    assert "--driver" in captured.err and "nosuch" in captured.err and not captured.out


def test_check_frames_camera_that_does_not_open_is_fault() -> None:
    (finding,) = doctor.check_frames("replay", {"path": "/nowhere"})
    assert finding.state == "fault" and "no recording '/nowhere'" in finding.value


def test_check_cameras_ignores_other_devices_of_a_maker(tmp_path: Path) -> None:
    plug_in(tmp_path, "8086", "Bluetooth 9460/9560")
    plug_in(tmp_path, "045e", "Wired Keyboard 600", port="1-2")
    (finding,) = doctor.check_cameras(tmp_path)
    assert finding.value == "none on USB"


def test_check_cameras_usb2_link_is_gap(tmp_path: Path) -> None:
    plug_in(tmp_path, "2bc5", "Orbbec Gemini 335", speed="480")
    found = list(doctor.check_cameras(tmp_path))
    assert any(finding.name == "Orbbec link" and "USB 3" in finding.remedy for finding in found)


def test_check_socket_buffers_small_is_gap(tmp_path: Path) -> None:
    (tmp_path / "rmem_max").write_text("212992\n")
    (tmp_path / "wmem_max").write_text("4194304\n")
    small, large = doctor.check_socket_buffers(tmp_path)
    assert (small.state, large.state) == ("gap", "ok")
    assert "sysctl -w net.core.rmem_max" in small.remedy


def figures(share: float) -> dict[str, float]:
    arrived = round(60 * share)
    return {"sent": 60, "arrived": arrived, "share": share, "median_ms": 2.5, "p95_ms": 4.0}


def test_check_transport_losing_most_images_is_fault_with_profile_and_gap_without() -> None:
    found = {f.name: f for f in doctor.check_transport(lambda seconds, with_profile: figures(0.2))}
    assert found["images, actrec's profile"].state == "fault"
    assert found["images, default profile"].state == "gap"
    assert "20%" in found["images, default profile"].value


def test_check_transport_remedies_name_the_variable_of_fast_dds_3() -> None:
    found = doctor.check_transport(lambda seconds, with_profile: figures(0.1))
    remedies = [finding.remedy for finding in found if finding.name.startswith("images")]
    assert len(remedies) == 2 and all("FASTDDS_DEFAULT_PROFILES_FILE" in remedy for remedy in remedies)


def test_check_transport_losing_some_images_is_gap() -> None:
    found = {f.name: f for f in doctor.check_transport(lambda seconds, with_profile: figures(0.7))}
    assert found["images, actrec's profile"].state == "gap"


def test_check_transport_without_arrivals_omits_latency() -> None:
    found = {f.name: f for f in doctor.check_transport(lambda seconds, with_profile: figures(0.0))}
    assert "median" not in found["images, actrec's profile"].value


def test_check_transport_measurement_error_is_reported() -> None:
    def broken(seconds: float, with_profile: bool) -> dict[str, float]:
        raise DeviceError("no discovery")

    found = list(doctor.check_transport(broken))
    assert [f.value for f in found if "images" in f.name] == ["no discovery"] * 2


def test_doctor_starts_without_the_libraries_that_it_checks() -> None:
    absent = sorted({*doctor.REQUIRED, *doctor.OPTIONAL} - {"numpy"})
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import actrec.cli.doctor"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_check_library_missing_and_required_is_fault() -> None:
    finding = doctor.check_library("no_such_library", "install it", required=True)
    assert (finding.state, finding.remedy) == ("fault", "install it")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("raise ImportError('libGL.so.1: no such file')", "does not load: ImportError: libGL.so.1: no such file"),
        ("import os; os.abort()", "does not load: it ends Python with signal 6"),
    ],
)
def test_check_library_failing_import_is_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str
) -> None:
    (tmp_path / "broken_library.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor.check_library("broken_library", "pip install it", required=True)
    assert finding.state == "fault" and finding.value.startswith(value)
    assert finding.remedy.startswith("install the libraries that it links") and finding.remedy.endswith(
        "pip install it"
    )


def test_check_messages_build_before_the_newest_message_is_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("actrec_msgs", reason="needs the messages: make build && . scripts/env.sh")
    for name in ("", "msg", "srv"):
        (tmp_path / "actrec_msgs" / name).mkdir(parents=True)
        (tmp_path / "actrec_msgs" / name / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    finding = doctor.check_messages()
    assert finding.state == "fault" and "cannot import name 'ActionEvent'" in finding.value
    assert finding.remedy.startswith("make build")


def test_check_opencv_wheels_two_installed_is_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "4.11.0" if name.startswith("opencv-") else real(name)
    )
    finding = doctor.check_opencv_wheels()
    assert finding.state == "fault"
    assert "pip uninstall" in finding.remedy


def test_check_onnxruntime_without_gpu_provider_is_gap_except_on_jetson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_has_cuda_driver", lambda: True)
    assert "onnxruntime-gpu" in doctor.check_onnxruntime().remedy
    assert not doctor.check_onnxruntime().ok
    release = tmp_path / "nv_tegra_release"
    release.touch()
    monkeypatch.setattr(doctor, "JETSON_RELEASE", release)
    assert doctor.check_onnxruntime().ok


def test_check_cuda_bindings_missing_is_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda", "cuda"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor.check_cuda_bindings()
    assert (finding.state, finding.value) == ("gap", "neither pycuda nor cuda-python")
    assert "pip install cuda-python" in finding.remedy
    (tmp_path / "cuda/cudart.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    value = "neither pycuda nor cuda-python; cuda-python does not load: ImportError: libcudart.so.12: cannot open"
    assert doctor.check_cuda_bindings().value == value
    (tmp_path / "cuda/cudart.py").write_text("")
    assert doctor.check_cuda_bindings().ok and doctor.check_cuda_bindings().value == "cuda-python"
    (tmp_path / "pycuda/driver.py").touch()
    assert doctor.check_cuda_bindings().value == "pycuda", "pycuda comes first if both are installed"
    monkeypatch.setattr(doctor, "_has_cuda_driver", lambda: True)
    monkeypatch.setattr(doctor, "check_library", lambda name, remedy, required: Finding("software", name, True, "1"))
    assert "CUDA in Python" in [found.name for found in doctor.check_software()]
    for present, checked in [((), "tensorrt"), (("tensorrt_rtx_bindings",), "tensorrt_rtx_bindings")]:
        monkeypatch.setattr(doctor, "_is_installed", lambda name, present=present: name in present)
        assert [found.name for found in doctor.check_software() if "tensorrt" in found.name] == [checked]


def test_check_models_broken_package_is_gap_and_none_usable_is_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken_model"
    broken.mkdir()
    (broken / "model.yaml").write_text("schema: [")
    monkeypatch.setattr(zoo, "folders", lambda: [tmp_path])
    found = list(doctor.check_models())
    assert [(f.name, f.state) for f in found] == [("broken_model", "gap"), ("model package", "fault")]


def run(monkeypatch: pytest.MonkeyPatch, found: list[Finding], *options: str) -> int:
    monkeypatch.setattr(doctor, "findings", lambda with_transport: iter(found))
    return cli.main(["doctor", *options])


GOOD = Finding("software", "numpy", True, "1.26.4", required=True)
GAP = Finding("cameras", "RGB-D camera", False, "none on USB", "plug one in")
FAULT = Finding("software", "ROS 2", False, "rclpy is not importable", "source it", required=True)


def test_doctor_exit_status_is_one_on_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, [GOOD, GAP]) == 0
    assert "plug one in" in capsys.readouterr().out
    assert run(monkeypatch, [GOOD, FAULT]) == 1
    assert "cannot run: ROS 2" in capsys.readouterr().out


def test_doctor_installed_by_pip_without_ros_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = doctor._is_installed
    absent = {"rclpy", "actrec_msgs", "rosbags"}
    monkeypatch.setattr(doctor, "_is_installed", lambda module: module not in absent and installed(module))
    checks = [doctor.check_ros(), doctor.check_messages(), doctor.check_library("rosbags", doctor.LIVE, True)]
    assert {finding.state for finding in checks} == {"fault"}, "a clone can have the graph"
    monkeypatch.setattr(doctor.folders, "__file__", str(tmp_path / "lib/site-packages/actrec/utils/folders.py"))
    checks = [doctor.check_ros(), doctor.check_messages(), doctor.check_library("rosbags", doctor.LIVE, True)]
    assert {finding.state for finding in checks} == {"gap"}
    assert all("only for bags, and in a clone for the graph" in finding.remedy for finding in checks)
    assert run(monkeypatch, checks) == 0
    assert "actrec label can run; the graph needs ROS 2. 3 gaps are optional." in capsys.readouterr().out
    assert run(monkeypatch, checks, "--json") == 0
    assert json.loads(capsys.readouterr().out)["can_run"] is False


def test_doctor_json_lists_states(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, [GOOD, GAP], "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_run"] is True
    assert [row["state"] for row in report["findings"]] == ["ok", "gap"]


def test_findings_on_this_machine_have_values_and_remedies() -> None:
    for finding in doctor.findings(with_transport=False):
        assert finding.value
        assert finding.ok or finding.remedy, finding


def test_add_arguments_no_transport_parses() -> None:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert parser.parse_args(["--no-transport"]).no_transport
