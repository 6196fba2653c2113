// What passes between the layers of a network that runs depth first: how it lies in memory, and what a program may do.
//
// A *picture* holds the activations of a few images side by side, channels together, with pixels of zeros around every
// image (in 8 bits, pixels of their mean around those of the pool). So every tap of every output is at a fixed distance
// in memory, and no edge needs handling. All distances are in values, whatever a value is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace prunefuse::cpu {

struct Picture {
  int64_t channels, height, width;
  int64_t images;  // side by side
};

// relu(convolution(input) + bias + residual): 3x3 with one pixel of padding, or 1x1. In 8 bits there are scale, offset
// and gain in place of the bias, and all layers end at 0.
struct ChainLayer {
  int64_t input, output, residual;  // pictures; residual -1 for none, or the output itself
  int64_t kernel, stride;           // 3 or 1; 1 or 2
  int64_t relu;
  int64_t weights;  // where its weights begin
  int64_t biases;   // where its biases begin, one per output channel
};

struct Geometry {
  int64_t channels_in, channels_out;  // 8 or a multiple of 16; 8 outputs of 8 inputs only
  int64_t kernel, stride;
};

struct Program {
  std::vector<Picture> pictures;  // the first takes the images
  std::vector<ChainLayer> layers;
  int64_t averaged;  // the picture whose means over the pixels are the features
};

// What is wrong with it, or nothing: a program without fault reads and writes nothing but its own.
std::string fault_of(const Geometry& geometry);
std::string fault_of(const Program& program, int64_t weight_count, int64_t bias_count,
                     int64_t (*weights_of)(const Geometry&));

constexpr int64_t kRows = 16;     // pixels that are computed at once
constexpr int64_t kOutputs = 16;  // output channels that are computed at once

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Where images begin: in bfloat16, a tile of rows of 16 channels across cache lines takes six times as long to load.
inline int64_t alignment_of(int64_t channels) { return channels == 16 ? 2 : 1; }

// From image to image in a picture, with at least one pixel of zeros between them.
inline int64_t distance_of(const Picture& picture) {
  return round_up(picture.width + 1, alignment_of(picture.channels));
}

inline int64_t pitch_of(const Picture& picture) { return picture.images * distance_of(picture); }

inline int64_t size_of(const Picture& picture) {
  constexpr int64_t kSlackPixels = 96;  // rows are read 16 at a time, also where only the first ones count
  return ((picture.height + 2) * pitch_of(picture) + kSlackPixels) * picture.channels + 2 * kRows;
}

inline int64_t first_pixel(const Picture& picture, int64_t image, int64_t row) {
  return (row + 1) * pitch_of(picture) + alignment_of(picture.channels) + image * distance_of(picture);
}

// Sums of 16 rows: where their input begins, where they go, and how many of them count.
struct RowTile {
  int64_t from, to, rows;
};

struct RowTiles {
  std::vector<RowTile> tiles;
  std::vector<int64_t> borders;  // where zeros of the output picture are overwritten and must be zero again
  int64_t border_size;
};

// The tiles of a layer whose rows are so many pixels each. Rows either follow each other through the whole picture,
// borders included, or begin anew in each row of each image, whichever takes fewer tiles.
RowTiles tiles_of(const Picture& from, const Picture& to, int64_t stride, int64_t pixels);

#if defined(__linux__)

// The pictures of one thread, all zero.
template <typename Value>
class Memory {
 public:
  explicit Memory(const std::vector<Picture>& pictures) {
    constexpr int64_t kLine = 64 / sizeof(Value);
    int64_t size = 0;
    for (const Picture& picture : pictures) {
      starts_.push_back(size);
      size += round_up(size_of(picture), kLine);
    }
    const size_t bytes = static_cast<size_t>(size) * sizeof(Value);
    values_.reset(static_cast<Value*>(std::aligned_alloc(64, bytes)));
    if (!values_) throw std::bad_alloc();
    std::memset(values_.get(), 0, bytes);
  }
  Value* picture(int64_t index) const { return values_.get() + starts_[static_cast<size_t>(index)]; }

 private:
  struct Free {
    void operator()(Value* values) const { std::free(values); }
  };
  std::vector<int64_t> starts_;
  std::unique_ptr<Value, Free> values_;
};

#endif

}  // namespace prunefuse::cpu
