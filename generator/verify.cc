#include "generator/verify.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "assay/v1/test.pb.h"
#include "generator/generate.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/text_format.h"

namespace assay::generator {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::TextFormat;

v1::FileError ErrorAt(absl::string_view file, int line, int column, absl::string_view message) {
  v1::FileError error;
  error.set_file(std::string(file));
  error.set_line(line);
  error.set_column(column);
  error.set_message(std::string(message));
  return error;
}

class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstError(absl::string_view file) : file_(file) {}
  void AddError(int line, int column, const std::string& message) override {
    if (errors.empty()) errors.push_back(ErrorAt(file_, line + 1, column + 1, Printable(message)));
  }
  void AddWarning(int line, int column, const std::string& message) override {
    AddError(line, column, message);
  }

  std::vector<v1::FileError> errors;

 private:
  absl::string_view file_;
};

// Where `path` stands in the text, as far as it does: a missing field is shown where its message begins.
TextFormat::ParseLocation Locate(const TextFormat::ParseInfoTree& root, const Path& path) {
  TextFormat::ParseLocation place(0, 0);
  const TextFormat::ParseInfoTree* tree = &root;
  const Descriptor* message = v1::ModelTest::descriptor();
  for (const Step& step : path) {
    const FieldDescriptor* field = message->FindFieldByName(step.field);
    if (field == nullptr) break;
    const TextFormat::ParseLocation found = tree->GetLocation(field, step.index);
    if (found.line < 0) break;
    place = found;
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) break;
    tree = tree->GetTreeForNested(field, step.index);
    message = field->message_type();
    if (tree == nullptr) break;
  }
  return place;
}

// The first place where `text` is not what FormatTest writes.
std::vector<v1::FileError> CompareCanonical(absl::string_view file, absl::string_view text,
                                            const std::string& canonical) {
  if (text == canonical) return {};
  const std::vector<absl::string_view> is = absl::StrSplit(text, '\n');
  const std::vector<absl::string_view> should = absl::StrSplit(canonical, '\n');
  size_t line = 0;
  while (line < is.size() && line < should.size() && is[line] == should[line]) ++line;
  if (line == is.size()) {
    return {ErrorAt(file, static_cast<int>(line), static_cast<int>(is.back().size()) + 1,
                    "not canonical: the last line ends without a newline, or is not the last")};
  }
  if (line + 1 == is.size() && is[line].empty() && line < should.size()) {
    return {ErrorAt(file, static_cast<int>(line) + 1, 1,
                    absl::StrCat("not canonical: ends before ", Quoted(should[line])))};
  }
  if (line == should.size()) {
    return {ErrorAt(file, static_cast<int>(line) + 1, 1,
                    absl::StrCat("not canonical: goes on with ", Quoted(is[line])))};
  }
  const auto differs =
      std::mismatch(is[line].begin(), is[line].end(), should[line].begin(), should[line].end());
  const int column = static_cast<int>(differs.first - is[line].begin()) + 1;
  absl::string_view what = "not canonical";
  if (absl::StartsWith(should[line], "#")) what = "the header comment differs";
  return {ErrorAt(file, static_cast<int>(line) + 1, column,
                  absl::StrCat(what, ": expected '", should[line], "'"))};
}

}  // namespace

std::vector<v1::FileError> VerifyTest(absl::string_view file, absl::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return {ErrorAt(file, 1, 1, absl::StrCat("is larger than ", kMaxTextBytes, " bytes: ", text.size()))};
  }
  v1::ModelTest test;
  FirstError syntax(file);
  TextFormat::ParseInfoTree places;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&syntax);
  parser.WriteLocationsTo(&places);
  parser.SetRecursionLimit(64);
  google::protobuf::io::ArrayInputStream stream(text.data(), static_cast<int>(text.size()));
  if (!parser.Parse(&stream, &test) || !syntax.errors.empty()) {
    if (syntax.errors.empty()) return {ErrorAt(file, 1, 1, "not a text-format ModelTest")};
    return std::move(syntax.errors);
  }

  std::vector<Problem> problems = ExamineTest(test);
  const std::string base = std::filesystem::path(std::string(file)).filename().string();
  if (base != TestFileName(test.name())) {
    problems.push_back(
        {Join({}, "name"), absl::StrCat("the test of ", Quoted(test.name()), " belongs in ",
                                        Quoted(TestFileName(test.name())), ", not in ", Quoted(base))});
  }
  if (problems.empty()) return CompareCanonical(file, text, FormatTest(test));
  std::vector<v1::FileError> errors;
  for (const Problem& problem : problems) {
    const TextFormat::ParseLocation place = Locate(places, problem.path);
    errors.push_back(ErrorAt(file, place.line + 1, place.column + 1, problem.message));
    errors.back().set_field(FormatPath(problem.path));
  }
  std::stable_sort(errors.begin(), errors.end(), [](const v1::FileError& a, const v1::FileError& b) {
    return std::make_pair(a.line(), a.column()) < std::make_pair(b.line(), b.column());
  });
  return errors;
}

std::string FormatFileError(const v1::FileError& error) {
  return absl::StrCat(error.file(), ":", error.line(), ":", error.column(), ": ", error.field(),
                      error.field().empty() ? "" : ": ", error.message());
}

}  // namespace assay::generator
