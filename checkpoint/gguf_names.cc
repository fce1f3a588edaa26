// GGUF's names and layouts against those of transformers' classes. Names are gguf-py's (tensor_mapping.py),
// layouts those that transformers puts back when it loads GGUF (modeling_gguf_pytorch_utils.py); each
// architecture here is compared with its loading by tests/checkpoint/make_gguf_vectors.py.
#include <algorithm>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoint/decode.h"
#include "checkpoint/gguf.h"
#include "common/status_macros.h"

namespace assay::checkpoint {
namespace {

struct NameRow {
  absl::string_view gguf;
  absl::string_view library;
  Relayout relayout = Relayout::kNone;  // of the tensors that ApplyRelayout says
};

struct Architecture {
  std::string name;          // general.architecture
  absl::string_view layers;  // what a block's number follows
  std::vector<NameRow> whole;
  std::vector<NameRow> block;
};

const std::vector<Architecture>& Architectures() {
  static const auto* const kArchitectures = [] {
    constexpr Relayout kRope = Relayout::kRope, kTranspose = Relayout::kTranspose,
                       kSubtractOne = Relayout::kSubtractOne;
    const std::vector<NameRow> whole = {
        {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
    const std::vector<NameRow> shared = {{"attn_v", "self_attn.v_proj"},
                                         {"attn_output", "self_attn.o_proj"},
                                         {"ffn_gate", "mlp.gate_proj"},
                                         {"ffn_up", "mlp.up_proj"},
                                         {"ffn_down", "mlp.down_proj"}};
    const std::vector<NameRow> two_norms = {{"attn_norm", "input_layernorm"},
                                            {"ffn_norm", "post_attention_layernorm"}};
    const std::vector<NameRow> plain = {{"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}};
    const std::vector<NameRow> rotated = {{"attn_q", "self_attn.q_proj", kRope},
                                          {"attn_k", "self_attn.k_proj", kRope}};
    const auto join = [](std::initializer_list<std::vector<NameRow>> lists) {
      std::vector<NameRow> rows;
      for (const auto& list : lists) rows.insert(rows.end(), list.begin(), list.end());
      return rows;
    };
    auto* const all = new std::vector<Architecture>;
    all->push_back({"llama", "model.layers", whole, join({shared, two_norms, rotated})});
    all->push_back({"qwen2", "model.layers", whole, join({shared, two_norms, plain})});
    all->push_back({"qwen3", "model.layers", whole,
                    join({shared,
                          two_norms,
                          plain,
                          {{"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"}}})});
    all->push_back({"phi3", "model.layers", whole,
                    join({two_norms,
                          {{"attn_qkv", "self_attn.qkv_proj"},
                           {"attn_output", "self_attn.o_proj"},
                           {"ffn_up", "mlp.gate_up_proj"},
                           {"ffn_down", "mlp.down_proj"}}})});
    all->push_back({"gemma2",
                    "model.layers",
                    {{"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm", kSubtractOne}},
                    join({shared,
                          plain,
                          {{"attn_norm", "input_layernorm", kSubtractOne},
                           {"post_attention_norm", "post_attention_layernorm", kSubtractOne},
                           {"ffn_norm", "pre_feedforward_layernorm", kSubtractOne},
                           {"post_ffw_norm", "post_feedforward_layernorm", kSubtractOne}}})});
    all->push_back({"gpt2",
                    "transformer.h",
                    {{"token_embd", "transformer.wte"},
                     {"position_embd", "transformer.wpe"},
                     {"output_norm", "transformer.ln_f"},
                     {"output", "lm_head"}},
                    {{"attn_norm", "ln_1"},
                     {"attn_qkv", "attn.c_attn", kTranspose},
                     {"attn_output", "attn.c_proj", kTranspose},
                     {"ffn_norm", "ln_2"},
                     {"ffn_up", "mlp.c_fc", kTranspose},
                     {"ffn_down", "mlp.c_proj", kTranspose}}});
    return all;
  }();
  return *kArchitectures;
}

// "attn_q.weight" by the row for attn_q; null for a name that is not known.
const NameRow* Find(const std::vector<NameRow>& rows, absl::string_view name, absl::string_view* suffix) {
  for (const absl::string_view ending : {".weight", ".bias"}) {
    absl::string_view stem = name;
    if (!absl::ConsumeSuffix(&stem, ending)) continue;
    *suffix = ending;
    const auto row =
        std::find_if(rows.begin(), rows.end(), [&](const NameRow& known) { return known.gguf == stem; });
    return row == rows.end() ? nullptr : &*row;
  }
  return nullptr;
}

absl::StatusOr<int64_t> Heads(const GgufFile& file, const std::string& key) {
  const auto found = file.metadata.find(key);
  const uint64_t* heads = found == file.metadata.end() ? nullptr : std::get_if<uint64_t>(&found->second);
  if (heads == nullptr || *heads == 0 || *heads > (uint64_t{1} << 30)) {
    return absl::InvalidArgumentError(absl::StrCat(key, " is no number of heads"));
  }
  return static_cast<int64_t>(*heads);
}

absl::Status ApplyRelayout(const GgufFile& file, const Architecture& architecture, const std::string& name,
                           const NameRow& row, absl::string_view suffix, CheckpointTensor& tensor) {
  if (row.relayout == Relayout::kTranspose && suffix != ".weight") return absl::OkStatus();
  tensor.relayout = row.relayout;
  if (row.relayout == Relayout::kNone) return absl::OkStatus();
  if (!DecodesToFloat(tensor)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": ", tensor.dtype_name));
  }
  if (row.relayout == Relayout::kSubtractOne) return absl::OkStatus();
  if (row.relayout == Relayout::kTranspose && tensor.shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": ", tensor.shape.size(), " dimensions, not 2"));
  }
  // Rows are decoded one by one.
  if (tensor.shape.size() == 1 && tensor.encoding != Encoding::kPlain) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", name, ": a vector in ", tensor.dtype_name, " is not put in order"));
  }
  if (row.relayout != Relayout::kRope) return absl::OkStatus();
  const std::string all = absl::StrCat(architecture.name, ".attention.head_count");
  const std::string own = absl::StrCat(all, "_kv");
  const bool keys = row.gguf == "attn_k" && file.metadata.count(own) > 0;
  ASSAY_ASSIGN_OR_RETURN(tensor.rope_heads, Heads(file, keys ? own : all));
  if (tensor.shape[0] % (2 * tensor.rope_heads) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": ", tensor.shape[0], " rows for ", tensor.rope_heads, " heads"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status NameTensors(GgufFile& file) {
  const auto found = file.metadata.find("general.architecture");
  const std::string* name = found == file.metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
  if (name == nullptr) return absl::InvalidArgumentError("general.architecture is missing");
  const auto& all = Architectures();
  const auto architecture =
      std::find_if(all.begin(), all.end(), [&](const Architecture& known) { return known.name == *name; });
  if (architecture == all.end()) {
    return absl::UnimplementedError(absl::StrCat(
        "tensor names of the architecture '", absl::CHexEscape(name->substr(0, 64)),
        "' are not known; known: ", absl::StrJoin(all, ", ", [](std::string* out, const Architecture& known) {
          out->append(known.name);
        })));
  }
  for (auto& [key, tensor] : file.tensors) {
    absl::string_view rest = key, suffix;
    const NameRow* row = nullptr;
    std::string before;
    if (absl::ConsumePrefix(&rest, "blk.")) {
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(rest, absl::MaxSplits('.', 1));
      uint32_t number = 0;
      // The number as it is written again: no "+1" or "01" may become another block.
      if (!absl::SimpleAtoi(parts.first, &number) || absl::StrCat(number) != parts.first) continue;
      row = Find(architecture->block, parts.second, &suffix);
      before = absl::StrCat(architecture->layers, ".", number, ".");
    } else {
      row = Find(architecture->whole, rest, &suffix);
    }
    if (row == nullptr) continue;
    tensor.library_name = absl::StrCat(before, row->library, suffix);
    ASSAY_RETURN_IF_ERROR(ApplyRelayout(file, *architecture, key, *row, suffix, tensor));
  }
  return absl::OkStatus();
}

}  // namespace assay::checkpoint
