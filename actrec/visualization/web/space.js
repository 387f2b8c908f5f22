// 3-D view on a 2-D canvas: the depth image as dim points, and in front of them people as thick lines.
"use strict";

const HOME = { yaw: 0.55, pitch: 0.22, distance: 3.1 };
const POINT_BYTES = 9;
const DIM = 0.85; // brightness of the points
const NEAR_M = 0.1;

class Space {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.cloud = null;
    this.state = null;
    this.reset();
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      held = event;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      const dx = event.clientX - held.clientX, dy = event.clientY - held.clientY;
      held = event;
      if (event.shiftKey || event.buttons === 2) this.move(dx, dy);
      else {
        this.yaw -= 0.008 * dx;
        this.pitch = Math.min(Math.max(this.pitch + 0.008 * dy, -1.5), 1.5);
      }
      this.redraw();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (held = null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.distance = Math.min(Math.max(this.distance * Math.exp(0.001 * event.deltaY), 0.3), 30);
      this.redraw();
    }, { passive: false });
    canvas.addEventListener("dblclick", () => {
      this.reset();
      this.redraw();
    });
  }

  reset() {
    Object.assign(this, HOME);
    this.target = null; // follows the people until it is moved
    this.center = [0, -0.1, 2.5];
    this.floor = -1.2;
  }

  setCloud(view) {
    this.cloud = view && view.byteLength ? view : null;
  }

  draw(state) {
    this.state = state;
    this.axes(state.up || [0, -1, 0]);
    const joints = state.people.flatMap((person) => person.joints.filter(Boolean)).map((joint) => this.level(joint));
    if (joints.length) {
      const middle = [0, 1, 2].map((axis) => joints.reduce((sum, joint) => sum + joint[axis], 0) / joints.length);
      this.center = this.center.map((value, axis) => value + 0.1 * (middle[axis] - value));
      this.floor += 0.05 * (Math.min(...joints.map((joint) => joint[1])) - 0.05 - this.floor);
    }
    this.redraw();
  }

  // Axes of the level frame (right, up, forward) in the optical frame.
  axes(up) {
    const along = up[2];
    let forward = [-along * up[0], -along * up[1], 1 - along * up[2]];
    const length = Math.hypot(...forward);
    // A camera that looks straight down or up: the image's upper edge is ahead.
    forward = length > 0.05 ? forward.map((value) => value / length) : [0, -1, 0];
    const right = [
      forward[1] * up[2] - forward[2] * up[1], forward[2] * up[0] - forward[0] * up[2], forward[0] * up[1] - forward[1] * up[0],
    ].map((value) => value);
    this.basis = [right, up, forward];
  }

  level(p) {
    return this.basis.map((axis) => axis[0] * p[0] + axis[1] * p[1] + axis[2] * p[2]);
  }

  move(dx, dy) {
    const scale = this.distance / this.canvas.clientHeight;
    const target = this.target || [...this.center];
    target[0] -= Math.cos(this.yaw) * dx * scale;
    target[2] -= Math.sin(this.yaw) * dx * scale;
    target[1] += dy * scale;
    this.target = target;
  }

  redraw() {
    const { canvas, context } = this;
    const width = Math.max(canvas.clientWidth, 1), height = Math.max(canvas.clientHeight, 1);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    if (!this.state) return;
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const [tx, ty, tz] = this.target || this.center;
    const focal = 0.95 * Math.min(width * 0.8, height);
    // To the viewer's frame: turned about the target, which is `distance` before the viewer.
    this.view = (x, y, z) => {
      const dx = x - tx, dy = y - ty, dz = z - tz;
      const across = cy * dx + sy * dz, ahead = cy * dz - sy * dx;
      const depth = cp * ahead - sp * dy + this.distance, above = cp * dy + sp * ahead;
      return depth < NEAR_M ? null : [width / 2 + (focal * across) / depth, height / 2 - (focal * above) / depth, depth];
    };
    context.fillStyle = "#1d2127";
    context.fillRect(0, 0, width, height);
    this.drawFloor();
    this.drawCloud(width, height);
    this.drawCamera();
    for (const face of this.state.faces) this.drawPoints(face, 1.2);
    for (const person of this.state.people) this.drawBones(person, 5);
    for (const hand of this.state.hands) this.drawBones(hand, 2);
    const placed = [];
    for (const person of this.state.people) this.drawLabel(person, placed);
  }

  drawFloor() {
    const [x0, , z0] = (this.target || this.center).map(Math.round);
    for (let i = -3; i <= 3; i += 1) {
      this.line([[x0 + i, this.floor, z0 - 3], [x0 + i, this.floor, z0 + 3]], "#343b44", 1);
      this.line([[x0 - 3, this.floor, z0 + i], [x0 + 3, this.floor, z0 + i]], "#343b44", 1);
    }
  }

  drawCamera() {
    const corners = [[-0.2, -0.15], [0.2, -0.15], [0.2, 0.15], [-0.2, 0.15]].map(([x, y]) => this.level([x, y, 0.35]));
    corners.forEach((corner, i) => {
      this.line([[0, 0, 0], corner], "#98a1ab", 1.5);
      this.line([corner, corners[(i + 1) % 4]], "#98a1ab", 1.5);
    });
  }

  drawCloud(width, height) {
    if (!this.cloud) return;
    const pixels = this.context.getImageData(0, 0, width, height), { data } = pixels;
    const nearest = new Float32Array(width * height).fill(Infinity);
    const [right, up, forward] = this.basis;
    for (let at = 0; at + POINT_BYTES <= this.cloud.byteLength; at += POINT_BYTES) {
      const x = this.cloud.getInt16(at, true) / 1000, y = this.cloud.getInt16(at + 2, true) / 1000;
      const z = this.cloud.getInt16(at + 4, true) / 1000;
      const seen = this.view(
        right[0] * x + right[1] * y + right[2] * z, up[0] * x + up[1] * y + up[2] * z,
        forward[0] * x + forward[1] * y + forward[2] * z);
      if (!seen) continue;
      const u = Math.round(seen[0]), v = Math.round(seen[1]);
      for (const [du, dv] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
        if (u + du < 0 || v + dv < 0 || u + du >= width || v + dv >= height) continue;
        const index = (v + dv) * width + u + du;
        if (nearest[index] <= seen[2]) continue;
        nearest[index] = seen[2];
        for (let channel = 0; channel < 3; channel += 1) {
          data[4 * index + channel] = DIM * this.cloud.getUint8(at + 6 + channel);
        }
      }
    }
    this.context.putImageData(pixels, 0, 0);
  }

  drawBones(body, width) {
    const joints = body.joints.map((joint) => joint && this.level(joint));
    for (const [color, extra] of [["#0b0d10", 3], [body.color, 0]]) {
      for (const [a, b] of body.bones) this.line([joints[a], joints[b]], color, width + extra);
    }
    if (width > 3) this.drawPoints({ ...body, color: "#fff" }, 2.2);
  }

  drawPoints(body, radius) {
    this.context.fillStyle = body.color;
    for (const joint of body.joints) {
      const seen = joint && this.view(...this.level(joint));
      if (!seen) continue;
      this.context.beginPath();
      this.context.arc(seen[0], seen[1], radius, 0, 2 * Math.PI);
      this.context.fill();
    }
  }

  // Draws a label above a head, and above the labels that it would cover.
  drawLabel(person, placed) {
    const joints = person.joints.filter(Boolean).map((joint) => this.level(joint));
    if (!joints.length) return;
    const top = joints.reduce((a, b) => (a[1] > b[1] ? a : b));
    const seen = this.view(top[0], top[1] + 0.22, top[2]);
    if (!seen) return;
    const { context } = this;
    context.font = "600 15px system-ui, sans-serif";
    context.textAlign = "center";
    const text = person.label || person.id, half = context.measureText(text).width / 2 + 6;
    const x = Math.min(Math.max(seen[0], half), Math.max(this.canvas.width - half, half));
    let y = Math.min(seen[1], this.canvas.height - 8);
    for (const other of [...placed].sort((a, b) => b.y - a.y)) {
      if (Math.abs(x - other.x) < half + other.half && Math.abs(y - other.y) < 24) y = other.y - 24;
    }
    y = Math.max(y, 20);
    placed.push({ x, y, half });
    context.fillStyle = person.known ? person.color : "#60646a";
    context.fillRect(x - half, y - 16, 2 * half, 22);
    context.fillStyle = person.known ? "#14171b" : "#e8ebee";
    context.fillText(text, x, y);
  }

  line(ends, color, width) {
    const [a, b] = ends.map((end) => this.view(...end));
    if (!a || !b) return;
    Object.assign(this.context, { strokeStyle: color, lineWidth: width, lineCap: "round" });
    this.context.beginPath();
    this.context.moveTo(a[0], a[1]);
    this.context.lineTo(b[0], b[1]);
    this.context.stroke();
  }
}
