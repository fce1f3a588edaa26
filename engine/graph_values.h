// Which values of a graph an argument or a node reads.
#pragma once

#include <cstdint>

#include "assay/v1/program.pb.h"

namespace assay::engine {

// Calls `use` with the number of every value of an argument, in its order.
template <typename Use>
void ForValues(const v1::Argument& argument, Use use) {
  switch (argument.kind_case()) {
    case v1::Argument::kValue:
      return use(argument.value());
    case v1::Argument::kValues:
      for (const uint32_t value : argument.values().values()) use(value);
      return;
    case v1::Argument::kOptionalValues:
      for (const uint32_t value : argument.optional_values().values_plus_one()) {
        if (value > 0) use(value - 1);
      }
      return;
    case v1::Argument::kSymInts:
      for (const auto& item : argument.sym_ints().values()) {
        if (item.has_value()) use(item.value());
      }
      return;
    default:
      return;
  }
}

template <typename Use>
void ForValues(const v1::Node& node, Use use) {
  for (const v1::NamedArgument& argument : node.arguments()) ForValues(argument.value(), use);
}

}  // namespace assay::engine
