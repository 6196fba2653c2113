#include "pictures.h"

namespace prunefuse::cpu {
namespace {

constexpr int64_t kLargest = 1 << 13;

bool is_size(int64_t size) { return 1 <= size && size <= kLargest; }

bool is_channels(int64_t channels) { return is_size(channels) && (channels == 8 || channels % 16 == 0); }

bool is_fine(const Picture& picture) {
  return is_channels(picture.channels) && is_size(picture.height) && is_size(picture.width) &&
         is_size(picture.images) && size_of(picture) <= int64_t{1} << 28;
}

bool same_geometry(const Picture& a, const Picture& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width && a.images == b.images;
}

}  // namespace

std::string fault_of(const Geometry& g) {
  if (!is_channels(g.channels_in) || !is_channels(g.channels_out))
    return "expected 8 channels or a multiple of 16, got " + std::to_string(g.channels_in) + " and " +
           std::to_string(g.channels_out);
  if (g.channels_out == 8 && g.channels_in != 8) return "expected 8 input channels for 8 output channels";
  if ((g.kernel != 1 && g.kernel != 3) || (g.stride != 1 && g.stride != 2))
    return "expected a kernel of 1 or 3 and a stride of 1 or 2";
  return "";
}

std::string fault_of(const Program& program, int64_t weight_count, int64_t bias_count,
                     int64_t (*weights_of)(const Geometry&)) {
  const int64_t pictures = static_cast<int64_t>(program.pictures.size());
  const auto known = [&](int64_t picture) { return 0 <= picture && picture < pictures; };
  if (pictures == 0 || program.layers.empty()) return "expected at least one picture and one layer";
  for (const Picture& picture : program.pictures)
    if (!is_fine(picture)) return "pictures: expected 8 or a multiple of 16 channels, and positive sizes that fit";
  std::vector<bool> written(program.pictures.size(), false);
  written[0] = true;
  const auto has_content = [&](int64_t picture) { return static_cast<bool>(written[static_cast<size_t>(picture)]); };
  int64_t images = program.pictures[0].images;  // of the segment
  for (size_t i = 0; i < program.layers.size(); ++i) {
    const ChainLayer& layer = program.layers[i];
    const std::string where = "layer " + std::to_string(i) + ": ";
    if (!known(layer.input) || !known(layer.output) || (layer.residual != -1 && !known(layer.residual)))
      return where + "no such picture";
    if (!has_content(layer.input) || (layer.residual != -1 && !has_content(layer.residual)))
      return where + "expected pictures that an earlier layer has written";
    written[static_cast<size_t>(layer.output)] = true;
    const Picture &from = program.pictures[static_cast<size_t>(layer.input)],
                  &to = program.pictures[static_cast<size_t>(layer.output)];
    const Geometry geometry = {from.channels, to.channels, layer.kernel, layer.stride};
    if (const std::string fault = fault_of(geometry); !fault.empty()) return where + fault;
    if (layer.input == layer.output || layer.input == layer.residual)
      return where + "expected another picture for the input than for output and residual";
    if (to.height != (from.height - 1) / layer.stride + 1 || to.width != (from.width - 1) / layer.stride + 1)
      return where + "the sizes of its pictures do not match";
    if (layer.residual != -1 && !same_geometry(program.pictures[static_cast<size_t>(layer.residual)], to))
      return where + "expected a residual of the output's shape";
    if (from.images < images || from.images % images != 0 || to.images % from.images != 0)
      return where + "expected no fewer images side by side than before, and a multiple";
    if (i == 0 && from.images != images) return where + "expected as many images side by side as are filled in";
    images = from.images;
    if (layer.weights < 0 || layer.weights > weight_count || weights_of(geometry) > weight_count - layer.weights)
      return where + "not enough weights";
    if (layer.biases < 0 || layer.biases > bias_count || to.channels > bias_count - layer.biases)
      return where + "not enough biases";
  }
  // A layer writes as many images side by side as its own segment has, or as the next one.
  for (size_t i = 0; i < program.layers.size(); ++i) {
    const auto images_into = [&](size_t layer) {
      return program.pictures[static_cast<size_t>(program.layers[layer].input)].images;
    };
    size_t next = i;
    while (next + 1 < program.layers.size() && images_into(next) == images_into(i)) ++next;
    const int64_t written = program.pictures[static_cast<size_t>(program.layers[i].output)].images;
    if (written != images_into(i) && written != images_into(next))
      return "layer " + std::to_string(i) + ": expected as many images side by side as in the next layers";
  }
  if (!known(program.averaged) || !has_content(program.averaged) ||
      program.pictures[static_cast<size_t>(program.averaged)].images != images)
    return "averaged: expected a picture that was written, with as many images as the last layer's";
  return "";
}

RowTiles tiles_of(const Picture& from, const Picture& to, int64_t stride, int64_t pixels) {
  const int64_t in_row = round_up(to.width, pixels) / pixels, tiles_in_row = round_up(in_row, kRows) / kRows;
  const int64_t first = first_pixel(to, 0, 0), last = first_pixel(to, to.images - 1, to.height - 1) + to.width;
  const int64_t through = round_up(last - first, pixels) / pixels;
  const bool can_cross = stride == 1 && from.images == to.images && distance_of(from) == distance_of(to);
  const bool crosses = can_cross && round_up(through, kRows) / kRows < tiles_in_row * to.height * to.images;
  RowTiles found;
  const auto add_line = [&](int64_t read, int64_t write, int64_t rows) {
    for (int64_t row = 0; row < rows; row += kRows)
      found.tiles.push_back({(read + row * pixels * stride) * from.channels, (write + row * pixels) * to.channels,
                             std::min(kRows, rows - row)});
  };
  if (crosses) {
    add_line(first_pixel(from, 0, 0), first, through);
  } else {
    for (int64_t row = 0; row < to.height; ++row)
      for (int64_t image = 0; image < from.images; ++image)
        add_line(first_pixel(from, image, row * stride), first_pixel(to, image, row), in_row);
  }
  if (crosses || to.width % pixels != 0)
    for (int64_t row = 0; row < to.height; ++row)
      for (int64_t image = 0; image < to.images; ++image)
        found.borders.push_back((first_pixel(to, image, row) + to.width) * to.channels);
  found.border_size = (distance_of(to) - to.width) * to.channels;
  return found;
}

}  // namespace prunefuse::cpu
