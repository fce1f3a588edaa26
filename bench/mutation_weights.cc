#include "bench/mutation_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "engine/mock.h"

namespace assay::mutation {
namespace {

using Numbers = std::vector<float>;

int64_t CountOf(const google::protobuf::RepeatedField<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

bool AllEqual(const Numbers& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [&](float x) { return x == numbers[0]; });
}

absl::StatusOr<Numbers> ValuesOf(const v1::Program& program, int weight) {
  const v1::WeightSpec& spec = program.manifest().weights(weight);
  Numbers numbers(static_cast<size_t>(CountOf(spec.shape())));
  ASSAY_RETURN_IF_ERROR(
      engine::FillMock(spec.name(), program.manifest().mock_seed(), spec.mock(), spec.dtype(),
                       {spec.shape().data(), static_cast<size_t>(spec.shape_size())}, numbers.data()));
  return numbers;
}

std::string Bytes(const Numbers& numbers) {
  std::string bytes(numbers.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), numbers.data(), bytes.size());
  return bytes;
}

// "encoder.layer.#.attention": what tells like weights of several layers from each other.
std::string Normalised(const std::string& name) {
  std::vector<std::string> parts = absl::StrSplit(name, '.');
  for (std::string& part : parts) {
    if (!part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; }))
      part = std::string(1, '#');
  }
  std::string joined;
  for (const std::string& part : parts) absl::StrAppend(&joined, joined.empty() ? "" : ".", part);
  return joined;
}

bool OfAttention(const std::string& name) {
  for (const char* part : {"attn", "attention", "Attention", "q_proj", "query"}) {
    if (absl::StrContains(name, part)) return true;
  }
  return false;
}

class Finder {
 public:
  Finder(const v1::Program& program, std::vector<Fault>& found) : program_(program), found_(found) {}

  void Weight(int index) {
    const v1::WeightSpec& spec = program_.manifest().weights(index);
    if (spec.dtype() != v1::FLOAT) return;
    const auto& shape = spec.shape();
    const bool random = spec.mock().has_normal() || spec.mock().has_uniform();
    const auto add = [&](const char* kind, std::string what, int variant = 0) {
      Fault fault;
      fault.kind = kind;
      fault.weight = index;
      fault.variant = variant;
      fault.place = spec.name();
      fault.what = std::move(what);
      found_.push_back(std::move(fault));
    };
    if (!random) return;
    if (shape.size() == 2 && shape[0] == shape[1] && shape[0] > 1) add("weight.transpose", "is transposed");
    if (shape.size() >= 2) {
      add("weight.round_8_bits", "is rounded to 8 bits");
      add("weight.shift_rows", "its rows move on by one");
      add("weight.scale", "is 5% larger");
    }
    if (shape.size() == 1 && absl::EndsWith(spec.name(), "bias")) add("weight.zero_bias", "is zero");
    if (shape.size() == 2 && OfAttention(spec.name()) && shape[0] % 2 == 0) {
      add("weight.reorder_heads", "the two halves of its rows change places");
    }
    if (shape.size() == 2 && absl::StrContains(spec.name(), "experts.")) add("weight.skip_expert", "is zero");
    const std::string like = Normalised(spec.name());
    for (int other = index + 1; other < program_.manifest().weights_size(); ++other) {
      const v1::WeightSpec& second = program_.manifest().weights(other);
      if (Normalised(second.name()) != like || CountOf(second.shape()) != CountOf(shape) ||
          second.dtype() != v1::FLOAT || shape.size() < 2) {
        continue;
      }
      add("weight.layers_exchanged", absl::StrCat("is ", second.name(), "'s and the reverse"), other);
      break;
    }
    for (const auto& [from, to] : {std::pair<const char*, const char*>{"query", "key"},
                                   {"q_proj", "k_proj"},
                                   {"q_lin", "k_lin"},
                                   {"k_proj", "v_proj"}}) {
      if (!absl::StrContains(spec.name(), from)) continue;
      std::string name = spec.name();
      name.replace(name.find(from), std::strlen(from), to);
      for (int other = 0; other < program_.manifest().weights_size(); ++other) {
        const v1::WeightSpec& second = program_.manifest().weights(other);
        if (second.name() == name &&
            std::equal(shape.begin(), shape.end(), second.shape().begin(), second.shape().end())) {
          add("weight.swap_projections", absl::StrCat("is ", name, "'s and the reverse"), other);
        }
      }
    }
  }

  void Constant(int index) {
    const v1::Tensor& constant = program_.constants(index);
    const auto add = [&](const char* kind, std::string what) {
      Fault fault;
      fault.kind = kind;
      fault.constant = index;
      fault.place = constant.name();
      fault.what = std::move(what);
      found_.push_back(std::move(fault));
    };
    if (absl::EndsWith(constant.name(), "inv_freq") && constant.dtype() == v1::FLOAT) {
      add("constant.rotary_base", "its base is ten times as large");
    } else if (constant.dtype() == v1::LONG && absl::StrContains(constant.name(), "position")) {
      add("constant.shift_position", "every index is one later, the last one the first");
    } else if (constant.dtype() == v1::FLOAT) {
      add("constant.scale", "is 5% larger");
    }
  }

 private:
  const v1::Program& program_;
  std::vector<Fault>& found_;
};

absl::Status Nothing() { return absl::InvalidArgumentError("the fault would change nothing"); }

absl::Status PlantInConstant(v1::Program& program, const Fault& fault) {
  v1::Tensor& constant = *program.mutable_constants(fault.constant);
  const std::string before = constant.data();
  if (fault.kind == "constant.shift_position") {
    if (constant.data().size() < 16) return Nothing();
    std::rotate(constant.mutable_data()->begin(), constant.mutable_data()->begin() + 8,
                constant.mutable_data()->end());
  } else {
    Numbers numbers(constant.data().size() / sizeof(float));
    std::memcpy(numbers.data(), constant.data().data(), constant.data().size());
    const auto count = static_cast<double>(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] *= static_cast<float>(
          fault.kind == "constant.scale" ? 1.05 : std::pow(10.0, -static_cast<double>(i) / count));
    }
    *constant.mutable_data() = Bytes(numbers);
  }
  return constant.data() == before ? Nothing() : absl::OkStatus();
}

}  // namespace

void WeightFaults(const v1::Program& program, const std::set<std::string>& used, std::vector<Fault>& found) {
  Finder finder(program, found);
  for (int i = 0; i < program.manifest().weights_size(); ++i) {
    if (used.count(program.manifest().weights(i).name()) > 0) finder.Weight(i);
  }
  for (int i = 0; i < program.constants_size(); ++i) {
    if (used.count(program.constants(i).name()) > 0) finder.Constant(i);
  }
}

absl::Status PlantInWeight(v1::Program& program, const Fault& fault) {
  if (fault.constant >= 0) return PlantInConstant(program, fault);
  ASSAY_ASSIGN_OR_RETURN(Numbers numbers, ValuesOf(program, fault.weight));
  const Numbers before = numbers;
  v1::WeightSpec& spec = *program.mutable_manifest()->mutable_weights(fault.weight);
  const size_t rows = spec.shape_size() > 0 ? static_cast<size_t>(spec.shape(0)) : 1;
  const size_t row = numbers.size() / std::max<size_t>(rows, 1);
  if (fault.kind == "weight.transpose") {
    for (size_t i = 0; i < rows; ++i) {
      for (size_t k = 0; k < i; ++k) std::swap(numbers[i * rows + k], numbers[k * rows + i]);
    }
  } else if (fault.kind == "weight.round_8_bits") {
    float largest = 0;
    for (float x : numbers) largest = std::max(largest, std::abs(x));
    const float step = largest / 127;
    for (float& x : numbers) x = std::nearbyint(x / step) * step;
  } else if (fault.kind == "weight.shift_rows") {
    std::rotate(numbers.begin(), numbers.begin() + static_cast<int64_t>(row), numbers.end());
  } else if (fault.kind == "weight.scale") {
    for (float& x : numbers) x *= 1.05F;
  } else if (fault.kind == "weight.zero_bias" || fault.kind == "weight.skip_expert") {
    std::fill(numbers.begin(), numbers.end(), 0.0F);
  } else if (fault.kind == "weight.reorder_heads") {
    std::rotate(numbers.begin(), numbers.begin() + static_cast<int64_t>(rows / 2 * row), numbers.end());
  } else if (fault.kind == "weight.layers_exchanged" || fault.kind == "weight.swap_projections") {
    ASSAY_ASSIGN_OR_RETURN(numbers, ValuesOf(program, fault.variant));
    v1::WeightSpec& other = *program.mutable_manifest()->mutable_weights(fault.variant);
    other.mutable_mock()->set_literal(Bytes(before));
  } else {
    return absl::InternalError(absl::StrCat("no way to plant ", fault.kind));
  }
  if (numbers == before || AllEqual(before)) return Nothing();
  spec.mutable_mock()->set_literal(Bytes(numbers));
  return absl::OkStatus();
}

}  // namespace assay::mutation
