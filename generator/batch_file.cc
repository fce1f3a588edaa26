#include "generator/batch_file.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/digest.h"
#include "generator/checkpoint_ref.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/verify.h"
#include "nlohmann/json.hpp"

namespace assay::generator {
namespace {

// A batch file is three levels deep. What is deeper is of a wrong type and only skipped; this bounds the
// skipping.
constexpr int kMaxDepth = 64;
constexpr absl::string_view kByteOrderMark = "\xef\xbb\xbf";

// Feeds the parser and counts what it has taken, so that a callback can tell where it stands.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, size_t* taken) : at_(at), taken_(taken) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*taken_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  size_t* taken_;
};

struct Place {
  uint32_t line = 1;
  uint32_t column = 1;
};

// Line and column of bytes whose offsets do not fall: one pass over the text, however many errors it has.
class Places {
 public:
  explicit Places(absl::string_view text) : text_(text) {}

  Place Of(size_t offset) {
    for (; at_ < std::min(offset, text_.size()); ++at_) {
      if (text_[at_] == '\n') {
        ++place_.line;
        place_.column = 1;
      } else if ((static_cast<unsigned char>(text_[at_]) & 0xc0) != 0x80 &&
                 !(at_ == 0 && absl::StartsWith(text_, kByteOrderMark))) {
        ++place_.column;  // continuation bytes and a byte order mark are no characters of their own
      }
    }
    return place_;
  }

 private:
  absl::string_view text_;
  size_t at_ = 0;
  Place place_;
};

// One model object while its fields come in.
struct OpenModel {
  struct Field {
    std::string value;
    size_t offset = 0;
    bool usable = false;  // a string
  };
  size_t offset = 0;
  std::map<std::string, Field> fields;
};

// Takes the parser's events and gathers models and errors. Levels: 0 the file, 1 {arch_type: …}, 2 the array
// of an architecture type, 3 a model. What does not belong is reported once and skipped whole.
class BatchReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  BatchReader(absl::string_view file, absl::string_view text, const std::set<std::string>& templates,
              const size_t* taken)
      : file_(file),
        text_(text),
        templates_(templates.begin(), templates.end()),
        taken_(taken),
        end_of_last_(absl::StartsWith(text, kByteOrderMark) ? kByteOrderMark.size() : 0) {
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') line_starts_.push_back(i + 1);
    }
  }

  bool null() override { return Scalar("null"); }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_integer(number_integer_t) override { return Scalar("a number"); }
  bool number_unsigned(number_unsigned_t) override { return Scalar("a number"); }
  bool number_float(number_float_t, const string_t&) override { return Scalar("a number"); }
  bool binary(binary_t&) override { return Scalar("binary data"); }

  bool string(string_t& value) override {
    const size_t offset = TokenStart();
    if (skipping_ == 0 && level_ == 3) {
      model_.fields[key_] = {value, offset, true};
    } else if (skipping_ == 0) {
      WrongType(offset, "a string");
    }
    return true;
  }

  bool start_object(std::size_t) override {
    const size_t offset = TokenStart();
    if (!Deeper(offset)) return false;
    if (skipping_ > 0) {
      ++skipping_;
    } else if (level_ == 0) {
      level_ = 1;
    } else if (level_ == 2) {
      level_ = 3;
      model_ = OpenModel{offset, {}};
      keys_.clear();
    } else {
      WrongType(offset, "an object");
      skipping_ = 1;
    }
    return true;
  }

  bool end_object() override {
    TokenStart();
    --depth_;
    if (skipping_ > 0) {
      --skipping_;
    } else if (level_ == 3) {
      FinishModel();
      level_ = 2;
      ++index_;
    } else {
      level_ = 0;
    }
    return true;
  }

  bool start_array(std::size_t) override {
    const size_t offset = TokenStart();
    if (!Deeper(offset)) return false;
    if (skipping_ == 0 && level_ == 1) {
      level_ = 2;
      index_ = 0;
      return true;
    }
    if (skipping_ == 0) WrongType(offset, "an array");
    ++skipping_;
    return true;
  }

  bool end_array() override {
    TokenStart();
    --depth_;
    if (skipping_ > 0) {
      --skipping_;
      if (skipping_ == 0 && level_ == 2) ++index_;
    } else {
      level_ = 1;
    }
    return true;
  }

  bool key(string_t& name) override {
    const size_t offset = TokenStart();
    if (skipping_ > 0) return true;
    if (level_ == 1) {
      arch_type_ = name;
      const auto [first, fresh] = arch_types_.emplace(name, offset);
      if (!fresh) Error(offset, Shown(name), SecondTime(first->second));
      std::vector<Problem> problems;
      ExamineArchType(name, {}, &problems);
      for (const Problem& problem : problems) Error(offset, Shown(name), problem.message);
    } else {
      key_ = name;
      const auto [first, fresh] = keys_.emplace(name, offset);
      if (!fresh) Error(offset, FieldPath(name), SecondTime(first->second));
      static const auto* const kKnown = new std::vector<std::string>{
          "checkpoint", "config_digest", "name", "original_name", "task", "template", "weights_digest"};
      if (std::find(kKnown->begin(), kKnown->end(), name) == kKnown->end()) {
        const std::string nearest = NearestName(name, *kKnown);
        Error(offset, FieldPath(name),
              absl::StrCat("unknown field; there are ", absl::StrJoin(*kKnown, ", "),
                           nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")));
      }
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: syntax error while …": the place is
    // ours.
    absl::string_view what = error.what();
    const size_t tag = what.find("] ");
    if (tag != absl::string_view::npos) what.remove_prefix(tag + 2);
    const size_t colon = absl::StartsWith(what, "parse error") ? what.find(": ") : absl::string_view::npos;
    if (colon != absl::string_view::npos) what.remove_prefix(colon + 2);
    Syntax(position == 0 ? 0 : position - 1, what);
    return false;
  }

  // After the parser: the batch, or every error that counts.
  BatchFile Finish(std::vector<v1::FileError>* errors) {
    if (syntax_.has_value()) {
      errors_ = {*syntax_};
    } else if (errors_.empty() && models_.empty()) {
      Error(0, "", "holds no models");
    }
    std::stable_sort(errors_.begin(), errors_.end(),
                     [](const Found& a, const Found& b) { return a.offset < b.offset; });
    Places places(text_);
    for (Found& found : errors_) {
      const Place place = places.Of(found.offset);
      found.error.set_line(place.line);
      found.error.set_column(place.column);
      errors->push_back(std::move(found.error));
    }
    return BatchFile{std::move(models_)};
  }

  void Syntax(size_t offset, absl::string_view message) { syntax_ = Make(offset, "", Printable(message)); }

 private:
  // The start of the token that the parser has just taken: between tokens stand only spaces, commas and
  // colons.
  size_t TokenStart() {
    size_t start = end_of_last_;
    while (start < text_.size() &&
           absl::string_view(" \t\r\n,:").find(text_[start]) != absl::string_view::npos) {
      ++start;
    }
    end_of_last_ = std::max(start, *taken_);
    return start;
  }

  bool Deeper(size_t offset) {
    if (++depth_ <= kMaxDepth) return true;
    Syntax(offset, absl::StrCat("nested more than ", kMaxDepth, " levels deep"));
    return false;
  }

  bool Scalar(absl::string_view kind) {
    const size_t offset = TokenStart();
    if (skipping_ == 0) WrongType(offset, kind);
    return true;
  }

  // Something of the wrong kind stands where the file, an array, a model or a text should.
  void WrongType(size_t offset, absl::string_view kind) {
    switch (level_) {
      case 0:
        Error(offset, "", absl::StrCat("must be an object of architecture types, is ", kind));
        break;
      case 1:
        Error(offset, Shown(arch_type_), absl::StrCat("must be an array of models, is ", kind));
        break;
      case 2:
        Error(offset, absl::StrCat(Shown(arch_type_), "[", index_, "]"),
              absl::StrCat("must be an object, is ", kind));
        // An array counts its place when it ends.
        if (kind != "an array") ++index_;
        break;
      default:
        Error(offset, FieldPath(key_), absl::StrCat("must be a string, is ", kind));
        model_.fields[key_] = {"", offset, false};
    }
  }

  void FinishModel() {
    bool fine = true;
    const auto text = [&](const std::string& key, bool required) -> const OpenModel::Field* {
      const auto found = model_.fields.find(key);
      if (found == model_.fields.end()) {
        if (required) {
          Error(model_.offset, FieldPath(key), "is missing");
          fine = false;
        }
        return nullptr;
      }
      if (!found->second.usable) fine = false;
      return found->second.usable ? &found->second : nullptr;
    };
    const auto wrong = [&](const OpenModel::Field& field, const std::string& key, absl::string_view message) {
      Error(field.offset, FieldPath(key), message);
      fine = false;
    };
    v1::ModelRef model;
    model.set_arch_type(arch_type_);
    const auto* checkpoint = text("checkpoint", false);
    if (checkpoint != nullptr) {
      absl::StatusOr<v1::CheckpointRef> ref = ParseCheckpointName(checkpoint->value);
      if (ref.ok()) {
        *model.mutable_checkpoint() = *std::move(ref);
      } else {
        wrong(*checkpoint, "checkpoint", ref.status().message());
      }
    }
    const auto pin = [&](const char* field, const char* of, absl::string_view what) {
      const auto* digest = text(field, false);
      if (digest == nullptr) return std::string();
      if (model_.fields.count(of) == 0) {
        wrong(*digest, field, absl::StrCat("pins the ", what, ": there is none"));
      } else if (!IsDigest(digest->value)) {
        wrong(*digest, field,
              absl::StrCat("must be a SHA-256 in 64 lower-case hex digits, is ", Quoted(digest->value)));
      } else {
        return digest->value;
      }
      return std::string();
    };
    if (const std::string digest = pin("weights_digest", "checkpoint", "weights of a checkpoint");
        !digest.empty()) {
      model.mutable_checkpoint()->set_weights_digest(digest);
    }
    if (const std::string digest =
            pin("config_digest", "weights_digest", "configuration beside weights_digest");
        !digest.empty()) {
      model.mutable_checkpoint()->set_config_digest(digest);
    }
    // Beside a checkpoint the name may be left out: then its last part is the name.
    if (model_.fields.count("name") == 0 && model_.fields.count("checkpoint") > 0) {
      if (checkpoint != nullptr && !model.checkpoint().id().empty()) DeriveName(*checkpoint, model, wrong);
    } else if (const auto* name = text("name", true)) {
      model.set_name(NormaliseName(name->value));
      if (model.name() != name->value) model.set_original_name(name->value);
      if (name->value.empty()) {
        wrong(*name, "name", "is empty");
      } else if (!IsName(model.name())) {
        wrong(*name, "name",
              absl::StrCat("must be lower-case letters, digits, underscores and hyphens, at most ",
                           kMaxNameLength, ", is ", Quoted(name->value)));
      } else {
        TakeName(*name, "name", model, "", wrong);
      }
    }
    if (!model.name().empty()) {
      if (const auto* original = text("original_name", false); original != nullptr && fine) {
        if (NormaliseName(original->value) != model.name()) {
          wrong(*original, "original_name",
                absl::StrCat(Quoted(original->value), " with underscores for hyphens is not the name ",
                             Quoted(model.name())));
        } else if (absl::StrContains(original->value, '-')) {
          model.set_original_name(original->value);
        }
      }
    }
    if (const auto* name = text("template", true)) {
      model.set_template_(name->value);
      if (!std::binary_search(templates_.begin(), templates_.end(), name->value)) {
        const std::string nearest = NearestName(name->value, templates_);
        wrong(*name, "template",
              absl::StrCat("unknown template ", Quoted(name->value), "; there are ",
                           absl::StrJoin(templates_, ", "),
                           nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")));
      }
    }
    if (const auto* task = text("task", true)) {
      model.set_task(task->value);
      if (!IsTask(task->value)) {
        wrong(*task, "task", absl::StrCat("must be like 'fill-mask', is ", Quoted(task->value)));
      }
    }
    if (fine) models_.push_back(std::move(model));
  }

  using Wrong =
      std::function<void(const OpenModel::Field&, const std::string& key, absl::string_view message)>;

  void DeriveName(const OpenModel::Field& checkpoint, v1::ModelRef& model, const Wrong& wrong) {
    absl::StatusOr<std::string> name = NameOfCheckpoint(model.checkpoint().id());
    if (!name.ok()) {
      wrong(checkpoint, "checkpoint", name.status().message());
      return;
    }
    model.set_name(*std::move(name));
    TakeName(checkpoint, "checkpoint", model, "; give one of them a name of its own", wrong);
  }

  // Names are unique in a batch; who had it first is told by place and, where it has one, by checkpoint.
  void TakeName(const OpenModel::Field& field, const std::string& key, const v1::ModelRef& model,
                absl::string_view advice, const Wrong& wrong) {
    const auto [first, fresh] = names_.emplace(model.name(), Named{field.offset, model.checkpoint().id()});
    if (fresh) return;
    std::string message =
        absl::StrCat("model ", model.name(), " is named ", SecondTime(first->second.offset));
    if (!first->second.checkpoint.empty() || model.has_checkpoint()) {
      const auto shown = [](const std::string& id) { return id.empty() ? "no checkpoint" : Quoted(id); };
      absl::StrAppend(&message, ": here for ", shown(model.checkpoint().id()), ", there for ",
                      shown(first->second.checkpoint));
    }
    wrong(field, key, absl::StrCat(message, advice));
  }

  std::string SecondTime(size_t first) const {
    const auto line =
        std::upper_bound(line_starts_.begin(), line_starts_.end(), first) - line_starts_.begin();
    return absl::StrCat("a second time, first in line ", line);
  }

  // A key as part of FileError.field: as it is where it is a word, else quoted and escaped.
  static std::string Shown(const std::string& key) { return IsTask(key) ? key : Quoted(key); }
  std::string FieldPath(const std::string& key) const {
    return absl::StrCat(Shown(arch_type_), "[", index_, "].", Shown(key));
  }

  struct Found {
    size_t offset;
    v1::FileError error;  // line and column come last, in one pass
  };
  Found Make(size_t offset, std::string field, absl::string_view message) const {
    Found found{offset, {}};
    found.error.set_file(std::string(file_));
    found.error.set_field(std::move(field));
    found.error.set_message(std::string(message));
    return found;
  }

  void Error(size_t offset, std::string field, absl::string_view message) {
    errors_.push_back(Make(offset, std::move(field), message));
  }

  absl::string_view file_;
  absl::string_view text_;
  std::vector<std::string> templates_;  // sorted
  const size_t* taken_;
  size_t end_of_last_;
  std::vector<size_t> line_starts_{0};

  int depth_ = 0;
  int level_ = 0;
  int skipping_ = 0;  // how many open objects and arrays are being skipped
  std::string arch_type_;
  int index_ = 0;  // of the model in its array
  std::string key_;
  OpenModel model_;
  std::map<std::string, size_t> arch_types_;  // where each was first seen
  std::map<std::string, size_t> keys_;        // of the open model
  struct Named {
    size_t offset;
    std::string checkpoint;  // empty: none
  };
  std::map<std::string, Named> names_;

  std::vector<v1::ModelRef> models_;
  std::vector<Found> errors_;
  std::optional<Found> syntax_;
};

}  // namespace

absl::StatusOr<BatchFile> ParseBatchFile(absl::string_view file, absl::string_view content,
                                         const std::set<std::string>& template_names,
                                         std::vector<v1::FileError>* errors) {
  size_t taken = 0;
  BatchReader reader(file, content, template_names, &taken);
  if (content.size() > kMaxBatchFileBytes) {
    reader.Syntax(0, absl::StrCat("is larger than ", kMaxBatchFileBytes, " bytes: ", content.size()));
  } else {
    // Strict: nothing but space may follow the value. The events above never throw.
    nlohmann::json::sax_parse(CountingIterator(content.data(), &taken),
                              CountingIterator(content.data() + content.size(), &taken), &reader);
  }
  std::vector<v1::FileError> found;
  BatchFile batch = reader.Finish(&found);
  if (errors != nullptr) *errors = found;
  if (found.empty()) return batch;
  return absl::InvalidArgumentError(absl::StrJoin(
      found, "\n",
      [](std::string* out, const v1::FileError& error) { absl::StrAppend(out, FormatFileError(error)); }));
}

}  // namespace assay::generator
