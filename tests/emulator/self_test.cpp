// Tests of the emulator itself.
//
//   self_test [--seeds N] [NAME...]   run these checks, or all: `ok NAME` or `FAIL NAME: why`, exit code 1 on any FAIL
//   self_test --list                  the names of the checks
//   self_test --list-faults           the names of the kernels with a fault
//   self_test --fault NAME            run one of them: built with the sanitizer that finds it, this ends the program
#include <cstdio>
#include <string>
#include <vector>

#include "self_test/arithmetic.h"
#include "self_test/atomics.h"
#include "self_test/barriers.h"
#include "self_test/check.h"
#include "self_test/faults.h"
#include "self_test/launching.h"
#include "self_test/memory.h"
#include "self_test/shuffles.h"
#include "self_test/votes.h"

namespace {

int list(const std::vector<Check>& all) {
  for (const Check& check : all) std::puts(check.name);
  return 0;
}

const Check& find(const std::vector<Check>& all, const std::string& name) {
  for (const Check& check : all)
    if (name == check.name) return check;
  throw std::runtime_error("no such name: " + name);
}

bool passes(const Check& check, int seeds) {
  for (int seed = 0; seed < seeds; ++seed) {
    try {
      simt::set_seed(static_cast<uint64_t>(seed));
      check.run();
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s (seed %d)\n", check.name, error.what(), seed);
      return false;
    }
  }
  std::printf("ok %s\n", check.name);
  return true;
}

int run(std::vector<std::string> arguments) {
  if (arguments == std::vector<std::string>{"--list"}) return list(checks());
  if (arguments == std::vector<std::string>{"--list-faults"}) return list(faults());
  if (arguments.size() == 2 && arguments[0] == "--fault") {
    find(faults(), arguments[1]).run();
    std::printf("not found: %s\n", arguments[1].c_str());
    return 0;
  }
  int seeds = 5;
  if (arguments.size() >= 2 && arguments[0] == "--seeds") {
    seeds = std::stoi(arguments[1]);
    arguments.erase(arguments.begin(), arguments.begin() + 2);
  }
  bool good = true;
  if (arguments.empty())
    for (const Check& check : checks()) good &= passes(check, seeds);
  for (const std::string& name : arguments) good &= passes(find(checks(), name), seeds);
  return good ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run({arguments + 1, arguments + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "self_test: %s\n", error.what());
    return 2;
  }
}
