#include "generator/rules.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/checkpoint_name.h"
#include "common/digest.h"
#include "common/utf8.h"
#include "generator/names.h"

namespace assay::generator {
namespace {

using Problems = std::vector<Problem>;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kMaxStringBytes = 4096;
constexpr int kMaxPosition = 1'000'000;
constexpr uint32_t kMaxThreads = 256;
constexpr uint64_t kMinMemory = uint64_t{1} << 20;
// The engine's own bounds, so that they are told before a test runs (docs/tolerances.md). Beyond them a fault
// would pass for rounding; half precision has a coarser mantissa.
constexpr double kMaxScale = 1e-3;
constexpr double kMaxHalfScale = 0.1;
constexpr double kMaxRounding = 64;

void Add(Problems* problems, Path path, std::string message) {
  problems->push_back({std::move(path), std::move(message)});
}

// "" where the text is fine.
std::string StringProblem(absl::string_view text) {
  if (text.size() > kMaxStringBytes)
    return absl::StrCat("is longer than ", kMaxStringBytes, " bytes: ", text.size());
  for (size_t i = 0; i < text.size();) {
    const auto [length, code] = FirstCharacter(text.substr(i));
    if (length == 0) return "is not UTF-8";
    if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return "has a control character";
    i += length;
  }
  return "";
}

void ExamineTensorName(absl::string_view name, const Path& path, Problems* problems) {
  const bool fine = !name.empty() && name.size() <= kMaxNameLength &&
                    std::all_of(name.begin(), name.end(),
                                [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.'; });
  if (name.empty()) {
    Add(problems, path, "is missing: name the tensor");
  } else if (!fine) {
    Add(problems, path, absl::StrCat("is not a tensor's name: ", Quoted(name)));
  }
}

void ExamineTolerance(const v1::Tolerance& tolerance, const Path& path, Problems* problems) {
  const auto examine = [&](bool set, double value, absl::string_view field, double most) {
    // Written so that NaN is refused.
    if (set && !(value > 0 && value <= most)) {
      Add(problems, Join(path, std::string(field)),
          absl::StrCat("must be above 0 and at most ", most, ", is ", value));
    }
  };
  examine(tolerance.has_scale(), tolerance.scale(), "scale", kMaxHalfScale);
  examine(tolerance.has_rounding(), tolerance.rounding(), "rounding", kMaxRounding);
  if (!tolerance.has_scale() && !tolerance.has_rounding()) {
    Add(problems, path, "sets nothing: leave it out for the engine's default");
  }
}

// The fields that every kind with tensors shares: each string field names a tensor, no two the same.
void ExamineTensors(const Message& kind, const Path& path, Problems* problems) {
  std::set<std::string> seen;
  const auto* descriptor = kind.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) continue;
    const std::string name = kind.GetReflection()->GetString(kind, field);
    ExamineTensorName(name, Join(path, field->name()), problems);
    if (!name.empty() && !seen.insert(name).second) {
      Add(problems, Join(path, field->name()),
          absl::StrCat("names ", Quoted(name), ", as another field does"));
    }
  }
}

// What a check leaves out has a name and a reason.
void ExamineExemptions(const Message& kind, const Path& path, Problems* problems) {
  const FieldDescriptor* field = kind.GetDescriptor()->FindFieldByName("except");
  if (field == nullptr) return;
  std::set<std::string> names;
  for (int i = 0; i < kind.GetReflection()->FieldSize(kind, field); ++i) {
    const auto& one =
        dynamic_cast<const v1::Exemption&>(kind.GetReflection()->GetRepeatedMessage(kind, field, i));
    const Path at = Join(path, "except", i);
    if (one.name().empty()) Add(problems, Join(at, "name"), "is missing: what is left out");
    if (one.reason().empty()) Add(problems, Join(at, "reason"), "is missing: why it is left out");
    if (!names.insert(one.name()).second) {
      Add(problems, Join(at, "name"), absl::StrCat(Quoted(one.name()), " is left out twice"));
    }
  }
}

void ExamineSetUp(const v1::SetUp& set_up, const Path& path, Problems* problems) {
  if (!v1::DeviceChoice_IsValid(set_up.device()) || set_up.device() == v1::DEVICE_CHOICE_UNSPECIFIED) {
    Add(problems, Join(path, "device"), "is missing: AUTO, CPU or CUDA");
  }
  if (!v1::Dtype_IsValid(set_up.dtype()) || set_up.dtype() == v1::DTYPE_UNSPECIFIED) {
    Add(problems, Join(path, "dtype"), "is missing: FLOAT32, DTYPE_BFLOAT16 or FLOAT16");
  }
  if (!set_up.has_seed()) Add(problems, Join(path, "seed"), "is missing: the seed of mock weights");
  if (set_up.threads() < 1 || set_up.threads() > kMaxThreads) {
    Add(problems, Join(path, "threads"),
        absl::StrCat("must be 1 to ", kMaxThreads, ", is ", set_up.threads()));
  }
}

void ExamineLimits(const v1::Limits& limits, const Path& path, Problems* problems) {
  if (limits.timeout_ms() < 1 || limits.timeout_ms() > kMaxTimeoutMs) {
    Add(problems, Join(path, "timeout_ms"),
        absl::StrCat("must be 1 to ", kMaxTimeoutMs, " (a day), is ", limits.timeout_ms()));
  }
  if (limits.memory_bytes() < kMinMemory || limits.memory_bytes() > kMaxMemoryBytes) {
    Add(problems, Join(path, "memory_bytes"),
        absl::StrCat("must be ", kMinMemory, " (1 MiB) to ", kMaxMemoryBytes, " (16 TiB), is ",
                     limits.memory_bytes()));
  }
}

// What float32 may not have, though half precision may.
void ExamineFloat32Tolerance(const v1::Check& check, const Path& path, Problems* problems) {
  const std::string kind_name = KindOf(check);
  if (kind_name.empty()) return;
  const Message& kind =
      check.GetReflection()->GetMessage(check, v1::Check::descriptor()->FindFieldByName(kind_name));
  const FieldDescriptor* field = kind.GetDescriptor()->FindFieldByName("tolerance");
  if (field == nullptr) return;
  const auto& tolerance = dynamic_cast<const v1::Tolerance&>(kind.GetReflection()->GetMessage(kind, field));
  if (tolerance.scale() > kMaxScale && tolerance.scale() <= kMaxHalfScale) {
    Add(problems, Join(Join(Join(path, kind_name), "tolerance"), "scale"),
        absl::StrCat("must be at most ", kMaxScale, " in float32, is ", tolerance.scale()));
  }
}

void ExamineCase(const v1::Case& one, const Path& path, Problems* problems) {
  ExamineCaseName(one.name(), Join(path, "name"), problems);
  const bool loading = one.name() == kLoadingCase;
  const bool trained = one.weights() == v1::REAL || one.weights() == v1::SYNTHETIC;
  if (loading && !trained) Add(problems, Join(path, "weights"), "must be REAL or SYNTHETIC in this case");
  if (one.name() == kMockCase && one.weights() != v1::MOCK) {
    Add(problems, Join(path, "weights"), "must be MOCK in this case");
  }
  if (one.check().empty()) Add(problems, path, "has no check");
  std::set<std::string> names;
  for (int i = 0; i < one.check_size(); ++i) {
    const v1::Check& check = one.check(i);
    const Path at = Join(path, "check", i);
    ExamineCheck(check, at, problems);
    if (!names.insert(check.name()).second) {
      Add(problems, Join(at, "name"), absl::StrCat("a second check ", Quoted(check.name()), " in this case"));
    }
    const bool of_checkpoint = check.has_weights_bound() || check.has_weights_sound() || check.has_answers();
    if (of_checkpoint && one.weights() == v1::MOCK) {
      Add(problems, Join(at, KindOf(check)), "mock weights come from no checkpoint");
    }
    if (check.has_weights_intact() && one.weights() != v1::MOCK) {
      Add(problems, Join(at, KindOf(check)), "only mock weights can be made again");
    }
  }
}

using Named = std::set<std::pair<std::string, std::string>>;  // case, check

// A case with a program of its own runs a checkpoint, and only such a case has a golden beside its program.
void ExamineTrained(const v1::ModelTest& test, Problems* problems) {
  if (test.has_trained()) ExamineCheckpointRef(test.trained(), Join({}, "trained"), problems);
  bool any = false;
  for (int i = 0; i < test.case__size(); ++i) {
    const v1::Case& one = test.case_(i);
    const Path at = Join({}, "case", i);
    ExamineDigest(one.program_digest(), Join(at, "program_digest"), problems);
    ExamineDigest(one.golden_digest(), Join(at, "golden_digest"), problems);
    if (one.weights() == v1::MOCK) {
      if (!one.program_digest().empty() || !one.golden_digest().empty()) {
        Add(problems, at, "has a program or golden of its own: mock weights run the test's program");
      }
      continue;
    }
    any |= !one.program_digest().empty();
    if (!one.program_digest().empty() && !test.has_trained()) {
      Add(problems, Join(at, "program_digest"), "is a checkpoint's, and the test names none in trained");
    }
    if (!one.golden_digest().empty() && one.program_digest().empty()) {
      Add(problems, Join(at, "golden_digest"), "is of no program: the case has none of its own");
    }
    bool golden = false;
    for (int k = 0; k < one.check_size(); ++k) {
      const v1::Check& check = one.check(k);
      golden |= check.has_golden();
      if ((check.has_golden() || check.has_answers()) && one.golden_digest().empty()) {
        Add(problems, Join(Join(at, "check", k), KindOf(check)),
            "the case has no golden of its own to be held against");
      }
    }
    // A pass without numbers compared is weaker, and has to say why it is so.
    const bool said =
        std::any_of(test.absent().begin(), test.absent().end(), [&](const v1::AbsentCheck& absent) {
          return absent.case_name() == one.name() && absent.check() == "golden";
        });
    if (!one.program_digest().empty() && !golden && !said) {
      Add(problems, at, "has no check of kind golden, and no absent entry says why");
    }
  }
  if (test.has_trained() && !any) {
    Add(problems, Join({}, "trained"), "no case has the checkpoint's program");
  }
}

// The one check that a case is about must be in it, or be absent with a reason.
void ExamineEssential(const v1::ModelTest& test, const Named& absent, absl::string_view case_name,
                      v1::Check::KindCase kind, absl::string_view kind_name, Problems* problems) {
  for (int i = 0; i < test.case__size(); ++i) {
    if (test.case_(i).name() != case_name) continue;
    const auto& checks = test.case_(i).check();
    const bool has = std::any_of(checks.begin(), checks.end(),
                                 [&](const v1::Check& check) { return check.kind_case() == kind; });
    if (!has && absent.count({std::string(case_name), std::string(kind_name)}) == 0) {
      Add(problems, Join({}, "case", i),
          absl::StrCat("has no check of kind ", kind_name, ", and no absent entry says why"));
    }
    return;
  }
  // A model that the catalogue has no program of runs its checkpoint alone.
  const bool checkpoint_alone = case_name == kMockCase && test.has_trained() && test.program_digest().empty();
  if (checkpoint_alone && absent.count({std::string(case_name), std::string(kind_name)}) > 0) return;
  Add(problems, {}, absl::StrCat("has no case ", case_name));
}

}  // namespace

std::string FormatPath(const Path& path) {
  return absl::StrJoin(path, ".", [](std::string* out, const Step& step) {
    absl::StrAppend(out, step.field);
    if (step.index >= 0) absl::StrAppend(out, "[", step.index, "]");
  });
}

Path Join(Path path, std::string field, int index) {
  path.push_back({std::move(field), index});
  return path;
}

absl::Status ProblemsToStatus(absl::string_view what, const Problems& problems) {
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrJoin(problems, "\n", [&](std::string* out, const Problem& problem) {
        absl::StrAppend(out, what, ": ", FormatPath(problem.path), problem.path.empty() ? "" : ": ",
                        problem.message);
      }));
}

void ExamineStrings(const Message& message, const Path& path, Problems* problems) {
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const Path at = Join(path, field->name(), field->is_repeated() ? i : -1);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        const std::string problem =
            StringProblem(field->is_repeated() ? reflection->GetRepeatedString(message, field, i)
                                               : reflection->GetString(message, field));
        if (!problem.empty()) Add(problems, at, problem);
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        ExamineStrings(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                            : reflection->GetMessage(message, field),
                       at, problems);
      }
    }
  }
}

void ExamineCaseName(absl::string_view name, const Path& path, Problems* problems) {
  if (name == kLoadingCase || name == kMockCase) return;
  Add(problems, path,
      absl::StrCat("unknown case ", Quoted(name), "; there are ", kLoadingCase, " and ", kMockCase));
}

void ExamineCheck(const v1::Check& check, const Path& path, Problems* problems) {
  if (!IsName(check.name())) {
    Add(problems, Join(path, "name"),
        absl::StrCat("must be lower-case letters, digits and underscores, is ", Quoted(check.name())));
  }
  const std::string kind_name = KindOf(check);
  if (kind_name.empty()) {
    Add(problems, path, absl::StrCat("check ", Quoted(check.name()), " has no kind"));
    return;
  }
  const Path at = Join(path, kind_name);
  const FieldDescriptor* field = v1::Check::descriptor()->FindFieldByName(kind_name);
  const Message& kind = check.GetReflection()->GetMessage(check, field);
  ExamineTensors(kind, at, problems);
  const FieldDescriptor* tolerance = kind.GetDescriptor()->FindFieldByName("tolerance");
  if (tolerance != nullptr && kind.GetReflection()->HasField(kind, tolerance)) {
    ExamineTolerance(dynamic_cast<const v1::Tolerance&>(kind.GetReflection()->GetMessage(kind, tolerance)),
                     Join(at, "tolerance"), problems);
  }
  ExamineExemptions(kind, at, problems);
  if (check.has_causality()) {
    const int position = check.causality().position();
    if (position == 0 || position > kMaxPosition || position < -kMaxPosition) {
      Add(problems, Join(at, "position"),
          absl::StrCat("must not be 0 (nothing stands before it) nor beyond ", kMaxPosition, ", is ",
                       position));
    }
  }
  for (int i = 0; i < check.causality().further_position_size(); ++i) {
    const int position = check.causality().further_position(i);
    if (position == 0 || position > kMaxPosition || position < -kMaxPosition) {
      Add(problems, Join(at, "further_position", i),
          absl::StrCat("must not be 0 (nothing stands before it) nor beyond ", kMaxPosition, ", is ",
                       position));
    }
  }
  if (check.has_padding_invariance()) {
    const uint32_t masked = check.padding_invariance().masked();
    if (masked < 1 || masked > kMaxPosition) {
      Add(problems, Join(at, "masked"), absl::StrCat("must be 1 to ", kMaxPosition, ", is ", masked));
    }
  }
  if (check.has_answers()) ExamineKnownAnswers(check.answers().known(), at, "known", problems);
  if (check.has_batch_invariance() && check.batch_invariance().row() > kMaxPosition) {
    Add(problems, Join(at, "row"), absl::StrCat("must be at most ", kMaxPosition));
  }
}

void ExamineOriginalName(absl::string_view original, absl::string_view name, const Path& path,
                         Problems* problems) {
  if (original.empty()) return;
  if (NormaliseName(original) != name) {
    Add(problems, path,
        absl::StrCat(Quoted(original), " with underscores for hyphens is not the name ", Quoted(name)));
  } else if (original == name) {
    Add(problems, path, absl::StrCat(Quoted(original), " has no hyphen: leave original_name out"));
  }
}

void ExamineArchType(absl::string_view arch_type, const Path& path, Problems* problems) {
  const std::vector<std::string>& known = ArchTypes();
  if (std::find(known.begin(), known.end(), arch_type) != known.end()) return;
  const std::string nearest = NearestName(arch_type, known);
  Add(problems, path,
      absl::StrCat("unknown architecture type ", Quoted(arch_type), ", must be one of ",
                   absl::StrJoin(known, ", "),
                   nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")));
}

void ExamineClass(absl::string_view name, const Path& path, Problems* problems) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
  const bool fine = name.size() <= 300 && std::all_of(parts.begin(), parts.end(), [](absl::string_view part) {
                      return !part.empty() && !absl::ascii_isdigit(part[0]) &&
                             std::all_of(part.begin(), part.end(),
                                         [](char c) { return absl::ascii_isalnum(c) || c == '_'; });
                    });
  if (!fine) {
    Add(problems, path,
        absl::StrCat("must be a dotted name such as transformers.BertModel, is ", Quoted(name)));
  }
}

void ExamineCheckpoint(absl::string_view id, const Path& path, Problems* problems) {
  if (id.empty() || CheckCheckpointId(id).ok()) return;
  Add(problems, path, absl::StrCat("must be like 'owner/name' or 'name', is ", Quoted(id)));
}

void ExamineCheckpointRef(const v1::CheckpointRef& ref, const Path& path, Problems* problems) {
  const absl::string_view id = ref.id();
  const bool folder = absl::StartsWith(id, "/");
  if (id.empty()) {
    Add(problems, Join(path, "id"), "is missing");
  } else if (folder) {
    for (const absl::string_view part : absl::StrSplit(id, '/')) {
      if (part == "." || part == "..") {
        Add(problems, Join(path, "id"), absl::StrCat("has ", Quoted(part), " in its path: ", Quoted(id)));
        break;
      }
    }
    if (id == "/") Add(problems, Join(path, "id"), "is the root of all folders");
  } else if (!CheckCheckpointId(id).ok()) {
    Add(problems, Join(path, "id"),
        absl::StrCat("must be like 'owner/name', 'owner/name@revision' or an absolute folder, is ",
                     Quoted(id)));
  }
  if (!ref.revision().empty() && folder) {
    Add(problems, Join(path, "revision"), "is of a hub: a folder has none");
  } else if (!ref.revision().empty() && !CheckRevision(ref.revision()).ok()) {
    Add(problems, Join(path, "revision"),
        absl::StrCat("must be a branch, tag or commit, is ", Quoted(ref.revision())));
  }
  if (!ref.commit().empty() && (folder || !IsGitSha1(ref.commit()))) {
    Add(problems, Join(path, "commit"),
        absl::StrCat("must be 40 lower-case hex digits, and is only of a hub; is ", Quoted(ref.commit())));
  }
  ExamineDigest(ref.weights_digest(), Join(path, "weights_digest"), problems);
  ExamineDigest(ref.config_digest(), Join(path, "config_digest"), problems);
}

void ExamineDigest(absl::string_view digest, const Path& path, Problems* problems) {
  if (digest.empty() || IsDigest(digest)) return;
  Add(problems, path, absl::StrCat("must be a SHA-256 in 64 lower-case hex digits, is ", Quoted(digest)));
}

void ExamineKnownAnswers(const google::protobuf::RepeatedPtrField<v1::KnownAnswer>& known, const Path& path,
                         const std::string& field, Problems* problems) {
  std::set<std::string> names;
  for (int i = 0; i < known.size(); ++i) {
    const Path at = Join(path, field, i);
    if (!IsName(known[i].answer())) {
      Add(problems, Join(at, "answer"), absl::StrCat("must name an answer, is ", Quoted(known[i].answer())));
    }
    if (known[i].text().empty()) Add(problems, Join(at, "text"), "is missing: what is known");
    if (!names.insert(known[i].answer()).second) {
      Add(problems, Join(at, "answer"), absl::StrCat(Quoted(known[i].answer()), " is known twice"));
    }
  }
}

std::vector<Problem> ExaminePlanned(const v1::ModelTest& test) {
  Problems problems;
  if (test.has_set_up()) {
    ExamineSetUp(test.set_up(), Join({}, "set_up"), &problems);
  } else {
    Add(&problems, {}, "has no set_up");
  }
  if (test.has_limits()) {
    ExamineLimits(test.limits(), Join({}, "limits"), &problems);
  } else {
    Add(&problems, {}, "has no limits");
  }
  Named present;
  std::set<std::string> cases;
  for (int i = 0; i < test.case__size(); ++i) {
    const v1::Case& one = test.case_(i);
    ExamineCase(one, Join({}, "case", i), &problems);
    if (!cases.insert(one.name()).second) {
      Add(&problems, Join(Join({}, "case", i), "name"), absl::StrCat("a second case ", Quoted(one.name())));
    }
    for (int k = 0; k < one.check_size(); ++k) {
      present.insert({one.name(), one.check(k).name()});
      if (test.set_up().dtype() == v1::FLOAT32) {
        ExamineFloat32Tolerance(one.check(k), Join(Join({}, "case", i), "check", k), &problems);
      }
    }
  }
  Named absent;
  for (int i = 0; i < test.absent_size(); ++i) {
    const v1::AbsentCheck& one = test.absent(i);
    const Path at = Join({}, "absent", i);
    ExamineCaseName(one.case_name(), Join(at, "case_name"), &problems);
    if (!IsName(one.check())) {
      Add(&problems, Join(at, "check"), absl::StrCat("must name a check, is ", Quoted(one.check())));
    }
    if (one.reason().empty()) Add(&problems, at, "has no reason");
    if (present.count({one.case_name(), one.check()}) > 0) {
      Add(&problems, Join(at, "check"),
          absl::StrCat("check ", Quoted(one.check()), " is present in ", one.case_name(), " too"));
    }
    if (!absent.insert({one.case_name(), one.check()}).second) {
      Add(&problems, Join(at, "check"), absl::StrCat("check ", Quoted(one.check()), " is absent twice"));
    }
  }
  ExamineEssential(test, absent, kLoadingCase, v1::Check::kWeightsBound, "weights_bound", &problems);
  ExamineEssential(test, absent, kMockCase, v1::Check::kGolden, "golden", &problems);
  return problems;
}

std::vector<Problem> ExamineTest(const v1::ModelTest& test) {
  Problems problems;
  ExamineStrings(test, {}, &problems);
  const auto name = [&](absl::string_view value, const std::string& field) {
    if (!IsName(value)) {
      Add(&problems, Join({}, field),
          absl::StrCat("must be lower-case letters, digits and underscores, is ", Quoted(value)));
    }
  };
  name(test.name(), "name");
  ExamineOriginalName(test.original_name(), test.name(), Join({}, "original_name"), &problems);
  name(test.template_(), "template");
  if (!IsTask(test.task())) {
    Add(&problems, Join({}, "task"), absl::StrCat("must be like 'fill-mask', is ", Quoted(test.task())));
  }
  ExamineArchType(test.arch_type(), Join({}, "arch_type"), &problems);
  if (!test.model_class().empty() || !test.catalogue_digest().empty()) {
    ExamineClass(test.model_class(), Join({}, "model_class"), &problems);
  }
  ExamineCheckpoint(test.checkpoint(), Join({}, "checkpoint"), &problems);
  if (test.template_digest().empty()) Add(&problems, Join({}, "template_digest"), "is missing: a SHA-256");
  ExamineDigest(test.template_digest(), Join({}, "template_digest"), &problems);
  ExamineDigest(test.catalogue_digest(), Join({}, "catalogue_digest"), &problems);
  ExamineDigest(test.program_digest(), Join({}, "program_digest"), &problems);
  Problems planned = ExaminePlanned(test);
  problems.insert(problems.end(), std::make_move_iterator(planned.begin()),
                  std::make_move_iterator(planned.end()));
  ExamineTrained(test, &problems);
  return problems;
}

std::vector<std::string> TensorNamesOf(const v1::Check& check) {
  std::vector<std::string> names;
  const std::string kind_name = KindOf(check);
  if (kind_name.empty()) return names;
  const Message& kind =
      check.GetReflection()->GetMessage(check, v1::Check::descriptor()->FindFieldByName(kind_name));
  for (int i = 0; i < kind.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = kind.GetDescriptor()->field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !field->is_repeated()) {
      names.push_back(kind.GetReflection()->GetString(kind, field));
    }
  }
  return names;
}

std::string KindOf(const v1::Check& check) {
  const auto* kind = v1::Check::descriptor()->FindOneofByName("kind");
  const FieldDescriptor* field = check.GetReflection()->GetOneofFieldDescriptor(check, kind);
  return field == nullptr ? "" : field->name();
}

}  // namespace assay::generator
