// UTF-8 as RFC 3629 has it: shortest form, no surrogates, nothing beyond U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace assay {

struct Utf8Character {
  size_t bytes = 0;  // of its sequence; 0: there is none
  uint32_t code = 0;
};

// The character that `text`, which is not empty, begins with. Pure, safe from any thread.
Utf8Character FirstCharacter(absl::string_view text);

}  // namespace assay
