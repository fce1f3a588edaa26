#include "engine/side_alignment.h"

#include <algorithm>
#include <cstdint>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace assay::engine {
namespace {

// A byte each: 256 MiB at most.
constexpr size_t kMostCells = size_t{1} << 28;

struct Token {
  int op = 0, module = 0, shape = 0, bits = 0;
};

// The same number for the same text on both sides.
class Numbers {
 public:
  int Of(const std::string& text) {
    return numbers_.emplace(text, static_cast<int>(numbers_.size())).first->second;
  }

 private:
  std::map<std::string, int> numbers_;
};

struct Tokenizer {
  Numbers ops, modules, shapes, bits;
  std::vector<Token> Of(const v1::Recording& recording) {
    std::vector<Token> tokens;
    const v1::Graph& graph = recording.program().graph();
    for (const v1::RecordedValue& value : recording.value()) {
      const v1::Node& node = graph.nodes(static_cast<int>(value.node()));
      tokens.push_back({ops.Of(absl::StrCat(OperatorName(graph, value.node()), "#", value.output())),
                        modules.Of(graph.modules(static_cast<int>(node.module()))),
                        shapes.Of(absl::StrJoin(value.shape(), ",")), bits.Of(value.digest())});
    }
    return tokens;
  }
};

bool Alike(const Token& a, const Token& b) {
  return a.op == b.op && a.module == b.module && a.shape == b.shape;
}

// 0: no pair. Numbers in another shape are in another order, so that nothing can be said of them.
int Weight(const Token& a, const Token& b) {
  if (a.shape != b.shape) return 0;
  if (a.bits == b.bits) return Alike(a, b) ? 6 : a.op == b.op ? 5 : 4;
  if (a.op != b.op) return 0;
  return Alike(a, b) ? 3 : 2;
}

}  // namespace

std::string OperatorName(const v1::Graph& graph, uint32_t node) {
  const v1::Operator& op = graph.operators(static_cast<int>(graph.nodes(static_cast<int>(node)).op()));
  return op.overload().empty() ? op.name() : absl::StrCat(op.name(), ".", op.overload());
}

absl::StatusOr<std::vector<int>> AlignValues(const v1::Recording& from, const v1::Recording& to) {
  Tokenizer tokenizer;
  const std::vector<Token> a = tokenizer.Of(from), b = tokenizer.Of(to);
  std::vector<int> made(b.size(), -1);
  size_t first = 0, a_end = a.size(), b_end = b.size();
  while (first < std::min(a_end, b_end) && Alike(a[first], b[first])) {
    made[first] = static_cast<int>(first);
    ++first;
  }
  while (a_end > first && b_end > first && Alike(a[a_end - 1], b[b_end - 1])) {
    made[--b_end] = static_cast<int>(--a_end);
  }
  const size_t rows = a_end - first, columns = b_end - first;
  if (rows == 0 || columns == 0) return made;
  if (rows > kMostCells / columns) {
    return absl::ResourceExhaustedError(absl::StrCat("the sides' programs, of ", a.size(), " and ", b.size(),
                                                     " values, are too large to be aligned"));
  }
  enum Step : uint8_t { kPair, kSkipFrom, kSkipTo };
  std::vector<uint8_t> steps(rows * columns);
  std::vector<int> above(columns + 1, 0), now(columns + 1, 0);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      const int weight = Weight(a[first + i], b[first + j]);
      int best = above[j + 1];
      Step step = kSkipFrom;
      if (now[j] > best) {
        best = now[j];
        step = kSkipTo;
      }
      if (weight > 0 && above[j] + weight > best) {
        best = above[j] + weight;
        step = kPair;
      }
      now[j + 1] = best;
      steps[i * columns + j] = step;
    }
    std::swap(above, now);
  }
  for (size_t i = rows, j = columns; i > 0 && j > 0;) {
    switch (steps[(i - 1) * columns + j - 1]) {
      case kPair:
        made[first + j - 1] = static_cast<int>(first + i - 1);
        --i, --j;
        break;
      case kSkipFrom:
        --i;
        break;
      default:
        --j;
    }
  }
  return made;
}

}  // namespace assay::engine
