// Cases as cases.py writes them: lines of text, and after a line that announces an array its bytes.
//
//     case NAME OPERATOR
//     number NAME VALUE
//     array NAME COUNT BYTES_OF_ELEMENT ELEMENTS_PAST_A_BOUNDARY
//     ...
//     end
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace cases {

// Memory that begins so many bytes past a boundary of 256 and has nothing behind it: AddressSanitizer sees what is read
// or written beyond.
class Memory {
 public:
  explicit Memory(size_t bytes, size_t past = 0)
      : bytes_(bytes), past_(past), block_(static_cast<char*>(aligned_alloc_exactly(past + bytes))) {
    std::memset(block_.get(), 0xcd, past + bytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(block_.get(), past_ / 8 * 8);
#endif
  }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(block_.get() + past_);
  }
  size_t bytes() const { return bytes_; }
  bool same_as(const Memory& other) const {
    return bytes_ == other.bytes_ && std::memcmp(as<char>(), other.as<char>(), bytes_) == 0;
  }

 private:
  struct Free {
    void operator()(char* block) const { std::free(block); }
  };
  static void* aligned_alloc_exactly(size_t bytes) {
    void* block = nullptr;
    if (posix_memalign(&block, 256, bytes == 0 ? 1 : bytes) != 0) throw std::bad_alloc();
    return block;
  }

  size_t bytes_, past_;
  std::unique_ptr<char, Free> block_;
};

struct Array {
  int64_t count = 0;
  size_t element_bytes = 0;
  size_t past = 0;  // elements
  std::string bytes;

  // Every run gets memory of its own.
  Memory place() const {
    Memory memory(bytes.size(), past * element_bytes);
    std::memcpy(memory.as<char>(), bytes.data(), bytes.size());
    return memory;
  }
  template <class T>
  std::vector<T> values() const {
    if (element_bytes != sizeof(T)) throw std::runtime_error("an array of another element type");
    std::vector<T> result(static_cast<size_t>(count));
    if (count > 0) std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }
};

struct Case {
  std::string name;
  std::string operator_name;
  std::map<std::string, double> numbers;
  std::map<std::string, Array> arrays;

  const Array& array(const std::string& key) const {
    const auto found = arrays.find(key);
    if (found == arrays.end()) throw std::runtime_error("no array " + key);
    return found->second;
  }
  double number(const std::string& key) const {
    const auto found = numbers.find(key);
    if (found == numbers.end()) throw std::runtime_error("no number " + key);
    return found->second;
  }
  int64_t integer(const std::string& key) const { return static_cast<int64_t>(number(key)); }
  bool has(const std::string& key) const { return arrays.count(key) != 0; }
};

inline std::vector<Case> read_cases(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<Case> cases;
  std::string word;
  while (file >> word) {
    if (word == "case") {
      cases.emplace_back();
      file >> cases.back().name >> cases.back().operator_name;
    } else if (word == "number") {
      std::string key;
      file >> key;
      file >> cases.back().numbers[key];
    } else if (word == "array") {
      std::string key;
      file >> key;
      Array& array = cases.back().arrays[key];
      file >> array.count >> array.element_bytes >> array.past;
      file.get();  // the end of the line
      array.bytes.resize(static_cast<size_t>(array.count) * array.element_bytes);
      file.read(array.bytes.data(), static_cast<std::streamsize>(array.bytes.size()));
    } else if (word != "end") {
      throw std::runtime_error(path + ": expected case, number, array or end, got " + word);
    }
    if (!file) throw std::runtime_error(path + " ends within " + (cases.empty() ? "nothing" : cases.back().name));
  }
  return cases;
}

}  // namespace cases
