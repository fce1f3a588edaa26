// Names of models, as users write them and as Assay keeps them. Pure functions, safe from any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace assay::generator {

// Longest name of a model, template, case or check that is accepted, in bytes.
inline constexpr size_t kMaxNameLength = 100;

// Hyphens become underscores: "command-r" is kept as "command_r". Nothing else changes.
std::string NormaliseName(absl::string_view name);

// True for what may become part of a file name and of a comment: lower-case letters, digits and underscores,
// a letter or digit first, at most kMaxNameLength bytes.
bool IsName(absl::string_view name);

// True for a task, e.g. "text2text-generation": as IsName, hyphens allowed.
bool IsTask(absl::string_view task);

// The architecture types of the registry, sorted: "decoder_only", "encoder_decoder", …
const std::vector<std::string>& ArchTypes();

// The element of `known` that a typo most likely meant; empty where none is near (more than a third of the
// letters differ).
std::string NearestName(absl::string_view name, const std::vector<std::string>& known);

// A text of a user, fit for an error message: quoted, escaped, cut after 60 bytes.
std::string Quoted(absl::string_view text);

// A library's error message, fit for a proto: it may quote what it read, so bytes that are no printable ASCII
// become
// '?', and what is beyond 300 bytes is cut.
std::string Printable(absl::string_view message);

}  // namespace assay::generator
