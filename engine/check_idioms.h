// Whether a graph says what models say in the way that they say it. No LibTorch here.
#pragma once

#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/finding.h"

namespace assay::engine {

// Rules that every tracked model's graph holds, but for those that its catalogue entry exempts by name and
// with a reason; docs/checks.md says what each assumes. Of what an output depends on:
// - sine_and_cosine: there are as many sines as cosines;
// - half_turn: where the halves of a vector change places, the one that comes first is negated;
// - epsilon: a sum with a number of at most 1e-3 goes to a root or is divided by;
// - activation: gelu and silu are functions that the configuration names;
// - gate: a tanh of a scaled value is gelu's, a sigmoid of one quick gelu's;
// - counting/N: positions are counted from zero, not from N;
// - padding_offset: what is added to positions that a mask numbers is the configuration's padding token;
// - causal_mask: of two counts of positions, a place sees itself and what is before it;
// - place: of one place that is taken from a sequence alone, it is the first or the last;
// - one_minus: one minus a mask is scaled, or fills in;
// - scores: what a softmax makes of a product of two matrices is scaled;
// - linear_of_linear, convolution_of_norm: something lies between, that is no line;
// - difference/OP: what is subtracted of a value that depends on weights is no other such value, but a mean,
//   a maximum or the like; OP made it.
// Of a rule with a slash the part before it exempts all.
Finding CheckIdioms(const v1::Check::Idioms& check, const v1::Program& program);

}  // namespace assay::engine
