#include "tests/engine/program_maker.h"

#include <google/protobuf/text_format.h>

#include "engine/validate.h"
#include "gtest/gtest.h"

namespace assay::engine {
namespace {

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

}  // namespace

uint32_t ProgramMaker::Input(const std::string& name, v1::ScalarType dtype, const std::vector<int64_t>& shape,
                             bool dynamic_batch, const std::string& rule) {
  v1::InputSpec& spec = *program_.mutable_manifest()->add_inputs();
  spec.set_name(name);
  spec.set_dtype(dtype);
  spec.mutable_shape()->Add(shape.begin(), shape.end());
  if (dynamic_batch) spec.set_batch_dim(0);
  v1::GoldenInput& golden = *program_.mutable_golden()->add_inputs();
  golden.set_name(name);
  *golden.mutable_rule() = FromText<v1::MockRule>(rule);
  v1::GraphInput& input = *program_.mutable_graph()->add_inputs();
  input.set_kind(v1::GraphInput::USER_INPUT);
  input.set_name(name);
  input.set_value(program_.graph().value_count());
  program_.mutable_graph()->set_value_count(input.value() + 1);
  return input.value();
}

uint32_t ProgramMaker::Weight(const std::string& name, v1::ScalarType dtype,
                              const std::vector<int64_t>& shape, const std::string& rule) {
  v1::WeightSpec& spec = *program_.mutable_manifest()->add_weights();
  spec.set_name(name);
  spec.set_dtype(dtype);
  spec.mutable_shape()->Add(shape.begin(), shape.end());
  spec.set_requires_grad(IsFloatingPoint(dtype));
  *spec.mutable_mock() = FromText<v1::MockRule>(rule);
  v1::GraphInput& input = *program_.mutable_graph()->add_inputs();
  input.set_kind(v1::GraphInput::WEIGHT);
  input.set_name(name);
  input.set_value(program_.graph().value_count());
  program_.mutable_graph()->set_value_count(input.value() + 1);
  return input.value();
}

uint32_t ProgramMaker::Constant(const std::string& name, const std::vector<int64_t>& shape,
                                const std::vector<float>& values) {
  v1::Tensor& tensor = *program_.add_constants();
  tensor.set_name(name);
  tensor.set_dtype(v1::FLOAT);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
  v1::GraphInput& input = *program_.mutable_graph()->add_inputs();
  input.set_kind(v1::GraphInput::CONSTANT);
  input.set_name(name);
  input.set_value(program_.graph().value_count());
  program_.mutable_graph()->set_value_count(input.value() + 1);
  return input.value();
}

uint32_t ProgramMaker::Node(const std::string& name, const std::string& op, const Arguments& arguments,
                            uint32_t outputs, bool list, const std::string& module) {
  v1::Graph& graph = *program_.mutable_graph();
  const size_t dot = op.find('.');
  v1::Node& node = *graph.add_nodes();
  node.set_name(name);
  node.set_op(static_cast<uint32_t>(graph.operators_size()));
  v1::Operator& made = *graph.add_operators();
  made.set_name(op.substr(0, dot));
  if (dot != std::string::npos) made.set_overload(op.substr(dot + 1));
  node.set_module(static_cast<uint32_t>(graph.modules_size()));
  graph.add_modules(module);
  for (const auto& [argument, text] : arguments) {
    v1::NamedArgument& added = *node.add_arguments();
    added.set_name(argument);
    *added.mutable_value() = FromText<v1::Argument>(text);
  }
  const uint32_t first = graph.value_count();
  for (uint32_t i = 0; i < outputs; ++i) node.add_outputs(first + i);
  graph.set_value_count(first + outputs);
  node.set_list_output(list);
  return first;
}

void ProgramMaker::Output(const std::string& name, uint32_t value, const std::vector<int64_t>& shape,
                          v1::ScalarType dtype) {
  v1::OutputSpec& spec = *program_.mutable_manifest()->add_outputs();
  spec.set_name(name);
  spec.set_dtype(dtype);
  spec.mutable_shape()->Add(shape.begin(), shape.end());
  program_.mutable_graph()->add_outputs()->set_value(value);
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  v1::Tensor& tensor = *program_.mutable_golden()->add_outputs()->mutable_tensor();
  tensor.set_name(name);
  tensor.set_dtype(dtype);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_data(std::string(count * ItemSize(dtype), '\0'));
}

v1::Program ProgramMaker::Finish() {
  program_.set_format(1);
  program_.mutable_manifest()->set_model("made_by_a_test");
  return program_;
}

v1::Program SmallProgram() {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 3}, true);
  const uint32_t w = maker.Weight("dense.weight", v1::FLOAT, {4, 3});
  const uint32_t offset = maker.Constant("offset", {4}, {0.5f, -0.5f, 1.0f, 0.0f});
  const uint32_t product =
      maker.Node("linear", "aten::linear", {{"input", V(x)}, {"weight", V(w)}}, 1, false, "dense");
  const uint32_t sum = maker.Node("add", "aten::add.Tensor", {{"self", V(product)}, {"other", V(offset)}});
  const uint32_t logits =
      maker.Node("gelu", "aten::gelu", {{"self", V(sum)}, {"approximate", "text: 'tanh'"}}, 1, false, "act");
  maker.Output("logits", logits, {2, 4});
  return maker.Finish();
}

}  // namespace assay::engine
