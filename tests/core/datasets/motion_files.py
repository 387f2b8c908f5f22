"""Small archives of the motion datasets, and files written after their published formats from the same joints."""

import zipfile
from pathlib import Path

import numpy as np

from actrec.datasets import bandai_namco, cad60, hdm05, kard, kinder_gator
from actrec.skeleton.layouts import ASF_31, BVH_21

FOLDERS = {"bandai_namco": "bandai_namco", "cad60": "cad60", "hdm05": "hdm05_eleven", "kard": "kard",
           "kinder_gator": "kinder_gator"}  # fmt: skip
SOURCES = {
    "bandai_namco": bandai_namco.BandaiNamco, "cad60": cad60.Cad60, "hdm05": hdm05.Hdm05, "kard": kard.Kard,
    "kinder_gator": kinder_gator.KinderGator,
}  # fmt: skip
CLIPS = {"bandai_namco": (0, 20, 50), "cad60": (1, 37, 60), "hdm05": (0, 150, 286), "kard": (0, 300, 539),
         "kinder_gator": (0, 700, 1158)}  # fmt: skip
FRAMES = 40


def shorten(source: Path, target: Path, clips: tuple[int, ...]) -> None:
    """Write an archive of some clips, each of at most `FRAMES` frames."""
    with np.load(source) as archive:
        arrays = {key: archive[key] for key in archive.files if key != "xyz"}
    starts = np.concatenate([[0], np.cumsum(arrays["length"])])
    with zipfile.ZipFile(source) as archive, archive.open("xyz.npy") as file:  # the frames up to the last clip alone
        assert np.lib.format.read_magic(file) == (1, 0)
        (total, joints, _), _, dtype = np.lib.format.read_array_header_1_0(file)
        end = int(starts[max(clips) + 1])
        arrays["xyz"] = np.frombuffer(file.read(end * joints * 3 * dtype.itemsize), dtype).reshape(end, joints, 3)
    chosen = np.concatenate([np.arange(starts[k], min(starts[k + 1], starts[k] + FRAMES)) for k in clips])
    clip_count = len(arrays["length"])
    arrays["length"] = np.minimum(arrays["length"], FRAMES)
    for key, value in arrays.items():
        if len(value) in (end, total):
            arrays[key] = value[chosen]
        elif len(value) == clip_count:
            arrays[key] = value[list(clips)]
    np.savez(target, **arrays)


def write_kard(folder: Path, clip: int, arrays: dict[str, np.ndarray], xyz: np.ndarray) -> Path:
    """Write `aAA_sSS_eEE_realworld.txt`: a joint a line, mm, x to the sensor's right."""
    a, s, t = (int(arrays[key][clip]) for key in ("action", "subject", "trial"))
    path = folder / f"a{a:02d}_s{s:02d}_e{t:02d}_realworld.txt"
    rows = (xyz * [-1000, 1000, 1000]).reshape(-1, 3)
    path.write_text("".join(" ".join(f"{value:.4f}" for value in row) + "\n" for row in rows))
    return path


def write_cad60(folder: Path, clip: int, arrays: dict[str, np.ndarray], xyz: np.ndarray) -> Path:
    """Write `data<person>/<number>.txt` and its entry in `activityLabel.txt`."""
    person = folder / f"data{arrays['subject'][clip]}"
    person.mkdir(exist_ok=True)
    lines = []
    for frame, joints in enumerate(xyz * 1000, 1):
        cells: list[str] = [str(frame)]
        for j, joint in enumerate(joints):
            cells += (["0.5"] * 9 + ["1"] if j < 11 else []) + [f"{value:.4f}" for value in joint] + ["1"]
        lines.append(",".join(cells) + ",\n")
    path = person / f"05101754{clip:02d}.txt"
    path.write_text("".join(lines) + "END\n")
    listed, label = person / "activityLabel.txt", cad60.CLASSES[cad60.ARCHIVED[arrays["action"][clip] - 1]]
    before = listed.read_text().removesuffix("END\n") if listed.is_file() else ""
    listed.write_text(f"{before}{path.stem},{label},\nEND\n")
    return path


def write_kinder_gator(folder: Path, clip: int, arrays: dict[str, np.ndarray], xyz: np.ndarray) -> Path:
    """Write `POSE-p<subject>_<order>-<action>-<time>.csv`."""
    seconds = np.split(arrays["seconds"], np.cumsum(arrays["length"])[:-1])[clip].astype(np.float64)
    subject, name = arrays["subject"][clip], arrays["names"][arrays["action"][clip]]
    header = "Timestamp,HipCenterX," + ",".join(f"C{i}" for i in range(59)) + ",User-ID,Action,\n"
    rows = [
        f"{36794471.5 + 1000 * second:.4f},{','.join(f'{v:.6f}' for v in joints.reshape(-1))},{subject},{name},\n"
        for second, joints in zip(seconds, xyz, strict=True)
    ]
    path = folder / f"POSE-p{subject}_{arrays['order'][clip]:02d}-{name}-1469182402284.csv"
    path.write_text(header + "".join(rows))
    return path


BONES = [
    "Hips", "Spine", "Chest", "Neck", "Head", "Shoulder_L", "UpperArm_L", "LowerArm_L", "Hand_L", "Shoulder_R",
    "UpperArm_R", "LowerArm_R", "Hand_R", "UpperLeg_L", "LowerLeg_L", "Foot_L", "Toes_L", "UpperLeg_R", "LowerLeg_R",
    "Foot_R", "Toes_R",
]  # fmt: skip


def bvh_text(xyz: np.ndarray, names: list[str], scale: float = 100.0, fps: float = 30.0) -> str:
    """Return a BVH file whose joints have positions, like Bandai-Namco's, no rotation, and the first pose at rest."""
    local = (xyz - np.where(np.arange(21)[:, None] == 0, 0, xyz[:, BVH_21.parents])) * scale

    def joint(v: int) -> str:
        children = [c for c, p in enumerate(BVH_21.parents) if p == v and c != v]
        inner = "".join(joint(c) for c in children) or "End Site\n{\nOFFSET 0 0 0\n}\n"
        channels = "CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation\n"
        x, y, z = local[0, v]
        return f"JOINT {names[v]}\n{{\nOFFSET {x:.6f} {y:.6f} {z:.6f}\n{channels}{inner}}}\n"

    def order(v: int) -> list[int]:
        return [v, *(u for c, p in enumerate(BVH_21.parents) if p == v and c != v for u in order(c))]

    root = "HIERARCHY\nROOT joint_Root\n{\nOFFSET 0 0 0\nCHANNELS 3 Xposition Yposition Zposition\n"
    rows = ["0 0 0 " + " ".join(f"{x:.6f} {y:.6f} {z:.6f} 0 0 0" for x, y, z in frame[order(0)]) for frame in local]
    return f"{root}{joint(0)}}}\nMOTION\nFrames: {len(xyz)}\nFrame Time: {1 / fps:.9f}\n" + "\n".join(rows) + "\n"


def write_bandai_namco(folder: Path, clip: int, arrays: dict[str, np.ndarray], xyz: np.ndarray) -> Path:
    """Write `dataset-N_CONTENT_STYLE_NNN.bvh`."""
    content, style = arrays["contents"][arrays["content"][clip]], arrays["styles"][arrays["style"][clip]]
    path = folder / f"dataset-{arrays['dataset'][clip]}_{content}_{style}_001.bvh"
    path.write_text(bvh_text(xyz, BONES))
    return path


WRITERS = {"bandai_namco": write_bandai_namco, "cad60": write_cad60, "kard": write_kard,
           "kinder_gator": write_kinder_gator}  # fmt: skip


def asf_text(length: float = 0.45) -> str:
    """Return an ASF file of a plain skeleton: legs down, arms out, the left at +x, facing +z; lengths in 0.45 inch."""
    directions = {
        "hipjoint": (0.8, -0.6, 0), "femur": (0, -1, 0), "tibia": (0, -1, 0), "foot": (0, -0.6, 0.8), "toes": (0, 0, 1),
        "clavicle": (1, 0, 0), "lowerback": (0, 1, 0),
    }  # fmt: skip
    lengths = {"femur": 7.0, "tibia": 6.8, "humerus": 4.9, "radius": 3.2, "clavicle": 3.0}
    bones, edges = [], {}
    for v, joint in enumerate(ASF_31.joints):
        if v == 0:
            continue
        kind, _, side = joint.partition("_")
        arm = side and kind in ("clavicle", "humerus", "radius", "wrist", "hand", "fingers", "thumb")
        x, y, z = directions.get(kind, (1, 0, 0) if arm else (0, 1, 0))
        x = -x if side == "right" else x
        dof = "" if kind in ("hipjoint",) else "dof rx\n" if kind == "tibia" else "dof rx ry rz\n"
        bones.append(
            f"begin\nid {v}\nname {side[:1]}{kind}\ndirection {x} {y} {z}\nlength {lengths.get(kind, 2.0)}\n"
            f"axis 0 0 20 XYZ\n{dof}end\n"
        )
        parent = hdm_name(ASF_31.joints[ASF_31.parents[v]])
        edges.setdefault(parent, []).append(f"{side[:1]}{kind}")
    tree = "".join(f"{parent} {' '.join(children)}\n" for parent, children in edges.items())
    return (
        f":version 1.10\n:units\nmass 1.0\nlength {length}\nangle deg\n:root\norder TX TY TZ RX RY RZ\naxis XYZ\n"
        f"position 0 0 0\norientation 0 0 0\n:bonedata\n{''.join(bones)}:hierarchy\nbegin\n{tree}end\n"
    )


def hdm_name(joint: str) -> str:
    """Return the name of a bone in an ASF file."""
    bone, _, side = joint.partition("_")
    return side[:1] + bone


def amc_text(frames: list[dict[str, str]]) -> str:
    """Return an AMC file; bones without values in a frame are at rest."""
    text = ":FULLY-SPECIFIED\n:DEGREES\n"
    for number, values in enumerate(frames, 1):
        text += f"{number}\nroot {values.get('root', '0 17 0 0 0 0')}\n"
        for joint in ASF_31.joints[1:]:
            name = hdm_name(joint)
            if "hipjoint" not in name:
                text += f"{name} {values.get(name, '0' if 'tibia' in name else '0 0 0')}\n"
    return text
