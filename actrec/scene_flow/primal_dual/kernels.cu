// Primal-dual scene flow on a GPU. The kernels correspond to the functions in cpu.py and sweeps.py.
//
// Images are planes of rows * columns floats. Grid-stride loops allow any grid; tests without a GPU compile the kernels
// as plain C++ with a grid of one thread.

#define EACH_PIXEL(x, y)                                                                                  \
  for (int y = blockIdx.y * blockDim.y + threadIdx.y; y < rows; y += gridDim.y * blockDim.y)              \
    for (int x = blockIdx.x * blockDim.x + threadIdx.x; x < columns; x += gridDim.x * blockDim.x)

// Planes of a state, of a level's terms, and passed on to the next finer level, as in sweeps.py and settings.py.
enum { U, V, W, U_BAR, V_BAR, W_BAR, PD, PUX, PUY, PVX, PVY, PWX, PWY, STATE };
enum { IT, IX, IY, ZT, ZX, ZY, SIGMA, RX, RY, MZX_U, MZY_V, M_W, TAU_IU, TAU_IV, TAU_W, STEP_IX, STEP_IY, REACH, TERMS };
enum { KEPT = 10 };

static __device__ const float EPS = 1e-10f;

static __device__ inline float clamped(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

static __device__ inline float mask(int k) { return k == 0 ? 0.375f : (k == 1 || k == -1) ? 0.25f : 0.0625f; }

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

static __device__ inline float closeness(float side, float away) {
  const float apart = sqrtf(side * side + away * away);
  return apart > 0 ? 2 / apart : 1;
}

// r_x and r_y, from each pixel to its right and lower neighbor.
extern "C" __global__ void surface(const float *depth, float fx, float fy, float cx, float cy, float *rx, float *ry,
                                   int rows, int columns) {
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    const float z = depth[i];
    rx[i] = ry[i] = 1;
    if (x + 1 < columns) rx[i] = closeness(((x + 1 - cx) * depth[i + 1] - (x - cx) * z) / fx, depth[i + 1] - z);
    if (y + 1 < rows) {
      const float down = depth[i + columns];
      ry[i] = closeness(((y + 1 - cy) * down - (y - cy) * z) / fy, down - z);
    }
  }
}

// Gradients of gray and of depth as four planes ix, iy, zx, zy; r: the planes r_x and r_y.
extern "C" __global__ void gradients(const float *gray, const float *depth, const float *r, float *out, int rows,
                                     int columns) {
  const int plane = rows * columns;
  EACH_PIXEL(x, y) {
    const int i = y * columns + x, left = x > 0 ? i - 1 : i, right = x < columns - 1 ? i + 1 : i;
    const int up = y > 0 ? i - columns : i, down = y < rows - 1 ? i + columns : i;
    const float a = right > i ? r[i] : 0, b = left < i ? r[left] : 0;
    const float c = down > i ? r[plane + i] : 0, d = up < i ? r[plane + up] : 0;
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

// The terms of the energy about the flow `start` (planes u, v, …), from r_x and r_y in `out`.
extern "C" __global__ void make_terms(const float *gray0, const float *depth0, const float *gray1, const float *depth1,
                                      const float *slopes, const float *start, float smooth_i, float smooth_d,
                                      float depth_weight, float edges, float *out, float *change, int rows,
                                      int columns) {
  const int plane = rows * columns;
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
    const float *rx = out + RX * plane, *ry = out + RY * plane;
    const float around = rx[i] + ry[i] + (x > 0 ? rx[i - 1] : 0) + (y > 0 ? ry[i - columns] : 0);
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

// A level's state from its initial planes.
extern "C" __global__ void begin(const float *start, float *state, int rows, int columns) {
  const int plane = rows * columns;
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    for (int k = 0; k < 3; k++) state[k * plane + i] = state[(U_BAR + k) * plane + i] = start[k * plane + i];
    for (int k = 3; k < KEPT; k++) state[(PD - 3 + k) * plane + i] = start[k * plane + i];
  }
}

struct Dual {
  float x, y;
};

// The duals of a total variation at pixel i after the ascent step.
static __device__ inline Dual risen(const float *px, const float *py, const float *bar, int i, bool right, bool down,
                                    int columns) {
  const float here = bar[i];
  const float a = px[i] + (right ? 0.5f * (bar[i + 1] - here) : 0);
  const float b = py[i] + (down ? 0.5f * (bar[i + columns] - here) : 0);
  const float shrink = 1 / sqrtf(fmaxf(a * a + b * b, 1));
  return {a * shrink, b * shrink};
}

// λ τ div(r p) of one unknown at pixel i, and its new duals. The duals of the left and upper neighbors, which other
// threads write, are recomputed: this is faster than a second pass over memory.
static __device__ inline float spread(const float *px, const float *py, const float *bar, const float *rx,
                                      const float *ry, float *new_px, float *new_py, int x, int y, int rows,
                                      int columns) {
  const int i = y * columns + x;
  const bool right = x < columns - 1, down = y < rows - 1;
  const Dual own = risen(px, py, bar, i, right, down, columns);
  new_px[i] = own.x;
  new_py[i] = own.y;
  float out = 0;
  if (right) out += rx[i] * own.x;
  if (down) out += ry[i] * own.y;
  if (x > 0) out -= rx[i - 1] * risen(px, py, bar, i - 1, true, down, columns).x;
  if (y > 0) out -= ry[i - columns] * risen(px, py, bar, i - columns, right, true, columns).y;
  return out;
}

// One iteration, from one state to another.
extern "C" __global__ void iterate(const float *state, const float *terms, float *out, int rows, int columns) {
  const int plane = rows * columns;
#define S(k) (state + (k) * plane)
#define T(k) terms[(k) * plane + i]
#define O(k) (out + (k) * plane)
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    const float u = S(U)[i], v = S(V)[i], w = S(W)[i];
    const float raised = T(ZT) + T(ZX) * S(U_BAR)[i] + T(ZY) * S(V_BAR)[i] - S(W_BAR)[i];
    const float pd = clamped(S(PD)[i] + T(SIGMA) * raised, -1, 1);
    const float *rx = terms + RX * plane, *ry = terms + RY * plane;
    const float of_u = spread(S(PUX), S(PUY), S(U_BAR), rx, ry, O(PUX), O(PUY), x, y, rows, columns);
    const float of_v = spread(S(PVX), S(PVY), S(V_BAR), rx, ry, O(PVX), O(PVY), x, y, rows, columns);
    const float of_w = spread(S(PWX), S(PWY), S(W_BAR), rx, ry, O(PWX), O(PWY), x, y, rows, columns);
    const float a = u + T(TAU_IU) * of_u + T(MZX_U) * pd;
    const float b = v + T(TAU_IV) * of_v + T(MZY_V) * pd;
    const float c = w + T(TAU_W) * of_w + T(M_W) * pd;
    const float share = clamped((T(IT) + T(IX) * a + T(IY) * b) * T(REACH), -1, 1);
    const float new_u = a - T(STEP_IX) * share, new_v = b - T(STEP_IY) * share;
    O(U)[i] = new_u;
    O(V)[i] = new_v;
    O(W)[i] = c;
    O(U_BAR)[i] = 2 * new_u - u;
    O(V_BAR)[i] = 2 * new_v - v;
    O(W_BAR)[i] = 2 * c - w;
    O(PD)[i] = pd;
  }
#undef S
#undef T
#undef O
}

// Limit the update to a pixel, and w to 0 without depth; writes the planes u, v, w.
extern "C" __global__ void limit(const float *state, const float *start, const float *depth, float *flow, int rows,
                                 int columns) {
  const int plane = rows * columns;
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    for (int k = 0; k < 2; k++) {
      const float before = start[k * plane + i];
      flow[k * plane + i] = clamped(state[k * plane + i], before - 1, before + 1);
    }
    flow[2 * plane + i] = depth[i] > 0 ? state[2 * plane + i] : 0;
  }
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

// Weighted 3×3 median of each plane of the flow, and the duals of the state: the initial planes of the next level.
extern "C" __global__ void median(const float *flow, const float *depth, const float *change, const float *state,
                                  float weigh_depth, float weigh_change, float *out, int rows, int columns) {
  const int plane = rows * columns;
  EACH_PIXEL(x, y) {
    const int i = y * columns + x;
    for (int k = 3; k < KEPT; k++) out[k * plane + i] = state[(PD - 3 + k) * plane + i];
    if (!(depth[i] > 0)) {
      for (int k = 0; k < 3; k++) out[k * plane + i] = flow[k * plane + i];
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
        v[n] = inside ? flow[k * plane + j * columns + u] : 1e30f;
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
