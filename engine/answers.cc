#include "engine/answers.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "engine/tolerance.h"
#include "engine/validate_check.h"

namespace assay::engine {
namespace {

constexpr size_t kMaxShownBytes = 600;
constexpr size_t kMaxShownRows = 3;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

std::string Label(const v1::Answer& answer, int64_t id) {
  const auto found = answer.label().find(id);
  return found == answer.label().end() ? absl::StrCat("#", id) : found->second;
}

std::string Percent(double share) {
  return share >= 0.0995 || share == 0 ? absl::StrFormat("%.0f %%", 100 * share)
                                       : absl::StrFormat("%.1f %%", 100 * share);
}

// The tensor of that name in float64, if it has the sizes that the answer was validated with.
absl::StatusOr<at::Tensor> Numbers(const v1::Manifest& manifest, absl::Span<const at::Tensor> outputs,
                                   const std::string& name) {
  ASSAY_ASSIGN_OR_RETURN(const int index, FindOutput(manifest, "output", name));
  const auto& shape = manifest.outputs(index).shape();
  const at::Tensor& output = outputs[static_cast<size_t>(index)];
  if (!std::equal(shape.begin(), shape.end(), output.sizes().begin(), output.sizes().end())) {
    return Invalid("output '", name, "' has shape [", absl::StrJoin(output.sizes(), ", "), "] instead of [",
                   absl::StrJoin(shape, ", "), "]");
  }
  return output;
}

absl::StatusOr<std::vector<double>> Row(const at::Tensor& row) {
  const at::Tensor numbers = ToNumbers(row);
  std::vector<double> values(numbers.const_data_ptr<double>(),
                             numbers.const_data_ptr<double>() + numbers.numel());
  // Minus infinity is what a model gives that excludes a token.
  for (double value : values) {
    if (std::isnan(value)) return Invalid("NaN has no place in an order");
    if (std::isinf(value) && value > 0) return Invalid("infinity leaves nothing to choose");
  }
  return values;
}

absl::StatusOr<ReadAnswer> ReadTop(const v1::Answer& answer, const v1::Manifest& manifest,
                                   absl::Span<const at::Tensor> outputs) {
  const v1::Answer::Top& top = answer.top();
  ASSAY_ASSIGN_OR_RETURN(at::Tensor place, Numbers(manifest, outputs, top.output()));
  for (uint32_t index : top.index()) place = place.select(0, index);
  ASSAY_ASSIGN_OR_RETURN(const std::vector<double> values, Row(place));
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t count = std::min<size_t>(top.count(), values.size());
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
      [&](int64_t a, int64_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; });
  const double largest = values[order[0]];
  if (std::isinf(largest)) return Invalid("everything is excluded");
  double sum = 0;
  for (double value : values) sum += std::exp(value - largest);
  std::vector<std::string> shown;
  for (size_t i = 0; i < count; ++i) {
    shown.push_back(absl::StrCat(ForPeople(Label(answer, order[i])), " (",
                                 Percent(std::exp(values[order[i]] - largest) / sum), ")"));
  }
  return ReadAnswer{Label(answer, order[0]), absl::StrJoin(shown, ", ")};
}

absl::StatusOr<ReadAnswer> ReadGreedy(const v1::Answer& answer, const v1::Manifest& manifest,
                                      absl::Span<const at::Tensor> outputs) {
  const v1::Answer::Greedy& greedy = answer.greedy();
  ASSAY_ASSIGN_OR_RETURN(const at::Tensor output, Numbers(manifest, outputs, greedy.output()));
  const absl::flat_hash_set<int64_t> never(greedy.suppressed().begin(), greedy.suppressed().end());
  const absl::flat_hash_set<int64_t> not_first(greedy.suppressed_first().begin(),
                                               greedy.suppressed_first().end());
  std::string text;
  for (int i = 0; i < greedy.token_size(); ++i) {
    ASSAY_ASSIGN_OR_RETURN(const std::vector<double> values,
                           Row(output.select(0, greedy.row()).select(0, greedy.first() + i)));
    int64_t best = -1;
    for (int64_t id = 0; id < static_cast<int64_t>(values.size()); ++id) {
      if (never.contains(id) || (i == 0 && not_first.contains(id))) continue;
      if (best < 0 || values[id] > values[best]) best = id;
    }
    if (best < 0) return Invalid("every token is suppressed");
    if (best != greedy.token(i)) {
      // From here on the model would go another way than the tokens that it was given.
      absl::StrAppend(&text, Label(answer, best), " […]");
      const std::string where =
          absl::StrCat(" [token ", i, " is #", best, " instead of #", greedy.token(i), "]");
      return ReadAnswer{absl::StrCat(text, where), absl::StrCat(ForPeople(text), where)};
    }
    absl::StrAppend(&text, Label(answer, best));
  }
  return ReadAnswer{greedy.text(), ForPeople(greedy.text())};
}

// One embedding a row, in float64.
absl::StatusOr<std::vector<std::vector<double>>> Embeddings(const v1::Answer::Nearest& nearest,
                                                            const v1::Manifest& manifest,
                                                            absl::Span<const at::Tensor> inputs,
                                                            const at::Tensor& output) {
  std::vector<std::vector<double>> rows;
  at::Tensor mask;
  if (!nearest.mask().empty()) {
    ASSAY_ASSIGN_OR_RETURN(const int index, FindInput(manifest, "mask", nearest.mask()));
    mask = inputs[static_cast<size_t>(index)];
    if (mask.dim() != 2 || mask.size(0) != output.size(0) || mask.size(1) != output.size(1)) {
      return Invalid("mask '", nearest.mask(), "' is not as long as the output");
    }
    mask = ToNumbers(mask);
  }
  for (int64_t row = 0; row < output.size(0); ++row) {
    ASSAY_ASSIGN_OR_RETURN(const std::vector<double> values, Row(output.select(0, row)));
    if (!mask.defined()) {
      rows.push_back(values);
      continue;
    }
    const auto width = static_cast<size_t>(output.size(2));
    const double* kept = mask.const_data_ptr<double>() + row * mask.size(1);
    std::vector<double> mean(width, 0);
    int64_t count = 0;
    for (int64_t position = 0; position < mask.size(1); ++position) {
      if (kept[position] == 0) continue;
      ++count;
      for (size_t i = 0; i < width; ++i) mean[i] += values[static_cast<size_t>(position) * width + i];
    }
    if (count == 0) return Invalid("row ", row, " is masked as a whole");
    for (double& value : mean) value /= static_cast<double>(count);
    rows.push_back(std::move(mean));
  }
  return rows;
}

double Cosine(const std::vector<double>& a, const std::vector<double>& b) {
  const double dot = std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  return dot / std::sqrt(std::inner_product(a.begin(), a.end(), a.begin(), 0.0) *
                         std::inner_product(b.begin(), b.end(), b.begin(), 0.0));
}

absl::StatusOr<ReadAnswer> ReadNearest(const v1::Answer& answer, const v1::Manifest& manifest,
                                       absl::Span<const at::Tensor> inputs,
                                       absl::Span<const at::Tensor> outputs) {
  const v1::Answer::Nearest& nearest = answer.nearest();
  ASSAY_ASSIGN_OR_RETURN(const at::Tensor output, Numbers(manifest, outputs, nearest.output()));
  ASSAY_ASSIGN_OR_RETURN(const auto rows, Embeddings(nearest, manifest, inputs, output));
  std::vector<std::pair<double, int64_t>> near;
  for (size_t row = 0; row < rows.size(); ++row) {
    if (row == nearest.row()) continue;
    const double cosine = Cosine(rows[nearest.row()], rows[row]);
    if (std::isnan(cosine)) return Invalid("row ", row, " has no direction");
    near.emplace_back(cosine, static_cast<int64_t>(row));
  }
  std::sort(near.begin(), near.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(near.size(), kMaxShownRows); ++i) {
    shown.push_back(absl::StrFormat("%s (%.2f)", ForPeople(Label(answer, near[i].second)), near[i].first));
  }
  return ReadAnswer{Label(answer, near[0].second), absl::StrJoin(shown, ", ")};
}

// What moves a cursor, changes a terminal or turns the reading direction of what stands around it.
bool MustEscape(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x61c ||
         (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
         (code >= 0x2060 && code <= 0x206f) || code == 0xfeff || (code >= 0xe0000 && code <= 0xe007f);
}

}  // namespace

absl::StatusOr<ReadAnswer> ReadOff(const v1::Answer& answer, const v1::Manifest& manifest,
                                   absl::Span<const at::Tensor> inputs,
                                   absl::Span<const at::Tensor> outputs) {
  switch (answer.kind_case()) {
    case v1::Answer::kTop:
      return ReadTop(answer, manifest, outputs);
    case v1::Answer::kGreedy:
      return ReadGreedy(answer, manifest, outputs);
    case v1::Answer::kNearest:
      return ReadNearest(answer, manifest, inputs, outputs);
    case v1::Answer::KIND_NOT_SET:
      break;
  }
  return Invalid("an answer of a kind that this engine does not know");
}

std::string ForPeople(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  std::string shown;
  while (!text.empty()) {
    if (shown.size() >= kMaxShownBytes) {
      shown += "…";
      break;
    }
    const auto [length, code] = FirstCharacter(text);
    if (length == 0) {
      shown += "\xef\xbf\xbd";  // U+FFFD
    } else if (code == '\n') {
      shown += "\\n";
    } else if (MustEscape(code)) {
      absl::StrAppendFormat(&shown, "\\u{%x}", code);
    } else {
      absl::StrAppend(&shown, text.substr(0, length));
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return shown;
}

}  // namespace assay::engine
