#include "cli/repro.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "cli/output.h"
#include "common/status_macros.h"

namespace assay::cli {
namespace {

// The arithmetic is docs/program_format.md's, "Mock values".
constexpr absl::string_view kGenerator = R"(
U, MASK, GOLDEN = np.uint64, 2**64 - 1, 0x9E3779B97F4A7C15


def words(name, seed, count):  # the counter-based generator behind every number below
    def mix(z):
        z = (z ^ (z >> U(30))) * U(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> U(27))) * U(0x94D049BB133111EB)
        return z ^ (z >> U(31))

    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        key = mix(np.array([(h + GOLDEN * (seed + 1)) & MASK], dtype=U))[0]
        return mix(key + np.arange(1, count + 1, dtype=U) * U(GOLDEN))


def make(name, rule, shape, dtype):
    kind, a, b = rule
    count = int(np.prod(shape, dtype=np.int64))
    if kind == "bytes":
        return torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(a))), dtype=dtype).reshape(shape)
    if kind == "values":
        return torch.tensor(a).to(dtype).reshape(shape)
    if kind == "normal":
        z = words(name, SEED, count).astype("<u8").view("<u2").reshape(-1, 4).astype(np.int32)
        z = z.sum(axis=1, dtype=np.int32) - np.int32(131070)
        flat = z.astype(np.float32) * (np.float32(a) * np.float32(2.6428996e-05))
        flat = flat + np.float32(b) if b != 0 else flat
    elif kind == "uniform":
        lanes = words(name, SEED, (count + 1) // 2).astype("<u8").view("<u4")[:count]
        a, b = np.float32(a), np.float32(b)
        step = np.float32((float(b) - float(a)) * 2.0**-24)
        flat = (lanes >> np.uint32(8)).astype(np.float32) * step + a
    elif kind == "int":
        flat = a + (words(name, SEED, count) % U(b - a)).astype(np.int64)
    elif kind == "ramp":
        last = shape[-1] if shape else 1
        flat = np.tile(a + b * np.arange(last, dtype=np.float64), count // last) if count else np.zeros(0)
    else:
        flat = np.full(count, a, dtype=np.float64)
    return torch.from_numpy(np.ascontiguousarray(flat)).reshape(shape).to(dtype)
)";

constexpr absl::string_view kShow = R"(
worst_job = worst_golden = 0.0
for name, shape, places, golden, job in OUTPUTS:
    value = named(output, name)
    if list(value.shape) != shape:
        print(f"{name}: eager gives {list(value.shape)}, the golden has {shape}")
        worst_golden = float("inf")
        continue
    flat = value.detach().double().reshape(-1)[places].tolist()
    print(f"{name} {shape}")
    print(f"  {'element':>10} {'the job':>16} {'eager here':>16} {'golden':>16}")
    for row in zip(places, job, flat, golden):
        print("  {:>10} {:>16.9g} {:>16.9g} {:>16.9g}".format(*row))
    scale = max([abs(number) for number in golden] + [1e-30])
    far = [abs(a - b) / scale for a, b in zip(flat, golden)]
    off = [abs(a - b) / scale if a == a else float("inf") for a, b in zip(job, flat)]
    print(f"  off by, of {scale:.3g}: the job {max(off):.3g}, the golden {max(far):.3g}")
    worst_job, worst_golden = max([worst_job] + off), max([worst_golden] + far)
if not worst_golden <= 1e-4:
    print("Eager here does not give what it gave when the golden was recorded: other versions, or another model.")
    sys.exit(3)
sys.exit(0 if worst_job <= ALLOWED else 1)
)";

std::string Quote(absl::string_view text) { return absl::StrCat("\"", absl::CEscape(text), "\""); }

// Exactly: Python reads it back to the same double.
std::string Real(double number) {
  if (std::isnan(number)) return "float(\"nan\")";
  if (std::isinf(number)) return number > 0 ? "float(\"inf\")" : "float(\"-inf\")";
  return absl::StrFormat("%.17g", number);
}

absl::StatusOr<absl::string_view> TorchName(v1::ScalarType dtype) {
  switch (dtype) {
    case v1::BYTE:
      return "torch.uint8";
    case v1::CHAR:
      return "torch.int8";
    case v1::SHORT:
      return "torch.int16";
    case v1::INT:
      return "torch.int32";
    case v1::LONG:
      return "torch.int64";
    case v1::HALF:
      return "torch.float16";
    case v1::FLOAT:
      return "torch.float32";
    case v1::DOUBLE:
      return "torch.float64";
    case v1::BOOL:
      return "torch.bool";
    case v1::BFLOAT16:
      return "torch.bfloat16";
    default:
      return absl::UnimplementedError(absl::StrCat("dtype number ", static_cast<int>(dtype)));
  }
}

// Data by value: small integers as they are read, the rest compressed.
std::string Data(absl::string_view bytes, v1::ScalarType dtype) {
  if (dtype == v1::LONG && bytes.size() <= 64 * sizeof(int64_t)) {
    std::vector<int64_t> numbers(bytes.size() / sizeof(int64_t));
    if (!numbers.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
    return absl::StrCat("(\"values\", [", absl::StrJoin(numbers, ", "), "], 0)");
  }
  // zlib's stored blocks: a form that needs no compressor here. Two bytes of header, blocks of at most 65535
  // bytes, and the checksum of RFC 1950.
  std::string stored("\x78\x01", 2);
  uint32_t low = 1, high = 0;
  for (const char c : bytes) {
    low = (low + static_cast<unsigned char>(c)) % 65521;
    high = (high + low) % 65521;
  }
  size_t at = 0;
  do {
    const size_t length = std::min<size_t>(65535, bytes.size() - at);
    stored.push_back(at + length == bytes.size() ? 1 : 0);
    for (const size_t half : {length, ~length}) {
      stored.push_back(static_cast<char>(half & 0xff));
      stored.push_back(static_cast<char>((half >> 8) & 0xff));
    }
    stored.append(bytes.data() + at, length);
    at += length;
  } while (at < bytes.size());
  for (const uint32_t half : {high, low}) {
    stored.push_back(static_cast<char>(half >> 8));
    stored.push_back(static_cast<char>(half & 0xff));
  }
  return absl::StrCat("(\"bytes\", \"", absl::Base64Escape(stored), "\", 0)");
}

absl::StatusOr<std::string> Rule(const v1::MockRule& rule, v1::ScalarType dtype) {
  switch (rule.kind_case()) {
    case v1::MockRule::kNormal:
      return absl::StrCat("(\"normal\", ", Real(rule.normal().std()), ", ", Real(rule.normal().mean()), ")");
    case v1::MockRule::kUniform:
      return absl::StrCat("(\"uniform\", ", Real(rule.uniform().low()), ", ", Real(rule.uniform().high()),
                          ")");
    case v1::MockRule::kConstant:
      return absl::StrCat("(\"constant\", ", Real(rule.constant()), ", 0)");
    case v1::MockRule::kIntRange:
      return absl::StrCat("(\"int\", ", rule.int_range().low(), ", ", rule.int_range().high(), ")");
    case v1::MockRule::kRamp:
      return absl::StrCat("(\"ramp\", ", Real(rule.ramp().start()), ", ", Real(rule.ramp().step()), ")");
    case v1::MockRule::kLiteral:
      return Data(rule.literal(), dtype);
    default:
      return absl::InvalidArgumentError("a weight without a mock rule");
  }
}

class Writer {
 public:
  Writer(const JobMaterial& material, const v1::Program& program, const v1::Golden& golden)
      : material_(material), one_(material.Case()), manifest_(program.manifest()), golden_(golden) {}

  absl::StatusOr<std::string> Write() {
    absl::string_view name = manifest_.architecture();
    // It becomes code.
    const bool is_name = absl::ConsumePrefix(&name, "transformers.") &&
                         std::all_of(name.begin(), name.end(),
                                     [](unsigned char c) { return absl::ascii_isalnum(c) || c == '_'; });
    if (!is_name) {
      return absl::UnimplementedError(absl::StrCat("the model's class is ", manifest_.architecture(),
                                                   ": a script of transformers alone cannot build it"));
    }
    if (one_.output_size() == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("case ", one_.name(), " of job ", material_.job.job_id(),
                       " kept no numbers: it did not get so far, or an earlier "
                       "release ran it"));
    }
    trained_ = one_.weights() == v1::REAL || one_.weights() == v1::SYNTHETIC;
    WriteHead(name);
    ASSAY_RETURN_IF_ERROR(WriteInputs());
    if (!trained_) ASSAY_RETURN_IF_ERROR(WriteRules());
    absl::StrAppend(&out_, kGenerator);
    WriteModel(name);
    ASSAY_RETURN_IF_ERROR(WriteOutputs());
    absl::StrAppend(&out_, kShow);
    return std::move(out_);
  }

 private:
  void WriteHead(absl::string_view name) {
    const v1::TestResult& result = material_.job.result();
    absl::StrAppend(&out_, "# ", name, ": ", Line(one_.name()), " of job ", Line(material_.job.job_id()),
                    " was ", v1::Outcome_Name(one_.outcome()), " on ",
                    Line(result.provenance().device().kind()), " (",
                    Line(result.provenance().device().name()), "), torch ",
                    Line(result.provenance().torch_version()), ".\n");
    if (!one_.message().empty()) absl::StrAppend(&out_, "# ", Line(one_.message()), "\n");
    if (one_.has_divergence()) {
      absl::StrAppend(&out_, "# First to differ: ", Line(one_.divergence().node()), " (",
                      Line(one_.divergence().op()), ") in ", Line(one_.divergence().module()), "\n");
    }
    absl::StrAppend(&out_, "# Needs transformers (recorded with ", Line(manifest_.transformers_version()),
                    ") and torch (", Line(manifest_.torch_version()),
                    "). Exit code 0: the job's numbers are eager's; ", "1: they are not.\n");
    for (const v1::Patch& patch : manifest_.patches()) {
      absl::StrAppend(&out_, "# The export needed a patch, which is not applied here: ", Line(patch.name()),
                      ": ", Line(patch.reason()), "\n");
    }
    out_ +=
        "import base64\nimport json\nimport sys\nimport zlib\n\nimport numpy as np\nimport torch\n"
        "import transformers\n\n";
    absl::StrAppend(&out_, "SEED = ", trained_ ? manifest_.mock_seed() : result.provenance().mock_seed(),
                    "\n");
  }

  absl::Status WriteInputs() {
    out_ += "INPUTS = {  # name: rule or data, shape, dtype\n";
    for (int i = 0; i < manifest_.inputs_size() && i < golden_.inputs_size(); ++i) {
      const v1::InputSpec& spec = manifest_.inputs(i);
      const v1::GoldenInput& input = golden_.inputs(i);
      ASSAY_ASSIGN_OR_RETURN(const absl::string_view dtype, TorchName(spec.dtype()));
      std::string made = Data(input.data(), spec.dtype());
      if (input.has_rule()) {
        ASSAY_ASSIGN_OR_RETURN(made, Rule(input.rule(), spec.dtype()));
      }
      absl::StrAppend(&out_, "    ", Quote(spec.name()), ": (", made, ", [",
                      absl::StrJoin(spec.shape(), ", "), "], ", dtype, "),\n");
    }
    out_ += "}\n";
    return absl::OkStatus();
  }

  // Most weights of a model share a handful of rules.
  absl::Status WriteRules() {
    std::map<std::string, std::vector<std::string>> names;
    for (const v1::WeightSpec& weight : manifest_.weights()) {
      ASSAY_ASSIGN_OR_RETURN(const std::string rule, Rule(weight.mock(), weight.dtype()));
      names[rule].push_back(weight.name());
    }
    out_ += "WEIGHTS = [  # rule, the weights that it makes\n";
    for (const auto& [rule, of] : names) {
      absl::StrAppend(&out_, "    (", rule, ", ", Quote(absl::StrJoin(of, " ")), "),\n");
    }
    out_ += "]\n";
    return absl::OkStatus();
  }

  void WriteModel(absl::string_view name) {
    out_ += "\n\n@torch.no_grad()\ndef run():\n";
    if (trained_) {
      const v1::CheckpointRef& from = material_.job.result().provenance().checkpoint();
      // Of one that no hub has, or to be spared the download, the folder is named: python repro.py FOLDER.
      const std::string& revision = from.commit().empty() ? from.revision() : from.commit();
      absl::StrAppend(&out_, "    source = {\"pretrained_model_name_or_path\": ", Quote(from.id()));
      if (!revision.empty()) absl::StrAppend(&out_, ", \"revision\": ", Quote(revision));
      absl::StrAppend(&out_,
                      "}\n    if len(sys.argv) > 1:  # the checkpoint's folder\n"
                      "        source = {\"pretrained_model_name_or_path\": sys.argv[1]}\n"
                      "    model = transformers.",
                      name, ".from_pretrained(\n        **source");
      out_ +=
          ", attn_implementation=\"eager\", torch_dtype=torch.float32\n    ).eval()\n"
          "    if hasattr(model.config, \"use_cache\"):\n        model.config.use_cache = False\n";
    } else {
      absl::StrAppend(&out_,
                      "    config = json.loads(CONFIG)\n"
                      "    kind = transformers.CONFIG_MAPPING[config[\"model_type\"]]\n"
                      "    config = kind.from_dict(config)\n"
                      "    eager(config)\n"
                      "    model = transformers.",
                      name,
                      "(config).eval()\n"
                      "    state = model.state_dict(keep_vars=True)\n"
                      "    for rule, names in WEIGHTS:\n"
                      "        for name in names.split():\n"
                      "            made = make(name, rule, list(state[name].shape), state[name].dtype)\n"
                      "            state[name].copy_(made)\n");
    }
    out_ += "    return model(**{name: make(name, *given) for name, given in INPUTS.items()})\n\n\n";
    if (!trained_) {
      out_ +=
          "def eager(config):  # eager attention and no cache, in every part of a configuration\n"
          "    config._attn_implementation = \"eager\"\n"
          "    if hasattr(config, \"use_cache\"):\n"
          "        config.use_cache = False\n"
          "    for value in list(vars(config).values()):\n"
          "        if isinstance(value, transformers.PretrainedConfig):\n"
          "            eager(value)\n\n\n";
      absl::StrAppend(&out_, "CONFIG = ", Quote(manifest_.config_json()), "\n\n\n");
    }
    out_ +=
        "def named(output, name):  # \"feature_maps.1\" is the second of a list\n"
        "    if name in output:\n"
        "        return output[name]\n"
        "    first, _, index = name.rpartition(\".\")\n"
        "    return output[first][int(index)]\n\n\n"
        "torch.set_num_threads(1)\noutput = run()\n";
  }

  absl::Status WriteOutputs() {
    const bool narrow = material_.job.result().provenance().dtype() == v1::DTYPE_BFLOAT16 ||
                        material_.job.result().provenance().dtype() == v1::FLOAT16;
    // Of the largest number; of a job in half precision, what its rounding may do to many.
    absl::StrAppend(&out_, "ALLOWED = ", narrow ? "5e-2  # the job ran in half precision" : "1e-5", "\n");
    out_ += "OUTPUTS = [  # name, shape, some places, the golden's and the job's numbers there\n";
    for (int i = 0; i < manifest_.outputs_size() && i < one_.output_size(); ++i) {
      const v1::OutputSpec& spec = manifest_.outputs(i);
      const v1::OutputSummary& summary = one_.output(i);
      uint64_t numel = 1;
      for (const int64_t size : spec.shape()) numel *= static_cast<uint64_t>(size);
      std::vector<std::string> places, expected, numbers;
      const auto count = static_cast<uint64_t>(summary.samples_size());
      for (uint64_t k = 0; k < count; ++k) {
        const uint64_t place = (2 * k + 1) * numel / (2 * count);
        ASSAY_ASSIGN_OR_RETURN(const double golden, GoldenAt(i, place));
        places.push_back(absl::StrCat(place));
        expected.push_back(Real(golden));
        numbers.push_back(Real(summary.samples(static_cast<int>(k))));
      }
      absl::StrAppend(&out_, "    (", Quote(spec.name()), ", [", absl::StrJoin(spec.shape(), ", "),
                      "],\n     [", absl::StrJoin(places, ", "), "],\n     [", absl::StrJoin(expected, ", "),
                      "],\n     [", absl::StrJoin(numbers, ", "), "]),\n");
    }
    out_ += "]\n";
    return absl::OkStatus();
  }

  absl::StatusOr<double> GoldenAt(int output, uint64_t place) const {
    if (output >= golden_.outputs_size()) {
      return absl::FailedPreconditionError("there is no golden to put beside the job's numbers");
    }
    const v1::Tensor& tensor = golden_.outputs(output).tensor();
    if (tensor.dtype() == v1::FLOAT && (place + 1) * sizeof(float) <= tensor.data().size()) {
      float number;
      std::memcpy(&number, tensor.data().data() + place * sizeof(float), sizeof number);
      return number;
    }
    if (tensor.dtype() == v1::LONG && (place + 1) * sizeof(int64_t) <= tensor.data().size()) {
      int64_t number;
      std::memcpy(&number, tensor.data().data() + place * sizeof(int64_t), sizeof number);
      return static_cast<double>(number);
    }
    return absl::UnimplementedError(
        absl::StrCat("output ", tensor.name(), " of dtype number ", tensor.dtype()));
  }

  // Of others' text, one line that a comment cannot leave.
  static std::string Line(absl::string_view text) {
    std::string line;
    for (const char c : text.substr(0, 400))
      line.push_back(static_cast<unsigned char>(c) < 32 || c == 127 ? ' ' : c);
    return line;
  }

  const JobMaterial& material_;
  const v1::CaseResult& one_;
  const v1::Manifest& manifest_;
  const v1::Golden& golden_;
  bool trained_ = false;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> ReproScript(const JobMaterial& material) {
  ASSAY_ASSIGN_OR_RETURN(const v1::Program program, ProgramOf(material));
  ASSAY_ASSIGN_OR_RETURN(const v1::Golden golden, GoldenOf(material, program));
  return Writer(material, program, golden).Write();
}

ExitCode ReproCommand(const ConnectionOptions& connection, const std::string& folder_or_job,
                      const std::string& output) {
  const absl::StatusOr<JobMaterial> material = FindMaterial(connection, folder_or_job);
  if (!material.ok()) return Complain(material.status());
  const absl::StatusOr<std::string> script = ReproScript(*material);
  if (!script.ok()) return Complain(script.status());
  const absl::Status written = Write(output, *script);
  return written.ok() ? kExitOk : Complain(written);
}

}  // namespace assay::cli
