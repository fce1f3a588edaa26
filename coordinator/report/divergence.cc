#include "coordinator/report/divergence.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/escape.h"
#include "nlohmann/json.hpp"

namespace assay::report {
namespace {

using Json = nlohmann::ordered_json;

absl::string_view FromWord(v1::DivergenceFrom from) {
  switch (from) {
    case v1::CPU_RUN:
      return "a float32 run on the CPU";
    case v1::SECOND_RUN:
      return "a second run";
    case v1::NON_FINITE:
      return "what is finite";
    case v1::ALTERED_RUN:
      return "the run before its inputs were altered";
    default:
      return "the golden's trace";
  }
}

absl::string_view FaultWord(v1::FaultVerdict fault) {
  switch (fault) {
    case v1::FAULT_WEIGHTS:
      return "weights";
    case v1::FAULT_COMPUTATION:
      return "computation";
    case v1::FAULT_UNKNOWN:
      return "unknown";
    default:
      return "";
  }
}

std::string SamplesText(const google::protobuf::RepeatedField<double>& samples) {
  return absl::StrJoin(samples, ", ",
                       [](std::string* out, double sample) { absl::StrAppendFormat(out, "%.7g", sample); });
}

std::string StatisticsText(absl::string_view what, const v1::ValueStatistics& value) {
  std::string text = absl::StrCat(what, " ", value.name(), " (", value.source(), ", ", value.dtype(), " [",
                                  absl::StrJoin(value.shape(), ", "), "]): ");
  absl::StrAppendFormat(&text, "mean %.7g, std %.4g, from %.7g to %.7g", value.mean(), value.std(),
                        value.min(), value.max());
  if (value.nan() > 0) absl::StrAppend(&text, ", ", value.nan(), " NaN");
  if (value.inf() > 0) absl::StrAppend(&text, ", ", value.inf(), " Inf");
  if (value.samples_size() > 0) absl::StrAppend(&text, "; samples ", SamplesText(value.samples()));
  if (value.expected()) {
    absl::StrAppendFormat(&text, "; expected mean %.7g, largest %.7g, samples %s: %s", value.expected_mean(),
                          value.expected_abs_max(), SamplesText(value.expected_samples()),
                          value.agrees() ? "agrees" : "DIFFERS");
  }
  return text;
}

Json Number(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  return number;
}

Json Numbers(const google::protobuf::RepeatedField<double>& numbers) {
  Json json = Json::array();
  for (const double number : numbers) json.push_back(Number(number));
  return json;
}

Json StatisticsJson(const google::protobuf::RepeatedPtrField<v1::ValueStatistics>& values) {
  Json json = Json::array();
  for (const v1::ValueStatistics& value : values) {
    Json& one = json.emplace_back(Json{{"name", value.name()},
                                       {"source", value.source()},
                                       {"dtype", value.dtype()},
                                       {"shape", value.shape()},
                                       {"mean", Number(value.mean())},
                                       {"std", Number(value.std())},
                                       {"min", Number(value.min())},
                                       {"max", Number(value.max())},
                                       {"nan", value.nan()},
                                       {"inf", value.inf()},
                                       {"samples", Numbers(value.samples())}});
    if (!value.expected()) continue;
    one["expected"] = {{"mean", Number(value.expected_mean())},
                       {"abs_max", Number(value.expected_abs_max())},
                       {"samples", Numbers(value.expected_samples())},
                       {"agrees", value.agrees()}};
  }
  return json;
}

bool IsThere(const v1::Divergence& divergence) {
  return !divergence.node().empty() || !divergence.op().empty();
}

}  // namespace

std::string DivergenceText(const v1::Divergence& divergence) {
  if (!IsThere(divergence)) return "";
  std::string text = absl::StrCat(divergence.node(), " (", divergence.op(), ")");
  if (!divergence.module().empty()) absl::StrAppend(&text, " in ", divergence.module());
  absl::StrAppend(&text, absl::StrFormat(", error %.3g", divergence.error()));
  if (!divergence.detail().empty()) absl::StrAppend(&text, ": ", divergence.detail());
  return text;
}

std::string FaultText(const v1::Divergence& divergence) {
  const absl::string_view word = FaultWord(divergence.fault());
  if (word.empty()) return "";
  return absl::StrCat(word, ": ", divergence.fault_reason());
}

std::vector<std::string> DivergenceLines(const v1::Divergence& divergence) {
  std::vector<std::string> lines;
  if (!IsThere(divergence)) return lines;
  lines.push_back(absl::StrCat("first divergence: ", DivergenceText(divergence)));
  if (divergence.from() == v1::DIVERGENCE_FROM_UNSPECIFIED) return lines;  // of the first release
  lines.push_back(absl::StrFormat("held against %s; %s took %.3f s", FromWord(divergence.from()),
                                  divergence.check().empty()
                                      ? "the diagnosis"
                                      : absl::StrCat("the diagnosis of check ", divergence.check()),
                                  divergence.seconds()));
  if (const std::string fault = FaultText(divergence); !fault.empty()) {
    lines.push_back(absl::StrCat("at fault: ", fault));
  }
  if (divergence.suspect_size() > 0) {
    lines.push_back(
        absl::StrCat("or, as nothing is recorded of them, in: ", absl::StrJoin(divergence.suspect(), ", ")));
  }
  for (const v1::ValueStatistics& value : divergence.input()) lines.push_back(StatisticsText("read", value));
  for (const v1::ValueStatistics& value : divergence.output()) lines.push_back(StatisticsText("gave", value));
  return lines;
}

nlohmann::ordered_json DivergenceJson(const v1::Divergence& divergence) {
  if (!IsThere(divergence)) return nullptr;
  Json growth = Json::array();
  for (const v1::GrowthPoint& point : divergence.growth()) {
    growth.push_back({{"node", point.name()},
                      {"module", point.module()},
                      {"error", Number(point.error())},
                      {"allowed", Number(point.allowed())}});
  }
  return {{"node", divergence.node()},
          {"op", divergence.op()},
          {"module", divergence.module()},
          {"error", Number(divergence.error())},
          {"detail", divergence.detail()},
          {"check", divergence.check()},
          {"from", std::string(FromWord(divergence.from()))},
          {"fault", std::string(FaultWord(divergence.fault()))},
          {"fault_reason", divergence.fault_reason()},
          {"weights", divergence.weight()},
          {"suspects", divergence.suspect()},
          {"inputs", StatisticsJson(divergence.input())},
          {"outputs", StatisticsJson(divergence.output())},
          {"growth", std::move(growth)},
          {"seconds", divergence.seconds()}};
}

std::string GrowthPlot(const v1::Divergence& divergence) {
  const int count = divergence.growth_size();
  if (count < 2) return "";
  constexpr double kWidth = 640, kHeight = 150, kLeft = 44, kTop = 8, kBottom = 22, kLow = -9, kHigh = 1;
  const auto x = [&](int i) { return kLeft + (kWidth - kLeft - 8) * i / (count - 1); };
  const auto y = [&](double error) {
    // Nothing at all lies on the lowest line, a NaN on the highest.
    double exponent = error > 0 ? std::log10(error) : kLow;
    if (std::isnan(error)) exponent = kHigh;
    exponent = std::clamp(exponent, kLow, kHigh);
    return kTop + (kHeight - kTop - kBottom) * (kHigh - exponent) / (kHigh - kLow);
  };
  std::string out = absl::StrFormat(
      "<svg viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" role=\"img\" style=\"max-width:100%%;"
      "height:auto;font:10px system-ui,sans-serif\">\n<title>%s</title>\n",
      kWidth, kHeight, kWidth, kHeight,
      XmlText(absl::StrCat("Relative error by operator, in the order of the run; first to differ: ",
                           divergence.node())));
  for (int exponent = static_cast<int>(kLow); exponent <= static_cast<int>(kHigh); exponent += 2) {
    const double at = y(std::pow(10.0, exponent));
    absl::StrAppendFormat(&out,
                          "<line x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--line)\"/>"
                          "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\" fill=\"var(--dim)\">1e%d</text>\n",
                          kLeft, kWidth - 8, at, at, kLeft - 4, at + 3, exponent);
  }
  const auto line = [&](auto value_of, absl::string_view attributes) {
    absl::StrAppend(&out, "<polyline fill=\"none\" ", attributes, " points=\"");
    for (int i = 0; i < count; ++i) {
      absl::StrAppendFormat(&out, "%s%.1f,%.1f", i == 0 ? "" : " ", x(i), y(value_of(divergence.growth(i))));
    }
    out += "\"/>\n";
  };
  line([](const v1::GrowthPoint& point) { return point.allowed(); },
       "stroke=\"var(--passfg)\" stroke-dasharray=\"3 3\"");
  line([](const v1::GrowthPoint& point) { return point.error(); }, "stroke=\"var(--fg)\"");
  for (int i = 0; i < count; ++i) {
    const v1::GrowthPoint& point = divergence.growth(i);
    const bool first = point.name() == divergence.node();
    absl::StrAppendFormat(
        &out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"var(%s)\"><title>%s</title></circle>\n", x(i),
        y(point.error()), first ? "4" : "1.5", first ? "--failfg" : "--fg",
        XmlText(absl::StrFormat("%s%s%s: %.3g, allowed %.3g", point.name(),
                                point.module().empty() ? "" : " in ", point.module(), point.error(),
                                point.allowed())));
  }
  absl::StrAppendFormat(
      &out, "<text x=\"%.0f\" y=\"%.0f\" fill=\"var(--dim)\">%s</text>\n</svg>\n", kLeft, kHeight - 6,
      "relative error of each operator, in the order of the run; dashed: what rounding may do");
  return out;
}

}  // namespace assay::report
