// Small programs for tests, written node by node.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "assay/v1/program.pb.h"

namespace assay::engine {

// The text form of an Argument that is a value's number.
inline std::string V(uint32_t value) { return "value: " + std::to_string(value); }

class ProgramMaker {
 public:
  // Inputs, weights and constants first. Each gives its value number. Golden inputs are made by `rule` (text
  // form of a MockRule).
  uint32_t Input(const std::string& name, v1::ScalarType dtype, const std::vector<int64_t>& shape,
                 bool dynamic_batch = false, const std::string& rule = "normal { std: 1 }");
  uint32_t Weight(const std::string& name, v1::ScalarType dtype, const std::vector<int64_t>& shape,
                  const std::string& rule = "normal { std: 0.5 }");
  uint32_t Constant(const std::string& name, const std::vector<int64_t>& shape,
                    const std::vector<float>& values);

  using Arguments = std::vector<std::pair<std::string, std::string>>;  // name, text form of an Argument
  // `op` is "aten::add.Tensor", "aten::linear" or "sym::mul". Gives the number of the first output.
  uint32_t Node(const std::string& name, const std::string& op, const Arguments& arguments,
                uint32_t outputs = 1, bool list = false, const std::string& module = "");

  void Output(const std::string& name, uint32_t value, const std::vector<int64_t>& shape,
              v1::ScalarType dtype = v1::FLOAT);

  // The golden's outputs are zeros of the right size: its numbers are not what such tests are about.
  v1::Program Finish();

  v1::Program& program() { return program_; }

 private:
  v1::Program program_;
};

// logits = gelu(x * w^T + offset): one input [2, 3] with a dynamic batch, a weight [4, 3], a constant [4].
v1::Program SmallProgram();

}  // namespace assay::engine
