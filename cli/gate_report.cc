#include "cli/gate_report.h"

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/output.h"
#include "common/status_macros.h"
#include "coordinator/report/divergence.h"
#include "coordinator/report/escape.h"

namespace assay::cli {
namespace {

using report::MarkdownText;
using report::XmlAttribute;
using report::XmlText;

void Add(GateCounts& counts, v1::GateVerdict verdict) {
  switch (verdict) {
    case v1::SAME:
      ++counts.same;
      break;
    case v1::WITHIN_TOLERANCE:
      ++counts.within;
      break;
    case v1::CHANGED:
      ++counts.changed;
      break;
    default:  // whatever is not known to be one of these is not a pass
      ++counts.not_comparable;
  }
}

std::string Word(v1::GateVerdict verdict) {
  return verdict == v1::GATE_VERDICT_UNSPECIFIED ? v1::GateVerdict_Name(v1::NOT_COMPARABLE)
                                                 : v1::GateVerdict_Name(verdict);
}

std::string Tolerances(const v1::GateResult& result) {
  if (result.verdict() == v1::SAME) return "0";
  if (result.verdict() == v1::NOT_COMPARABLE || result.output().empty()) return "";
  return std::isfinite(result.tolerances()) ? absl::StrFormat("%.3g", result.tolerances()) : "infinite";
}

// "div_1 (aten::div.Tensor) in transformer.h.0.attn".
std::string Where(const v1::GateResult& result) {
  if (!result.has_divergence()) return "";
  const v1::Divergence& divergence = result.divergence();
  return absl::StrCat(divergence.node(), " (", divergence.op(), ")",
                      divergence.module().empty() ? "" : " in ", divergence.module());
}

std::string Summary(const GateCounts& counts) {
  return absl::StrCat(counts.all(), " models: ", counts.same, " the same to the bit, ", counts.within,
                      " within tolerance, ", counts.changed, " changed, ", counts.not_comparable,
                      " not comparable");
}

// Everything about a result but its name and verdict, a line each.
std::vector<std::string> Lines(const v1::GateResult& result) {
  std::vector<std::string> lines;
  if (!result.reason().empty()) lines.push_back(result.reason());
  const auto list = [&](const char* what, const auto& items) {
    if (!items.empty()) lines.push_back(absl::StrCat(what, absl::StrJoin(items, "; ")));
  };
  if (result.has_divergence()) {
    lines.push_back(absl::StrCat("first to differ: ", Where(result), ": ", result.divergence().detail()));
    if (!result.counterpart().empty()) lines.push_back(absl::StrCat("in place of: ", result.counterpart()));
    list("weights that it reads: ", result.divergence().weight());
  }
  if (!result.not_placed().empty())
    lines.push_back(absl::StrCat("where is not known: ", result.not_placed()));
  list("before it only the from side computes: ", result.only_from());
  list("before it only the to side computes: ", result.only_to());
  list("also begins at: ", result.also());
  if (!result.first_other_bits().empty()) {
    lines.push_back(absl::StrCat("other bits, no more than rounding, from: ", result.first_other_bits()));
  }
  list("configuration: ", result.configuration());
  list("note: ", result.note());
  return lines;
}

// What made the two sides' runs, once for all models for which it is the same: "196 models: torch 2.13.0,
// then torch 2.11.0".
template <typename Rows>
std::vector<std::string> Sides(const Rows& rows) {
  std::map<std::string, int> counts;
  for (const auto& row : rows) {
    if (row.result.from().empty() && row.result.to().empty()) continue;
    ++counts[row.result.from() == row.result.to()
                 ? absl::StrCat(row.result.from(), " on both sides")
                 : absl::StrCat(row.result.from(), "; then ", row.result.to())];
  }
  std::vector<std::string> lines;
  for (const auto& [text, count] : counts)
    lines.push_back(absl::StrCat(count, count == 1 ? " model: " : " models: ", text));
  return lines;
}

// One row a model, whichever report it comes from.
struct Row {
  v1::GateResult result;
  std::string before;  // what stands before Lines(result), of a bisection
};

std::vector<Row> RowsOf(const v1::GateReport& report) {
  std::vector<Row> rows;
  for (const v1::GateResult& result : report.result()) rows.push_back({result, ""});
  return rows;
}

std::vector<Row> RowsOf(const v1::BisectReport& report) {
  std::vector<Row> rows;
  for (const v1::BisectResult& one : report.result()) {
    Row row{one.result(), ""};
    row.result.set_model(one.model());
    row.before = one.first_changed().empty() ? absl::StrCat("not changed up to ", one.last_unchanged())
                                             : absl::StrCat("changed in ", one.first_changed(),
                                                            ", not yet in ", one.last_unchanged());
    if (!one.skipped().empty()) {
      absl::StrAppend(&row.before, "; not comparable between them: ", absl::StrJoin(one.skipped(), ", "));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<std::string> Detail(const Row& row) {
  std::vector<std::string> lines;
  if (!row.before.empty()) lines.push_back(row.before);
  if (row.result.verdict() == v1::SAME) return lines;
  for (std::string& line : Lines(row.result)) lines.push_back(std::move(line));
  return lines;
}

std::string Text(const std::string& title, const std::vector<Row>& rows, const GateCounts& counts) {
  std::vector<std::vector<std::string>> table = {{"MODEL", "VERDICT", "TOLERANCES", "FIRST TO DIFFER"}};
  std::string details;
  for (const Row& row : rows) {
    const v1::GateResult& result = row.result;
    table.push_back({result.model(), Word(result.verdict()), Tolerances(result), Where(result)});
    if (result.verdict() == v1::SAME && row.before.empty()) continue;
    if (result.verdict() == v1::WITHIN_TOLERANCE && row.before.empty()) continue;
    absl::StrAppend(&details, "\n", result.model(), ": ", Word(result.verdict()), "\n",
                    Indented(Detail(row)));
  }
  return absl::StrCat(title, "\n", Indented(Sides(rows)), Table(table), details, "\n", Summary(counts), "\n");
}

std::string Junit(const std::string& title, const std::vector<Row>& rows, const GateCounts& counts) {
  std::string out = absl::StrCat(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"assay gate\" tests=\"",
      counts.all(), "\" failures=\"", counts.changed, "\" errors=\"", counts.not_comparable,
      "\" skipped=\"0\" time=\"0\">\n", "    <properties><property name=\"sides\" value=\"",
      XmlAttribute(title), "\"/></properties>\n");
  for (const Row& row : rows) {
    absl::StrAppend(&out, "    <testcase classname=\"assay.gate\" name=\"", XmlAttribute(row.result.model()),
                    "\" time=\"0\"");
    const std::string detail = XmlText(absl::StrJoin(Detail(row), "\n"));
    if (row.result.verdict() == v1::SAME || row.result.verdict() == v1::WITHIN_TOLERANCE) {
      absl::StrAppend(&out, "><system-out>", XmlText(Word(row.result.verdict())), detail.empty() ? "" : "\n",
                      detail, "</system-out></testcase>\n");
      continue;
    }
    const char* element = row.result.verdict() == v1::CHANGED ? "failure" : "error";
    absl::StrAppend(&out, "><", element, " type=\"", Word(row.result.verdict()), "\" message=\"",
                    XmlAttribute(row.result.reason()), "\">", detail, "</", element, "></testcase>\n");
  }
  return absl::StrCat(out, "  </testsuite>\n</testsuites>\n");
}

std::string Items(const std::vector<std::string>& lines) {
  std::string items;
  for (const std::string& line : lines) absl::StrAppend(&items, "- ", MarkdownText(line), "\n");
  return items.empty() ? items : absl::StrCat(items, "\n");
}

std::string Markdown(const std::string& title, const std::vector<Row>& rows, const GateCounts& counts) {
  std::string out =
      absl::StrCat("# ", MarkdownText(title), "\n\n", Summary(counts), ".\n\n", Items(Sides(rows)),
                   "| model | verdict | tolerances | first to differ | why |\n|---|---|---|---|---|\n");
  for (const Row& row : rows) {
    std::vector<std::string> why;
    if (!row.before.empty()) why.push_back(row.before);
    if (!row.result.reason().empty()) why.push_back(row.result.reason());
    if (row.result.configuration_size() > 0) {
      why.push_back(absl::StrCat("configuration: ", absl::StrJoin(row.result.configuration(), "; ")));
    }
    absl::StrAppend(&out, "| ", MarkdownText(row.result.model()), " | ", Word(row.result.verdict()), " | ",
                    Tolerances(row.result), " | ", MarkdownText(Where(row.result)), " | ",
                    MarkdownText(absl::StrJoin(why, "; ")), " |\n");
  }
  return out;
}

constexpr char kStyle[] = R"(
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2126;--dim:#646d76;--line:#d9dee3;--passfg:#11551f;--failfg:#82130c}
@media(prefers-color-scheme:dark){:root{--bg:#14181c;--fg:#e4e8ec;--dim:#98a1aa;--line:#333b43;--passfg:#a5e0b3;--failfg:#f7b5b0}}
body{margin:0 auto;max-width:74rem;padding:1.5rem;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
table{border-collapse:collapse;width:100%}th,td{padding:.28rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
.SAME,.WITHIN_TOLERANCE{color:var(--passfg)}.CHANGED,.NOT_COMPARABLE{color:var(--failfg);font-weight:600}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}
)";

std::string Html(const std::string& title, const std::vector<Row>& rows, const GateCounts& counts) {
  std::string out =
      absl::StrCat("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>", XmlText(title),
                   "</title><style>", kStyle, "</style>\n<h1>", XmlText(title), "</h1><p>",
                   XmlText(Summary(counts)), "<br>", XmlText(absl::StrJoin(Sides(rows), "; ")),
                   "</p>\n<table><tr><th>model<th>verdict<th>tolerances<th>what differs\n");
  for (const Row& row : rows) {
    const std::string word = Word(row.result.verdict());
    absl::StrAppend(&out, "<tr><td>", XmlText(row.result.model()), "<td class=\"", word, "\">", word, "<td>",
                    Tolerances(row.result), "<td>");
    const std::vector<std::string> detail = Detail(row);
    if (!detail.empty()) absl::StrAppend(&out, "<pre>", XmlText(absl::StrJoin(detail, "\n")), "</pre>");
    if (row.result.has_divergence()) absl::StrAppend(&out, report::GrowthPlot(row.result.divergence()));
    out += "\n";
  }
  return absl::StrCat(out, "</table></html>\n");
}

template <typename Report>
GateCounts CountRows(const Report& report) {
  GateCounts counts;
  for (const Row& row : RowsOf(report)) Add(counts, row.result.verdict());
  return counts;
}

template <typename Report>
absl::StatusOr<std::string> RenderRows(const Report& report, const std::string& title,
                                       const std::string& format) {
  if (format == "json") return ToJson(report);
  const std::vector<Row> rows = RowsOf(report);
  const GateCounts counts = CountRows(report);
  if (format == "text") return Text(title, rows, counts);
  if (format == "junit") return Junit(title, rows, counts);
  if (format == "markdown") return Markdown(title, rows, counts);
  if (format == "html") return Html(title, rows, counts);
  return absl::InvalidArgumentError(absl::StrCat("no format '", format, "'"));
}

}  // namespace

GateCounts Count(const v1::GateReport& report) { return CountRows(report); }
GateCounts Count(const v1::BisectReport& report) { return CountRows(report); }

absl::StatusOr<std::string> Render(const v1::GateReport& report, const std::string& format) {
  return RenderRows(report, absl::StrCat("from ", report.from(), " to ", report.to()), format);
}

absl::StatusOr<std::string> Render(const v1::BisectReport& report, const std::string& format) {
  return RenderRows(report, absl::StrCat("bisecting ", absl::StrJoin(report.side(), ", ")), format);
}

}  // namespace assay::cli
