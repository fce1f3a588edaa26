#include "engine/coerce.h"

#include <ATen/ScalarOps.h>
#include <ATen/core/List.h>
#include <ATen/core/jit_type.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace assay::engine {
namespace {

using c10::TypeKind;

const c10::Type& WithoutOptional(const c10::Type& type) {
  const c10::Type* bare = &type;
  while (bare->kind() == TypeKind::OptionalType) {
    bare = bare->castRaw<c10::OptionalType>()->getElementType().get();
  }
  return *bare;
}

bool IsInteger(TypeKind kind) { return kind == TypeKind::IntType || kind == TypeKind::SymIntType; }
bool IsReal(TypeKind kind) { return kind == TypeKind::FloatType || kind == TypeKind::SymFloatType; }
bool IsBoolean(TypeKind kind) { return kind == TypeKind::BoolType || kind == TypeKind::SymBoolType; }

// The kind of a list's items; AnyType for what is no list. Tensor?[] has OptionalType items.
TypeKind ItemKind(const c10::Type& type) {
  if (type.kind() != TypeKind::ListType) return TypeKind::AnyType;
  return type.castRaw<c10::ListType>()->getElementType()->kind();
}

absl::Status Mismatch(absl::string_view given, const c10::Type& type) {
  return absl::InvalidArgumentError(absl::StrCat("is ", given, ", but the operator takes ", type.str()));
}

template <typename T>
c10::List<T> Repeat(T value, int count) {
  c10::List<T> list;
  list.reserve(count);
  for (int i = 0; i < count; ++i) list.push_back(value);
  return list;
}

template <typename T, typename Values>
c10::List<T> ListOf(const Values& values) {
  c10::List<T> list;
  list.reserve(values.size());
  for (const auto& value : values) list.push_back(static_cast<T>(value));
  return list;
}

at::MemoryFormat TorchMemoryFormat(v1::MemoryFormat format) {
  switch (format) {
    case v1::CHANNELS_LAST:
      return at::MemoryFormat::ChannelsLast;
    case v1::CHANNELS_LAST_3D:
      return at::MemoryFormat::ChannelsLast3d;
    case v1::PRESERVE_FORMAT:
      return at::MemoryFormat::Preserve;
    default:
      return at::MemoryFormat::Contiguous;
  }
}

double LargestOf(at::ScalarType dtype) {
  if (dtype == at::ScalarType::Half) return std::numeric_limits<c10::Half>::max();
  if (dtype == at::ScalarType::BFloat16) return std::numeric_limits<c10::BFloat16>::max();
  return std::numeric_limits<float>::max();
}

const v1::Argument* Given(const v1::Node& node, absl::string_view name) {
  for (const v1::NamedArgument& argument : node.arguments()) {
    if (argument.name() == name) return &argument.value();
  }
  return nullptr;
}

// Makes a tensor out of numbers alone, so that nothing but its arguments says where and in which dtype.
bool IsFactory(const c10::FunctionSchema& schema) {
  return std::none_of(schema.arguments().begin(), schema.arguments().end(),
                      [](const c10::Argument& argument) {
                        const c10::Type& type = WithoutOptional(*argument.real_type());
                        return type.kind() == TypeKind::TensorType || ItemKind(type) == TypeKind::TensorType;
                      });
}

}  // namespace

ArgumentSource Coercer::Literal(c10::IValue value) {
  code_.literals.push_back(std::move(value));
  return {ArgumentSource::Kind::kLiteral, false, static_cast<uint32_t>(code_.literals.size() - 1)};
}

ArgumentSource Coercer::List(ArgumentSource::Kind kind, std::vector<ListItem> items) {
  code_.lists.push_back(std::move(items));
  return {kind, false, static_cast<uint32_t>(code_.lists.size() - 1)};
}

// Masks hold float32's lowest number, which a narrower dtype would refuse or turn into an infinity.
double Coercer::PlaceReal(double value) const {
  if (placement_.dtype == at::ScalarType::Float || !std::isfinite(value)) return value;
  const double largest = LargestOf(placement_.dtype);
  return std::clamp(value, -largest, largest);
}

absl::StatusOr<ArgumentSource> Coercer::CoerceNumber(const at::Scalar& number, const Type& type,
                                                     int list_size) {
  const int count = list_size > 0 ? list_size : 1;
  const bool whole = !number.isFloatingPoint();
  const at::Scalar placed = whole ? number : at::Scalar(PlaceReal(number.toDouble()));
  if (type.kind() == TypeKind::TensorType) return Literal(at::native::wrapped_scalar_tensor(placed));
  if (type.kind() == TypeKind::NumberType) return Literal(c10::IValue(placed));
  if (IsReal(type.kind())) return Literal(placed.toDouble());
  if (IsInteger(type.kind()) && whole) return Literal(placed.toLong());
  if (IsBoolean(type.kind()) && number.isBoolean()) return Literal(number.toBool());
  const TypeKind item = ItemKind(type);
  if (IsReal(item)) return Literal(Repeat<double>(placed.toDouble(), count));
  if (IsInteger(item) && whole) return Literal(Repeat<int64_t>(placed.toLong(), count));
  return Mismatch(number.isBoolean() ? "a boolean" : whole ? "an integer" : "a real number", type);
}

absl::StatusOr<ArgumentSource> Coercer::CoerceValue(uint32_t value, const Type& type, int list_size) {
  if (kinds_[value] == ValueKind::kTensor) {
    if (type.kind() != TypeKind::TensorType) return Mismatch("a tensor", type);
    const bool fixed = value < is_fixed_.size() && is_fixed_[value];
    return ArgumentSource{fixed ? ArgumentSource::Kind::kFixed : ArgumentSource::Kind::kValue, false, value};
  }
  const ValueKind kind = kinds_[value];
  const bool maybe_integer = kind != ValueKind::kReal;
  const bool as_is =
      type.kind() == TypeKind::NumberType || (IsInteger(type.kind()) && kind == ValueKind::kInteger) ||
      (IsBoolean(type.kind()) && (kind == ValueKind::kBoolean || kind == ValueKind::kScalar)) ||
      (IsInteger(type.kind()) && kind == ValueKind::kScalar);
  if (as_is) return ArgumentSource{ArgumentSource::Kind::kValue, false, value};
  if (IsReal(type.kind())) return ArgumentSource{ArgumentSource::Kind::kReal, false, value};
  if (type.kind() == TypeKind::TensorType)
    return ArgumentSource{ArgumentSource::Kind::kWrapped, false, value};
  if (IsInteger(ItemKind(type)) && maybe_integer) {
    ListItem item;
    item.kind = ListItem::Kind::kValue;
    item.index = value;
    return List(ArgumentSource::Kind::kInts, std::vector<ListItem>(list_size > 0 ? list_size : 1, item));
  }
  return Mismatch("a symbolic number", type);
}

absl::StatusOr<ArgumentSource> Coercer::CoerceTensors(const std::vector<uint32_t>& values_plus_one,
                                                      const Type& type) {
  const TypeKind item_kind = ItemKind(type);
  if (item_kind != TypeKind::TensorType && item_kind != TypeKind::OptionalType) {
    return Mismatch("a list of tensors", type);
  }
  std::vector<ListItem> items;
  items.reserve(values_plus_one.size());
  for (const uint32_t plus_one : values_plus_one) {
    ListItem item;
    if (plus_one != 0) {
      const uint32_t value = plus_one - 1;
      if (kinds_[value] != ValueKind::kTensor) return Mismatch("a list with a symbolic number", type);
      const bool fixed = value < is_fixed_.size() && is_fixed_[value];
      item.kind = fixed ? ListItem::Kind::kFixed : ListItem::Kind::kValue;
      item.index = value;
    } else if (item_kind != TypeKind::OptionalType) {
      return Mismatch("a list with a none", type);
    }
    items.push_back(item);
  }
  return List(item_kind == TypeKind::TensorType ? ArgumentSource::Kind::kTensors
                                                : ArgumentSource::Kind::kMaybeTensors,
              std::move(items));
}

absl::StatusOr<ArgumentSource> Coercer::Coerce(const v1::Argument& argument, const c10::Argument& formal) {
  const Type& type = WithoutOptional(*formal.real_type());
  const int list_size = formal.N().value_or(0);
  const TypeKind item = ItemKind(type);
  switch (argument.kind_case()) {
    case v1::Argument::kNone:
      if (formal.real_type()->kind() != TypeKind::OptionalType) return Mismatch("none", type);
      return Literal(c10::IValue());
    case v1::Argument::kValue:
      return CoerceValue(argument.value(), type, list_size);
    case v1::Argument::kValues: {
      std::vector<uint32_t> plus_one;
      for (const uint32_t value : argument.values().values()) plus_one.push_back(value + 1);
      return CoerceTensors(plus_one, type);
    }
    case v1::Argument::kOptionalValues: {
      const auto& values = argument.optional_values().values_plus_one();
      return CoerceTensors(std::vector<uint32_t>(values.begin(), values.end()), type);
    }
    case v1::Argument::kInteger:
      return CoerceNumber(at::Scalar(static_cast<int64_t>(argument.integer())), type, list_size);
    case v1::Argument::kReal:
      return CoerceNumber(at::Scalar(argument.real()), type, list_size);
    case v1::Argument::kBoolean:
      return CoerceNumber(at::Scalar(argument.boolean()), type, list_size);
    case v1::Argument::kInts:
      if (IsInteger(item)) return Literal(ListOf<int64_t>(argument.ints().values()));
      if (IsReal(item)) return Literal(ListOf<double>(argument.ints().values()));
      return Mismatch("a list of integers", type);
    case v1::Argument::kFloats:
      if (IsReal(item)) return Literal(ListOf<double>(argument.floats().values()));
      return Mismatch("a list of real numbers", type);
    case v1::Argument::kBools:
      if (IsBoolean(item)) return Literal(ListOf<bool>(argument.bools().values()));
      return Mismatch("a list of booleans", type);
    case v1::Argument::kText:
      if (type.kind() == TypeKind::StringType) return Literal(argument.text());
      return Mismatch("a text", type);
    case v1::Argument::kScalarType: {
      if (type.kind() != TypeKind::ScalarTypeType) return Mismatch("a dtype", type);
      ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(argument.scalar_type()));
      return Literal(dtype == at::ScalarType::Float ? placement_.dtype : dtype);
    }
    case v1::Argument::kLayout:
      if (type.kind() != TypeKind::LayoutType) return Mismatch("a layout", type);
      return Literal(at::Layout::Strided);
    case v1::Argument::kMemoryFormat:
      if (type.kind() != TypeKind::MemoryFormatType) return Mismatch("a memory format", type);
      return Literal(TorchMemoryFormat(argument.memory_format()));
    case v1::Argument::kDevice:
      if (type.kind() != TypeKind::DeviceObjType) return Mismatch("a device", type);
      return Literal(placement_.device);
    case v1::Argument::kSymInts: {
      if (!IsInteger(item)) return Mismatch("a list of sizes", type);
      std::vector<ListItem> items;
      for (const v1::Argument::SymInt& size : argument.sym_ints().values()) {
        ListItem made;
        if (size.has_value()) {
          if (kinds_[size.value()] != ValueKind::kInteger)
            return Mismatch("a list with a value that is no size", type);
          made.kind = ListItem::Kind::kValue;
          made.index = size.value();
        } else {
          made.kind = ListItem::Kind::kInteger;
          made.integer = size.literal();
        }
        items.push_back(made);
      }
      return List(ArgumentSource::Kind::kInts, std::move(items));
    }
    case v1::Argument::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("has no value");
}

// What the schema says, but for factories: with nothing said they would make a tensor on the CPU.
ArgumentSource Coercer::Default(const c10::FunctionSchema& schema, const c10::Argument& formal) {
  const TypeKind kind = WithoutOptional(*formal.real_type()).kind();
  if (kind == TypeKind::DeviceObjType && !placement_.device.is_cpu() && IsFactory(schema)) {
    return Literal(placement_.device);
  }
  return Literal(formal.default_value().has_value() ? *formal.default_value() : c10::IValue());
}

absl::Status Coercer::CoerceArguments(const v1::Node& node, const c10::FunctionSchema& schema) {
  int used = 0;
  for (const c10::Argument& formal : schema.arguments()) {
    if (const v1::Argument* given = Given(node, formal.name()); given != nullptr) {
      ++used;
      absl::StatusOr<ArgumentSource> source = Coerce(*given, formal);
      if (!source.ok()) {
        return absl::Status(source.status().code(),
                            absl::StrCat("argument ", formal.name(), " ", source.status().message()));
      }
      code_.arguments.push_back(*source);
    } else if (formal.default_value().has_value() || formal.real_type()->kind() == TypeKind::OptionalType) {
      code_.arguments.push_back(Default(schema, formal));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("argument ", formal.name(), " is missing"));
    }
  }
  if (used == node.arguments_size()) return absl::OkStatus();
  for (const v1::NamedArgument& argument : node.arguments()) {
    if (!schema.argumentIndexWithName(argument.name()).has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("argument ", argument.name(), " is unknown to the operator"));
    }
  }
  return absl::InternalError("an argument was not used");
}

absl::Status Coercer::CoerceSymbolic(const v1::Node& node, SymbolicFunction function) {
  if (static_cast<size_t>(node.arguments_size()) != Arity(function)) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", node.arguments_size(), " arguments, but takes ", Arity(function)));
  }
  for (const v1::NamedArgument& argument : node.arguments()) {
    const v1::Argument& value = argument.value();
    switch (value.kind_case()) {
      case v1::Argument::kInteger:
        code_.arguments.push_back(Literal(static_cast<int64_t>(value.integer())));
        break;
      case v1::Argument::kReal:
        code_.arguments.push_back(Literal(value.real()));
        break;
      case v1::Argument::kBoolean:
        code_.arguments.push_back(Literal(value.boolean()));
        break;
      case v1::Argument::kValue:
        if (kinds_[value.value()] != ValueKind::kTensor) {
          code_.arguments.push_back({ArgumentSource::Kind::kValue, false, value.value()});
          break;
        }
        [[fallthrough]];
      default:
        return absl::InvalidArgumentError(absl::StrCat("argument ", argument.name(), " is no number"));
    }
  }
  return absl::OkStatus();
}

}  // namespace assay::engine
