// Entries drawn by a law; included once per instruction set, inside its namespace. Fused multiply-adds are one
// instruction where the processor has them, and a slow function with the same result where it has not.

inline void draw_entries(const Segment& segment, uint64_t begin, int64_t count, uint64_t seed, float* to) {
  if (segment.law == Law::constant) {
    for (int64_t i = 0; i < count; ++i) to[i] = segment.a;
    return;
  }
  FourWords words = philox(begin >> 2, seed);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t position = begin + static_cast<uint64_t>(i);
    if ((position & 3) == 0) words = philox(position >> 2, seed);
    to[i] = draw_with(segment, 0.0f, [&] { return uniform_of(words.word[position & 3]); });
  }
}
