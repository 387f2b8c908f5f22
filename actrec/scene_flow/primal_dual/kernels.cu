// Primal-dual scene flow on a GPU, from color and depth to velocities. The kernels correspond to functions in cpu.py,
// sweeps.py and __init__.py.
//
// Images are planes of rows * columns floats. `pair` is what gpu.py writes for each pair of images: see the enum below.
// Tests without a GPU compile the kernels as plain C++, with one coroutine a thread.

#define EACH_PIXEL(x, y)                                                                                  \
  for (int y = blockIdx.y * blockDim.y + threadIdx.y; y < rows; y += gridDim.y * blockDim.y)              \
    for (int x = blockIdx.x * blockDim.x + threadIdx.x; x < columns; x += gridDim.x * blockDim.x)

// Planes of a state, of a level's terms, and passed on to the next finer level, as in sweeps.py and cpu.py.
enum { U, V, W, U_BAR, V_BAR, W_BAR, PD, PUX, PUY, PVX, PVY, PWX, PWY, STATE };
enum { IT, IX, IY, ZT, ZX, ZY, SIGMA, RX, RY, MZX_U, MZY_V, M_W, TAU_IU, TAU_IV, TAU_W, STEP_IX, STEP_IY, REACH, TERMS };
enum { KEPT = 10 };

// Values of a pair: intrinsics, the time between the images, and 1 to start from the flow of the previous pair.
enum { FX, FY, CX, CY, DT, WARM, PAIR };

// A block iterates a tile TOGETHER times between two passes over memory. An iteration propagates values by one pixel, so
// the tile is exact inside a margin of TOGETHER pixels, which the neighboring blocks write.
enum { TOGETHER = 5, TILE = 32, INNER = TILE - 2 * TOGETHER };

static __device__ const float EPS = 1e-10f, LARGEST = 3.402823e38f;

static __device__ inline float clamped(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

static __device__ inline float mask(int k) { return k == 0 ? 0.375f : (k == 1 || k == -1) ? 0.25f : 0.0625f; }

// Gray of the 8-bit RGB color, rounded as by OpenCV; depth 0 for missing.
extern "C" __global__ void convert(const unsigned char *color, const float *raw, float *gray, float *depth, int rows,
                                   int columns) {
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    const unsigned char *c = color + 3 * i;
    gray[i] = (c[0] * 9798 + c[1] * 19235 + c[2] * 3735 + (1 << 14)) >> 15;
    depth[i] = raw[i] > 0 && raw[i] <= LARGEST ? raw[i] : 0;
  }
}

// The next coarser level: gray averaged by the binomial mask, depth by it among the pixels of the same surface.
extern "C" __global__ void half_size(const float *gray, const float *depth, int fine_rows, int fine_columns,
                                     float depth_step, float *out_gray, float *out_depth, int rows, int columns) {
  EACH_PIXEL(x, y) {
    const float middle = depth[2 * y * fine_columns + 2 * x];
    float total = 0, share = 0, deep = 0, near = 0;
    for (int j = -2; j <= 2; j++) {
      for (int i = -2; i <= 2; i++) {
        const int v = 2 * y + j, u = 2 * x + i;
        if (v < 0 || v >= fine_rows || u < 0 || u >= fine_columns) continue;
        const float weight = mask(j) * mask(i), value = depth[v * fine_columns + u];
        total += weight * gray[v * fine_columns + u];
        share += weight;
        const float apart = fabsf(value - middle);
        if (value > 0 && apart < depth_step) {
          deep += weight * (depth_step - apart) * value;
          near += weight * (depth_step - apart);
        }
      }
    }
    out_gray[y * columns + x] = total / share;
    out_depth[y * columns + x] = middle > 0 ? deep / near : 0;
  }
}

// The initial planes of the coarsest level: the flow of the previous pair, sampled each `step` pixels, or no motion.
extern "C" __global__ void begin(const float *flow, const float *pair, int fine_rows, int fine_columns, int step,
                                 float *out, int rows, int columns) {
  const int plane = rows * columns;
  EACH_PIXEL(x, y) {
    const int i = y * columns + x, from = y * step * fine_columns + x * step;
    for (int k = 0; k < KEPT; k++) out[k * plane + i] = 0;
    if (!(pair[WARM] > 0)) continue;
    for (int k = 0; k < 3; k++) out[k * plane + i] = flow[k * fine_rows * fine_columns + from] / (k < 2 ? step : 1);
  }
}

struct Lens {
  float fx, fy, cx, cy;
};

static __device__ inline Lens lens(const float *pair, float scale) {
  return {scale * pair[FX], scale * pair[FY], scale * pair[CX], scale * pair[CY]};
}

static __device__ inline float closeness(float side, float away) {
  const float apart = sqrtf(side * side + away * away);
  return apart > 0 ? 2 / apart : 1;
}

// r_x, from a pixel to its right neighbor; 1 at the border.
static __device__ inline float to_right(const float *depth, Lens c, int x, int y, int columns) {
  if (x + 1 >= columns) return 1;
  const float z = depth[y * columns + x], right = depth[y * columns + x + 1];
  return closeness(((x + 1 - c.cx) * right - (x - c.cx) * z) / c.fx, right - z);
}

// r_y, from a pixel to its lower neighbor; 1 at the border.
static __device__ inline float to_lower(const float *depth, Lens c, int x, int y, int rows, int columns) {
  if (y + 1 >= rows) return 1;
  const float z = depth[y * columns + x], down = depth[(y + 1) * columns + x];
  return closeness(((y + 1 - c.cy) * down - (y - c.cy) * z) / c.fy, down - z);
}

// Gradients of gray and of depth as four planes ix, iy, zx, zy; `scale` is of the level's intrinsics.
extern "C" __global__ void gradients(const float *gray, const float *depth, const float *pair, float scale, float *out,
                                     int rows, int columns) {
  const int plane = rows * columns;
  const Lens camera = lens(pair, scale);
  EACH_PIXEL(x, y) {
    const int i = y * columns + x, left = x > 0 ? i - 1 : i, right = x < columns - 1 ? i + 1 : i;
    const int up = y > 0 ? i - columns : i, down = y < rows - 1 ? i + columns : i;
    const float a = right > i ? to_right(depth, camera, x, y, columns) : 0;
    const float b = left < i ? to_right(depth, camera, x - 1, y, columns) : 0;
    const float c = down > i ? to_lower(depth, camera, x, y, rows, columns) : 0;
    const float d = up < i ? to_lower(depth, camera, x, y - 1, rows, columns) : 0;
    const float across = fmaxf(a + b, EPS), along = fmaxf(c + d, EPS), g = gray[i], z = depth[i];
    out[i] = (a * (gray[right] - g) + b * (g - gray[left])) / across;
    out[plane + i] = (c * (gray[down] - g) + d * (g - gray[up])) / along;
    out[2 * plane + i] = z > 0 ? (a * (depth[right] - z) + b * (z - depth[left])) / across : 0;
    out[3 * plane + i] = z > 0 ? (c * (depth[down] - z) + d * (z - depth[up])) / along : 0;
  }
}

struct Between {  // A point between four pixels.
  int i00, i01, i10, i11;
  float w00, w01, w10, w11;
};

static __device__ inline Between between(float px, float py, int rows, int columns) {
  const int x0 = min((int)px, max(columns - 2, 0)), y0 = min((int)py, max(rows - 2, 0));
  const int x1 = min(x0 + 1, columns - 1), y1 = min(y0 + 1, rows - 1);
  const float a = px - x0, b = py - y0;
  return {y0 * columns + x0, y0 * columns + x1, y1 * columns + x0, y1 * columns + x1,
          (1 - a) * (1 - b), a * (1 - b),       (1 - a) * b,       a * b};
}

static __device__ inline float at(const float *values, const Between &p) {
  return p.w00 * values[p.i00] + p.w01 * values[p.i01] + p.w10 * values[p.i10] + p.w11 * values[p.i11];
}

static __device__ inline bool valid(float depth, float weight) { return depth > 0 || weight <= 1e-6f; }

// The terms of the energy about the flow `start` (planes u, v, …).
extern "C" __global__ void make_terms(const float *gray0, const float *depth0, const float *gray1, const float *depth1,
                                      const float *slopes, const float *start, const float *pair, float scale,
                                      float smooth_i, float smooth_d, float depth_weight, float edges, float *out,
                                      float *change, int rows, int columns) {
  const int plane = rows * columns;
  const Lens camera = lens(pair, scale);
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    const float du = start[i], dv = start[plane + i];
    const float px = clamped(x + du, 0, columns - 1), py = clamped(y + dv, 0, rows - 1);
    const Between p = between(px, py, rows, columns);
    const float it = at(gray1, p) - gray0[i], gx = at(slopes, p), gy = at(slopes + plane, p);
    const float hx = at(slopes + 2 * plane, p), hy = at(slopes + 3 * plane, p);
    const bool whole = valid(depth1[p.i00], p.w00) && valid(depth1[p.i01], p.w01) && valid(depth1[p.i10], p.w10) &&
                       valid(depth1[p.i11], p.w11);
    const float z = whole ? at(depth1, p) : depth1[(int)(py + 0.5f) * columns + (int)(px + 0.5f)];
    const float zt = z > 0 ? z - depth0[i] : 0;
    change[i] = zt;
    const float mu = depth_weight / (1 + edges * (hx * hx + hy * hy + zt * zt));
    const float rx = to_right(depth0, camera, x, y, columns), ry = to_lower(depth0, camera, x, y, rows, columns);
    const float around = rx + ry + (x > 0 ? to_right(depth0, camera, x - 1, y, columns) : 0) +
                         (y > 0 ? to_lower(depth0, camera, x, y - 1, rows, columns) : 0);
    const float tau_u = 1 / (mu * fabsf(hx) + smooth_i * around + EPS);
    const float tau_v = 1 / (mu * fabsf(hy) + smooth_i * around + EPS);
    const float tau_w = 1 / (mu + smooth_d * around + EPS);
    out[IT * plane + i] = it - gx * du - gy * dv;
    out[IX * plane + i] = gx;
    out[IY * plane + i] = gy;
    out[ZT * plane + i] = zt - hx * du - hy * dv;
    out[ZX * plane + i] = hx;
    out[ZY * plane + i] = hy;
    out[SIGMA * plane + i] = mu / (mu * (1 + fabsf(hx) + fabsf(hy)) + EPS);
    out[RX * plane + i] = rx;
    out[RY * plane + i] = ry;
    out[MZX_U * plane + i] = -tau_u * mu * hx;
    out[MZY_V * plane + i] = -tau_v * mu * hy;
    out[M_W * plane + i] = tau_w * mu;
    out[TAU_IU * plane + i] = smooth_i * tau_u;
    out[TAU_IV * plane + i] = smooth_i * tau_v;
    out[TAU_W * plane + i] = smooth_d * tau_w;
    out[STEP_IX * plane + i] = tau_u * gx;
    out[STEP_IY * plane + i] = tau_v * gy;
    out[REACH * plane + i] = 1 / (tau_u * gx * gx + tau_v * gy * gy + EPS);
  }
}

// `count` ≤ TOGETHER iterations from one state to another. The first launch of a level reads its initial planes instead
// of a state (`is_first`). Blocks have TILE × TILE threads, one a pixel, and write the inner INNER × INNER pixels.
extern "C" __global__ void __launch_bounds__(TILE * TILE)
    iterate(const float *state, int is_first, const float *terms, int count, float *out, int rows, int columns) {
  __shared__ float bar[3][TILE][TILE], across[3][TILE][TILE], along[3][TILE][TILE];
  const int i = threadIdx.x, j = threadIdx.y, plane = rows * columns;
  const int x = blockIdx.x * INNER - TOGETHER + i, y = blockIdx.y * INNER - TOGETHER + j, at = y * columns + x;
  const bool inside = x >= 0 && x < columns && y >= 0 && y < rows;
  const bool right = inside && x < columns - 1 && i < TILE - 1, down = inside && y < rows - 1 && j < TILE - 1;
  float flow[3] = {0, 0, 0}, px[3] = {0, 0, 0}, py[3] = {0, 0, 0}, pd = 0;
  float it = 0, ix = 0, iy = 0, zt = 0, zx = 0, zy = 0, sigma = 0, rx = 0, ry = 0, mzx = 0, mzy = 0, m_w = 0;
  float tau_u = 0, tau_v = 0, tau_w = 0, step_x = 0, step_y = 0, reach = 0;
  for (int k = 0; k < 3; k++) bar[k][j][i] = 0;
  if (inside) {
#define T(k) terms[(k) * plane + at]
    const float *bars = state + (is_first ? U : U_BAR) * plane + at, *duals = state + (is_first ? 3 : PD) * plane + at;
    for (int k = 0; k < 3; k++) {
      flow[k] = state[k * plane + at];
      bar[k][j][i] = bars[k * plane];
      px[k] = duals[(1 + 2 * k) * plane];
      py[k] = duals[(2 + 2 * k) * plane];
    }
    pd = duals[0];
    it = T(IT), ix = T(IX), iy = T(IY), zt = T(ZT), zx = T(ZX), zy = T(ZY), sigma = T(SIGMA);
    rx = x < columns - 1 ? T(RX) : 0, ry = y < rows - 1 ? T(RY) : 0;  // no neighbor beyond the border
    mzx = T(MZX_U), mzy = T(MZY_V), m_w = T(M_W), tau_u = T(TAU_IU), tau_v = T(TAU_IV), tau_w = T(TAU_W);
    step_x = T(STEP_IX), step_y = T(STEP_IY), reach = T(REACH);
#undef T
  }
  __syncthreads();
  for (int n = 0; n < count; n++) {
    pd = clamped(pd + sigma * (zt + zx * bar[0][j][i] + zy * bar[1][j][i] - bar[2][j][i]), -1, 1);
    for (int k = 0; k < 3; k++) {  // the duals of the total variations after the ascent step
      const float here = bar[k][j][i];
      const float a = px[k] + (right ? 0.5f * (bar[k][j][i + 1] - here) : 0);
      const float b = py[k] + (down ? 0.5f * (bar[k][j + 1][i] - here) : 0);
      const float shrink = rsqrtf(fmaxf(a * a + b * b, 1));
      px[k] = a * shrink, py[k] = b * shrink;
      across[k][j][i] = rx * px[k], along[k][j][i] = ry * py[k];
    }
    __syncthreads();
    float spread[3];  // div(r p)
    for (int k = 0; k < 3; k++) {
      spread[k] = across[k][j][i] + along[k][j][i] - (i > 0 ? across[k][j][i - 1] : 0) - (j > 0 ? along[k][j - 1][i] : 0);
    }
    const float a = flow[0] + tau_u * spread[0] + mzx * pd, b = flow[1] + tau_v * spread[1] + mzy * pd;
    const float share = clamped((it + ix * a + iy * b) * reach, -1, 1);
    const float next[3] = {a - step_x * share, b - step_y * share, flow[2] + tau_w * spread[2] + m_w * pd};
    for (int k = 0; k < 3; k++) {
      bar[k][j][i] = 2 * next[k] - flow[k];
      flow[k] = next[k];
    }
    __syncthreads();
  }
  if (!inside || i < TOGETHER || i >= TILE - TOGETHER || j < TOGETHER || j >= TILE - TOGETHER) return;
  for (int k = 0; k < 3; k++) {
    out[k * plane + at] = flow[k];
    out[(U_BAR + k) * plane + at] = bar[k][j][i];
    out[(PUX + 2 * k) * plane + at] = px[k];
    out[(PUY + 2 * k) * plane + at] = py[k];
  }
  out[PD * plane + at] = pd;
}

static __device__ inline void exchange(float *values, float *weights, int p, int q) {
  const bool swap = values[p] > values[q];
  const float a = values[p], b = values[q], s = weights[p], t = weights[q];
  values[p] = swap ? b : a;
  values[q] = swap ? a : b;
  weights[p] = swap ? t : s;
  weights[q] = swap ? s : t;
}

// 25 exchanges that sort nine values (Knuth, The Art of Computer Programming 3, §5.3.4).
static __device__ inline void sort9(float *v, float *w) {
#define E(p, q) exchange(v, w, p, q);
  E(0, 3) E(1, 7) E(2, 5) E(4, 8) E(0, 7) E(2, 4) E(3, 8) E(5, 6) E(0, 2) E(1, 3) E(4, 5) E(7, 8) E(1, 4)
  E(3, 6) E(5, 7) E(0, 1) E(2, 4) E(3, 5) E(6, 8) E(2, 3) E(4, 5) E(6, 7) E(1, 2) E(3, 4) E(5, 6)
#undef E
}

// A component of the flow, its update limited to a pixel, or w to 0 without depth.
static __device__ inline float limited(const float *state, const float *start, const float *depth, int plane, int k,
                                       int i) {
  const float value = state[k * plane + i], before = start[k * plane + i];
  return k < 2 ? clamped(value, before - 1, before + 1) : depth[i] > 0 ? value : 0;
}

// Weighted 3×3 median of each component of the limited flow, and the duals: the initial planes of the next level.
extern "C" __global__ void median(const float *state, const float *start, const float *depth, const float *change,
                                  float weigh_depth, float weigh_change, float *out, int rows, int columns) {
  const int plane = rows * columns;
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    for (int k = 3; k < KEPT; k++) out[k * plane + i] = state[(PD - 3 + k) * plane + i];
    if (!(depth[i] > 0)) {
      for (int k = 0; k < 3; k++) out[k * plane + i] = limited(state, start, depth, plane, k, i);
      continue;
    }
    float weights[9], total = 0;
    for (int n = 0; n < 9; n++) {
      const int j = y + n / 3 - 1, u = x + n % 3 - 1;
      weights[n] = 0;
      if (j < 0 || j >= rows || u < 0 || u >= columns) continue;
      const float apart = depth[j * columns + u] - depth[i], changed = change[j * columns + u];
      weights[n] = 1 / (1 + weigh_depth * apart * apart + weigh_change * changed * changed);
      total += weights[n];
    }
    for (int k = 0; k < 3; k++) {
      float v[9], w[9];
      for (int n = 0; n < 9; n++) {
        const int j = y + n / 3 - 1, u = x + n % 3 - 1;
        const bool inside = j >= 0 && j < rows && u >= 0 && u < columns;
        v[n] = inside ? limited(state, start, depth, plane, k, j * columns + u) : 1e30f;
        w[n] = weights[n];
      }
      sort9(v, w);
      const float goal = 0.5f * total;
      float so_far = 0, found = v[0];
      for (int n = 0; n < 9; n++) {
        const float before = so_far;
        so_far += w[n];
        if (n > 0 && before < goal && goal <= so_far) {
          const float share = (goal - before) / (so_far - before);
          found = (1 - share) * v[n - 1] + share * v[n];
        }
      }
      out[k * plane + i] = found;
    }
  }
}

struct Coarse {  // Weights of the coarse pixels k − 1, k and k + 1.
  int k;
  float before, at, after;
};

static __device__ inline Coarse coarse(int x, int last) {
  const int k = x / 2;
  const float before = x % 2 == 0 && k > 0 ? 1 : 0, at = x % 2 == 0 ? 6 : 4;
  const float after = k < last ? (x % 2 == 0 ? 1 : 4) : 0, total = before + at + after;
  return {k, before / total, at / total, after / total};
}

// Upsample a level's planes to the next finer one; u and v double.
extern "C" __global__ void double_size(const float *values, int coarse_rows, int coarse_columns, float *out, int rows,
                                       int columns) {
  EACH_PIXEL(x, y) {
    const Coarse h = coarse(x, coarse_columns - 1), v = coarse(y, coarse_rows - 1);
    const int left = max(h.k - 1, 0), right = min(h.k + 1, coarse_columns - 1);
    const int up = max(v.k - 1, 0), down = min(v.k + 1, coarse_rows - 1);
    for (int k = 0; k < KEPT; k++) {
      const float *p = values + k * coarse_rows * coarse_columns;
      const float *a = p + up * coarse_columns, *b = p + v.k * coarse_columns, *c = p + down * coarse_columns;
      const float above = h.before * a[left] + h.at * a[h.k] + h.after * a[right];
      const float level = h.before * b[left] + h.at * b[h.k] + h.after * b[right];
      const float below = h.before * c[left] + h.at * c[h.k] + h.after * c[right];
      out[(k * rows + y) * columns + x] = (k < 2 ? 2 : 1) * (v.before * above + v.at * level + v.after * below);
    }
  }
}

// Whether a depth is known within `rim` pixels of a pixel.
static __device__ inline bool is_near_known(const float *depth, int x, int y, int rim, int rows, int columns) {
  if (depth[y * columns + x] > 0) return true;
  for (int v = max(y - rim, 0); v <= min(y + rim, rows - 1); v++) {
    for (int u = max(x - rim, 0); u <= min(x + rim, columns - 1); u++) {
      if (depth[v * columns + u] > 0) return true;
    }
  }
  return false;
}

// Velocities [rows, columns, 3] in m/s from the flow (planes u, v, w); NaN without depth, above `max_speed`, or where the
// flow leads into a hole of the second depth, beyond its rim.
extern "C" __global__ void velocity(const float *flow, const float *depth0, const float *depth1, const float *pair,
                                    float max_speed, int rim, float *out, int rows, int columns) {
  const int plane = rows * columns;
  const Lens c = lens(pair, 1);
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    const float u = x + flow[i], v = y + flow[plane + i], z = depth0[i], far = z + flow[2 * plane + i];
    const float dx = ((u - c.cx) * far - (x - c.cx) * z) / c.fx / pair[DT];
    const float dy = ((v - c.cy) * far - (y - c.cy) * z) / c.fy / pair[DT], dz = (far - z) / pair[DT];
    const int to_x = (int)rintf(clamped(u, 0, columns - 1)), to_y = (int)rintf(clamped(v, 0, rows - 1));
    const bool known = z > 0 && dx * dx + dy * dy + dz * dz <= max_speed * max_speed &&
                       is_near_known(depth1, to_x, to_y, rim, rows, columns);
    const float missing = nanf("");
    out[3 * i] = known ? dx : missing;
    out[3 * i + 1] = known ? dy : missing;
    out[3 * i + 2] = known ? dz : missing;
  }
}
