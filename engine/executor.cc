#include <ATen/ScalarOps.h>
#include <ATen/core/List.h>
#include <c10/util/Exception.h>

#include <chrono>
#include <new>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/code.h"

namespace assay::engine {
namespace {

using Clock = std::chrono::steady_clock;
using Frame = std::vector<c10::IValue>;

// Messages of operators can hold whole tensors.
constexpr size_t kMaxMessage = 800;

absl::Status ErrorAt(const Code& code, const Instruction& instruction, absl::StatusCode status_code,
                     absl::string_view message) {
  const NodePlace place = code.Place(static_cast<uint32_t>(&instruction - code.instructions.data()));
  return absl::Status(
      status_code, absl::StrCat("node ", place.name, " (", place.op, ")", place.module.empty() ? "" : " in ",
                                place.module, ": ", message.substr(0, kMaxMessage)));
}

// The CPU's allocator says that there is no memory with a plain c10::Error.
bool IsOutOfMemory(absl::string_view message) {
  return absl::StrContains(message, "DefaultCPUAllocator: can't allocate memory") ||
         absl::StrContains(message, "DefaultCPUAllocator: not enough memory");
}

c10::IValue Take(c10::IValue& value, bool last_use) { return last_use ? std::move(value) : value; }

// Pushes what an operator gets as one argument.
inline void Push(const Code& code, const ArgumentSource& source, Frame& frame, torch::jit::Stack& stack) {
  using Kind = ArgumentSource::Kind;
  switch (source.kind) {
    case Kind::kValue:
      if (source.last_use) {
        stack.push_back(std::move(frame[source.index]));
      } else {
        stack.push_back(frame[source.index]);
      }
      return;
    case Kind::kFixed:
      stack.push_back(code.fixed[source.index]);
      return;
    case Kind::kLiteral:
      stack.push_back(code.literals[source.index]);
      return;
    case Kind::kInts: {
      c10::List<int64_t> list;
      list.reserve(code.lists[source.index].size());
      for (const ListItem& item : code.lists[source.index]) {
        list.push_back(item.kind == ListItem::Kind::kValue ? frame[item.index].toInt() : item.integer);
      }
      stack.emplace_back(std::move(list));
      return;
    }
    case Kind::kTensors: {
      c10::List<at::Tensor> list;
      list.reserve(code.lists[source.index].size());
      for (const ListItem& item : code.lists[source.index]) {
        list.push_back(item.kind == ListItem::Kind::kFixed
                           ? code.fixed[item.index].toTensor()
                           : Take(frame[item.index], item.last_use).toTensor());
      }
      stack.emplace_back(std::move(list));
      return;
    }
    case Kind::kMaybeTensors: {
      c10::List<std::optional<at::Tensor>> list;
      list.reserve(code.lists[source.index].size());
      for (const ListItem& item : code.lists[source.index]) {
        if (item.kind == ListItem::Kind::kNone) {
          list.push_back(std::nullopt);
        } else if (item.kind == ListItem::Kind::kFixed) {
          list.push_back(code.fixed[item.index].toTensor());
        } else {
          list.push_back(Take(frame[item.index], item.last_use).toTensor());
        }
      }
      stack.emplace_back(std::move(list));
      return;
    }
    case Kind::kWrapped:
      stack.emplace_back(at::native::wrapped_scalar_tensor(frame[source.index].toScalar()));
      return;
    case Kind::kReal:
      stack.emplace_back(frame[source.index].toScalar().toDouble());
      return;
  }
}

// Results from the stack into the frame.
absl::Status Store(const Code& code, const Instruction& instruction, torch::jit::Stack& stack, Frame& frame) {
  if (instruction.list_output) {
    const c10::List<at::Tensor> list = std::move(stack[0]).toTensorList();
    if (list.size() != instruction.output_count) {
      return ErrorAt(
          code, instruction, absl::StatusCode::kInternal,
          absl::StrCat("it gave ", list.size(), " tensors, the program unpacks ", instruction.output_count));
    }
    for (uint32_t i = 0; i < instruction.output_count; ++i) frame[instruction.first_output + i] = list.get(i);
    return absl::OkStatus();
  }
  for (uint32_t i = 0; i < instruction.output_count; ++i) {
    frame[instruction.first_output + i] = std::move(stack[i]);
  }
  return absl::OkStatus();
}

absl::Status Tell(const Code& code, const Instruction& instruction, const Frame& frame, Clock::duration took,
                  Observer& observer) {
  const NodePlace place = code.Place(static_cast<uint32_t>(&instruction - code.instructions.data()));
  observer.NodeRan(place, std::chrono::duration_cast<std::chrono::nanoseconds>(took).count());
  for (uint32_t i = 0; i < instruction.output_count; ++i) {
    const c10::IValue& value = frame[instruction.first_output + i];
    if (value.isTensor() && !value.toTensor().defined()) continue;
    const bool on = value.isTensor() ? observer.ValueMade(place, i, value.toTensor(), instruction.is_view)
                                     : observer.ScalarMade(place, i, value);
    if (!on) {
      return ErrorAt(code, instruction, absl::StatusCode::kCancelled, "the observer ended the run");
    }
  }
  return absl::OkStatus();
}

// `current` follows the run, so that whoever catches an exception knows where it was. Without an observer
// nothing of it is compiled in.
template <bool kObserved>
absl::Status RunAll(const Code& code, Frame& frame, Observer* observer, const Instruction*& current) {
  torch::jit::Stack stack;
  stack.reserve(32);
  for (const Instruction& instruction : code.instructions) {
    current = &instruction;
    stack.clear();
    for (uint32_t i = 0; i < instruction.argument_count; ++i) {
      Push(code, code.arguments[instruction.first_argument + i], frame, stack);
    }
    [[maybe_unused]] Clock::time_point start;
    if constexpr (kObserved) start = Clock::now();
    if (instruction.op != nullptr) {
      instruction.op->callBoxed(stack);
    } else {
      c10::IValue result;
      const absl::Status status = EvaluateSymbolic(instruction.symbolic, stack, &result);
      if (!status.ok()) return ErrorAt(code, instruction, absl::StatusCode::kInternal, status.message());
      stack.clear();
      stack.push_back(std::move(result));
    }
    [[maybe_unused]] Clock::time_point end;
    if constexpr (kObserved) end = Clock::now();
    absl::Status stored = Store(code, instruction, stack, frame);
    if (!stored.ok()) return stored;
    if constexpr (kObserved) {
      absl::Status told = Tell(code, instruction, frame, end - start, *observer);
      if (!told.ok()) return told;
    }
    for (uint32_t i = 0; i < instruction.dead_count; ++i) {
      frame[code.dead[instruction.first_dead + i]] = c10::IValue();
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Execute(const Code& code, Frame& frame, Observer* observer) {
  const Instruction* current = nullptr;
  const auto error = [&](absl::StatusCode status_code, absl::string_view message) {
    if (current == nullptr) return absl::Status(status_code, message);
    return ErrorAt(code, *current, status_code, message);
  };
  try {
    return observer == nullptr ? RunAll<false>(code, frame, observer, current)
                               : RunAll<true>(code, frame, observer, current);
  } catch (const c10::OutOfMemoryError& thrown) {
    return error(absl::StatusCode::kResourceExhausted, thrown.what_without_backtrace());
  } catch (const c10::NotImplementedError& thrown) {
    return error(absl::StatusCode::kUnimplemented, thrown.what_without_backtrace());
  } catch (const c10::Error& thrown) {
    const absl::string_view message = thrown.what_without_backtrace();
    if (IsOutOfMemory(message)) return error(absl::StatusCode::kResourceExhausted, message);
    // The dispatcher and the dtype tables of the kernels say so with a plain error, too.
    if (absl::StrContains(message, "not implemented for") || absl::StartsWith(message, "Unsupported dtype"))
      return error(absl::StatusCode::kUnimplemented, message);
    return error(absl::StatusCode::kInternal, message);
  } catch (const std::bad_alloc&) {
    return error(absl::StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& thrown) {
    return error(absl::StatusCode::kInternal, thrown.what());
  }
}

}  // namespace assay::engine
