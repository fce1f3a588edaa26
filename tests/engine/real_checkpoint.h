// A test that loads a checkpoint, made from a program of the catalogue: its mock weights written out as
// safetensors, its own golden as the golden of that checkpoint. What a trained model's test is, only small.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "tests/engine/altered_program.h"

namespace assay::engine {

struct StoredTensor {
  std::string name;
  std::string dtype = "F32";
  std::vector<int64_t> shape;
  std::string data;
};

// Writes `tensors` as a folder of safetensors files with an index where there are several. Gives the folder.
std::string WriteFolder(const std::vector<StoredTensor>& tensors, int shards = 1,
                        const std::string& marker = "");

class RealCheckpoint {
 public:
  // Everything agrees: Run passes until something is changed.
  explicit RealCheckpoint(const std::string& model);

  // What is changed before Write.
  std::vector<StoredTensor> tensors;  // in the program's order
  v1::Program program;                // without golden
  v1::CheckpointGolden golden;        // digests are filled in by Write where they are empty
  std::string checks =
      "check { name: 'golden' golden {} } check { name: 'weights_bound' weights_bound {} } "
      "check { name: 'weights_sound' weights_sound {} }";
  int shards = 1;
  std::string marker;  // "synthetic"

  StoredTensor& Named(const std::string& name);

  // Writes the folder and the files; the test and its options may then be changed, too.
  WrittenTest Write();
  v1::TestResult Run() { return RunAltered(Write()); }
};

}  // namespace assay::engine
