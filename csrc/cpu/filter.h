// The products of greedy k-centers as a certified filter; included once per instruction set, inside its namespace.
//
// A tile holds the dot products of kPanel rows with kPanel centers. From dot, the norms and a bound on all rounding
// follows a lower bound of the squared distance; only where that is below the row's bound is the distance computed, by
// the differences of the coordinates, in single precision. So the products may be as coarse as one likes: they decide
// what is computed, never what comes out.
//
// With g = (|x|^2 - bound) / 2 and h = |c|^2 / 2, both less what rounding may have added, a center can lower the bound
// only if dot - h > g - (rounding of x) |c| - |x| (rounding of c and of the product).

// Every constant is an upper bound of rounding in units of 2^-24, generously.
inline float norm_rounding(int64_t width) { return (static_cast<float>(width) / kWidth + 48.0f) * 0x1.8p-24f; }
inline float product_rounding(int64_t width) { return (static_cast<float>(width) + 16.0f) * 0x1p-24f; }
constexpr float kSlightlyMore = 1.0f + 1e-5f;

inline float squared_distance(const float* a, const float* b, int64_t width) {
  // Blocks of columns are added up apart, so that wide rows lose no digits.
  float total = 0.0f;
  for (int64_t begin = 0; begin < width; begin += 1024) {
    const int64_t end = begin + 1024 < width ? begin + 1024 : width;
    Floats sum0 = Floats{}, sum1 = Floats{};
    int64_t i = begin;
    for (; i + 2 * kWidth <= end; i += 2 * kWidth) {
      const Floats d0 = load(a + i) - load(b + i);
      const Floats d1 = load(a + i + kWidth) - load(b + i + kWidth);
      sum0 += d0 * d0;
      sum1 += d1 * d1;
    }
    if (i + kWidth <= end) {
      const Floats d0 = load(a + i) - load(b + i);
      sum0 += d0 * d0;
      i += kWidth;
    }
    if (i < end) {
      float lanes[kWidth];
      for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = i + lane < end ? a[i + lane] - b[i + lane] : 0.0f;
      const Floats d1 = load(lanes);
      sum1 += d1 * d1;
    }
    total += sum_of(sum0 + sum1);
  }
  return total;
}

constexpr int64_t kColumnsTogether = 128;

// Candidates lie in groups of kGroup, column by column: [groups][width][kGroup].
inline Furthest approach(const float* points, int64_t groups, int64_t width, const float* center, float* values) {
  constexpr int kParts = kGroup / kWidth;
  Floats best[kParts];
  Floats best_group[kParts];
  for (int part = 0; part < kParts; ++part) {
    best[part] = all(-INFINITY);
    best_group[part] = Floats{};
  }
  for (int64_t group = 0; group < groups; ++group) {
    const float* columns = points + group * width * kGroup;
    // Blocks of columns are added up apart, so that wide rows lose no digits.
    Floats totals[kParts] = {};
    for (int64_t begin = 0; begin < width; begin += kColumnsTogether) {
      const int64_t end = begin + kColumnsTogether < width ? begin + kColumnsTogether : width;
      Floats sums[2][kParts] = {};
      int64_t i = begin;
      for (; i + 2 <= end; i += 2)
        for (int odd = 0; odd < 2; ++odd)
          for (int part = 0; part < kParts; ++part) {
            const Floats d = load(columns + (i + odd) * kGroup + part * kWidth) - center[i + odd];
            sums[odd][part] += d * d;
          }
      if (i < end)
        for (int part = 0; part < kParts; ++part) {
          const Floats d = load(columns + i * kGroup + part * kWidth) - center[i];
          sums[0][part] += d * d;
        }
      for (int part = 0; part < kParts; ++part) totals[part] += sums[0][part] + sums[1][part];
    }
    for (int part = 0; part < kParts; ++part) {
      float* value = values + group * kGroup + part * kWidth;
      const Floats now = smaller(load(value), totals[part]);
      store(value, now);
      const Ints better = now > best[part];
      best[part] = select(better, now, best[part]);
      best_group[part] = select(better, all(static_cast<float>(group)), best_group[part]);
    }
  }
  Furthest furthest = {-INFINITY, 0};
  for (int part = 0; part < kParts; ++part)
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t position = static_cast<int64_t>(best_group[part][lane]) * kGroup + part * kWidth + lane;
      const float value = best[part][lane];
      if (value > furthest.value || (value == furthest.value && position < furthest.position))
        furthest = {value, position};
    }
  return furthest;
}

template <class T>
inline void convert_row(const T* from, int64_t count, float scale, float* to) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(to + i, load(from + i) * scale);
  for (; i < count; ++i) to[i] = value_of(from[i]) * scale;
}

inline void convert(const void* from, Element element, int64_t count, float scale, float* to) {
  if (element == Element::float32)
    convert_row(static_cast<const float*>(from), count, scale, to);
  else if (element == Element::bfloat16)
    convert_row(static_cast<const BFloat16*>(from), count, scale, to);
  else
    convert_row(static_cast<const Half*>(from), count, scale, to);
}

template <class T>
inline float largest_magnitude_of(const T* from, int64_t count) {
  Floats largest = Floats{};
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Floats v = load(from + i);
    largest = larger(larger(largest, v), -v);
  }
  float result = largest_of(largest);
  for (; i < count; ++i) {
    const float v = value_of(from[i]);
    if (v > result) result = v;
    if (-v > result) result = -v;
  }
  return result;
}

inline float largest_magnitude(const void* from, Element element, int64_t count) {
  if (element == Element::float32) return largest_magnitude_of(static_cast<const float*>(from), count);
  if (element == Element::bfloat16) return largest_magnitude_of(static_cast<const BFloat16*>(from), count);
  return largest_magnitude_of(static_cast<const Half*>(from), count);
}

inline const void* row_of(const Fold& fold, int64_t row) {
  const int64_t bytes = fold.element == Element::float32 ? 4 : 2;
  return static_cast<const char*>(fold.features) + row * fold.width * bytes;
}

// What a thread knows about the kPanel rows that it works on.
struct Panel {
  int64_t row[kPanel];
  int64_t count;
  float* exact;  // [kPanel, width]
  float bound[kPanel];
  float half_norm[kPanel];  // half the squared norm, less what rounding may have added
  float norm[kPanel];
  float rounding[kPanel];  // norm of what the filter's format cannot hold
  float g[kPanel];
};

inline void set_bound(Panel& panel, int r, float bound) {
  panel.bound[r] = bound;
  panel.g[r] = panel.half_norm[r] - 0.5f * bound - 1e-36f;
}

// Looks through one tile; returns how many distances it evaluated.
inline int64_t lower_bounds(const float* tile, Panel& panel, const CenterPanels& centers, int64_t block,
                            int64_t width) {
  int64_t evaluated = 0;
  const float norm = centers.norm[block], error = centers.error[block];
  float threshold[kPanel];
  for (int r = 0; r < kPanel; r += kWidth)
    store(threshold + r, load(panel.g + r) - (load(panel.rounding + r) * norm + load(panel.norm + r) * error));
  constexpr int kParts = kPanel / kWidth;
  Floats half_norms[kParts];
  for (int part = 0; part < kParts; ++part)
    half_norms[part] = load(centers.half_norms + block * kPanel + part * kWidth);
  for (int r = 0; r < panel.count; ++r) {
    const float* dots = tile + r * kPanel;
    uint32_t above = 0;
    for (int part = 0; part < kParts; ++part)
      above |= bits_where_above(load(dots + part * kWidth), half_norms[part], all(threshold[r])) << (part * kWidth);
    if (__builtin_expect(above == 0, 1)) continue;
    float now = threshold[r];
    for (; above; above &= above - 1) {
      const int lane = __builtin_ctz(above);
      if (!(dots[lane] - centers.half_norms[block * kPanel + lane] > now)) continue;  // the bound fell meanwhile
      ++evaluated;
      const float distance =
          squared_distance(panel.exact + r * width, centers.exact + (block * kPanel + lane) * width, width);
      if (distance < panel.bound[r]) {
        set_bound(panel, r, distance);
        now = panel.g[r] - (panel.rounding[r] * norm + panel.norm[r] * error);
      }
    }
  }
  return evaluated;
}

// Rows of the fold from `begin`, as floats, with their norms after the shift; `shifted` takes row r at r * stride.
inline void fill_panel(const Fold& fold, int64_t begin, int64_t end, Panel& panel, float* shifted, int64_t stride) {
  panel.count = end - begin < kPanel ? end - begin : kPanel;
  for (int r = 0; r < kPanel; ++r) {
    if (r >= panel.count) {  // computed like the others, never looked at
      for (int64_t i = 0; i < stride; ++i) shifted[r * stride + i] = 0.0f;
      panel.half_norm[r] = panel.norm[r] = panel.rounding[r] = panel.g[r] = 0.0f;
      continue;
    }
    const int64_t row = fold.rows ? fold.rows[begin + r] : begin + r;
    panel.row[r] = row;
    float* exact = panel.exact + r * fold.width;
    convert(row_of(fold, row), fold.element, fold.width, fold.scale, exact);
    float* to = shifted + r * stride;
    Floats sum = Floats{};
    int64_t i = 0;
    for (; i + kWidth <= fold.width; i += kWidth) {
      const Floats v = load(exact + i) - load(fold.shift + i);
      store(to + i, v);
      sum += v * v;
    }
    float squared_norm = sum_of(sum);
    for (; i < fold.width; ++i) {
      to[i] = exact[i] - fold.shift[i];
      squared_norm += to[i] * to[i];
    }
    for (; i < stride; ++i) to[i] = 0.0f;
    panel.half_norm[r] = 0.5f * squared_norm * (1.0f - norm_rounding(fold.width));
    panel.norm[r] = __builtin_sqrtf(squared_norm) * (kSlightlyMore + norm_rounding(fold.width));
    panel.rounding[r] = 0.0f;
    set_bound(panel, r, fold.bounds[row]);
  }
}

inline void keep_bounds(const Fold& fold, const Panel& panel) {
  for (int r = 0; r < panel.count; ++r) fold.bounds[panel.row[r]] = panel.bound[r];
}

// ---- products in single precision: a block of centers is [width][kPanel], rows stay as they are ----

inline size_t panel_bytes(int64_t width) { return static_cast<size_t>(4 * kPanel * width); }
inline size_t filter_scratch_bytes(int64_t width) { return static_cast<size_t>(2 * 4 * kPanel * width + 4096); }

inline void pack_block(const float* exact, int64_t count, const float* shift, int64_t width, void* shifted,
                       float* half_norms, float* norm, float* error) {
  float* tile = static_cast<float*>(shifted);
  *norm = *error = 0.0f;
  for (int64_t c = 0; c < kPanel; ++c) {
    if (c >= count) {
      for (int64_t i = 0; i < width; ++i) tile[i * kPanel + c] = 0.0f;
      half_norms[c] = 1e38f;
      continue;
    }
    double squared_norm = 0.0;
    for (int64_t i = 0; i < width; ++i) {
      const float v = exact[c * width + i] - shift[i];
      tile[i * kPanel + c] = v;
      squared_norm += (double)v * (double)v;
    }
    half_norms[c] = 0.5f * (float)squared_norm * (1.0f - norm_rounding(width));
    const float length = (float)__builtin_sqrt(squared_norm) * (kSlightlyMore + norm_rounding(width));
    const float off = length * product_rounding(width);
    if (length > *norm) *norm = length;
    if (off > *error) *error = off;
  }
}

// kTileRows rows by kTileVectors vectors of centers stay in registers.
constexpr int kTileVectors = 2;
constexpr int kTileRows = kWidth == 4 ? 4 : (kWidth == 8 ? 4 : 8);

inline void dots_of_tile(const float* rows, int64_t stride, const float* block, int64_t width, float* tile) {
  for (int64_t first = 0; first < kPanel; first += kTileVectors * kWidth) {
    for (int64_t r = 0; r < kPanel; r += kTileRows) {
      Floats sums[kTileRows][kTileVectors];
      for (int i = 0; i < kTileRows; ++i)
        for (int v = 0; v < kTileVectors; ++v) sums[i][v] = Floats{};
      const float* x = rows + r * stride;
      const float* c = block + first;
      for (int64_t column = 0; column < width; ++column) {
        Floats center[kTileVectors];
        for (int v = 0; v < kTileVectors; ++v) center[v] = load(c + column * kPanel + v * kWidth);
        for (int i = 0; i < kTileRows; ++i)
          for (int v = 0; v < kTileVectors; ++v) sums[i][v] += x[i * stride + column] * center[v];
      }
      for (int i = 0; i < kTileRows; ++i)
        for (int v = 0; v < kTileVectors; ++v) store(tile + (r + i) * kPanel + first + v * kWidth, sums[i][v]);
    }
  }
}

inline int64_t fold(const Fold& job, int64_t begin, int64_t end, void* scratch) {
  alignas(64) float tile[kPanel * kPanel];
  Panel panel;
  panel.exact = static_cast<float*>(scratch);
  float* shifted = panel.exact + kPanel * job.width;
  const CenterPanels& centers = *job.centers;
  const int64_t blocks = (centers.count + kPanel - 1) / kPanel;
  const float* tiles = static_cast<const float*>(centers.shifted);
  int64_t evaluated = 0;
  for (int64_t first = begin; first < end; first += kPanel) {
    fill_panel(job, first, end, panel, shifted, job.width);
    for (int64_t block = 0; block < blocks; ++block) {
      dots_of_tile(shifted, job.width, tiles + block * kPanel * job.width, job.width, tile);
      evaluated += lower_bounds(tile, panel, centers, block, job.width);
    }
    keep_bounds(job, panel);
  }
  return evaluated;
}
